"""`cryptofs hand-over` and `cryptofs take-back`: the steps of a service that need root, before and after it.

Nothing large is imported here: these run at each start, and a restart has to be quick.
"""

import os
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
def hand_over(mountpoint: Path, user: str, keys: tuple[str, ...]) -> None:
    """Mount at MOUNTPOINT and have systemd keep the descriptor until the unprivileged service takes it.

    For ExecStartPre=+ of a unit with FileDescriptorStoreMax= and NotifyAccess=all. What an earlier daemon left is
    cleared. Until the service serves, whoever looks at the mount waits.
    """
    pairs = {}
    for key in keys:
        device, equals, file = key.partition("=")
        if not (device and equals and file):
            raise click.BadParameter(f"{key!r}: DEVICE=FILE", param_hint="--key")
        pairs[device] = Path(file)
    hand_over_mount(mountpoint, user, pairs)


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
                descriptors[KEY_PREFIX + device] = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise ServiceError(f"key of device {device!r}: {file}: {error.strerror}") from None
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
