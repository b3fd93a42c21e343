"""Calls on devices that there are not: open and ioctl. The filter hands them over only if a device is served."""

import os
import struct

from ...errors import CryptofsError
from ..descriptors import PassOn
from ..desk import Desk, Handler
from ..notify import Call
from ..process import Memory
from .copies import copy

_HOW = struct.Struct("=Q")
"""The beginning of struct open_how: the flags."""


def open_file(desk: Desk, call: Call) -> int:
    """open(2)."""
    return _open(desk, call, call.arguments[0], call.arguments[1])


def open_file_at(desk: Desk, call: Call) -> int:
    """openat(2)."""
    return _open(desk, call, call.arguments[1], call.arguments[2])


def open_file_how(desk: Desk, call: Call) -> int:
    """openat2(2)."""
    try:
        (flags,) = _HOW.unpack(Memory(call.tid).read(call.arguments[2], _HOW.size))
    except CryptofsError:
        raise PassOn from None
    return _open(desk, call, call.arguments[1], flags)


def _open(desk: Desk, call: Call, address: int, flags: int) -> int:
    memory = Memory(call.tid)
    for path, make in desk.devices.items():
        try:
            if memory.read(address, len(path) + 1) != path + b"\0":
                continue
        except CryptofsError:
            # The path is shorter, and ends where the memory does.
            continue
        endpoint = make(desk.backend)
        return desk.descriptors.hand_over(call, endpoint, bool(flags & os.O_CLOEXEC), bool(flags & os.O_NONBLOCK))
    raise PassOn


def control(desk: Desk, call: Call) -> int:
    """ioctl(2)."""
    number, command, argument = call.arguments[:3]
    endpoint = desk.descriptors.find(call, number)
    return endpoint.control(Memory(call.tid), lambda: copy(desk, call, False), command & 0xFFFFFFFF, argument)


HANDLERS: dict[str, Handler] = {
    "open": open_file,
    "openat": open_file_at,
    "openat2": open_file_how,
    "ioctl": control,
}
