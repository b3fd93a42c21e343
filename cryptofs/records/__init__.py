"""The wire format: its definition (`layout`, `attributes`, `operations`), the codec derived from it, and the text form
of control calls.
"""

from .attributes import ATTRIBUTES, Attr, Kind
from .call import CALL_MAX, CALL_NUMBER, CALL_TYPE, call_command, is_call
from .codec import (
    Buffer,
    Record,
    Value,
    attribute_bytes,
    build,
    build_head,
    build_header,
    build_many,
    error_response,
    pack_header,
    parse_requests,
    parse_responses,
    unpack_header,
)
from .layout import (
    ATTRIBUTE_HEADER_SIZE,
    ATTRIBUTES_MAX,
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    VERSION,
    Flag,
)
from .octets import Octets, detached, frozen, holds_more, octets
from .operations import (
    CONTROL_OPERATIONS,
    DEVICE_OPERATIONS,
    OPERATION_NUMBERS,
    OPERATION_WORDS,
    OPERATIONS,
    SHORT_OPERATIONS,
    STREAM_OPERATIONS,
    Operation,
)
from .text import format_tags, parse_line

__all__ = [
    "ATTRIBUTES",
    "ATTRIBUTES_MAX",
    "ATTRIBUTE_HEADER_SIZE",
    "CALL_MAX",
    "CALL_NUMBER",
    "CALL_TYPE",
    "CONTROL_OPERATIONS",
    "DEVICE_OPERATIONS",
    "HEADER_SIZE",
    "OPERATIONS",
    "OPERATION_NUMBERS",
    "OPERATION_WORDS",
    "PAYLOAD_MAX",
    "RECORD_MAX",
    "SHORT_OPERATIONS",
    "STREAM_OPERATIONS",
    "VERSION",
    "Attr",
    "Buffer",
    "Flag",
    "Kind",
    "Octets",
    "Operation",
    "Record",
    "Value",
    "attribute_bytes",
    "build",
    "build_head",
    "build_header",
    "build_many",
    "call_command",
    "detached",
    "error_response",
    "format_tags",
    "frozen",
    "holds_more",
    "is_call",
    "octets",
    "pack_header",
    "parse_line",
    "parse_requests",
    "parse_responses",
    "unpack_header",
]
