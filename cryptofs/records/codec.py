"""Parse and build records fast, without copying payloads.

The byte positions come from `layout` (a struct.Struct made of the construct definition's own fields), because
construct itself takes 5 to 20 us a record and copies what it parses.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import InvalidValue, MalformedRecord, TooLarge
from .attributes import ATTRIBUTES, Attr, Kind
from .layout import (
    ATTRIBUTE_ALIGNMENT,
    ATTRIBUTE_HEADER,
    ATTRIBUTE_HEADER_SIZE,
    ATTRIBUTES_MAX,
    HEADER,
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    RECORDS_MAX,
    REQUEST_FLAGS,
    VERSION,
    Flag,
    field_codes,
    padding,
)
from .octets import octets
from .operations import OPERATION_NUMBERS, Operation

Buffer = bytes | bytearray | memoryview
Value = int | str | Buffer

_HEADER = struct.Struct("<" + field_codes(HEADER))
_ATTRIBUTE = struct.Struct("<" + field_codes(ATTRIBUTE_HEADER))
_NOT_OF_REQUESTS = 0xFFFF & ~int(REQUEST_FLAGS)
_NOT_OF_RESPONSES = 0xFFFF & ~int(Flag.MORE | Flag.RESPONSE)
_RESPONSE = int(Flag.RESPONSE)
_NO_ATTRIBUTES: Mapping[int, Value] = {}
_INTEGER_SIZES = {Kind.U32: 4, Kind.U64: 8}
# An enumeration's member costs 0.2 us as an attribute of its class.
_TEXT, _BYTES = Kind.TEXT, Kind.BYTES
_PADDINGS = [bytes(padding(size)) for size in range(ATTRIBUTE_ALIGNMENT)]

pack_header = _HEADER.pack_into
build_header = _HEADER.pack
unpack_header = _HEADER.unpack_from
assert _HEADER.size == HEADER_SIZE
assert _ATTRIBUTE.size == ATTRIBUTE_HEADER_SIZE


@dataclass(slots=True)
class Record:
    """One record. Attributes by number: int for u32/u64, str for text, bytes-like for bytes.

    The payload is a view into the buffer that the record was parsed from.
    """

    operation: Operation
    flags: int = 0
    id: int = 0
    status: int = 0
    attributes: Mapping[int, Value] = field(default_factory=dict)
    payload: Buffer = b""

    @property
    def more(self) -> bool:
        return bool(self.flags & Flag.MORE)

    def __repr__(self) -> str:
        shown = [f"{ATTRIBUTES[number].word}={show_value(number, value)}" for number, value in self.attributes.items()]
        attributes = " ".join(shown)
        return (
            f"<Record {self.operation.word} id={self.id} flags={self.flags:#x} status={self.status} "
            f"[{attributes}] payload of {len(octets(self.payload))} bytes>"
        )


def show_value(number: int, value: Value) -> str:
    """An attribute's value for people: `(hidden)` if it is secret, `hex:` and digits if it is bytes."""
    if ATTRIBUTES[number].secret:
        return "(hidden)"
    return str(value) if isinstance(value, int | str) else "hex:" + bytes(value).hex()


def parse_requests(buffer: Buffer) -> list[Record]:
    """Parse the contents of one write: one or more whole requests.

    Errors: MalformedRecord (EBADMSG) if the bytes are not whole records, TooLarge (EMSGSIZE) over a limit, InvalidValue
    (EINVAL) for a version, operation, flag, status or attribute that a request cannot have. Payloads are views into
    `buffer`.
    """
    return list(iterate_requests(buffer))


def iterate_requests(buffer: Buffer) -> Iterator[Record]:
    """The requests of one write, one after the other: `parse_requests` for a write of which others do not wait for the
    end. Errors: as there, where the wrong record comes."""
    for request in _parse(buffer, PAYLOAD_MAX):
        if request.flags & _NOT_OF_REQUESTS or request.status:
            _check_request(request)
        yield request


def holds_many(buffer: Buffer, most: int) -> bool:
    """Whether a write has more than so many records, by their sizes alone."""
    view = memoryview(buffer)
    position, end = 0, len(view)
    for _ in range(most):
        if end - position < HEADER_SIZE:
            return False
        position += max(HEADER_SIZE, int.from_bytes(view[position : position + 4], "little"))
    return position < end


def parse_responses(buffer: Buffer) -> list[Record]:
    """Parse the result of one read: whole responses. Errors as for `parse_requests`.

    An answer's payload may be larger than a request's: it can contain the end of the part before, or a tag.
    """
    responses = list(_parse(buffer, RECORD_MAX))
    for response in responses:
        # Plain integers, because operators of flags cost more than the whole parsing.
        if response.flags & _NOT_OF_RESPONSES or not response.flags & _RESPONSE:
            raise InvalidValue(f"flags {response.flags:#06x}: not those of a response")
    return responses


def _check_request(request: Record) -> None:
    unknown = request.flags & ~REQUEST_FLAGS
    if unknown:
        raise InvalidValue(f"flags {request.flags:#06x}: a request has none but {int(REQUEST_FLAGS):#06x}")
    raise InvalidValue(f"status {request.status}: a request has status 0")


def _parse(buffer: Buffer, largest: int) -> Iterator[Record]:
    view = memoryview(octets(buffer, "records"))
    end = len(view)
    if end > RECORD_MAX:
        raise TooLarge(f"{end} bytes: one write or read carries at most {RECORD_MAX}")
    count = position = 0
    while position < end:
        count += 1
        if count > RECORDS_MAX:
            raise TooLarge(f"more than {RECORDS_MAX} records: this is the maximum of one write")
        if end - position < HEADER_SIZE:
            raise MalformedRecord(f"{end - position} bytes left at offset {position}: a header is {HEADER_SIZE}")
        size, version, number, flags, identity, status, attributes_size = _HEADER.unpack_from(view, position)
        if version != VERSION:
            raise InvalidValue(f"version {version} at offset {position}: this is version {VERSION}")
        if size > end - position:
            raise MalformedRecord(f"record of {size} bytes at offset {position}: only {end - position} follow")
        payload_at = position + HEADER_SIZE + attributes_size
        if position + size < payload_at:
            raise MalformedRecord(
                f"record of {size} bytes at offset {position}: too small for a header and "
                f"{attributes_size} bytes of attributes"
            )
        operation = OPERATION_NUMBERS.get(number)
        if operation is None:
            raise InvalidValue(f"operation {number} at offset {position}: unknown")
        if position + size - payload_at > largest:
            raise TooLarge(f"payload of {position + size - payload_at} bytes: at most {largest}")
        attributes = _parse_attributes(view, position + HEADER_SIZE, payload_at) if attributes_size else _NO_ATTRIBUTES
        position += size
        yield Record(operation, flags, identity, status, attributes, view[payload_at:position])
    if not count:
        raise MalformedRecord("0 bytes: a write carries at least one record")


def _parse_attributes(view: memoryview, position: int, end: int) -> dict[int, Value]:
    if end - position > ATTRIBUTES_MAX:
        raise TooLarge(f"{end - position} bytes of attributes: at most {ATTRIBUTES_MAX}")
    attributes: dict[int, Value] = {}
    while position < end:
        if end - position < ATTRIBUTE_HEADER_SIZE:
            raise MalformedRecord(f"{end - position} bytes left of the attributes: an attribute header is 4")
        number, length = _ATTRIBUTE.unpack_from(view, position)
        value_at = position + ATTRIBUTE_HEADER_SIZE
        position = value_at + length + padding(length)
        if position > end:
            raise MalformedRecord(f"attribute {number} of {length} bytes: only {end - value_at} follow")
        if any(view[value_at + length : position]):
            raise MalformedRecord(f"attribute {number}: its padding is not zero")
        if number in attributes:
            raise InvalidValue(f"attribute {number}: given twice")
        attributes[number] = _parse_value(number, view[value_at : value_at + length])
    return attributes


def _parse_value(number: int, value: memoryview) -> Value:
    spec = ATTRIBUTES.get(number)
    if spec is None:
        raise InvalidValue(f"attribute {number}: unknown")
    kind = spec.kind
    if kind is _BYTES:
        if len(value) > spec.largest:
            raise InvalidValue(f"{spec.word} of {len(value)} bytes: at most {spec.largest}")
        return value
    if kind is _TEXT:
        if len(value) > spec.largest:
            raise InvalidValue(f"{spec.word} of {len(value)} bytes: at most {spec.largest}")
        return _text(spec.word, bytes(value))
    if len(value) != _INTEGER_SIZES[kind]:
        raise InvalidValue(f"{spec.word} of {len(value)} bytes: an integer of {_INTEGER_SIZES[kind]}")
    return int.from_bytes(value, "little")


def _text(word: str, value: bytes) -> str:
    text = value.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise InvalidValue(f"{word} {value[:40]!r}: printable ASCII only")
    return text


def attribute_bytes(attributes: Mapping[int, Value]) -> bytes:
    """The attribute section of a record.

    Errors: InvalidValue for a value that the format cannot hold, TypeError for one that is neither integer, text nor
    bytes-like.
    """
    parts: list[Buffer] = []
    for number, value in attributes.items():
        spec = ATTRIBUTES[number]
        encoded: Buffer
        if isinstance(value, int):
            size = _INTEGER_SIZES.get(spec.kind)
            if size is None or not 0 <= value < 1 << 8 * size:
                raise InvalidValue(f"{spec.word} {value}: an integer of {size or 0} bytes")
            encoded = value.to_bytes(size, "little")
        else:
            if spec.kind is not (_TEXT if isinstance(value, str) else _BYTES):
                raise InvalidValue(f"{spec.word}: a value of kind {spec.kind.name.lower()}")
            encoded = _encode(spec.word, value) if isinstance(value, str) else octets(value, spec.word)
            size = len(encoded)
            if size > spec.largest:
                raise InvalidValue(f"{spec.word} of {size} bytes: at most {spec.largest}")
        parts += (_ATTRIBUTE.pack(number, size), encoded, _PADDINGS[size % ATTRIBUTE_ALIGNMENT])
    return b"".join(parts)


def _encode(word: str, text: str) -> bytes:
    if not (text.isascii() and text.isprintable()):
        raise InvalidValue(f"{word} {text[:40]!r}: printable ASCII only")
    return text.encode("ascii")


def build_head(record: Record, payload_size: int) -> bytes:
    """Header and attributes of a record. Its payload of `payload_size` bytes follows from elsewhere.

    Errors: TooLarge if the record would be over RECORD_MAX, InvalidValue for an attribute.
    """
    attributes = attribute_bytes(record.attributes) if record.attributes else b""
    size = HEADER_SIZE + len(attributes) + payload_size
    if size > RECORD_MAX:
        raise TooLarge(f"record of {size} bytes: at most {RECORD_MAX}")
    header = _HEADER.pack(size, VERSION, record.operation, record.flags, record.id, record.status, len(attributes))
    return header + attributes


def build(record: Record) -> bytes:
    """The bytes of one record; its payload is copied once."""
    payload = octets(record.payload, "payload")
    return b"".join((build_head(record, len(payload)), payload))


def error_response(request: Record, number: int, message: str) -> Record:
    """An error response: status `number` (an errno) and a message of at most 1,024 bytes.

    Characters that the message cannot hold become `?`.
    """
    text = message[:1024]
    if not (text.isascii() and text.isprintable()):
        text = "".join(character if " " <= character <= "~" else "?" for character in text)
    flags = Flag.RESPONSE | request.flags & Flag.MORE
    return Record(request.operation, flags, request.id, number, {Attr.MESSAGE: text})
