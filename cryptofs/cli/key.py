"""`cryptofs key`: make keys, list and check those of a configuration, add versions, and seal files again."""

from pathlib import Path

import click

from ..daemon.inventory import inventory
from . import completing
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
@click.argument("devices", metavar="[DEVICE]...", nargs=-1, shell_complete=completing.devices)
@_config_option
@user_option
def list_(devices: tuple[str, ...], config: Path, user: str | None) -> None:
    """List the keys of a configuration's devices: device, version, algorithm, age, fingerprint and source.

    A fingerprint tells keys apart and reveals nothing of them. A key that only the service itself can take has none
    here, and the reason is there instead.
    """
    for entry in inventory(config, devices, serving_uid(user)):
        click.echo(str(entry))


@key.command()
@click.argument("devices", metavar="[DEVICE]...", nargs=-1, shell_complete=completing.devices)
@_config_option
@user_option
def check(devices: tuple[str, ...], config: Path, user: str | None) -> int:
    """Check the keys of a configuration's devices as a start of the daemon does, and list them.

    The status is 1 if a key cannot be used, or if a device has one key under two versions.
    """
    wrong = False
    seen: dict[tuple[str, str], int | None] = {}
    for entry in inventory(config, devices, serving_uid(user)):
        first = entry.version
        if entry.fingerprint:
            first = seen.setdefault((entry.device, entry.fingerprint), entry.version)
        twice = first != entry.version
        click.echo(f"{entry}  the same key as version {first}" if twice else str(entry))
        wrong = wrong or entry.failed or twice
    return int(wrong)
