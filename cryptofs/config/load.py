"""Reading the configuration: every error names file, line and key."""

import errno
import os
import re
import tomllib
from pathlib import Path

from ..errors import SystemFault, printable
from .lines import find_line
from .models import Config
from .tables import Reading

SIZE_MAX = 1 << 20
"""Largest configuration file, bytes."""
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_LONG_NUMBER = re.compile(r"[0-9][0-9_]{4000,}")


class ConfigError(SystemFault):
    """The configuration cannot be used; one line for each error. EINVAL, or the reason why it cannot be read."""

    errno = errno.EINVAL


def load(path: Path) -> Config:
    """The configuration in a file. Errors: ConfigError."""
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{printable(path)}:1: nested brackets, too deep to read") from None
    except tomllib.TOMLDecodeError as error:
        place = _AT_LINE.search(str(error))
        line = place[1] if place else "1"
        raise ConfigError(f"{printable(path)}:{line}: {_AT_LINE.sub('', str(error))}") from None
    except ValueError:
        # The parser leaves this error to the interpreter.
        before = text[: match.start()] if (match := _LONG_NUMBER.search(text)) else ""
        raise ConfigError(f"{printable(path)}:{before.count(chr(10)) + 1}: a number of too many digits") from None
    reading = Reading()
    config = reading.table(Config, raw)
    if config is None or reading.wrong:
        wrong = sorted((find_line(text, place), ".".join(place) or "file", why) for place, why in reading.wrong)
        raise ConfigError("\n".join(f"{printable(path)}:{line}: {key}: {why}" for line, key, why in wrong))
    return config


def locate(path: Path, *place: str) -> str:
    """`file:line: key` of a key in the file, for an error that appears only when the key is used."""
    return f"{printable(path)}:{find_line(_read(path), place)}: {'.'.join(place)}"


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            mode = status.st_mode
            data = file.read(SIZE_MAX + 1)
    except OSError as error:
        raise ConfigError.of(error, path) from None
    if mode & 0o022:
        raise ConfigError(f"{printable(path)}: mode {mode & 0o777:04o}: users other than its owner may write it")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{printable(path)}: owned by uid {status.st_uid}: root or uid {os.geteuid()} must own it")
    if len(data) > SIZE_MAX:
        raise ConfigError(f"{printable(path)}: more than {SIZE_MAX} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{printable(path)}:1: not UTF-8") from None
