"""The rules for key files, for the daemon, `check-config` and the privileged steps of the service.

The privileged steps run at each start, so nothing large is imported here.
"""

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

from .errors import symbol

GROUP_AND_OTHERS = 0o077
"""Bits that the mode of a key file must not have."""

_FLAGS = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
)  # Non-blocking, because a FIFO must not delay the start.
_WHY = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.ELOOP: "a symbolic link, which is not followed",
    errno.ENXIO: "not a regular file",
    errno.ESPIPE: "not a regular file",
}


def open_key_file(path: Path) -> int:
    """A descriptor of the file, close-on-exec; a symbolic link is not followed. Errors: OSError."""
    if "\0" in str(path):
        # As the system would, if the interpreter passed it on.
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return os.open(path, _FLAGS)


def why_unopened(error: OSError) -> str:
    """The reason why a key file could not be opened or read, for people."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"uid {os.geteuid()} may not read it ({symbol(error.errno)})"
    return f"{_WHY.get(error.errno or 0, 'it cannot be read')} ({symbol(error.errno)})"


def why_not(status: os.stat_result, owners: Collection[int], forbidden: int = GROUP_AND_OTHERS) -> str:
    """The reason why an opened file must not hold a key; empty if it may.

    owners: uids that may own it, besides root. forbidden: bits that its mode must not have.
    """
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if mode & forbidden:
        return f"mode {mode:04o}: it may have none of the bits {forbidden:04o}"
    if status.st_uid not in (0, *owners):
        allowed = " or ".join(["root", *(f"uid {uid}" for uid in sorted(set(owners) - {0}))])
        return f"owned by uid {status.st_uid}: {allowed} must own it"
    return ""
