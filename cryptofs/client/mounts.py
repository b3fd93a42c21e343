"""Finding the mount."""

import contextlib
import errno
import os
import pwd
import re
from pathlib import Path

from .errors import MountNotFound

MOUNT_VARIABLE = "CRYPTOFS_MOUNT"


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


SERVICE_USER = "cryptofs"
_OWNER = re.compile(r"(?:^|,)user_id=(\d+)(?:,|$)")


def mounted() -> list[Path]:
    """The mount points of every cryptofs that this process sees, and whose owner it can trust with its keys: root,
    the user that it runs as itself, or the service's."""
    trusted = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        trusted.add(pwd.getpwnam(SERVICE_USER).pw_uid)
    found = []
    with open("/proc/self/mounts") as lines:
        for line in lines:
            _, point, kind, options, *_ = line.split()
            owner = _OWNER.search(options)
            if kind == "fuse.cryptofs" and owner is not None and int(owner[1]) in trusted:
                found.append(Path(_unescape(point)))
    return found


def find_mount(given: str | os.PathLike[str] | None = None) -> Path:
    """The mount point: the given one, else $CRYPTOFS_MOUNT, else the first there is.

    Errors: MountNotFound, saying where it looked.
    """
    named = given if given is not None else os.environ.get(MOUNT_VARIABLE)
    if named is not None:
        path = Path(named)
        if not (path / "crypto").exists():
            raise MountNotFound(errno.ENOENT, "no cryptofs is mounted here", str(path))
        return path
    found = mounted()
    if not found:
        raise MountNotFound(errno.ENOENT, f"no cryptofs is mounted; mount one or set {MOUNT_VARIABLE}")
    return found[0]
