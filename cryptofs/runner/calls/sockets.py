"""Calls on sockets that move no data."""

import errno
import socket
import struct
from functools import partial

from ...errors import InvalidValue, NotSupported, SystemFault
from ..alg.bound import Bound
from ..alg.control import SET_KEY
from ..alg.operations import OPERATIONS
from ..desk import Desk, Handler
from ..endpoint import Endpoint
from ..netlink import CryptoNetlink
from ..notify import Call, PassOn
from ..rules import AF_ALG
from ..shim import ALIAS, ALIAS_PROTOCOL

_INTEGER = struct.Struct("=I")
_SERIAL = struct.Struct("=i")
_KIND, _KINDS = 0xF, 11
"""The types of sockets: the bits that they have, and how many there are."""
_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_PAIR = struct.Struct("=ii")
_ADDRESS_MAX, _FAMILY_SIZE = 128, 2
_KEY_MAX = 131071
"""Bytes of a key: what the kernel allocates for one at most."""
_INTEGER_MAX = 0x7FFFFFFF
_PEER_CREDENTIALS = 17
_WITHOUT_PEER = {28: errno.ENOTCONN, 31: errno.ENOPROTOOPT, 59: errno.ENODATA}
"""SO_PEERNAME, SO_PEERSEC and SO_PEERGROUPS."""
_OF_PAIRS = (16, 34, 42, 76, 83)
"""Generic options that pairs of sockets have and these sockets do not: SO_PASSCRED, SO_PASSSEC, SO_PEEK_OFF,
SO_PASSPIDFD, SO_PASSRIGHTS."""
_NO_CREDENTIALS = struct.pack("=iii", 0, -1, -1)


def _low(value: int) -> int:
    """An argument of 32 bits."""
    return value & 0xFFFFFFFF


def _check_kind(kind: int) -> None:
    """Errors: InvalidValue for a type that no family has, or for unknown flags."""
    if kind & ~(_KIND | _FLAGS) or kind & _KIND >= _KINDS:
        raise InvalidValue(f"a socket of type {kind:#x}")


def _check_alg(kind: int, protocol: int) -> None:
    """Errors: SystemFault for a type or protocol that AF_ALG does not have."""
    if kind & _KIND != socket.SOCK_SEQPACKET:
        raise SystemFault(f"a socket of type {kind & _KIND}: AF_ALG has SOCK_SEQPACKET", errno.ESOCKTNOSUPPORT)
    if protocol:
        raise SystemFault(f"protocol {protocol}: AF_ALG has 0", errno.EPROTONOSUPPORT)


def make_socket(desk: Desk, call: Call) -> int:
    """socket(2), of AF_ALG or of the crypto family of netlink."""
    family, kind, protocol = (_low(each) for each in call.arguments[:3])
    _check_kind(kind)
    endpoint: Endpoint
    if family == socket.AF_NETLINK:
        if kind & _KIND not in (socket.SOCK_RAW, socket.SOCK_DGRAM):
            raise SystemFault(f"a socket of type {kind & _KIND}: netlink's are datagrams", errno.ESOCKTNOSUPPORT)
        endpoint = CryptoNetlink(desk.backend)
    else:
        if family == ALIAS:
            protocol -= ALIAS_PROTOCOL
        _check_alg(kind, protocol)
        endpoint = Bound(desk.backend, desk.descriptors.catch_up, OPERATIONS, desk.store)
    return _hand_over(desk, call, endpoint, kind)


def _hand_over(desk: Desk, call: Call, endpoint: Endpoint, flags: int) -> int:
    return desk.descriptors.hand_over(
        call, endpoint, bool(flags & socket.SOCK_CLOEXEC), bool(flags & socket.SOCK_NONBLOCK)
    )


def make_pair(desk: Desk, call: Call) -> int:
    """socketpair(2): AF_ALG has none. The kernel finds that out last."""
    _, kind, protocol, address = call.arguments[:4]
    _check_kind(_low(kind))
    call.memory.write(address, call.memory.read(address, _PAIR.size))
    _check_alg(_low(kind), _low(protocol))
    raise NotSupported("socketpair")


def _read_address(call: Call) -> bytes:
    """The address that a call names. Errors: InvalidValue for one that is too long; SystemFault (EFAULT)."""
    address, size = call.arguments[1], _low(call.arguments[2])
    if size > _ADDRESS_MAX:
        raise InvalidValue(f"address of {size} bytes: at most {_ADDRESS_MAX}")
    return bytes(call.memory.read(address, size))


def bind(desk: Desk, call: Call) -> int:
    """bind(2)."""
    endpoint = desk.descriptors.find(call, call.arguments[0])
    endpoint.bind(_read_address(call))
    return 0


def connect(desk: Desk, call: Call) -> int:
    """connect(2), which no socket of AF_ALG does."""
    desk.descriptors.find(call, call.arguments[0])
    address = _read_address(call)
    if len(address) < _FAMILY_SIZE:
        raise InvalidValue(f"address of {len(address)} bytes: it has a family")
    raise NotSupported("connect")


def set_option(desk: Desk, call: Call) -> int:
    """setsockopt(2). The generic ones are the kernel's."""
    number, level, option, value, size = call.arguments[:5]
    endpoint = desk.descriptors.find(call, number)
    level, option, size = _low(level), _low(option), _low(size)
    if size > _INTEGER_MAX:
        raise InvalidValue("an option of a negative size")
    if level == socket.SOL_SOCKET:
        if option in _OF_PAIRS:
            if size < _INTEGER.size:
                raise InvalidValue(f"an option of {size} bytes: at least {_INTEGER.size}")
            call.memory.read(value, _INTEGER.size)
            raise NotSupported(f"option {option}")
        raise PassOn
    endpoint.set_option(level, option, size, partial(_take_key, call, option, value, size))
    return 0


def _take_key(call: Call, option: int, value: int, size: int) -> bytearray:
    """The key of SET_KEY or SET_KEY_BY_SERIAL, for the caller to wipe. Errors: InvalidValue, SystemFault."""
    if option == SET_KEY:
        if size > _KEY_MAX:
            raise SystemFault(f"a key of {size} bytes: at most {_KEY_MAX}", errno.ENOMEM)
        return call.memory.read_key(value, size)
    if size != _SERIAL.size:
        raise InvalidValue(f"a serial number of {size} bytes: {_SERIAL.size}")
    # Only now: few programs use it.
    from ..keyring import read_key

    (serial,) = _SERIAL.unpack(call.memory.read(value, _SERIAL.size))
    return read_key(call.memory, serial)


def get_option(desk: Desk, call: Call) -> int:
    """getsockopt(2). Of the generic ones, some show the family, which is not the one that the kernel sees."""
    number, level, option, value, length = call.arguments[:5]
    endpoint = desk.descriptors.find(call, number)
    if _low(level) != socket.SOL_SOCKET:
        raise NotSupported("getsockopt")
    known = {
        socket.SO_DOMAIN: _INTEGER.pack(socket.AF_NETLINK if isinstance(endpoint, CryptoNetlink) else AF_ALG),
        _PEER_CREDENTIALS: _NO_CREDENTIALS,
    }
    option = _low(option)
    if option not in known and option not in _OF_PAIRS and option not in _WITHOUT_PEER:
        raise PassOn
    memory = call.memory
    (room,) = _INTEGER.unpack(memory.read(length, _INTEGER.size))
    if room > _INTEGER_MAX:
        raise InvalidValue("room of a negative size")
    if option in _OF_PAIRS:
        raise NotSupported(f"option {option}")
    if option in _WITHOUT_PEER:
        raise SystemFault("the socket has no peer", _WITHOUT_PEER[option])
    told = known[option][:room]
    memory.write(value, told)
    memory.write(length, _INTEGER.pack(len(told)))
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
    flags = _low(flags)
    if flags & ~_FLAGS:
        raise InvalidValue(f"flags {flags:#x} of accept4")
    accepted = endpoint.accept()
    if call.arguments[1]:
        accepted.close()
        # AF_ALG has no names. The kernel accepts, cannot tell one, and closes the new socket.
        raise SystemFault("accept with room for an address: there is none", errno.ECONNABORTED)
    return _hand_over(desk, call, accepted, flags)


def refuse(desk: Desk, call: Call) -> int:
    """What no socket of these families does."""
    desk.descriptors.find(call, call.arguments[0])
    raise NotSupported("listen, shutdown or getpeername")


HANDLERS: dict[str, Handler] = {
    "socket": make_socket,
    "socketpair": make_pair,
    "bind": bind,
    "setsockopt": set_option,
    "getsockopt": get_option,
    "getsockname": get_name,
    "getpeername": refuse,
    "connect": connect,
    "listen": refuse,
    "shutdown": refuse,
    "accept": accept,
    "accept4": accept_with_flags,
}
