"""The small part of DER that builds and parses keys without making integers of the secret.

A secret is in a bytearray, and is zeroed as soon as it was copied into the element around it. A Python integer or bytes
object could not be zeroed.
"""

import re

from ..records import Buffer
from ..wiping import wipe

_ZEROS = re.compile(rb"\0*")
INTEGER, BIT_STRING, OCTET_STRING, OID, SEQUENCE = 0x02, 0x03, 0x04, 0x06, 0x30
PARAMETERS = 0xA0
"""The tag [0]: parameters of an ECPrivateKey, attributes of PKCS#8."""


def enclose(tag: int, *parts: Buffer) -> bytearray:
    """The element of a tag whose content is `parts` one after the other; parts that are bytearrays are zeroed."""
    size = sum(map(len, parts))
    head = bytes([tag]) + _length(size)
    element = bytearray(len(head) + size)
    element[: len(head)] = head
    at = len(head)
    for part in parts:
        element[at : at + len(part)] = part
        at += len(part)
        if isinstance(part, bytearray):
            wipe(part)
    return element


def integer(magnitude: Buffer) -> bytearray:
    """A positive INTEGER of big-endian bytes; `magnitude` is left as it is."""
    kept = bytearray(len(magnitude) + 1)
    kept[1:] = magnitude
    start = 0
    while start < len(kept) - 1 and kept[start] == 0 and kept[start + 1] < 0x80:
        start += 1
    element = enclose(INTEGER, memoryview(kept)[start:])
    wipe(kept)
    return element


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(digits)]) + digits


def read(view: memoryview, tag: int) -> tuple[memoryview, memoryview]:
    """The content of the first element, which must have this tag, and what follows it. Errors: ValueError."""
    if len(view) < 2 or view[0] != tag:
        raise ValueError(f"no element with the tag {tag:#04x}")
    size, at = view[1], 2
    if size >= 0x80:
        digits = size & 0x7F
        if not 1 <= digits <= 3 or len(view) < 2 + digits:
            raise ValueError("a length that is no length")
        size, at = int.from_bytes(view[2 : 2 + digits], "big"), 2 + digits
    if size > len(view) - at:
        raise ValueError("an element that is cut off")
    return view[at : at + size], view[at + size :]


def magnitude(view: memoryview) -> memoryview:
    """A number in big-endian bytes without the zeros in front of it; one byte of 0 for zero."""
    zeros = _ZEROS.match(view)
    return view[min(zeros.end() if zeros is not None else 0, max(len(view) - 1, 0)) :]


def bits(number: memoryview) -> int:
    """The length in bits of a number that `magnitude` gave."""
    return 8 * (len(number) - 1) + number[0].bit_length() if len(number) else 0


def below(number: memoryview, bound: memoryview) -> bool:
    """Whether one number that `magnitude` gave is less than another."""
    if len(number) != len(bound):
        return len(number) < len(bound)
    # byte by byte: a memoryview does not compare, and a copy of a secret would stay in memory
    return next((left < right for left, right in zip(number, bound, strict=True) if left != right), False)
