"""The wire format by its definition in construct and by its document, and records to try."""

import io
from pathlib import Path
from typing import Any

import construct
from hypothesis import strategies as st

from cryptofs.records import (
    ATTRIBUTES,
    ATTRIBUTES_MAX,
    PAYLOAD_MAX,
    RECORD_MAX,
    Flag,
    Kind,
    Operation,
    Record,
    Value,
    attribute_bytes,
    layout,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)


INTEGER_SIZES = {Kind.U32: 4, Kind.U64: 8}


KNOWN = {int(operation) for operation in Operation}


def values(number: int) -> st.SearchStrategy[Value]:
    """Every kind of value that an attribute takes; sizes up to the largest."""
    spec = ATTRIBUTES[number]
    if spec.kind is Kind.TEXT:
        return st.text(PRINTABLE, max_size=min(spec.largest, 40)) | st.just("x" * spec.largest)
    if spec.kind is Kind.BYTES:
        return st.binary(max_size=min(spec.largest, 40)) | st.just(b"k" * spec.largest)
    return st.integers(0, (1 << 8 * INTEGER_SIZES[spec.kind]) - 1)


attribute_sets = (
    st.lists(st.sampled_from(sorted(ATTRIBUTES)), unique=True, max_size=5)
    .map(lambda numbers: {number: values(number) for number in numbers})
    .flatmap(st.fixed_dictionaries)
    .filter(lambda attributes: len(attribute_bytes(attributes)) <= ATTRIBUTES_MAX)
)


requests = st.builds(
    Record,
    operation=st.sampled_from(Operation),
    flags=st.sampled_from((0, int(Flag.MORE))),
    id=st.integers(0, (1 << 64) - 1),
    attributes=attribute_sets,
    payload=st.binary(max_size=50),
)


def encoded(number: int, value: Value) -> bytes:
    """An attribute's value as the document says that it lies in the record."""
    if isinstance(value, int):
        return value.to_bytes(INTEGER_SIZES[ATTRIBUTES[number].kind], "little")
    return value.encode() if isinstance(value, str) else bytes(value)


def defined_records(buffer: bytes) -> list[Any] | None:
    """What the construct definition reads in a buffer, None where it is not whole records."""
    stream = io.BytesIO(buffer)
    found = []
    try:
        while stream.tell() < len(buffer):
            found.append(layout.RECORD.parse_stream(stream))
    except construct.ConstructError:
        return None
    return found or None


def meaning_holds(found: list[Any], size: int) -> bool:
    """Whether well-formed records also keep the rules of the document for requests."""
    if size > RECORD_MAX:
        return False
    for each in found:
        numbers = [attribute.header.type for attribute in each.attributes]
        if each.header.operation not in KNOWN or each.header.flags & ~Flag.MORE or each.header.status:
            return False
        if each.header.attributes_size > ATTRIBUTES_MAX or len(each.payload) > PAYLOAD_MAX:
            return False
        if len(set(numbers)) != len(numbers) or not all(map(attribute_holds, each.attributes)):
            return False
    return True


def attribute_holds(attribute: Any) -> bool:
    """Whether one attribute is known and its value is one of its kind."""
    spec = ATTRIBUTES.get(attribute.header.type)
    if spec is None:
        return False
    if spec.kind in INTEGER_SIZES:
        return len(attribute.value) == INTEGER_SIZES[spec.kind]
    printable = spec.kind is Kind.BYTES or all(0x20 <= byte <= 0x7E for byte in attribute.value)
    return len(attribute.value) <= spec.largest and printable


def same(record: Record, definition: Any) -> bool:
    """Whether a parsed record says what the definition says."""
    fields = (record.operation, record.flags, record.id, record.status, bytes(record.payload))
    header = definition.header
    defined = (header.operation, header.flags, header.id, header.status, bytes(definition.payload))
    attributes = [(number, encoded(number, value)) for number, value in record.attributes.items()]
    return fields == defined and attributes == [(each.header.type, each.value) for each in definition.attributes]


def table_of(heading: str, first: str) -> list[list[str]]:
    """The rows of the table under a heading of the protocol document whose first column has this title."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = section.split(f"\n| {first} |")[1].splitlines()[2:]
    table = []
    for row in rows:
        if not row.startswith("|"):
            break
        table.append([cell.strip().replace("`", "") for cell in row.strip().strip("|").split("|")])
    return table
