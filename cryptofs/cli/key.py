"""`cryptofs key`: make keys, list and check those of a configuration, add versions, and seal files again."""

import time
from collections.abc import Iterator
from pathlib import Path

import click

from ..config import Config, DeviceModel, load
from ..daemon.declared import Access, check_engines_of, key_set, make_device
from ..devices import fingerprint
from ..engines.base import Engine
from ..errors import CryptofsError, InvalidValue, NotPermitted, printable
from ..keys import FileKey, KeySet, KeySource
from .config import DEFAULT, serving_uid, user_option
from .key_making import new, rotate
from .key_rewrap import rewrap


@click.group()
def key() -> None:
    """Make and look after keys of devices. No command prints a key, unless you ask `new` for that."""


key.add_command(new)
key.add_command(rotate)
key.add_command(rewrap)

_config_option = click.option(
    "--config", "config", type=click.Path(path_type=Path), default=DEFAULT, show_default=True, help="The configuration."
)


@key.command("list")
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@_config_option
@user_option
def list_(devices: tuple[str, ...], config: Path, user: str | None) -> None:
    """List the keys of a configuration's devices: device, version, type, name, age, fingerprint and source.

    A fingerprint tells keys apart and reveals nothing of them. A key that only the service itself can take has none
    here, and the reason is there instead.
    """
    for _, line in _lines(config, devices, user):
        click.echo(line)


@key.command()
@click.argument("devices", metavar="[DEVICE]...", nargs=-1)
@_config_option
@user_option
def check(devices: tuple[str, ...], config: Path, user: str | None) -> int:
    """Check the keys of a configuration's devices as a start of the daemon does, and list them.

    The status is 1 if a key cannot be used, or if a device has one key under two versions.
    """
    wrong = 0
    seen: dict[tuple[str, str], str] = {}
    for (name, version, print_, failed), line in _lines(config, devices, user):
        first = seen.setdefault((name, print_), version) if print_ else version
        twice = "" if first == version else f"  the same key as version {first}"
        click.echo(line + twice)
        wrong += failed or bool(twice)
    return int(wrong > 0)


_Found = tuple[str, str, str, bool]
"""Device, version, fingerprint ("" without), whether the key cannot be used."""


def _lines(path: Path, wanted: tuple[str, ...], user: str | None) -> Iterator[tuple[_Found, str]]:
    config = load(path)
    unknown = sorted(set(wanted) - {str(name) for name in config.devices})
    if unknown:
        raise InvalidValue(f"{printable(path)}: no device {unknown[0]!r}")
    for name, model in config.devices.items():
        if not wanted or name in wanted:
            yield from _of_device(path, config, name, model, serving_uid(user))


def _of_device(
    path: Path, config: Config, name: str, model: DeviceModel, serving: int | None
) -> Iterator[tuple[_Found, str]]:
    head = f"{name}  {{}}  {model.type} {model.name}  "
    try:
        keys = key_set(path, name, model, Access({}, serving))
    except CryptofsError as error:
        yield (name, "-", "", True), f"{head.format('-')}{error}"
        return
    engines = check_engines_of(path, config)
    for number, source in sorted(keys.sources.items(), reverse=True):
        told, failed, digits = _age(source), False, ""
        try:
            why = source.unchecked()
            if why:
                told += f"  (not looked at here: {why})"
            else:
                digits = _fingerprint(path, name, model, number, source, engines)
                told += f"  {digits or '(its operations permit no fingerprint)'}"
        except CryptofsError as error:
            failed = True
            told += f"  {error}"
        yield (name, str(number), digits, failed), f"{head.format(number)}{told}  {source.describe()}"


def _fingerprint(
    path: Path, name: str, model: DeviceModel, number: int, source: KeySource, engines: tuple[Engine, ...]
) -> str:
    """The fingerprint; empty if the key permits no operation that would show it. Errors: those of `make_device`."""
    device = make_device(path, name, model, KeySet({number: source}), engines)
    try:
        return fingerprint(device, device.versions.newest)
    except NotPermitted:
        return ""
    finally:
        device.retire()


def _age(source: KeySource) -> str:
    """Since when a file has been as it is, in days; a dash for other sources."""
    if not isinstance(source, FileKey):
        return "-"
    try:
        seconds = time.time() - source.path.stat().st_mtime
    except OSError:
        return "-"
    return f"{max(0, int(seconds // 86_400))} days"
