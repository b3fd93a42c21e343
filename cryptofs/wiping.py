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


class _View(ctypes.Structure):
    """CPython's Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = (ctypes.py_object, ctypes.POINTER(_View), ctypes.c_int)
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = (ctypes.POINTER(_View),)
_release.restype = None


def wipe(*buffers: bytearray | memoryview) -> None:
    """Zero buffers in place: whatever still points at them sees zeros."""
    for buffer in buffers:
        memoryview(buffer).cast("B")[:] = bytes(len(buffer))


def wipe_immutable(digest: bytes) -> None:
    """Zero a digest of a key, which a library returns as `bytes`. No other code may have the object."""
    view = _View()
    _get(digest, ctypes.byref(view), 0)
    try:
        if view.len >= _SMALLEST:
            ctypes.memset(view.buf, 0, view.len)
    finally:
        _release(ctypes.byref(view))


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
