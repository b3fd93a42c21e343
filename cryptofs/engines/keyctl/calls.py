"""What the kernel does with public keys on its keyrings, by keyctl(2)."""

import ctypes
from ctypes import c_char, c_int, c_uint
from pathlib import Path

from ...keyctl import PROCESS_KEYRING, add_key, keyctl

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


def has_public_keys() -> bool:
    """Whether the kernel does public key operations on its keys, and lets this process ask."""
    capabilities = (c_char * 4)()
    try:
        size = keyctl(_CAPABILITIES, capabilities, len(capabilities))
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
    return keyctl(_GET_KEYRING_ID, PROCESS_KEYRING, 1)


def add_asymmetric(description: bytes, key: bytearray) -> int:
    """Give the kernel a key in DER (PKCS#8 or an X.509 certificate); returns its serial. Errors: OSError."""
    return add_key(b"asymmetric", description, key, PROCESS_KEYRING)


def invalidate(serial: int) -> None:
    """Have the kernel forget a key at once. Errors: OSError."""
    keyctl(_INVALIDATE, serial)


def query(serial: int, how: bytes) -> Information:
    """What a key does. how: `enc=…` and `hash=…`, separated by blanks. Errors: OSError."""
    information = Information()
    keyctl(_QUERY, serial, 0, how, information)
    return information


def operate(operation: int, serial: int, how: bytes, data: bytes, room: int) -> bytes:
    """ENCRYPT, DECRYPT or SIGN of data into at most `room` bytes. Errors: OSError."""
    parameters = _Parameters(serial, len(data), room)
    out = ctypes.create_string_buffer(room)
    size = keyctl(operation, parameters, how, data, out)
    taken: bytes = out.raw[:size]
    ctypes.memset(out, 0, room)
    return taken


def verify(serial: int, how: bytes, data: bytes, signature: bytes) -> None:
    """Errors: OSError, EKEYREJECTED and others where the signature is another's."""
    parameters = _Parameters(serial, len(data), len(signature))
    keyctl(VERIFY, parameters, how, data, signature)
