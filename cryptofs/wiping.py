"""Zeroing memory that held a key.

A client's write is in a buffer of the transport, and is wiped in place. One library call for a key returns `bytes`,
which Python code cannot change. Without this module they would stay in freed memory until something else overwrites
them.
"""

import binascii
import ctypes
import re

# The whole interpreter shares one-byte and empty objects.
_SMALLEST = 2

_address_of = ctypes.pythonapi.PyBytes_AsString
_address_of.argtypes = (ctypes.py_object,)
_address_of.restype = ctypes.c_void_p


def wipe(*buffers: bytearray | memoryview) -> None:
    """Zero buffers in place: whatever still points at them sees zeros."""
    for buffer in buffers:
        memoryview(buffer).cast("B")[:] = bytes(len(buffer))


def wipe_immutable(digest: bytes) -> None:
    """Zero a digest of a key, which a library returns as `bytes`. No other code may have the object."""
    if len(digest) >= _SMALLEST:
        ctypes.memset(_address_of(digest), 0, len(digest))


_DIGITS = re.compile(rb"[0-9A-Fa-f]*")


def from_hexadecimal(digits: bytearray | memoryview) -> bytearray:
    """The bytes of hexadecimal digits, made without a copy that stays.

    Errors: ValueError with the position of a wrong digit, or for an odd number of digits.
    """
    found = _DIGITS.match(digits)
    end = found.end() if found is not None else 0
    if end < len(digits) or len(digits) % 2:
        raise ValueError(end)
    decoded = binascii.unhexlify(digits)
    try:
        return bytearray(decoded)
    finally:
        wipe_immutable(decoded)
