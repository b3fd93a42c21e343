"""The system call keyctl(2), as far as finding and reading a key needs it.

The C library has no function for it. A table of call numbers does without libkeyutils, which need not be installed, and
without a package for five calls; call numbers never change.
"""

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..wiping import wipe

_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}

# include/uapi/linux/keyctl.h
_UNLINK = 9
_SEARCH = 10
_READ = 11
_GET_PERSISTENT = 22
_THREAD_KEYRING = -1
_PERSISTENT = "persistent"
_KEYRINGS = {"process": -2, "session": -3, "user": -4, "user-session": -5}

KEYRINGS = (*_KEYRINGS, _PERSISTENT)
"""The keyrings that can be searched, by name; a search goes on in the keyrings that are linked to it."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _keyctl(operation: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """One call. Errors: OSError; ENOSYS on a machine whose call number is not known."""
    number = _KEYCTL.get(platform.machine()) if sys.maxsize > 1 << 32 else None
    if number is None:
        raise OSError(errno.ENOSYS, "keyctl")
    # variadic: integers need their full width
    wide = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(operation), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), "keyctl")
    return int(result)


@contextmanager
def held(keyring: str, kind: str, description: str) -> Iterator[int]:
    """The serial number of the key of this type and description, which the thread possesses meanwhile.

    A service's session keyring does not hold its user's keyring, so a key found there by name could be neither read nor
    used by its number: the search links it to the thread's own keyring. Errors: OSError: ENOKEY, EKEYREVOKED,
    EKEYEXPIRED, EACCES; ENODEV for a type that the kernel does not have.
    """
    persistent = keyring == _PERSISTENT
    ring = _keyctl(_GET_PERSISTENT, -1, _THREAD_KEYRING) if persistent else _KEYRINGS[keyring]
    try:
        serial = _keyctl(_SEARCH, ring, kind.encode(), os.fsencode(description), _THREAD_KEYRING)
        try:
            yield serial
        finally:
            _unlink(serial)
    finally:
        if persistent:
            _unlink(ring)


def _unlink(serial: int) -> None:
    try:
        _keyctl(_UNLINK, serial, _THREAD_KEYRING)
    except OSError as error:
        # revoked keys may have been collected meanwhile
        if error.errno not in (errno.ENOKEY, errno.ENOENT, errno.EKEYREVOKED, errno.EKEYEXPIRED):
            raise


def read(serial: int, largest: int) -> bytearray:
    """The payload of a key, for the caller to wipe. Errors: OSError; EMSGSIZE for more than `largest` bytes."""
    size = _keyctl(_READ, serial, None, 0)
    if size > largest:
        raise OSError(errno.EMSGSIZE, "keyctl")
    payload = bytearray(size)
    if not size:
        return payload
    try:
        # the array is a view, not a copy
        count = _keyctl(_READ, serial, (ctypes.c_char * size).from_buffer(payload), size)
        if count != size:
            # it was updated between the calls
            raise OSError(errno.EAGAIN, "keyctl")
    except BaseException:
        wipe(payload)
        raise
    return payload
