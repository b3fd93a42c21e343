"""Secrets in memory: bytearrays that are wiped. Making and changing them leaves no unwiped copy.

This code makes no `bytes` or `str` of a secret, because these cannot be wiped. It does not resize a bytearray, because
that may leave its old contents behind. It assigns only to slices of a bytearray's view, because assigning to a slice of
the bytearray copies.
"""

import os

from .. import wiping
from ..errors import InvalidValue, KeyUnavailable
from ..wiping import wipe

KEY_MAX = 8192
"""Largest key, bytes."""

PROTECTED = b"cryptofs key 1\n"
"""How a key begins that a passphrase protects."""
_NEWLINE = 0x0A


def read_whole(descriptor: int, largest: int, source: str) -> bytearray:
    """All of a regular file from its start, wherever its offset is.

    Errors: KeyUnavailable for an empty file or one that changes during the read, InvalidValue for more than `largest`
    bytes, OSError.
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
    """The text without one newline at its end; if that makes a new one, `text` is wiped."""
    size = len(text)
    if not size or text[-1] != _NEWLINE:
        return text
    cut = bytearray(size - 1)
    memoryview(cut)[:] = memoryview(text)[: size - 1]
    wipe(text)
    return cut


def from_hexadecimal(text: bytearray, source: str) -> bytearray:
    """The bytes of hexadecimal digits, with an optional newline at the end; `text` is wiped.

    Errors: KeyUnavailable, which has the position of a wrong digit, not the digit.
    """
    size = len(text) - (bool(text) and text[-1] == _NEWLINE)
    try:
        if not size or size % 2:
            raise KeyUnavailable(f"{source}: {size} characters: hexadecimal digits are two for each byte")
        with memoryview(text) as view:
            return wiping.from_hexadecimal(view[:size])
    except ValueError as error:
        raise KeyUnavailable(f"{source}: character {error.args[0] + 1} is not a hexadecimal digit") from None
    finally:
        wipe(text)
