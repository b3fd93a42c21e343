"""Finding the mount: the named one, else the first one that works."""

import contextlib
import errno
import os
import pwd
import threading
from pathlib import Path

from ..errors import printable
from ..mountinfo import Mount, mounts
from .errors import MountNotFound

MOUNT_VARIABLE = "CRYPTOFS_MOUNT"
SERVICE_USER = "cryptofs"

_PATIENCE = 2.0
"""Seconds within which a mount must answer."""
_TOLD_MAX = 8
_CURE = f"mount one (`cryptofs mount DIR`), or name one ({MOUNT_VARIABLE})"
_WHY = {
    errno.ENOTCONN: "its daemon has ended; `cryptofs umount` clears it",
    errno.ECONNABORTED: "its daemon has ended; `cryptofs umount` clears it",
    errno.EACCES: "not open to you: its owner mounts it with `-o allow_other`",
}
_NOTHING_HERE = (errno.ENOENT, errno.ENOTDIR)


def mounted() -> list[Path]:
    """The mount points of every cryptofs that this process sees and whose owner it can trust with its keys: root, its
    own user, or the service's user. It does not test whether a mount works."""
    trusted = _trusted()
    return [_path(mount) for mount in mounts() if mount.is_cryptofs and mount.owner in trusted]


def find_mount(given: str | os.PathLike[str] | None = None) -> Path:
    """The mount point: the given one, else $CRYPTOFS_MOUNT if it is not empty, else the first usable one.

    A usable mount belongs to a trusted owner (see `mounted`), is writable, is not covered by another mount, and answers
    within two seconds. Another user's mount is never touched: it might not answer, and would see the data.

    Errors: MountNotFound, which lists the mounts and why they cannot be used.
    """
    named = given if given is not None else os.environ.get(MOUNT_VARIABLE) or None
    if named is not None:
        return _named(Path(named))
    trusted = _trusted()
    refused: list[str] = []
    for mount in mounts():
        if not mount.is_cryptofs:
            continue
        reason = why_not(mount, trusted)
        if not reason:
            return _path(mount)
        refused.append(f"{printable(mount.point)}: {reason}")
    if not refused:
        raise MountNotFound(errno.ENOENT, f"no cryptofs is mounted: {_CURE}")
    more = [f"and {len(refused) - _TOLD_MAX} more"] if len(refused) > _TOLD_MAX else []
    found = "; ".join([*refused[:_TOLD_MAX], *more])
    raise MountNotFound(errno.ENOENT, f"no cryptofs can be used ({found}): {_CURE}")


def why_not(mount: Mount, trusted: set[int]) -> str:
    """Why a mount cannot be used; empty if it can."""
    if mount.owner not in trusted:
        return f"of uid {mount.owner}, which is neither root, nor {SERVICE_USER}, nor you"
    if "ro" in mount.options | mount.shared:
        return "read-only"
    return _silent_or(mount)


def _silent_or(mount: Mount) -> str:
    # In a thread, because an open of a mount that does not answer can only be abandoned.
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(_tried(mount)), daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return said[0] if said else f"it does not answer within {_PATIENCE:.0f} seconds"


def _tried(mount: Mount) -> str:
    try:
        if os.stat(mount.point).st_dev != mount.device:
            return "another file system is mounted over it"
        _ask(mount.point)
        if not os.access(os.path.join(mount.point, b"crypto"), os.R_OK | os.W_OK, effective_ids=True):
            return _WHY[errno.EACCES]
    except OSError as error:
        return _reason(error)
    return ""


def _ask(point: bytes) -> None:
    """Make the daemon answer. Errors: OSError if it does not, or if no cryptofs is mounted."""
    # An open, because the kernel may answer stat and access from its cache.
    os.close(os.open(os.path.join(point, b"version"), os.O_RDONLY | os.O_CLOEXEC))
    os.stat(os.path.join(point, b"crypto"))


def _reason(error: OSError) -> str:
    number = error.errno or errno.EIO
    return "not the whole of one" if number in _NOTHING_HERE else _WHY.get(number, os.strerror(number))


def _named(path: Path) -> Path:
    try:
        _ask(os.fsencode(path))
    except OSError as error:
        number = error.errno or errno.EIO
        reason = "no cryptofs is mounted here" if number in _NOTHING_HERE else _reason(error)
        raise MountNotFound(number, f"{printable(path)}: {reason}") from None
    return path


def _trusted() -> set[int]:
    trusted = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        trusted.add(pwd.getpwnam(SERVICE_USER).pw_uid)
    return trusted


def _path(mount: Mount) -> Path:
    return Path(os.fsdecode(mount.point))
