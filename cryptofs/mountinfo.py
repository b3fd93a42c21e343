"""The mounts, read from the kernel's list. It accesses no path, because a mount that does not answer would hang.

A path is bytes here: it need not be text in any locale, and any user may mount at such a path.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILE_SYSTEM = "fuse.cryptofs"
"""The type of every cryptofs mount."""

_LINKS_MAX = 40


class Mount(NamedTuple):
    """One mount, as this process sees it."""

    point: bytes
    """Its absolute path."""
    kind: str
    """The file system's type: `fuse.cryptofs`, `tmpfs`."""
    source: bytes
    """The device that was given: `cryptofs`, `none`, `/dev/sda1`."""
    device: int
    """`st_dev` of its files. No two file systems have the same at the same time."""
    options: frozenset[str]
    """Options of this mount: `ro`, `nosuid`."""
    shared: frozenset[str]
    """Options of the file system: `user_id=1000`, `allow_other`."""

    @property
    def is_cryptofs(self) -> bool:
        """Whether cryptofs serves it, by its type."""
        return self.kind == FILE_SYSTEM

    @property
    def owner(self) -> int | None:
        """The uid that serves a FUSE mount."""
        found = [option[8:] for option in self.shared if option.startswith("user_id=")]
        return int(found[0]) if found and found[0].isdecimal() else None


def mounts() -> list[Mount]:
    """All mounts that this process sees, in the order in which they were made."""
    return list(_parsed(Path("/proc/self/mountinfo").read_bytes()))


def mounts_on(path: str | bytes | os.PathLike[str]) -> list[Mount]:
    """The mounts on one absolute path without symlinks, the uppermost last."""
    wanted = os.fsencode(path)
    return [mount for mount in mounts() if mount.point == wanted]


def location(path: str | bytes | os.PathLike[str]) -> bytes:
    """The absolute path without symlinks under which the kernel lists a mount at `path`.

    It never calls the mounted file system, whose daemon may have gone or be stopped.
    """
    points = {mount.point for mount in mounts()}
    found = os.fsencode(path)
    for _ in range(_LINKS_MAX):
        parent, name = os.path.split(found.rstrip(b"/"))
        if name in (b"", b".", b".."):
            return os.path.realpath(found)
        found = os.path.join(os.path.realpath(parent), name)
        if found in points:
            return found
        try:
            target = os.readlink(found)
        except OSError:
            return found
        found = os.path.join(os.path.dirname(found), target)
    return found


def _parsed(text: bytes) -> Iterator[Mount]:
    # Not splitlines: the kernel escapes a newline in a path, but not a carriage return.
    for line in text.split(b"\n")[:-1]:
        # An unknown number of fields comes before the hyphen.
        front, _, back = line.partition(b" - ")
        _, _, device, _, point, options, *_ = front.split(b" ")
        kind, source, shared = back.split(b" ", 2)
        major, minor = device.split(b":")
        yield Mount(
            _unescaped(point),
            os.fsdecode(_unescaped(kind)),
            _unescaped(source),
            os.makedev(int(major), int(minor)),
            frozenset(os.fsdecode(options).split(",")),
            frozenset(os.fsdecode(shared).split(",")),
        )


def _unescaped(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
