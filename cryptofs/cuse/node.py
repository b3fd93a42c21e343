"""The device node: made by the kernel for root alone, and then given to whom it is meant for."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from ..errors import InvalidValue, SystemFault
from ..fuse.protocol import (
    CUSE_START,
    CUSE_STARTED,
    CUSE_UNRESTRICTED_IOCTL,
    HEADER,
    HEADER_SIZE,
    MAJOR,
    MINOR,
    Opcode,
)

CUSE = Path("/dev/cuse")
_DIRECTORY = Path("/dev")
_CLASS = Path("/sys/class/cuse")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FIRST_REQUEST_MAX = 8192
_TRANSFER = 4096
"""Of read(2) and write(2), which the device does not have."""
_NO_CUSE = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


class NodeError(SystemFault):
    """The device could not be made."""


class Access(NamedTuple):
    """Who may open the node."""

    mode: int
    uid: int
    gid: int


def open_device(name: str, access: Access) -> int:
    """Make /dev/`name`; returns the descriptor that serves it (close on exec). The node lasts as long as that is open.

    Needs root. Errors: InvalidValue for a wrong name, NodeError.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValue(f"name {name[:80]!r}: up to 64 letters, digits and . _ - that begin with a letter or digit")
    path = _DIRECTORY / name
    if os.path.lexists(path):
        raise NodeError(f"{path} exists already: another driver has it, or another `cryptofs cuse`", errno.EEXIST)
    try:
        descriptor = os.open(CUSE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = ": this kernel has no CUSE, or its module is not loaded (`modprobe cuse`)"
        raise NodeError(
            f"{CUSE}: {os.strerror(error.errno or 0)}{hint if error.errno in _NO_CUSE else ''}", error.errno
        ) from None
    try:
        _start(descriptor, name)
        _give_to(path, name, access)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _start(descriptor: int, name: str) -> None:
    """Answer the kernel's first request, which makes the node."""
    try:
        data = os.read(descriptor, _FIRST_REQUEST_MAX)
        _, opcode, unique, *_ = HEADER.unpack_from(data)
        major, minor, *_ = CUSE_START.unpack_from(data, HEADER_SIZE)
        if opcode != Opcode.CUSE_INIT or major != MAJOR:
            raise NodeError(f"{CUSE}: version {major}.{minor} of the protocol, wanted is {MAJOR}", errno.EPROTO)
        information = f"DEVNAME={name}\0".encode()
        version = (MAJOR, min(minor, MINOR), 0, CUSE_UNRESTRICTED_IOCTL, _TRANSFER, _TRANSFER)
        head = CUSE_STARTED.pack(CUSE_STARTED.size + len(information), 0, unique, *version, 0, 0, bytes(40))
        os.write(descriptor, head + information)
    except OSError as error:
        raise NodeError.of(error, CUSE) from None


def _give_to(path: Path, name: str, access: Access) -> None:
    """Set owner and mode of the node. Until then it is root's alone."""
    try:
        expected = (_CLASS / name / "dev").read_text().strip()
        node = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NodeError(
            f"{path}: {os.strerror(error.errno or 0)}: the kernel did not make the node, for which /dev must be a "
            "devtmpfs",
            error.errno,
        ) from None
    try:
        found = os.fstat(node)
        device = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if not stat.S_ISCHR(found.st_mode) or device != expected:
            raise NodeError(
                f"{path} is not the node of this device ({expected}): another one has its name", errno.EEXIST
            )
        os.chown(f"/proc/self/fd/{node}", access.uid, access.gid)
        os.chmod(f"/proc/self/fd/{node}", access.mode)
    except OSError as error:
        raise NodeError.of(error, path) from None
    finally:
        os.close(node)
