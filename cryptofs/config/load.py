"""Reading the configuration: every error names file, line and key."""

import os
import re
import tomllib
from pathlib import Path

from pydantic import ValidationError

from ..errors import InvalidValue
from .lines import find_line
from .models import Config

SIZE_MAX = 1 << 20
"""Largest configuration file, bytes."""
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")


class ConfigError(InvalidValue):
    """The configuration cannot be used; one line for each thing that is wrong."""


def load(path: Path) -> Config:
    """The configuration in a file. Errors: ConfigError."""
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}:1: brackets in brackets, too deep to be read") from None
    except tomllib.TOMLDecodeError as error:
        place = _AT_LINE.search(str(error))
        line = place[1] if place else "1"
        raise ConfigError(f"{path}:{line}: {_AT_LINE.sub('', str(error))}") from None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = []
        for each in error.errors(include_url=False, include_input=False, include_context=False):
            # a union's branches and a mapping's own keys appear in the place, too
            place_ = tuple(str(part) for part in each["loc"] if part != "[key]")
            reason = each["msg"].removeprefix("Value error, ").replace("Extra inputs are not permitted", "unknown key")
            lines.append(f"{path}:{find_line(text, place_)}: {'.'.join(place_) or 'file'}: {reason}")
        raise ConfigError("\n".join(lines)) from None
    for table, names in (("users", config.policy.users), ("groups", config.policy.groups)):
        seen: dict[int, str] = {}
        for name in names:
            number = _check_identity(path, text, config, table, name)
            if number in seen:
                line = find_line(text, ("policy", table, name))
                raise ConfigError(f"{path}:{line}: policy.{table}.{name}: the same as {seen[number]}")
            seen[number] = name
    return config


def _check_identity(path: Path, text: str, config: Config, table: str, name: str) -> int:
    one = config.policy.model_copy(
        update={"users": {}, "groups": {}, table: {name: getattr(config.policy, table)[name]}}
    )
    try:
        policy = one.policy()
        return next(iter(policy.users or policy.groups))
    except ValueError as error:
        line = find_line(text, ("policy", table, name))
        raise ConfigError(f"{path}:{line}: policy.{table}.{name}: {error}") from None


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            mode = status.st_mode
            data = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if mode & 0o022:
        raise ConfigError(f"{path}: mode {mode & 0o777:04o}: others than its owner may write it")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: owned by uid {status.st_uid}: root or uid {os.geteuid()} must own it")
    if len(data) > SIZE_MAX:
        raise ConfigError(f"{path}: more than {SIZE_MAX} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}:1: not UTF-8") from None
