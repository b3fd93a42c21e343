"""Hostile input by a seed: valid records, what can be wrong with them, control lines. The same seed, the same bytes."""

import struct
from collections.abc import Callable
from random import Random

from cryptofs.records import (
    ATTRIBUTES,
    CONTROL_OPERATIONS,
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Operation,
    Record,
    Value,
    build,
)
from cryptofs.records import Kind as Form

from .kinds import CANARY, CONTEXT_KINDS, DEVICE_KINDS, OPERANDS, PUBLIC_TYPES, SIZES, Kind

HEADER = struct.Struct("<IBBHQII")
"""The document's own header, not the code's: size, version, operation, flags, id, status, attributes_size."""
MORE = 1
_NUMBERS = (0, 1, 2, 3, 7, 255, 256, 4096, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_IDS = (0, 1, 2, 3, 0xFFFFFFFFFFFFFFFF)
_DATA = tuple(operation for operation in Operation if operation not in CONTROL_OPERATIONS)
_OPERANDS = (Attr.SIGNATURE, Attr.PEER_KEY, Attr.CIPHERTEXT, Attr.KEY_FORMAT, Attr.KEY_BITS, Attr.LEVEL, Attr.LENGTH)


def _value(rng: Random, number: int) -> Value:
    spec = ATTRIBUTES[number]
    if spec.kind is Form.TEXT:
        return rng.choice(("", "sha256", "cbc(aes)", "hash", "decrypt", "openssl", "der", "(((", "x" * spec.largest))
    if spec.kind is Form.BYTES:
        return rng.randbytes(min(spec.largest, rng.choice((0, 1, 8, 12, 15, 16, 17, 32, 64, 512))))
    return rng.choice(_NUMBERS)


def valid(rng: Random, kind: Kind, victims: tuple[int, ...] = ()) -> Record:
    """A record whose form is right; what it asks for may be nonsense. kind: what a good part of them fits and succeeds
    with; victims: numbers of other people's contexts.
    """
    which = rng.random()
    identity = rng.choice(_IDS) if which < 0.9 else rng.getrandbits(64)
    if which < 0.55:
        operation = rng.choice(kind.operations)
    elif which < 0.65:
        operation = rng.choice(_DATA)
    else:
        return _control(rng, identity, kind, victims)
    attributes: dict[int, Value] = {}
    if operation == Operation.GENERATE:
        # a huge length is refused in the answer
        attributes[Attr.LENGTH] = rng.choice(SIZES) if rng.random() < 0.8 else rng.choice(_NUMBERS)
        return Record(operation, 0, identity, 0, attributes)
    if kind.iv_size and rng.random() < 0.8:
        attributes[Attr.IV] = rng.randbytes(kind.iv_size)
    if kind.assoclen and rng.random() < 0.8:
        attributes[Attr.ASSOCLEN] = kind.assoclen
    if rng.random() < 0.1:
        attributes[Attr.ASSOCLEN] = rng.choice(_NUMBERS[:8])
    for operand in OPERANDS.get(operation, ()):
        if rng.random() < 0.8:
            fitting = kind.operands.get(operand, ())
            attributes[operand] = rng.choice(fitting) if fitting and rng.random() < 0.8 else _value(rng, operand)
    if operation == Operation.DECOMPRESS and rng.random() < 0.8:
        # without it each counts as if it gave all that an answer holds
        attributes[Attr.LENGTH] = rng.choice((0, 100, 1000, 65_536, PAYLOAD_MAX, PAYLOAD_MAX + 1))
    if rng.random() < 0.1:
        number = rng.choice(tuple(ATTRIBUTES) if rng.random() < 0.5 else _OPERANDS)
        attributes[number] = _value(rng, number)
    flags = MORE if rng.random() < 0.2 else 0
    return Record(operation, flags, identity, 0, attributes, _payload(rng, kind, operation))


def _payload(rng: Random, kind: Kind, operation: Operation) -> bytes:
    fitting = kind.payloads.get(operation, ())
    if fitting and rng.random() < 0.7:
        # the first is the usual one: the others may be costly
        data = rng.choice(fitting) if rng.random() < 0.2 else fitting[0]
        return bytes(_flip(rng, bytearray(data))) if rng.random() < 0.3 else data
    if rng.random() < 0.002:
        return rng.randbytes(rng.choice((PAYLOAD_MAX, PAYLOAD_MAX - 16, 300_000, 70_000)))
    return rng.randbytes(rng.choice(SIZES))


def _control(rng: Random, identity: int, kind: Kind, victims: tuple[int, ...]) -> Record:
    operation = rng.choice(tuple(CONTROL_OPERATIONS))
    attributes: dict[int, Value] = {}
    if operation == Operation.CONFIGURE and rng.random() < 0.8:
        attributes.update(kind.configuration)
    if operation == Operation.SET_KEY:
        # where a key may be a public one, it is no secret: public-key answers it
        begins = b"" if kind.configuration[Attr.TYPE] in PUBLIC_TYPES else CANARY
        attributes[Attr.KEY] = (begins + rng.randbytes(64))[: rng.choice((0, 1, 15, 16, 17, 24, 32, 33, 64))]
    if operation == Operation.CANCEL:
        attributes[Attr.TARGET] = rng.choice(_IDS)
    if operation == Operation.CLONE:
        if rng.random() < 0.7:
            attributes[Attr.CONTEXT] = rng.choice(victims) if victims else rng.getrandbits(8)
        if rng.random() < 0.7:
            attributes[Attr.TARGET] = rng.choice(_IDS)
    if operation == Operation.SET:
        # readers of these contexts are ready for both
        attributes[Attr.NONBLOCKING] = rng.choice((0, 1, 1, 2, 0xFFFFFFFF))
    while rng.random() < 0.15:
        number = rng.choice(tuple(ATTRIBUTES))
        attributes[number] = _value(rng, number)
    return Record(operation, 0, identity, 0, attributes)


# What can be wrong with the bytes of a record: each takes and gives a bytearray


def _flip(rng: Random, data: bytearray) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[int(rng.random() * len(data))] ^= 1 << rng.getrandbits(3)
    return data


def _noise(rng: Random, data: bytearray) -> bytearray:
    return bytearray(rng.randbytes(rng.choice((0, 1, 4, 23, 24, 25, 64, 200))))


def _cut(rng: Random, data: bytearray) -> bytearray:
    return data[: int(rng.random() * (len(data) + 1))]


def _extend(rng: Random, data: bytearray) -> bytearray:
    return data + rng.randbytes(rng.choice((1, 3, 4, 23, 24)))


def _field(at: int, width: int) -> Callable[[Random, bytearray], bytearray]:
    def change(rng: Random, data: bytearray) -> bytearray:
        if len(data) < at + width:
            return data
        old = int.from_bytes(data[at : at + width], "little")
        new = rng.choice(_NUMBERS) if rng.random() < 0.5 else old + rng.choice((-4, -1, 1, 4, 24))
        data[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")
        return data

    return change


def _attribute_field(offset: int) -> Callable[[Random, bytearray], bytearray]:
    def change(rng: Random, data: bytearray) -> bytearray:
        return _field(HEADER_SIZE + offset, 2)(rng, data)

    return change


def _resize(data: bytearray, section: bytes) -> bytearray:
    """The record with another attribute section, its sizes put right."""
    old = min(int.from_bytes(data[20:24], "little"), max(0, len(data) - HEADER_SIZE))
    out = data[:HEADER_SIZE] + section + data[HEADER_SIZE + old :]
    if len(out) >= HEADER_SIZE:
        out[0:4] = len(out).to_bytes(4, "little")
        out[20:24] = (len(section) & 0xFFFFFFFF).to_bytes(4, "little")
    return out


def _section(data: bytearray) -> bytes:
    size = int.from_bytes(data[20:24], "little")
    return bytes(data[HEADER_SIZE : HEADER_SIZE + size])


def _twice(rng: Random, data: bytearray) -> bytearray:
    section = _section(data)
    return _resize(data, section + section)


def _unknown_attribute(rng: Random, data: bytearray) -> bytearray:
    value = rng.randbytes(rng.choice((0, 1, 4, 8)))
    head = struct.pack("<HH", rng.choice((0, 23, 37, 99, 0x7FFF, 0xFFFF)), len(value))
    return _resize(data, _section(data) + head + value + bytes(-len(value) % 4))


_INTEGERS = tuple(spec for spec in ATTRIBUTES.values() if spec.kind in (Form.U32, Form.U64))


def _wrong_integer(rng: Random, data: bytearray) -> bytearray:
    value = rng.randbytes(rng.choice((0, 1, 2, 3, 5, 8, 16)))
    number = rng.choice(_INTEGERS)
    return _resize(data, struct.pack("<HH", number, len(value)) + value + bytes(-len(value) % 4))


def _padding(rng: Random, data: bytearray) -> bytearray:
    value = rng.randbytes(rng.choice((1, 2, 3)))
    pad = rng.randbytes(-len(value) % 4)
    return _resize(data, struct.pack("<HH", Attr.KEY, len(value)) + value + pad)


def _odd_text(rng: Random, data: bytearray) -> bytearray:
    value = rng.choice((b"sha\0256", b"\xff\xfe", b"sha256\n", b"\x7f", "größe".encode(), b"y" * 70))
    number = rng.choice((Attr.TYPE, Attr.NAME, Attr.ENGINE, Attr.DRIVER, Attr.OPERATION))
    return _resize(data, struct.pack("<HH", number, len(value)) + value + bytes(-len(value) % 4))


def _large_section(rng: Random, data: bytearray) -> bytearray:
    value = bytes(8192)
    return _resize(data, (struct.pack("<HH", Attr.KEY, len(value)) + value) * rng.choice((1, 2, 3)))


def _oversized(rng: Random, data: bytearray) -> bytearray:
    size = rng.choice((PAYLOAD_MAX + 1, RECORD_MAX - HEADER_SIZE, PAYLOAD_MAX))
    head = HEADER.pack(HEADER_SIZE + size, 1, Operation.DIGEST, 0, 1, 0, 0)
    return bytearray(head) + bytes(size)


Mutation = Callable[[Random, bytearray], bytearray]

MUTATIONS: dict[str, Mutation] = {
    "bits flipped": _flip,
    "random bytes": _noise,
    "cut": _cut,
    "extended": _extend,
    "size": _field(0, 4),
    "version": _field(4, 1),
    "operation": _field(5, 1),
    "flags": _field(6, 2),
    "status": _field(16, 4),
    "attributes size": _field(20, 4),
    "attribute number": _attribute_field(0),
    "attribute length": _attribute_field(2),
    "attributes twice": _twice,
    "unknown attribute": _unknown_attribute,
    "integer of a wrong size": _wrong_integer,
    "padding": _padding,
    "text not printable": _odd_text,
}
RARE: dict[str, Mutation] = {"large attributes": _large_section, "oversized": _oversized}
"""Mutations that move much data: one record in a thousand."""
_NAMES = tuple(MUTATIONS)
_RARE_NAMES = tuple(RARE)


def hostile(rng: Random, record: bytes, wrong: float = 0.7) -> tuple[str, bytes]:
    """A record's bytes, made wrong with the probability `wrong`, and the name of what was done to it."""
    if rng.random() >= wrong:
        return "none", record
    if rng.random() < 0.002:
        name = rng.choice(_RARE_NAMES)
        return name, bytes(RARE[name](rng, bytearray(record)))
    name = rng.choice(_NAMES)
    return name, bytes(MUTATIONS[name](rng, bytearray(record)))


def request(operation: Operation, identity: int, flags: int = 0) -> bytes:
    """A plain record of no attributes and no payload."""
    return build(Record(operation, flags, identity))


def kind_named(name: str, device: bool) -> Kind:
    """The kind of a context, or of a device's."""
    return (DEVICE_KINDS if device else CONTEXT_KINDS)[name]


def pool(rng: Random, kind: Kind, size: int) -> list[bytes]:
    """The bytes of `size` valid records, to be made wrong."""
    return [build(valid(rng, kind)) for _ in range(size)]


_LINES = (
    b"configure type=hash name=sha256\n",
    b"configure type=skcipher name=cbc(aes) key=hex:" + CANARY.hex().encode()[:32],
    b"configure type=aead name=gcm(aes) key=text:0123456789abcdef authsize=12 iv=hex:000102030405060708090a0b",
    b"set-key key=hex:0011",
    b"reset operation=decrypt iv=hex:00",
    b"info",
    b"set nonblocking=1",
    b"set nonblocking=0",
    b"cancel target=7",
    b"clone context=9 target=3",
    b"encrypt iv=hex:00",
    b"reset operation=encrypt",
    b"reset operation=sign",
    b"reset operation=decompress",
    b"configure type=compression name=zstd level=19 operation=decompress",
    b"configure type=sig name=ed25519 operation=generate-key",
    b"set nonblocking=99999999999999999999999999",
    b"",
    b"\n",
    b"info\ninfo\n",
    b"configure type=hash name=sha256 name=sha256",
    b"key=hex:00 set-key",
    b"set-key key=hex:" + b"00" * 9000,
    b"info" + b" " * 5000,
)


def line(rng: Random) -> bytes:
    """A control line, right or wrong."""
    data = bytearray(rng.choice(_LINES))
    for _ in range(rng.choice((0, 0, 1, 2, 5))):
        at = int(rng.random() * (len(data) + 1))
        data[at : at + rng.getrandbits(2)] = rng.choice((b"=", b" ", b"\n", b"\0", b"\xff", b"hex:", b"9" * 30, b"x"))
    return bytes(data)
