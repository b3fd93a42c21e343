"""The layout of a record, defined once.

`RECORD` is the definition; everything else that knows a byte position (the fast codec, `cryptofs.h`, the tables in
docs/protocol.md) is derived from this module. All integers are little-endian,
all sizes are bytes.
"""

from enum import IntFlag
from typing import Any

from construct import (
    Bytes,
    Check,
    Const,
    FixedSized,
    FocusedSeq,
    GreedyRange,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    Struct,
    Terminated,
    this,
)

VERSION = 1

HEADER_SIZE = 24
ATTRIBUTE_HEADER_SIZE = 4
ATTRIBUTE_ALIGNMENT = 4

RECORD_MAX = 1_044_480
"""Largest record, and the most that one write carries: 255 pages, what FUSE takes in one piece."""
PAYLOAD_MAX = 1_040_384
"""Largest payload of a request, largest message of a kind that cannot be computed part by part, and most output that
one answer holds."""
RECORDS_MAX = 4096
"""Most records of one write."""
ATTRIBUTES_MAX = 16_384
"""Largest attribute section of a request."""


class Flag(IntFlag):
    """The flags word of a record."""

    MORE = 1
    """Request: this part is not the last of its message. Response: the message is not finished."""
    RESPONSE = 0x8000
    """Set in every response, in no request."""


REQUEST_FLAGS = Flag.MORE

HEADER: Any = Struct(
    "size" / Int32ul,
    "version" / Const(VERSION, Int8ul),
    "operation" / Int8ul,
    "flags" / Int16ul,
    "id" / Int64ul,
    "status" / Int32ul,
    "attributes_size" / Int32ul,
)

ATTRIBUTE_HEADER: Any = Struct("type" / Int16ul, "length" / Int16ul)


def padding(length: int) -> int:
    """Zero bytes that follow an attribute value of `length` bytes."""
    return -length % ATTRIBUTE_ALIGNMENT


ATTRIBUTE: Any = Struct(
    "header" / ATTRIBUTE_HEADER,
    "value" / Bytes(this.header.length),
    "pad" / Bytes(lambda this: padding(this.header.length)),
    Check(lambda this: not any(this.pad)),
)

RECORD: Any = Struct(
    "header" / HEADER,
    "attributes"
    / FixedSized(this.header.attributes_size, FocusedSeq("list", "list" / GreedyRange(ATTRIBUTE), Terminated)),
    "payload" / Bytes(lambda this: this.header.size - HEADER_SIZE - this.header.attributes_size),
)


def field_codes(definition: Any) -> str:
    """The struct codes of a construct Struct of plain integers and bytes, from its fields' own formats, without the
    byte order.
    """
    codes = []
    for subconstruct in definition.subcons:
        field = subconstruct
        while not hasattr(field, "fmtstr") and not isinstance(field, Bytes):
            field = field.subcon
        codes.append(f"{field.length}s" if isinstance(field, Bytes) else field.fmtstr.lstrip("<="))
    return "".join(codes)
