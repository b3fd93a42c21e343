"""The messages of p11-kit's remote protocol, version 0. All numbers are big-endian.

A message has a call's number, the signature of its values, and the values. A signature has a letter for each value:
`u` a CK_ULONG, `y` a byte, `v` a version, `s` a text of fixed size, `M` a mechanism, `ay`, `au` and `aA` arrays of
bytes, numbers and attributes. `fy`, `fu` and `fA` describe the buffers in which the program wants such an array.

Clients since p11-kit 0.25.6 write a mechanism in another form, and do not tell. Each mechanism has a form of its own
for its parameter, too. The face needs none, so it skips what stands between the number and the values behind it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .numbers import BOOLEANS, MECHANISM_LISTS, NUMBERS, TEMPLATES

MESSAGE_MAX = 1 << 20
"""Bytes of a message: also the most data that a program can sign with one call."""
OPTIONS_MAX = 4096
ARRAY_MAX = 1024
"""Attributes of one call."""
_NOTHING = 0xFFFFFFFF
"""The size of an array that is not there, and the mechanism that cancels an operation."""
_PARTS = ("ay", "au", "aA", "fy", "fu", "fA", "u", "y", "v", "s", "M")
_FIXED = {"u": 8, "y": 1}
"""Bytes of the values that may follow a mechanism."""


class Malformed(Exception):
    """A message that is not of the protocol. Its text is for the log."""


def parts_of(signature: str) -> list[str]:
    """The values of a signature, each with one or two letters."""
    parts = []
    while signature:
        part = next(each for each in _PARTS if signature.startswith(each))
        parts.append(part)
        signature = signature.removeprefix(part)
    return parts


class Reader:
    """Reads the values of a message. Errors: Malformed."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def call(self) -> tuple[int, str]:
        """The call's number and its signature."""
        number = self._number(4)
        return number, bytes(self._octets() or b"").decode("ascii", "replace")

    def values(self, signature: str) -> list[Any]:
        """The values of a signature, to the end of the message."""
        parts = parts_of(signature)
        found = []
        for at, part in enumerate(parts):
            if part == "M":
                found.append(self._mechanism(sum(_FIXED[each] for each in parts[at + 1 :])))
            else:
                found.append(self._value(part))
        if len(self._left):
            raise Malformed(f"{len(self._left)} bytes after the end of a message")
        return found

    def _take(self, size: int) -> memoryview:
        if size > len(self._left):
            raise Malformed(f"{size} bytes expected, {len(self._left)} left")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _octets(self) -> bytes | None:
        size = self._number(4)
        return None if size == _NOTHING else bytes(self._take(size))

    def _count(self) -> int:
        count = self._number(4)
        if count > ARRAY_MAX:
            raise Malformed(f"an array of {count}: at most {ARRAY_MAX}")
        return count

    def _mechanism(self, behind: int) -> int | None:
        """The mechanism's number; None cancels an operation. behind: bytes of the values that follow it."""
        number = self._number(4)
        if number == _NOTHING:
            return None
        self._take(max(len(self._left) - behind, 0))
        return number

    def _value(self, part: str) -> Any:
        match part:
            case "u":
                return self._number(8)
            case "y":
                return self._number(1)
            case "ay":
                if self._number(1):
                    return self._octets() or b""
                self._number(4)
                return b""
            case "fy" | "fu":
                # None: the program only asks for the size. It marks an empty buffer by the largest number.
                size = self._number(4)
                return None if not size else 0 if size == _NOTHING else size
            case "fA":
                return [(self._number(4), self._number(4)) for _ in range(self._count())]
            case "aA":
                return dict(self._attribute() for _ in range(self._count()))
        raise AssertionError(part)

    def _attribute(self) -> tuple[int, bytes | int | None]:
        kind = self._number(4)
        if not self._number(1):
            return kind, None
        self._number(4)
        if kind in BOOLEANS:
            return kind, self._number(1)
        if kind in NUMBERS:
            return kind, self._number(8)
        if kind in MECHANISM_LISTS:
            return kind, b"".join(bytes(self._take(8)) for _ in range(self._count()))
        if kind in TEMPLATES:
            raise Malformed(f"attribute {kind:#x}: templates of attributes are not served")
        return kind, self._octets() or b""


@dataclass(frozen=True)
class Text:
    """A text that is padded with blanks to its size."""

    text: str
    size: int


@dataclass(frozen=True)
class OnlySize:
    """In place of an array: its size, if the program asked for that, or its buffer is too small."""

    size: int


def build(number: int, signature: str, values: Sequence[Any]) -> bytes:
    """A message."""
    head = struct.pack(">II", number, len(signature)) + signature.encode()
    return head + b"".join(_encoded(part, value) for part, value in zip(parts_of(signature), values, strict=True))


def _encoded(part: str, value: Any) -> bytes:
    if isinstance(value, OnlySize):
        return struct.pack(">BI", 0, value.size)
    match part:
        case "u":
            return struct.pack(">Q", value)
        case "v":
            return struct.pack("2B", *value)
        case "s":
            padded: bytes = value.text.encode("ascii", "replace")[: value.size].ljust(value.size)
            return struct.pack(">I", value.size) + padded
        case "ay":
            return struct.pack(">BI", 1, len(value)) + bytes(value)
        case "au":
            return struct.pack(f">BI{len(value)}Q", 1, len(value), *value)
        case "aA":
            return struct.pack(">I", len(value)) + b"".join(_attribute(*each) for each in value)
    raise AssertionError(part)


def _attribute(kind: int, value: bytes | int | None) -> bytes:
    if value is None:
        return struct.pack(">IB", kind, 0)
    if isinstance(value, bytes):
        return struct.pack(">IBII", kind, 1, len(value), len(value)) + value
    # A number has the eight bytes of a CK_ULONG, and a boolean one.
    return struct.pack(">IBIB" if kind in BOOLEANS else ">IBIQ", kind, 1, size_of(kind, value), value)


def size_of(kind: int, value: bytes | int) -> int:
    """Bytes of an attribute's value in the program."""
    return len(value) if isinstance(value, bytes) else 1 if kind in BOOLEANS else 8
