"""The rules for key files, for the daemon, `check-config` and the privileged steps of the service.

The privileged steps run at each start, so nothing large is imported here.
"""

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

from .errors import InvalidValue, KeyUnavailable, printable, symbol

GROUP_AND_OTHERS = 0o077
"""Bits that the mode of a key file must not have."""

VERSIONS_MAX = 64
"""Versions of one key that a device may have."""
VERSION_MAX = (1 << 32) - 1
"""The largest number of a version."""

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
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return _why_not_held(status, owners, forbidden)


def _why_not_held(status: os.stat_result, owners: Collection[int], forbidden: int) -> str:
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        return f"mode {mode:04o}: it may have none of the bits {forbidden:04o}"
    if status.st_uid not in (0, *owners):
        allowed = " or ".join(["root", *(f"uid {uid}" for uid in sorted(set(owners) - {0}))])
        return f"owned by uid {status.st_uid}: {allowed} must own it"
    return ""


def parse_version(text: str) -> int:
    """The number of a version, as it is written in a file's name. Errors: InvalidValue."""
    if text.isascii() and text.isdecimal() and text[0] != "0" and len(text) <= 10 and int(text) <= VERSION_MAX:
        return int(text)
    raise InvalidValue(f"{printable(text)[:40]!r}: a key version is a number from 1 to {VERSION_MAX}")


def list_versions(directory: Path, owners: Collection[int]) -> dict[int, Path]:
    """The files of a key set by version: a directory in which each file has the number of its version as its name.

    Files whose names begin with a dot are none. owners: uids that may own the directory, besides root. Errors: OSError;
    KeyUnavailable for a directory that others may change, that has no version or something else in it; InvalidValue for
    more than VERSIONS_MAX.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        why = _why_not_held(os.fstat(descriptor), owners, GROUP_AND_OTHERS)
        names = [entry for entry in os.listdir(descriptor) if not entry.startswith(".")]
    finally:
        os.close(descriptor)
    shown = f"directory {printable(directory)}"
    if why:
        raise KeyUnavailable(f"{shown}: {why}")
    if not names:
        raise KeyUnavailable(f"{shown}: it has no key")
    if len(names) > VERSIONS_MAX:
        raise InvalidValue(f"{shown}: {len(names)} files: at most {VERSIONS_MAX} versions of a key")
    try:
        return {parse_version(name): directory / name for name in sorted(names)}
    except InvalidValue as error:
        raise KeyUnavailable(f"{shown}: {error.message}") from None
