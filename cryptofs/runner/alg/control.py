"""The constants and structures of <linux/if_alg.h>."""

import struct
from typing import NamedTuple

from ...errors import InvalidValue
from ...records import Operation

SOL_ALG = 279
SET_KEY, SET_IV, SET_OP, SET_ASSOCLEN, SET_AUTHSIZE, SET_ENTROPY, SET_KEY_BY_SERIAL = 1, 2, 3, 4, 5, 6, 7
SOCKADDR = struct.Struct("=H14sII")
"""Without the name, which follows it."""
_CMSG = struct.Struct("=QiI")
_INTEGER = struct.Struct("=I")
_OPERATIONS = (Operation.DECRYPT, Operation.ENCRYPT)


class Control(NamedTuple):
    """What the control messages of one send say. iv: None to keep the one there is."""

    operation: Operation = Operation.DECRYPT
    iv: bytes | None = None
    assoclen: int = 0


def parse_control(control: bytes) -> Control:
    """The control messages. What they do not say is decrypt, the old IV, and no associated data, as in the kernel.

    Errors: InvalidValue.
    """
    operation, iv, assoclen = 0, None, 0
    at = 0
    while at + _CMSG.size <= len(control):
        size, level, kind = _CMSG.unpack_from(control, at)
        body = control[at + _CMSG.size : at + size]
        if size < _CMSG.size or at + size > len(control):
            raise InvalidValue(f"control message of {size} bytes: {len(control) - at} are left")
        at += (size + 7) & ~7
        if level != SOL_ALG:
            continue
        if len(body) < _INTEGER.size:
            raise InvalidValue(f"control message {kind} with {len(body)} bytes: at least {_INTEGER.size}")
        (value,) = _INTEGER.unpack_from(body)
        if kind == SET_IV:
            if len(body) < _INTEGER.size + value:
                raise InvalidValue(f"an IV of {value} bytes: the control message has {len(body) - _INTEGER.size}")
            iv = bytes(body[_INTEGER.size : _INTEGER.size + value])
        elif kind == SET_OP:
            operation = value
        elif kind == SET_ASSOCLEN:
            assoclen = value
        else:
            raise InvalidValue(f"control message {kind}: not one of AF_ALG's")
    if operation >= len(_OPERATIONS):
        raise InvalidValue(f"operation {operation}: 0 to decrypt or 1 to encrypt")
    return Control(_OPERATIONS[operation], iv, assoclen)
