"""The wire format, defined once.

`RECORD` is the definition; everything else that knows a byte position (the fast codec, the text form of
control calls, the tables in docs/protocol.md) is derived from this module. All integers are little-endian,
all sizes are bytes.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
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


class Operation(IntEnum):
    """What a record asks for or answers."""

    CONFIGURE = 1
    SET_KEY = 2
    INFO = 3
    RESET = 4
    CANCEL = 5
    CLONE = 6
    SET = 7
    ENCRYPT = 16
    DECRYPT = 17
    DIGEST = 18
    GENERATE = 19
    COMPRESS = 20
    DECOMPRESS = 21
    SIGN = 24
    VERIFY = 25
    GENERATE_KEY = 26
    AGREE = 27
    PUBLIC_KEY = 28
    ENCAPSULATE = 29
    DECAPSULATE = 30

    @property
    def word(self) -> str:
        """The operation's name in text: lower case, words joined by a hyphen."""
        return self.name.lower().replace("_", "-")


CONTROL_OPERATIONS = frozenset(operation for operation in Operation if operation < Operation.ENCRYPT)
OPERATION_WORDS = {operation.word: operation for operation in Operation}


class Flag(IntFlag):
    """The flags word of a record."""

    MORE = 1
    """Request: this part is not the last of its message. Response: the message is not finished."""
    RESPONSE = 0x8000
    """Set in every response, in no request."""


REQUEST_FLAGS = Flag.MORE


class Kind(IntEnum):
    """How an attribute's value is laid out."""

    U32 = 1
    U64 = 2
    TEXT = 3
    BYTES = 4


class Attr(IntEnum):
    """Attribute types by number."""

    TYPE = 1
    NAME = 2
    KEY = 3
    AUTHSIZE = 4
    ENGINE = 5
    DRIVER = 6
    OPERATION = 7
    IV = 8
    ASSOCLEN = 9
    MESSAGE = 10
    LENGTH = 11
    TARGET = 12
    CONTEXT = 13
    NONBLOCKING = 14
    BLOCK_SIZE = 15
    IV_SIZE = 16
    KEY_SIZES = 17
    DIGEST_SIZE = 18
    MAX_AUTHSIZE = 19
    QUEUE_REQUESTS = 20
    QUEUE_BYTES = 21
    LEVEL = 22
    SIGNATURE = 32
    PEER_KEY = 33
    CIPHERTEXT = 34
    KEY_FORMAT = 35
    KEY_BITS = 36


@dataclass(frozen=True)
class AttributeSpec:
    """One attribute: its number, its name in text, its kind, its largest value (bytes), whether it is secret."""

    number: Attr
    kind: Kind
    largest: int
    secret: bool = False

    @property
    def word(self) -> str:
        return self.number.name.lower().replace("_", "-")


_SPECS = (
    AttributeSpec(Attr.TYPE, Kind.TEXT, 31),
    AttributeSpec(Attr.NAME, Kind.TEXT, 63),
    AttributeSpec(Attr.KEY, Kind.BYTES, 8192, secret=True),
    AttributeSpec(Attr.AUTHSIZE, Kind.U32, 4),
    AttributeSpec(Attr.ENGINE, Kind.TEXT, 31),
    AttributeSpec(Attr.DRIVER, Kind.TEXT, 127),
    AttributeSpec(Attr.OPERATION, Kind.TEXT, 31),
    AttributeSpec(Attr.IV, Kind.BYTES, 64),
    AttributeSpec(Attr.ASSOCLEN, Kind.U32, 4),
    AttributeSpec(Attr.MESSAGE, Kind.TEXT, 1024),
    AttributeSpec(Attr.LENGTH, Kind.U32, 4),
    AttributeSpec(Attr.TARGET, Kind.U64, 8),
    AttributeSpec(Attr.CONTEXT, Kind.U64, 8),
    AttributeSpec(Attr.NONBLOCKING, Kind.U32, 4),
    AttributeSpec(Attr.BLOCK_SIZE, Kind.U32, 4),
    AttributeSpec(Attr.IV_SIZE, Kind.U32, 4),
    AttributeSpec(Attr.KEY_SIZES, Kind.TEXT, 255),
    AttributeSpec(Attr.DIGEST_SIZE, Kind.U32, 4),
    AttributeSpec(Attr.MAX_AUTHSIZE, Kind.U32, 4),
    AttributeSpec(Attr.QUEUE_REQUESTS, Kind.U32, 4),
    AttributeSpec(Attr.QUEUE_BYTES, Kind.U32, 4),
    AttributeSpec(Attr.LEVEL, Kind.U32, 4),
    AttributeSpec(Attr.SIGNATURE, Kind.BYTES, 5120),
    AttributeSpec(Attr.PEER_KEY, Kind.BYTES, 2560),
    AttributeSpec(Attr.CIPHERTEXT, Kind.BYTES, 2048),
    AttributeSpec(Attr.KEY_FORMAT, Kind.TEXT, 31),
    AttributeSpec(Attr.KEY_BITS, Kind.U32, 4),
)
ATTRIBUTES: dict[int, AttributeSpec] = {spec.number: spec for spec in _SPECS}
ATTRIBUTE_WORDS: dict[str, AttributeSpec] = {spec.word: spec for spec in _SPECS}

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
    """The struct codes of a construct Struct of plain integers, from its fields' own formats, without the byte
    order.
    """
    codes = []
    for subconstruct in definition.subcons:
        field = subconstruct
        while not hasattr(field, "fmtstr"):
            field = field.subcon
        codes.append(field.fmtstr.lstrip("<="))
    return "".join(codes)
