"""Zeroing what held a key, immutable objects included.

What a client writes reaches Python as `bytes`, which cannot be changed by any means of the language. Left alone, a
key would stay in freed memory until something else is written over it.
"""

import ctypes

Buffer = bytes | bytearray | memoryview

# one-byte and empty objects are shared by the whole interpreter
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


def wipe(buffer: Buffer) -> None:
    """Zero a buffer in place, though it be immutable: only for what nobody else can have, as a write from outside."""
    view = _View()
    _get(buffer, ctypes.byref(view), 0)
    try:
        if view.len >= _SMALLEST:
            ctypes.memset(view.buf, 0, view.len)
    finally:
        _release(ctypes.byref(view))
