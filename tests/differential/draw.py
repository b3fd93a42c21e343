"""Random requests, most of them right: names, keys, IVs, sizes, parts, and everything of these that is wrong."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cryptofs.algorithms import Description, Type, look_up
from cryptofs.engines.base import Engine
from cryptofs.records import OPERATIONS, PAYLOAD_MAX, Attr, Flag, Operation, Record

MORE = int(Flag.MORE)
KEY_MAX = 8192
_DATA = random.Random(0).randbytes(PAYLOAD_MAX + 65_536)
_ZEROS = bytes(4096)

# sizes around which something changes: blocks, pages, the short way, what sockets take, the largest message
_NEAR = (8, 16, 32, 48, 64, 72, 104, 128, 136, 144, 256, 4096)
_FAR = (32_768 - 24, 32_768, 65_536, 131_072, 212_979, 212_992, 262_144, 425_984)
_ASSOC_FAR = (0xFEFF, 0xFF00, 0xFF01, 65_536)
_CIPHER_KEYS = {"des3_ede": (24,), "cbc(des)": (8,), "rfc3686": (20, 28, 36), "cipher_null": (0,)}
"""Bytes of the cipher's key in an authenc blob, where they are not those of AES."""
_WRONG_AUTHSIZES = (0, 1, 2, 3, 5, 7, 9, 11, 13, 17, 32, 33, 63, 64, 65, 1 << 31, (1 << 32) - 1)


def open_names(engines: Sequence[Engine]) -> list[tuple[Type, str]]:
    """The names that every one of the engines offers."""
    first, *rest = engines
    names = dict.fromkeys(first.names())
    return [name for name in names if all(engine.describe(*name) for engine in (first, *rest))]


def size_near(rng: random.Random) -> int:
    """A message size: mostly small, at times at a bound."""
    at = rng.random()
    if at < 0.5:
        return rng.randrange(300)
    if at < 0.95:
        return max(0, rng.choice((0, *_NEAR)) * rng.choice((1, 1, 1, 2, 3)) + rng.choice((-1, 0, 0, 1)))
    if at < 0.993:
        return max(0, rng.choice(_FAR) + rng.choice((-16, -1, 0, 0, 1, 16)))
    return PAYLOAD_MAX - rng.choice((0, 1, 16, 32, 4096))


@dataclass
class Drawn:
    """What a scenario asks of a context: the draws are those of one random generator."""

    rng: random.Random
    description: Description
    key: bytes = b""
    authsize: int = 0
    last_id: int = 0

    @property
    def type(self) -> Type:
        return self.description.type

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def bytes_of(self, size: int) -> bytes:
        """Data of this size; now and then nothing but zeros."""
        if size <= len(_ZEROS) and self.chance(0.05):
            return _ZEROS[:size]
        at = self.rng.randrange(len(_DATA) - size + 1)
        return _DATA[at : at + size]

    # Configuring

    def configure(self, right: bool = False) -> Record:
        """A configure, right or wrong; most bring the key. right: with the type and name alone."""
        attributes: dict[int, object] = {Attr.TYPE: self.type.value, Attr.NAME: self.description.name}
        if right:
            self.authsize = self.description.max_authsize
            return Record(Operation.CONFIGURE, 0, self.next_id(), 0, attributes)  # type: ignore[arg-type]
        if self.type is Type.AEAD and self.chance(0.7):
            attributes[Attr.AUTHSIZE] = self._authsize()
        elif self.chance(0.01):
            attributes[Attr.AUTHSIZE] = self.rng.choice((0, 16))
        self.authsize = int(attributes.get(Attr.AUTHSIZE, self.description.max_authsize))  # type: ignore[call-overload]
        wants = self.description.key_sizes.takes_key
        if self.chance(0.93 if wants else 0.03):
            self.key = self.any_key()
            attributes[Attr.KEY] = self.key
        return Record(Operation.CONFIGURE, 0, self.next_id(), 0, attributes)  # type: ignore[arg-type]

    def _authsize(self) -> int:
        facts = look_up(self.type, self.description.name)
        right = facts.authsizes if facts is not None else ()
        return self.rng.choice(_WRONG_AUTHSIZES if self.chance(0.1) or not right else right)

    def set_key(self) -> Record:
        self.key = self.any_key()
        return Record(Operation.SET_KEY, 0, self.next_id(), 0, {Attr.KEY: self.key})

    def any_key(self) -> bytes:
        """A key, mostly of a right size."""
        name, sizes, rng = self.description.name, self.description.key_sizes, self.rng
        if "authenc(" in name:
            return self._authenc_key()
        if self.chance(0.05):
            size = rng.choice((0, 1, 4, 15, 16, 17, 24, 31, 33, 48, 63, 64, 65, 100, rng.randrange(KEY_MAX + 1)))
        elif sizes.listed:
            size = rng.choice(sizes.listed)
        else:
            bounds = (sizes.smallest, sizes.smallest + 1, 16, 63, 64, 65, 127, 128, 129, 136, 137, sizes.largest)
            size = min(max(rng.choice((rng.randrange(200), *bounds)), sizes.smallest), sizes.largest)
        key = self.bytes_of(size)
        if name.startswith("xts(") and self.chance(0.05):
            key = key[: size // 2] * 2
        return key

    def _authenc_key(self) -> bytes:
        rng = self.rng
        name = self.description.name
        sizes = next((sizes for part, sizes in _CIPHER_KEYS.items() if part in name), (16, 24, 32))
        cipher = self.bytes_of(rng.choice(sizes) if not self.chance(0.05) else rng.randrange(40))
        mac = self.bytes_of(rng.choice((0, 1, 20, 32, 63, 64, 65, 127, 128, 129, rng.randrange(300))))
        length, kind, claimed = 8, 1, len(cipher)
        match rng.randrange(40):
            case 0:
                length = rng.choice((0, 4, 7, 9, 12, 0xFFFF))
            case 1:
                kind = rng.choice((0, 2, 0xFFFF))
            case 2:
                claimed = rng.choice((0, 15, 17, 33, len(mac) + len(cipher) + 1, 0xFFFF_FFFF))
        blob = length.to_bytes(2, "little") + kind.to_bytes(2, "little") + claimed.to_bytes(4, "big") + mac + cipher
        return blob[: rng.randrange(len(blob))] if self.chance(0.03) else blob

    # Messages

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def iv(self) -> bytes | None:
        """An IV, mostly of the right size, with counters that run over and ccm's count in its place."""
        size = self.description.iv_size
        if self.chance(0.03):
            return self.rng.choice((None, self.bytes_of(self.rng.choice((0, 1, size + 1, max(size - 1, 0), 16, 64)))))
        if not size:
            return None
        iv = bytearray(self.bytes_of(size))
        if self.chance(0.15):
            iv[self.rng.randrange(size) :] = b"\xff" * size
            del iv[size:]
        if self.chance(0.1):
            iv[0 : self.rng.randrange(size)] = b"\xff" * size
            del iv[size:]
        if self.description.name.startswith("ccm("):
            # the length of the count less one, the nonce, and a count of nothing
            width = self.rng.choice((1, 1, 2, 3, 3, 4, 7) if not self.chance(0.05) else (0, 8, 255))
            iv[0] = width
            if width < 8:
                iv[15 - width :] = bytes(width + 1)
        return bytes(iv)

    def assoclen(self, total: int) -> int:
        """How much of a message is associated data: what the standards want, at times more than there is."""
        rng = self.rng
        if self.chance(0.03):
            return rng.choice((total + 1, 1 << 31, (1 << 32) - 1, total + 4096))
        if self.description.name.startswith("rfc4") and not self.chance(0.05):
            return min(rng.choice((16, 20)), total)
        if self.description.assoclens == (0,) and not self.chance(0.05):
            return 0
        if total > _ASSOC_FAR[-1] and self.chance(0.3):
            return rng.choice(_ASSOC_FAR)
        return min(rng.choice((0, 0, 8, 12, 13, 16, 20, 32, 33, rng.randrange(300), total)), total)

    def message(self, operation: Operation, attributes: dict[int, object], data: bytes) -> list[Record]:
        """The records of one message: whole, or cut into parts, some of them empty."""
        identity = self.next_id()
        if not self.chance(0.45):
            return [Record(operation, 0, identity, 0, attributes, data)]  # type: ignore[arg-type]
        bounds = (16, 64, 65_536, 131_072, self.description.block_size, self.description.chunk_size or 1)
        places = [self.rng.choice((self.rng.randrange(len(data) + 1), *bounds)) for _ in range(self.rng.randrange(6))]
        places = [0, *sorted(min(place, len(data)) for place in places), len(data)]
        if self.chance(0.3):
            places.append(len(data))  # an empty part ends the message
        parts = [data[begin:end] for begin, end in itertools.pairwise(places)]
        records = [
            Record(operation, MORE * (index < len(parts) - 1), identity, 0, {}, part)
            for index, part in enumerate(parts)
        ]
        records[0].attributes.update(attributes)  # type: ignore[attr-defined]
        if len(records) > 1 and self.chance(0.005):
            # more than a message that must be whole may have
            filler = self.bytes_of(PAYLOAD_MAX - self.rng.choice((0, 1, 16, len(data))))
            records.insert(1, Record(operation, MORE, identity, 0, {}, filler))
        if len(records) > 1 and self.chance(0.03):
            records[-1] = self._spoilt_part(records[-1])
        return records

    def _spoilt_part(self, last: Record) -> Record:
        """A later part with what belongs to the first one, or with another operation."""
        if self.chance(0.5):
            return Record(last.operation, 0, last.id, 0, {Attr.IV: self.bytes_of(16)}, last.payload)
        other = self.rng.choice((Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE))
        return Record(other, 0, last.id, 0, {}, last.payload)

    def operation(self) -> Operation:
        """One of the type's operations, at times another type's."""
        if self.chance(0.02):
            return self.rng.choice((Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE))
        return self.rng.choice(sorted(OPERATIONS[self.type]))

    def size(self) -> int:
        """A message's size: a multiple of the block where the algorithm wants one, if it is not to be wrong."""
        size = min(size_near(self.rng), PAYLOAD_MAX)
        block = self.description.block_size
        if self.type in (Type.SKCIPHER, Type.AEAD) and block > 1 and self.chance(0.85):
            size -= size % block
        return size

    def plain(self) -> tuple[Operation, dict[int, object], bytes]:
        """A message that needs no other one: operation, attributes, data."""
        operation, attributes = self.operation(), dict[int, object]()
        size = self.size()
        iv = self.iv()
        if iv is not None:
            attributes[Attr.IV] = iv
        if self.type is Type.AEAD:
            attributes[Attr.ASSOCLEN] = assoclen = self.assoclen(size)
            if self.description.name.startswith("ccm(") and iv and iv[0] == 1 and self.chance(0.3):
                # around what two bytes count, the longest tag included
                size = min(assoclen, 65_536) + 65_536 + self.rng.choice((-1, 0, 1, 15, 16, 17))
            if operation is Operation.ENCRYPT:
                # what is sealed must fit, too
                size = min(size, PAYLOAD_MAX - min(self.authsize, 64))
        elif self.chance(0.01):
            attributes[Attr.ASSOCLEN] = self.rng.choice((0, 1, 16))
        if operation is Operation.GENERATE or (self.type is Type.RNG and self.chance(0.2)):
            if not self.chance(0.03):
                attributes[Attr.LENGTH] = self.rng.choice((0, 1, 127, 128, 129, size, PAYLOAD_MAX, PAYLOAD_MAX + 1))
            size = 0 if not self.chance(0.03) else size
        data = self.bytes_of(size)
        assoclen = attributes.get(Attr.ASSOCLEN, 0)
        if self.description.name.startswith("rfc4") and assoclen in (16, 20) and iv is not None and len(iv) == 8:
            # IPsec's associated data ends with the IV; now and then it does not
            assert isinstance(assoclen, int)
            if not self.chance(0.05):
                data = data[: assoclen - 8] + iv + data[assoclen:]
        return operation, attributes, data

    def turned_round(
        self, attributes: dict[int, object], data: bytes, output: bytes
    ) -> tuple[dict[int, object], bytes]:
        """What decrypts the output of an encrypted message, mostly with something wrong."""
        attributes = dict(attributes)
        if self.type is not Type.AEAD:
            return attributes, output[:PAYLOAD_MAX]
        assoclen = attributes.get(Attr.ASSOCLEN, 0)
        assert isinstance(assoclen, int)
        sealed = bytearray(data[:assoclen] + output)
        rng = self.rng
        match rng.randrange(12):
            case 0 | 1 if sealed:
                sealed[-1 - rng.randrange(min(len(sealed), max(self.authsize, 1)))] ^= 1 << rng.randrange(8)
            case 2 if sealed:
                sealed[rng.randrange(len(sealed))] ^= 0x80
            case 3:
                del sealed[rng.randrange(len(sealed) + 1) :]
            case 4:
                sealed += self.bytes_of(rng.choice((1, 15, 16, 32)))
            case 5:
                attributes[Attr.ASSOCLEN] = self.assoclen(len(sealed))
            case 6:
                del sealed[len(sealed) - min(self.authsize, len(sealed)) :]
        # what came of parts may be more than a record carries
        return attributes, bytes(sealed[:PAYLOAD_MAX])
