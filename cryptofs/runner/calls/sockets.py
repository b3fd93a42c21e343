"""Calls on sockets that move no data."""

import errno
import socket
import struct

from ...errors import InvalidValue, NotSupported, SystemFault
from ...wiping import wipe
from ..alg.bound import Bound
from ..alg.control import SET_KEY, SET_KEY_BY_SERIAL, SOL_ALG
from ..alg.operations import OPERATIONS
from ..desk import Desk, Handler
from ..endpoint import Endpoint
from ..netlink import CryptoNetlink
from ..notify import Call, PassOn
from ..rules import AF_ALG
from ..shim import ALIAS, ALIAS_PROTOCOL

_INTEGER = struct.Struct("=I")
_SERIAL = struct.Struct("=i")
_KIND = 0xF
_ADDRESS_MAX = 128
_VALUE_MAX = 131072
"""Bytes of an option's value: what the kernel allocates for one at most."""
_INTEGER_MAX = 0x7FFFFFFF


def _low(value: int) -> int:
    """An argument of 32 bits."""
    return value & 0xFFFFFFFF


def make_socket(desk: Desk, call: Call) -> int:
    """socket(2), of AF_ALG or of the crypto family of netlink."""
    family, kind, protocol = (_low(each) for each in call.arguments[:3])
    endpoint: Endpoint
    if family == socket.AF_NETLINK:
        if kind & _KIND not in (socket.SOCK_RAW, socket.SOCK_DGRAM):
            raise SystemFault(f"a socket of type {kind & _KIND}: netlink's are datagrams", errno.ESOCKTNOSUPPORT)
        endpoint = CryptoNetlink(desk.backend)
    else:
        if kind & _KIND != socket.SOCK_SEQPACKET:
            raise SystemFault(f"a socket of type {kind & _KIND}: AF_ALG has SOCK_SEQPACKET", errno.ESOCKTNOSUPPORT)
        if family == ALIAS:
            protocol -= ALIAS_PROTOCOL
        if protocol:
            raise SystemFault(f"protocol {protocol}: AF_ALG has 0", errno.EPROTONOSUPPORT)
        endpoint = Bound(desk.backend, desk.descriptors.catch_up, OPERATIONS, desk.store)
    return _hand_over(desk, call, endpoint, kind)


def _hand_over(desk: Desk, call: Call, endpoint: Endpoint, flags: int) -> int:
    return desk.descriptors.hand_over(
        call, endpoint, bool(flags & socket.SOCK_CLOEXEC), bool(flags & socket.SOCK_NONBLOCK)
    )


def make_pair(desk: Desk, call: Call) -> int:
    """socketpair(2): AF_ALG has none."""
    raise NotSupported("socketpair")


def bind(desk: Desk, call: Call) -> int:
    """bind(2)."""
    number, address, size = call.arguments[:3]
    endpoint = desk.descriptors.find(call, number)
    if _low(size) > _ADDRESS_MAX:
        raise InvalidValue(f"address of {_low(size)} bytes: at most {_ADDRESS_MAX}")
    endpoint.bind(bytes(call.memory.read(address, _low(size))))
    return 0


def set_option(desk: Desk, call: Call) -> int:
    """setsockopt(2). The generic ones are the kernel's."""
    number, level, option, value, size = call.arguments[:5]
    endpoint = desk.descriptors.find(call, number)
    size = _low(size)
    if _low(level) == socket.SOL_SOCKET:
        raise PassOn
    if size > _INTEGER_MAX:
        raise InvalidValue("an option of a negative size")
    key = bytearray()
    level, option = _low(level), _low(option)
    if level == SOL_ALG and option == SET_KEY:
        if size > _VALUE_MAX:
            raise SystemFault(f"a key of {size} bytes: at most {_VALUE_MAX}", errno.ENOMEM)
        key = call.memory.read_key(value, size)
    elif level == SOL_ALG and option == SET_KEY_BY_SERIAL:
        if size < _SERIAL.size:
            raise InvalidValue(f"a serial number of {size} bytes: {_SERIAL.size}")
        # Only now: few programs use it.
        from ..keyring import read_key

        (serial,) = _SERIAL.unpack(call.memory.read(value, _SERIAL.size))
        key, option = read_key(call.memory, serial), SET_KEY
    try:
        endpoint.set_option(level, option, key, size)
    finally:
        wipe(key)
    return 0


def get_option(desk: Desk, call: Call) -> int:
    """getsockopt(2). Of the generic ones, the family is not the one that the kernel sees."""
    number, level, option, value, length = call.arguments[:5]
    endpoint = desk.descriptors.find(call, number)
    if _low(level) != socket.SOL_SOCKET:
        raise NotSupported("getsockopt")
    if _low(option) != socket.SO_DOMAIN:
        raise PassOn
    memory = call.memory
    (room,) = _INTEGER.unpack(memory.read(length, _INTEGER.size))
    family = _INTEGER.pack(socket.AF_NETLINK if isinstance(endpoint, CryptoNetlink) else AF_ALG)[:room]
    memory.write(value, family)
    memory.write(length, _INTEGER.pack(len(family)))
    return 0


def get_name(desk: Desk, call: Call) -> int:
    """getsockname(2)."""
    number, address, length = call.arguments[:3]
    name = desk.descriptors.find(call, number).name()
    memory = call.memory
    (room,) = _INTEGER.unpack(memory.read(length, _INTEGER.size))
    memory.write(address, name[:room])
    memory.write(length, _INTEGER.pack(len(name)))
    return 0


def accept(desk: Desk, call: Call) -> int:
    """accept(2)."""
    return _accept(desk, call, 0)


def accept_with_flags(desk: Desk, call: Call) -> int:
    """accept4(2)."""
    return _accept(desk, call, call.arguments[3])


def _accept(desk: Desk, call: Call, flags: int) -> int:
    endpoint = desk.descriptors.find(call, call.arguments[0])
    accepted = endpoint.accept()
    if call.arguments[1]:
        accepted.close()
        # AF_ALG has no names. The kernel accepts, cannot tell one, and closes the new socket.
        raise SystemFault("accept with room for an address: there is none", errno.ECONNABORTED)
    return _hand_over(desk, call, accepted, flags)


def refuse(desk: Desk, call: Call) -> int:
    """What no socket of these families does."""
    desk.descriptors.find(call, call.arguments[0])
    raise NotSupported("connect, listen, shutdown or getpeername")


HANDLERS: dict[str, Handler] = {
    "socket": make_socket,
    "socketpair": make_pair,
    "bind": bind,
    "setsockopt": set_option,
    "getsockopt": get_option,
    "getsockname": get_name,
    "getpeername": refuse,
    "connect": refuse,
    "listen": refuse,
    "shutdown": refuse,
    "accept": accept,
    "accept4": accept_with_flags,
}
