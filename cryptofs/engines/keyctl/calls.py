"""The system calls of the kernel's keyrings, add_key(2) and keyctl(2), by number: the C library has neither."""

import ctypes
import os
import platform
from ctypes import c_char, c_int, c_long, c_uint
from pathlib import Path
from typing import Any

_NUMBERS = {"x86_64": (248, 250), "aarch64": (217, 219), "riscv64": (217, 219)}
"""By machine: add_key, keyctl."""

PROCESS_KEYRING = -2
_GET_KEYRING_ID, _INVALIDATE, _CAPABILITIES = 0, 21, 31
_QUERY = 24
ENCRYPT, DECRYPT, SIGN, VERIFY = 25, 26, 27, 28
_CAN_PUBLIC_KEYS = 0x08
_KEY_SIZE = 128
"""Bytes of the quota that one key takes: 100 for the key, whatever its size is, and its description."""


class Information(ctypes.Structure):
    """What the kernel tells of a key: sizes in bits (key_size) and bytes, and which operations it does."""

    _fields_ = (
        ("operations", c_uint),
        ("key_size", c_uint),
        ("data_size", ctypes.c_ushort),
        ("signature_size", ctypes.c_ushort),
        ("encrypted_size", ctypes.c_ushort),
        ("decrypted_size", ctypes.c_ushort),
        ("spare", c_uint * 10),
    )


CAN_ENCRYPT, CAN_DECRYPT, CAN_SIGN, CAN_VERIFY = 1, 2, 4, 8


class _Parameters(ctypes.Structure):
    _fields_ = (("key", c_int), ("in_size", c_uint), ("out_size", c_uint), ("spare", c_uint * 7))


def _call(which: int, *arguments: Any) -> int:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError(38, "no number for this system call on this machine")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = c_long
    result: int = libc.syscall(c_long(numbers[which]), *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def has_public_keys() -> bool:
    """Whether the kernel does public key operations on its keys, and lets this process ask."""
    capabilities = (c_char * 4)()
    try:
        size = _call(1, c_long(_CAPABILITIES), capabilities, c_long(len(capabilities)))
    except OSError:
        return False
    return size > 0 and bool(capabilities.raw[0] & _CAN_PUBLIC_KEYS)


def quota() -> int:
    """Keys that a user other than root may have in the kernel, by number and by size; 0 where it is not told."""
    try:
        keys, size = (int(Path(f"/proc/sys/kernel/keys/{name}").read_text()) for name in ("maxkeys", "maxbytes"))
    except (OSError, ValueError):
        return 0
    return min(keys, size // _KEY_SIZE)


def make_process_keyring() -> int:
    """The serial of this process's keyring; threads that start after this call see it, too. Errors: OSError."""
    return _call(1, c_long(_GET_KEYRING_ID), c_long(PROCESS_KEYRING), c_long(1))


def add_asymmetric(description: bytes, key: bytearray) -> int:
    """Give the kernel a key in DER (PKCS#8 or an X.509 certificate); returns its serial. Errors: OSError."""
    view = (c_char * len(key)).from_buffer(key)
    return _call(0, b"asymmetric\0", description + b"\0", view, c_long(len(key)), c_long(PROCESS_KEYRING))


def invalidate(serial: int) -> None:
    """Have the kernel forget a key at once. Errors: OSError."""
    _call(1, c_long(_INVALIDATE), c_long(serial))


def query(serial: int, how: bytes) -> Information:
    """What a key does. how: `enc=…` and `hash=…`, separated by blanks. Errors: OSError."""
    information = Information()
    _call(1, c_long(_QUERY), c_long(serial), c_long(0), how + b"\0", ctypes.byref(information))
    return information


def operate(operation: int, serial: int, how: bytes, data: bytes, room: int) -> bytes:
    """ENCRYPT, DECRYPT or SIGN of data into at most `room` bytes. Errors: OSError."""
    parameters = _Parameters(serial, len(data), room)
    out = ctypes.create_string_buffer(room)
    size = _call(1, c_long(operation), ctypes.byref(parameters), how + b"\0", data, out)
    taken: bytes = out.raw[:size]
    ctypes.memset(out, 0, room)
    return taken


def verify(serial: int, how: bytes, data: bytes, signature: bytes) -> None:
    """Errors: OSError, EKEYREJECTED and others where the signature is another's."""
    parameters = _Parameters(serial, len(data), len(signature))
    _call(1, c_long(VERIFY), ctypes.byref(parameters), how + b"\0", data, signature)
