"""Calls on devices that there are not: open and ioctl. The filter hands them over only if a device is served."""

import errno
import os
import struct

from ...errors import CryptofsError, SystemFault
from ..desk import Desk, Handler, OpenDevice
from ..notify import Call, PassOn
from ..process import Memory

_HOW = struct.Struct("=QQQ")
"""struct open_how: flags, mode, resolve."""
_NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x04, 0x08, 0x10
_HERE = -100 & 0xFFFFFFFF
"""AT_FDCWD: relative to the working directory."""
_PATH_MAX = 4096
_LINKS_MAX = 40
_NOT_OPENED = os.O_PATH | os.O_DIRECTORY


def open_file(desk: Desk, call: Call) -> int:
    """open(2)."""
    return _open(desk, call, _HERE, call.arguments[0], call.arguments[1])


def create_file(desk: Desk, call: Call) -> int:
    """creat(2)."""
    return _open(desk, call, _HERE, call.arguments[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)


def open_file_at(desk: Desk, call: Call) -> int:
    """openat(2)."""
    return _open(desk, call, call.arguments[0], call.arguments[1], call.arguments[2])


def open_file_how(desk: Desk, call: Call) -> int:
    """openat2(2)."""
    try:
        flags, _, resolve = _HOW.unpack(call.memory.read(call.arguments[2], _HOW.size))
    except CryptofsError:
        raise PassOn from None
    if resolve & (_BENEATH | _IN_ROOT):
        # Nothing outside of a directory is asked for.
        raise PassOn
    if resolve & _NO_SYMLINKS:
        flags |= os.O_NOFOLLOW
    return _open(desk, call, call.arguments[0], call.arguments[1], flags)


def _open(desk: Desk, call: Call, directory: int, address: int, flags: int) -> int:
    if flags & _NOT_OPENED:
        raise PassOn
    make = _find(desk, call.tid, directory & 0xFFFFFFFF, _read_path(call.memory, address), not flags & os.O_NOFOLLOW)
    if flags & os.O_CREAT and flags & os.O_EXCL:
        raise SystemFault("a device is there already", errno.EEXIST)
    endpoint = make(desk.backend)
    return desk.descriptors.hand_over(call, endpoint, bool(flags & os.O_CLOEXEC), bool(flags & os.O_NONBLOCK))


def _read_path(memory: Memory, address: int) -> bytes:
    """A string of the program. Errors: PassOn: the kernel knows what to say of it."""
    path = b""
    try:
        while len(path) < _PATH_MAX:
            # Not beyond the page, because the memory may end with it.
            piece = bytes(memory.read(address + len(path), 4096 - (address + len(path)) % 4096))
            text, end, _ = piece.partition(b"\0")
            path += text
            if end:
                return path
    except CryptofsError:
        pass
    raise PassOn


def _find(desk: Desk, tid: int, directory: int, path: bytes, follow: bool) -> OpenDevice:
    """The device that a path leads to, as the program sees its files. Errors: PassOn."""
    process = b"/proc/%d/" % tid
    root = process + b"root"
    if path.startswith(b"/"):
        where = root + path
    else:
        where = (process + b"cwd/" if directory == _HERE else process + b"fd/%d/" % directory) + path
    for _ in range(_LINKS_MAX):
        parent, _, name = where.rpartition(b"/")
        for device, make in desk.devices.items():
            place, _, wanted = device.rpartition(b"/")
            if name == wanted and _is_same(parent, root + place):
                return make
        try:
            link = os.readlink(where)
        except OSError:
            break
        if not follow:
            break
        where = root + link if link.startswith(b"/") else parent + b"/" + link
    raise PassOn


def _is_same(one: bytes, other: bytes) -> bool:
    """Whether two paths lead to one directory, by whatever links."""
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def control(desk: Desk, call: Call) -> int:
    """ioctl(2)."""
    number, command, argument = call.arguments[:3]
    endpoint = desk.descriptors.find(call, number)
    command &= 0xFFFFFFFF
    return endpoint.control(desk.descriptors.locate(call, number, endpoint), command, argument)


HANDLERS: dict[str, Handler] = {
    "open": open_file,
    "creat": create_file,
    "openat": open_file_at,
    "openat2": open_file_how,
    "ioctl": control,
}
