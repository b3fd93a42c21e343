"""The system calls of the kernel's keyrings, add_key(2) and keyctl(2), by number.

The C library has no functions for them. A table of call numbers does without libkeyutils, which need not be installed;
call numbers never change.
"""

import ctypes
import errno
import os
import platform
import sys

_NUMBERS = {"x86_64": (248, 250), "aarch64": (217, 219), "riscv64": (217, 219)}
"""By machine: add_key, keyctl."""

THREAD_KEYRING, PROCESS_KEYRING = -1, -2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None
"""Bytes are C strings; arrays and structures are passed by reference."""


def _call(which: int, *arguments: Argument) -> int:
    numbers = _NUMBERS.get(platform.machine()) if sys.maxsize > 1 << 32 else None
    if numbers is None:
        raise OSError(errno.ENOSYS, "no number for this system call on this machine")
    # variadic: integers need their full width
    passed = (
        ctypes.c_long(each)
        if isinstance(each, int)
        else ctypes.byref(each)
        if isinstance(each, ctypes.Structure)
        else each
        for each in arguments
    )
    result = _libc.syscall(ctypes.c_long(numbers[which]), *passed)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def add_key(kind: bytes, description: bytes, payload: bytearray, keyring: int) -> int:
    """Give the kernel a key; returns its serial. Errors: OSError."""
    # a view, not a copy
    view = (ctypes.c_char * len(payload)).from_buffer(payload)
    return _call(0, kind, description, view, len(payload), keyring)


def keyctl(operation: int, *arguments: Argument) -> int:
    """One call. Errors: OSError; ENOSYS on a machine whose call number is not known."""
    return _call(1, operation, *arguments)
