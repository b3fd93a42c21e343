"""Finding the mount."""

import contextlib
import errno
import os
import pwd
from pathlib import Path

from ..errors import printable
from ..mountinfo import mounts
from .errors import MountNotFound

MOUNT_VARIABLE = "CRYPTOFS_MOUNT"


SERVICE_USER = "cryptofs"


def mounted() -> list[Path]:
    """The mount points of every cryptofs that this process sees, and whose owner it can trust with its keys: root,
    the user that it runs as itself, or the service's."""
    trusted = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        trusted.add(pwd.getpwnam(SERVICE_USER).pw_uid)
    return [Path(os.fsdecode(mount.point)) for mount in mounts() if mount.is_cryptofs and mount.owner in trusted]


def find_mount(given: str | os.PathLike[str] | None = None) -> Path:
    """The mount point: the given one, else $CRYPTOFS_MOUNT, else the first there is.

    Errors: MountNotFound, saying where it looked.
    """
    named = given if given is not None else os.environ.get(MOUNT_VARIABLE)
    if named is not None:
        path = Path(named)
        if not (path / "crypto").exists():
            raise MountNotFound(errno.ENOENT, f"{printable(path)}: no cryptofs is mounted here")
        return path
    found = mounted()
    if not found:
        raise MountNotFound(errno.ENOENT, f"no cryptofs is mounted; mount one or set {MOUNT_VARIABLE}")
    return found[0]
