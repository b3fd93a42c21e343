"""The bytes of keys on the kernel's keyrings."""

import ctypes
import errno

from ...keyctl import keyctl
from ...wiping import wipe

_DESCRIBE, _READ = 6, 11
_DESCRIPTION_MAX = 4200
"""Bytes of a key's description with its type, owner and permissions."""


def kind_of(serial: int) -> str:
    """The type of a key, such as "user". Errors: OSError."""
    text = ctypes.create_string_buffer(_DESCRIPTION_MAX)
    keyctl(_DESCRIBE, serial, text, len(text))
    return text.value.partition(b";")[0].decode("latin-1")


def read(serial: int, largest: int) -> bytearray:
    """The payload of a key, for the caller to wipe. Errors: OSError; EMSGSIZE for more than `largest` bytes."""
    size = keyctl(_READ, serial, None, 0)
    if size > largest:
        raise OSError(errno.EMSGSIZE, "keyctl")
    payload = bytearray(size)
    if not size:
        return payload
    try:
        # the array is a view, not a copy
        count = keyctl(_READ, serial, (ctypes.c_char * size).from_buffer(payload), size)
        if count != size:
            # It was updated between the calls.
            raise OSError(errno.EAGAIN, "keyctl")
    except BaseException:
        wipe(payload)
        raise
    return payload
