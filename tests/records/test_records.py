"""The wire format: the codec against its definition, against broken input, and against the protocol document."""

import errno
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.raw import build_many
from helpers.record_format import (
    DOCUMENT,
    INTEGER_SIZES,
    defined_records,
    encoded,
    meaning_holds,
    requests,
    same,
    table_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs import contexts, devices, nodes, policy
from cryptofs.contexts import exchange
from cryptofs.engines.codecs import messages, zstd
from cryptofs.errors import CryptofsError, InvalidValue, MalformedRecord, TooLarge
from cryptofs.records import (
    ATTRIBUTES,
    ATTRIBUTES_MAX,
    CONTROL_OPERATIONS,
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    VERSION,
    Attr,
    Flag,
    Kind,
    Operation,
    Record,
    Value,
    attribute_bytes,
    build,
    call,
    error_response,
    layout,
    parse_requests,
    parse_responses,
)

FIELD_SIZES = (4, 1, 1, 2, 8, 4, 4)
HEADER = struct.Struct("<IBBHQII")

few = settings(deadline=None, max_examples=60)


# What the tests are made of


def define(record: Record) -> bytes:
    """The bytes of a record by the construct definition alone."""
    attributes = []
    for number, value in record.attributes.items():
        data = encoded(number, value)
        head = {"type": number, "length": len(data)}
        attributes.append({"header": head, "value": data, "pad": bytes(-len(data) % 4)})
    attributes_size = sum(4 + len(each["value"]) + len(each["pad"]) for each in attributes)
    header = {
        "size": HEADER_SIZE + attributes_size + len(record.payload),
        "version": VERSION,
        "operation": int(record.operation),
        "flags": record.flags,
        "id": record.id,
        "status": record.status,
        "attributes_size": attributes_size,
    }
    defined = {"header": header, "attributes": attributes, "payload": bytes(record.payload)}
    result: bytes = layout.RECORD.build(defined)
    return result


def judge(buffer: bytes) -> None:
    """Compare the codec with the definition on any bytes: the same records, or an error of the right class."""
    found = defined_records(buffer)
    if found is not None and meaning_holds(found, len(buffer)):
        records = parse_requests(buffer)
        assert len(records) == len(found)
        assert all(map(same, records, found))
        return
    with pytest.raises(CryptofsError) as caught:
        parse_requests(buffer)
    allowed = (InvalidValue, TooLarge) if found is not None else (MalformedRecord, InvalidValue, TooLarge)
    assert isinstance(caught.value, allowed), caught.value


def raw(
    size: int | None = None,
    version: int = VERSION,
    operation: int = Operation.DIGEST,
    flags: int = 0,
    status: int = 0,
    attributes_size: int | None = None,
    attributes: bytes = b"",
    payload: bytes = b"",
) -> bytes:
    """A record with any field wrong."""
    total = HEADER_SIZE + len(attributes) + len(payload) if size is None else size
    length = len(attributes) if attributes_size is None else attributes_size
    return HEADER.pack(total, version, operation, flags, 1, status, length) + attributes + payload


def attribute(number: int, value: bytes, pad: bytes | None = None, length: int | None = None) -> bytes:
    """One attribute with any field wrong."""
    padding = bytes(-len(value) % 4) if pad is None else pad
    return struct.pack("<HH", number, len(value) if length is None else length) + value + padding


SEVERAL = (
    Record(Operation.CONFIGURE, id=1, attributes={Attr.TYPE: "skcipher", Attr.NAME: "cbc(aes)", Attr.KEY: bytes(16)}),
    Record(Operation.ENCRYPT, int(Flag.MORE), 2, attributes={Attr.IV: bytes(range(16))}, payload=b"sixteen bytes 16"),
    Record(Operation.ENCRYPT, 0, 2, payload=b"abc"),
    Record(Operation.CANCEL, id=3, attributes={Attr.TARGET: 1 << 40}),
    Record(Operation.GENERATE, id=4, attributes={Attr.LENGTH: 7}),
)


# Both ways, and the definition


@few
@given(st.lists(requests, min_size=1, max_size=4))
def test_parse_undoes_build(records: list[Record]) -> None:
    """What was built parses to the same fields, several records in one buffer too."""
    assert parse_requests(build_many(records)) == records


@few
@given(requests)
def test_build_is_the_definition(record: Record) -> None:
    """The codec's bytes are construct's bytes, and build undoes parse."""
    data = define(record)
    assert build(record) == data
    assert build(parse_requests(data)[0]) == data


@few
@given(st.lists(requests, min_size=1, max_size=3))
def test_parse_is_the_definition(records: list[Record]) -> None:
    """The codec reads what construct reads."""
    data = b"".join(map(define, records))
    found = defined_records(data)
    assert found is not None
    assert all(map(same, parse_requests(data), found))


@few
@given(requests, st.integers(0, 200), st.booleans())
def test_responses_both_ways(request: Record, status: int, more: bool) -> None:
    """A response keeps id, operation, status and MORE; a request is no response and the other way round."""
    flags = int(Flag.RESPONSE) | (int(Flag.MORE) if more else 0)
    response = Record(request.operation, flags, request.id, status, request.attributes, request.payload)
    assert parse_responses(build(response)) == [response]
    with pytest.raises(InvalidValue):
        parse_requests(build(response))
    with pytest.raises(InvalidValue):
        parse_responses(build(request))


# Broken input


def test_every_truncation() -> None:
    """A cut is EBADMSG, except between two records."""
    data = build_many(SEVERAL)
    ends = {len(build_many(SEVERAL[:count])) for count in range(1, len(SEVERAL) + 1)}
    for cut in range(len(data)):
        if cut in ends:
            assert parse_requests(data[:cut]) == list(SEVERAL[: sorted(ends).index(cut) + 1])
            continue
        with pytest.raises(MalformedRecord) as caught:
            parse_requests(data[:cut])
        assert caught.value.errno == errno.EBADMSG


def length_fields(data: bytes) -> Iterator[int]:
    """Positions of all bytes of size, attributes_size and attribute lengths."""
    at = 0
    while at < len(data):
        size, *_, attributes_size = HEADER.unpack_from(data, at)
        yield from range(at, at + 4)
        yield from range(at + 20, at + 24)
        inner, end = at + HEADER_SIZE, at + HEADER_SIZE + attributes_size
        while inner < end:
            yield from range(inner + 2, inner + 4)
            length = int.from_bytes(data[inner + 2 : inner + 4], "little")
            inner += 4 + length + -length % 4
        at += size


def test_every_flipped_bit_of_a_length() -> None:
    """A length that lies is refused, or what it makes is well-formed and read as the definition reads it."""
    data = build_many(SEVERAL)
    refused = 0
    for at in length_fields(data):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            judge(bytes(broken))
            refused += defined_records(bytes(broken)) is None
    assert refused > 300


@pytest.mark.parametrize("count", range(1, len(SEVERAL) + 1))
def test_every_byte_value_of_the_small_lengths(count: int) -> None:
    """All 256 values of the low byte of each length."""
    data = build(SEVERAL[count - 1])
    for at in length_fields(data):
        for value in range(256):
            judge(data[:at] + bytes((value,)) + data[at + 1 :])


def test_a_size_that_takes_the_next_record_as_payload() -> None:
    """The legal flips: a size that covers its successor exactly, an attribute section taken for payload."""
    first, second = build(SEVERAL[2]), build(SEVERAL[3])
    joined = (len(first) + len(second)).to_bytes(4, "little") + first[4:] + second
    assert [bytes(record.payload) for record in parse_requests(joined)] == [b"abc" + second]
    moved = bytearray(second)
    moved[20:24] = bytes(4)
    assert parse_requests(bytes(moved))[0].payload == second[HEADER_SIZE:]


@few
@given(st.lists(requests, min_size=1, max_size=3), st.data())
def test_any_flipped_bit(records: list[Record], data: st.DataObject) -> None:
    """Any one bit anywhere: the definition is the judge."""
    buffer = bytearray(build_many(records))
    at = data.draw(st.integers(0, len(buffer) - 1))
    buffer[at] ^= 1 << data.draw(st.integers(0, 7))
    judge(bytes(buffer))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    """Nothing but CryptofsError comes of random bytes."""
    judge(data)
    with pytest.raises(CryptofsError):
        parse_responses(data)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(Operation), st.binary(max_size=60), st.integers(0, 64), st.binary(max_size=40))
def test_random_attributes(operation: Operation, attributes: bytes, declared: int, payload: bytes) -> None:
    """A right header before random attributes gets further into the codec."""
    judge(raw(operation=operation, attributes=attributes, attributes_size=declared, payload=payload))
    judge(raw(operation=operation, attributes=attributes, payload=payload))


NAME = attribute(Attr.NAME, b"cbc(aes)")

REFUSED = [
    ("nothing", b"", MalformedRecord),
    ("trailing byte", raw() + b"\0", MalformedRecord),
    ("trailing zeros", raw() + bytes(23), MalformedRecord),
    ("trailing zeros as long as a header", raw() + bytes(24), InvalidValue),
    ("size below the header", raw(size=23), MalformedRecord),
    ("size of zero", raw(size=0), MalformedRecord),
    ("size beyond the end", raw(size=25), MalformedRecord),
    ("size of all ones", raw(size=0xFFFFFFFF), MalformedRecord),
    ("attributes beyond the record", raw(attributes_size=4), MalformedRecord),
    ("attributes_size of all ones", raw(attributes_size=0xFFFFFFFF), MalformedRecord),
    ("attributes_size of no multiple of 4", raw(attributes=NAME, attributes_size=13), MalformedRecord),
    ("half an attribute header", raw(attributes=NAME + b"\0\0"), MalformedRecord),
    ("attribute beyond its section", raw(attributes=attribute(2, b"ab", b"", length=9)), MalformedRecord),
    ("attribute without its padding", raw(attributes=attribute(2, b"ab", b"")), MalformedRecord),
    ("padding that is not zero", raw(attributes=attribute(2, b"abc", b"\1")), MalformedRecord),
    ("version 0", raw(version=0), InvalidValue),
    ("version 2", raw(version=2), InvalidValue),
    ("operation 0", raw(operation=0), InvalidValue),
    ("operation 8", raw(operation=8), InvalidValue),
    ("operation 255", raw(operation=255), InvalidValue),
    ("flag 2", raw(flags=2), InvalidValue),
    ("RESPONSE", raw(flags=0x8000), InvalidValue),
    ("a status", raw(status=1), InvalidValue),
    ("attribute 0", raw(attributes=attribute(0, b"")), InvalidValue),
    ("attribute 22", raw(attributes=attribute(22, b"")), InvalidValue),
    ("attribute given twice", raw(attributes=NAME + NAME), InvalidValue),
    ("text with NUL", raw(attributes=attribute(Attr.NAME, b"cbc\0")), InvalidValue),
    ("text with a newline", raw(attributes=attribute(Attr.NAME, b"cbc\n")), InvalidValue),
    ("text that is not ASCII", raw(attributes=attribute(Attr.NAME, b"\xc3\xa9")), InvalidValue),
    ("text too long", raw(attributes=attribute(Attr.NAME, b"n" * 64)), InvalidValue),
    ("bytes too long", raw(attributes=attribute(Attr.IV, bytes(65))), InvalidValue),
    ("key too long", raw(attributes=attribute(Attr.KEY, bytes(8193))), InvalidValue),
    ("u32 of 3 bytes", raw(attributes=attribute(Attr.AUTHSIZE, bytes(3))), InvalidValue),
    ("u32 of 8 bytes", raw(attributes=attribute(Attr.AUTHSIZE, bytes(8))), InvalidValue),
    ("u32 of no bytes", raw(attributes=attribute(Attr.AUTHSIZE, b"")), InvalidValue),
    ("u64 of 4 bytes", raw(attributes=attribute(Attr.TARGET, bytes(4))), InvalidValue),
    ("attributes too large", raw(attributes=bytes(ATTRIBUTES_MAX + 4)), TooLarge),
    ("payload too large", raw(payload=bytes(PAYLOAD_MAX + 1)), TooLarge),
    ("one write too large", raw(payload=bytes(RECORD_MAX - 2 * HEADER_SIZE)) + raw() + b"\0", TooLarge),
]


@pytest.mark.parametrize(("data", "error"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(data: bytes, error: type[CryptofsError]) -> None:
    """Each rule of the format by itself, at the front and behind a good record."""
    with pytest.raises(error) as caught:
        parse_requests(data)
    assert type(caught.value) is error
    judge(data)
    if 0 < len(data) < 1000:
        with pytest.raises(error):
            parse_requests(raw(payload=b"good") + data)


@pytest.mark.parametrize("size", [PAYLOAD_MAX + 1, PAYLOAD_MAX + 64, RECORD_MAX - HEADER_SIZE])
def test_an_answer_may_be_larger_than_a_request(size: int) -> None:
    """A part's answer can carry the end of the part before, an AEAD's its tag."""
    answer = Record(Operation.ENCRYPT, int(Flag.RESPONSE), 1, 0, {}, bytes(size))
    assert len(parse_responses(build(answer))[0].payload) == size
    with pytest.raises(TooLarge):
        parse_requests(raw(payload=bytes(size)))


def test_the_largest_that_is_taken() -> None:
    """Every limit is inclusive."""
    assert len(parse_requests(raw(payload=bytes(PAYLOAD_MAX)))[0].payload) == PAYLOAD_MAX
    rest = RECORD_MAX - PAYLOAD_MAX - 2 * HEADER_SIZE
    full = raw(payload=bytes(PAYLOAD_MAX)) + raw(payload=bytes(rest))
    assert len(full) == RECORD_MAX
    assert len(parse_requests(full)) == 2
    for number, spec in ATTRIBUTES.items():
        if spec.kind not in INTEGER_SIZES:
            value = spec.largest * (b"k" if spec.kind is Kind.BYTES else "t")
            record = Record(Operation.CONFIGURE, attributes={number: value})
            assert parse_requests(build(record)) == [record]


def test_one_bad_record_refuses_the_whole_write() -> None:
    """No record is given out where another one is bad, whatever the order."""
    for bad in (raw(operation=99), raw(size=23), raw(flags=2)):
        for data in (build_many(SEVERAL) + bad, bad + build_many(SEVERAL)):
            with pytest.raises(CryptofsError):
                parse_requests(data)


# Building


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (Attr.AUTHSIZE, -1),
        (Attr.AUTHSIZE, 1 << 32),
        (Attr.TARGET, 1 << 64),
        (Attr.NAME, 5),
        (Attr.KEY, 5),
        (Attr.NAME, "n" * 64),
        (Attr.KEY, bytes(8193)),
        (Attr.NAME, "caf\xe9"),
        (Attr.NAME, "a\nb"),
        (Attr.NAME, "a\0"),
        (Attr.NAME, b"cbc(aes)"),
        (Attr.KEY, "caf\xe9"),
        (Attr.AUTHSIZE, "4"),
        (Attr.AUTHSIZE, bytes(4)),
    ],
)
def test_values_that_the_format_cannot_hold(number: Attr, value: Value) -> None:
    """attribute_bytes refuses what a parser would refuse; nothing is changed silently."""
    with pytest.raises(InvalidValue) as caught:
        attribute_bytes({number: value})
    assert "caf" not in str(caught.value) or number is Attr.NAME


def test_too_large_to_build() -> None:
    """A record over RECORD_MAX is not built."""
    assert len(build(Record(Operation.DIGEST, payload=bytes(RECORD_MAX - HEADER_SIZE)))) == RECORD_MAX
    with pytest.raises(TooLarge):
        build(Record(Operation.DIGEST, payload=bytes(RECORD_MAX - HEADER_SIZE + 1)))


@few
@given(requests, st.integers(1, 200), st.text(max_size=1100))
def test_error_responses(request: Record, number: int, message: str) -> None:
    """Any message can be sent: id, operation, MORE and status as the request and the errno have them."""
    (response,) = parse_responses(build(error_response(request, number, message)))
    assert (response.operation, response.id, response.status) == (request.operation, request.id, number)
    assert response.more == request.more
    text = response.attributes[Attr.MESSAGE]
    assert isinstance(text, str)
    assert len(text) == min(len(message), 1024)
    assert set(response.attributes) == {Attr.MESSAGE}
    assert not len(response.payload)


@few
@given(st.binary(min_size=8, max_size=64), st.binary(min_size=8, max_size=64))
def test_repr_hides_key_and_payload(key: bytes, payload: bytes) -> None:
    """What may be logged has neither."""
    shown = repr(Record(Operation.CONFIGURE, attributes={Attr.KEY: key, Attr.NAME: "cbc(aes)"}, payload=payload))
    assert "key=(hidden)" in shown
    assert f"payload of {len(payload)} bytes" in shown
    for secret in (key, payload):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


# Copies


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_payload_and_key_are_views(kind: Callable[[bytes], Any]) -> None:
    """Parsing copies neither payload nor key."""
    data = build_many(SEVERAL)
    buffer = kind(data)
    owner = data if kind is memoryview else buffer
    records = parse_requests(buffer)
    assert all(isinstance(record.payload, memoryview) and record.payload.obj is owner for record in records)
    key = records[0].attributes[Attr.KEY]
    assert isinstance(key, memoryview)
    assert key.obj is owner


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that a call takes at most besides what there was."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
        del result
    finally:
        tracemalloc.stop()
    return peak - before


def test_copies_are_counted() -> None:
    """Building copies a payload once, parsing not at all; the measure itself notices a second copy."""
    payload = bytes(PAYLOAD_MAX)
    data = raw(payload=payload)
    record = Record(Operation.DIGEST, payload=payload)
    assert PAYLOAD_MAX <= peak_of(lambda: build(record)) <= PAYLOAD_MAX + 8192
    assert PAYLOAD_MAX <= peak_of(lambda: build(parse_requests(data)[0])) <= PAYLOAD_MAX + 8192
    assert peak_of(lambda: parse_requests(data)) <= 8192
    assert peak_of(lambda: bytes(bytearray(payload))) >= 2 * PAYLOAD_MAX


# The protocol document


def test_document_header() -> None:
    """Offsets, sizes and names of the header's fields."""
    rows = table_of("Records", "offset")
    fields = [(int(row[0]), int(row[1]), row[2]) for row in rows if row[1]]
    names = [field.name for field in layout.HEADER.subcons]
    offsets = [sum(FIELD_SIZES[:index]) for index in range(len(FIELD_SIZES))]
    assert fields == list(zip(offsets, FIELD_SIZES, names, strict=True))
    assert [field.sizeof() for field in layout.HEADER.subcons] == list(FIELD_SIZES)
    assert [row[0] for row in rows if not row[1]] == [str(HEADER_SIZE), f"{HEADER_SIZE} + attributes_size"]
    assert layout.HEADER.sizeof() == HEADER_SIZE == sum(FIELD_SIZES)


def test_document_flags() -> None:
    """The flag bits and the version."""
    rows = {row[2]: row[3:] for row in table_of("Records", "offset")}
    assert rows["flags"][0].startswith(f"0x{int(Flag.MORE):04x} MORE")
    assert rows["flags"][1].startswith(f"0x{int(Flag.RESPONSE):04x} RESPONSE")
    assert rows["version"] == [str(VERSION)] * 2


def test_document_attributes() -> None:
    """Number, name, kind and largest value of every attribute."""
    documented = [tuple(row[:4]) for row in table_of("Attributes", "type")]
    coded = [
        (str(int(number)), spec.word, spec.kind.name.lower(), "" if spec.kind in INTEGER_SIZES else str(spec.largest))
        for number, spec in ATTRIBUTES.items()
    ]
    assert documented == coded


def test_document_operations() -> None:
    """Number and name of every operation; control calls are those that the control file takes."""
    documented = [(int(row[0]), row[1]) for row in table_of("Operations", "number")]
    assert documented == [(int(operation), operation.word) for operation in Operation]
    text = DOCUMENT.read_text()
    assert "(operations 1 to 7)" in text
    assert sorted(CONTROL_OPERATIONS) == list(range(1, 8))


def test_document_limits() -> None:
    """Every published limit has the value that the code has."""
    modules = (layout, call, exchange, policy, contexts, contexts.table, devices, nodes, zstd, messages)
    seen = set()
    for names, numbers, *_ in table_of("Limits", "name"):
        for name, number in zip(names.split(", "), re.findall(r"\d[\d,]*\d|\d+", numbers), strict=True):
            holders = [module for module in modules if hasattr(module, name)]
            assert holders, name
            assert all(getattr(holder, name) == int(number.replace(",", "")) for holder in holders), name
            seen.add(name)
    assert {"RECORD_MAX", "PAYLOAD_MAX", "ATTRIBUTES_MAX", "QUEUE_BYTES"} <= seen


def test_document_example() -> None:
    """The example in hexadecimal is what build gives."""
    section = DOCUMENT.read_text().split("An example:")[1]
    digits = next(line for line in section.splitlines() if line.startswith("    "))
    assert bytes.fromhex(digits) == build(Record(Operation.DIGEST, id=1, payload=b"abc"))
