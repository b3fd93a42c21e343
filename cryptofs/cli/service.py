"""`cryptofs hand-over` and `cryptofs take-back`: the steps of a service that need root, before and after it.

Nothing large is imported here: these run at each start, and a restart has to be quick.
"""

import os
import stat
import tomllib
from pathlib import Path

import click

from ..privileges import SERVICE_USER, find_account, join_first_namespace, mount_fuse, protect_mountpoint, take_away
from ..service import FUSE, KEY_PREFIX, ServiceError, store


@click.command("hand-over")
@click.argument("mountpoint", type=Path)
@click.option("--user", default=SERVICE_USER, show_default=True, metavar="NAME", help="Who will serve.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="DEVICE=FILE",
    help="A file that only root may read and that holds the key of a device; may be given again.",
)
@click.option("--config", type=Path, help="Open the key files of this configuration's devices, too; if it is there.")
def hand_over(mountpoint: Path, user: str, keys: tuple[str, ...], config: Path | None) -> None:
    """Mount at MOUNTPOINT and have systemd keep the descriptor until the unprivileged service takes it.

    For ExecStartPre=+ of a unit with FileDescriptorStoreMax= and NotifyAccess=all. What an earlier daemon left is
    cleared. Until the service serves, whoever looks at the mount waits.
    """
    pairs = {} if config is None else key_files(config)
    for key in keys:
        device, equals, file = key.partition("=")
        if not (device and equals and file):
            raise click.BadParameter(f"{key!r}: DEVICE=FILE", param_hint="--key")
        pairs[device] = Path(file)
    hand_over_mount(mountpoint, user, pairs)


def key_files(config: Path) -> dict[str, Path]:
    """The key files that a configuration names, by device. What is wrong in it is for the service to find and tell."""
    try:
        with config.open("rb") as file:
            devices = tomllib.load(file).get("devices", {})
        return {
            name: Path(device["key"]["file"]) for name, device in devices.items() if "file" in device.get("key", {})
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        click.echo(f"cryptofs: {config}: no key file is opened: {error}", err=True)
        return {}


def hand_over_mount(mountpoint: Path, user: str, keys: dict[str, Path]) -> None:
    """Mount for `user` and store the descriptor as `fuse`, and those of key files as `key-<device>`.

    Errors: PrivilegeError, ServiceError naming the file that cannot be opened; then nothing stays mounted.
    """
    account = find_account(user)
    mountpoint = mountpoint.absolute()
    join_first_namespace()
    take_away(mountpoint)
    mountpoint.mkdir(mode=0, parents=True, exist_ok=True)
    protect_mountpoint(mountpoint)
    descriptors: dict[str, int] = {}
    try:
        for device, file in keys.items():
            try:
                descriptors[KEY_PREFIX + device] = os.open(
                    file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
                )
            except OSError as error:
                raise ServiceError(f"key of device {device!r}: {file}: {error.strerror}") from None
            if not stat.S_ISREG(os.fstat(descriptors[KEY_PREFIX + device]).st_mode):
                raise ServiceError(f"key of device {device!r}: {file}: not a regular file")
        descriptors[FUSE] = mount_fuse(mountpoint, account)
        store(descriptors)
    except ServiceError:
        take_away(mountpoint)
        raise
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


@click.command("take-back")
@click.argument("mountpoint", type=Path)
def take_back(mountpoint: Path) -> None:
    """Unmount MOUNTPOINT, whoever uses it and whether its daemon lives or not, and leave it root's own, mode 0000."""
    mountpoint = mountpoint.absolute()
    join_first_namespace()
    take_away(mountpoint)
    protect_mountpoint(mountpoint)
