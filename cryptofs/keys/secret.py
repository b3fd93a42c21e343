"""Secrets in memory: bytearrays that are wiped, made and changed without a copy that is not.

Nothing here makes `bytes` or `str` of a secret, which cannot be wiped, nor resizes a bytearray, which may leave its old
contents behind; assigning to a slice of a bytearray would copy as well, a slice of its view does not.
"""

import os

from .. import wiping
from ..errors import InvalidValue, KeyUnavailable
from ..wiping import wipe

KEY_MAX = 8192
"""Largest key, bytes."""

_NEWLINE = 0x0A


def read_whole(descriptor: int, largest: int, source: str) -> bytearray:
    """All of a regular file from its start on, wherever its offset is.

    Errors: KeyUnavailable for an empty file or one that changes meanwhile, InvalidValue for more than `largest` bytes,
    OSError.
    """
    size = os.fstat(descriptor).st_size
    if not size:
        raise KeyUnavailable(f"{source}: it is empty")
    if size > largest:
        raise InvalidValue(f"{source}: {size} bytes: at most {largest}")
    secret = bytearray(size)
    view = memoryview(secret)
    try:
        done = 0
        while done < size and (count := os.preadv(descriptor, [view[done:]], done)):
            done += count
        if done < size or os.preadv(descriptor, [bytearray(1)], size):
            raise KeyUnavailable(f"{source}: it changed while it was read")
    except BaseException:
        wipe(secret)
        raise
    return secret


def without_newline(text: bytearray) -> bytearray:
    """The text without one newline at its end; `text` is wiped where that makes another one."""
    size = len(text)
    if not size or text[-1] != _NEWLINE:
        return text
    cut = bytearray(size - 1)
    memoryview(cut)[:] = memoryview(text)[: size - 1]
    wipe(text)
    return cut


def from_hexadecimal(text: bytearray, source: str) -> bytearray:
    """The bytes that hexadecimal digits, and perhaps a newline at the end, stand for; `text` is wiped.

    Errors: KeyUnavailable, which says where, not what, the text is.
    """
    size = len(text) - (bool(text) and text[-1] == _NEWLINE)
    try:
        if not size or size % 2:
            raise KeyUnavailable(f"{source}: {size} characters: hexadecimal digits are two for each byte")
        with memoryview(text) as view:
            return wiping.from_hexadecimal(view[:size])
    except ValueError as error:
        raise KeyUnavailable(f"{source}: character {error.args[0] + 1} is no hexadecimal digit") from None
    finally:
        wipe(text)
