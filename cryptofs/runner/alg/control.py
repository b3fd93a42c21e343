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
_ASSOCLEN_MAX = 0x7FFFFFFF
_HEAD = _CMSG.size
_unpack_head, _unpack_integer = _CMSG.unpack_from, _INTEGER.unpack_from
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
    at, total = 0, len(control)
    while at + _HEAD <= total:
        size, level, kind = _unpack_head(control, at)
        end = at + size
        if size < _HEAD or end > total:
            raise InvalidValue(f"control message of {size} bytes: {total - at} are left")
        body, at = at + _HEAD, (end + 7) & ~7
        if level != SOL_ALG:
            continue
        text = body + _INTEGER.size
        if text > end:
            raise InvalidValue(f"control message {kind} with {size - _HEAD} bytes: at least {_INTEGER.size}")
        (value,) = _unpack_integer(control, body)
        if kind == SET_IV:
            if text + value > end:
                raise InvalidValue(f"an IV of {value} bytes: the control message has {end - text}")
            iv = control[text : text + value]
        elif kind == SET_OP:
            operation = value
        elif kind == SET_ASSOCLEN:
            if value > _ASSOCLEN_MAX:
                raise InvalidValue(f"{value} bytes of associated data: at most {_ASSOCLEN_MAX}")
            assoclen = value
        else:
            raise InvalidValue(f"control message {kind}: not one of AF_ALG's")
    if operation >= len(_OPERATIONS):
        raise InvalidValue(f"operation {operation}: 0 to decrypt or 1 to encrypt")
    return Control(_OPERATIONS[operation], iv, assoclen)
