"""Keys are zeroed where they lay: in what a client wrote, in what was read from it, and in each engine's own copies."""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from helpers import context_bench
from helpers.context_bench import ENCRYPT, MORE, Bench
from helpers.public_keys import der_of, opened, rsa_key
from helpers.raw import build_many

from cryptofs.algorithms import Type
from cryptofs.contexts import Context
from cryptofs.engines import der
from cryptofs.engines.openssl import OpensslEngine, hash, kpp, macs, pairs, skcipher, transform
from cryptofs.engines.rsa_key import RsaNumbers
from cryptofs.errors import CryptofsError, InvalidValue
from cryptofs.nodes import control
from cryptofs.nodes.control import ControlHandle
from cryptofs.nodes.crypto import CryptoHandle
from cryptofs.records import Attr, Buffer, Operation, Record, build, text

bench = context_bench.bench
KEY = bytes(range(0x41, 0x41 + 16))
CBC = {Attr.TYPE: "skcipher", Attr.NAME: "cbc(aes)"}


def configure(key: bytes = KEY, **words: str) -> Record:
    """A configure call with a key."""
    return Record(
        Operation.CONFIGURE, 0, 1, 0, {**CBC, Attr.KEY: key, **{Attr[k.upper()]: v for k, v in words.items()}}
    )


SET_KEY = Record(Operation.SET_KEY, 0, 2, 0, {Attr.KEY: KEY})
REQUEST = Record(Operation.ENCRYPT, 0, 3, 0, {Attr.IV: bytes(16)}, bytes(64))
BINARY = {
    "configured": build(configure()),
    "in a batch": build_many([configure(), REQUEST, SET_KEY]),
    "twice": build_many([configure(), configure()]),
    "of no size": build(configure(KEY * 5)),
    "of no algorithm": build(configure(name="no-such")),
    "before configure": build(SET_KEY),
    "behind a wrong record": build(SET_KEY) + b"\1\2\3",
    "in a record that is none": b"\x50\0\0\0\x09\2" + bytes(18) + KEY + bytes(40),
}


@pytest.fixture
def context(bench: Bench) -> Iterator[Context]:
    """A context that nobody has configured."""
    made = bench.client().context
    yield made
    bench.workers.finish()


@pytest.mark.parametrize("how", ["write", "ioctl"])
@pytest.mark.parametrize("what", BINARY)
def test_what_was_written_to_crypto(bench: Bench, context: Context, what: str, how: str) -> None:
    """Whatever becomes of the records, no key stays in the buffer."""
    data = bytearray(BINARY[what])
    assert KEY in data
    handle = CryptoHandle(bench.table, context)
    if how == "ioctl" and what in ("in a batch", "twice"):
        pytest.skip("an ioctl has one record")
    with contextlib.suppress(CryptofsError):
        if how == "write":
            handle.write(0, memoryview(data))
        else:
            handle.call(memoryview(data), 8192)
    assert KEY not in data
    if what == "configured":
        assert context.transform is not None
        assert context.transform.keyed


LINES = {
    "configured": b"configure type=skcipher name=cbc(aes) key=hex:%s\n",
    "with an operand that is wrong": b"configure type=skcipher name=cbc(aes) key=hex:%s iv=hex:0\n",
    "of no size": b"configure type=skcipher name=cbc(aes) key=hex:%s00\n",
    "set before configure": b"set-key key=hex:%s\n",
    "that is no hexadecimal": b"set-key key=hex:%szz\n",
    "without a name": b"set-key %s\n",
    "twice": b"set-key key=hex:%s key=hex:00\n",
}


@pytest.mark.parametrize("what", [*LINES, *BINARY])
def test_what_was_written_to_ctl(context: Context, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line or record: neither the buffer nor the key that was read out of the line stays."""
    taken: list[Record] = []

    def parse(data: Buffer) -> Record:
        taken.append(parse_line(data))
        return taken[-1]

    parse_line = control.parse_line
    monkeypatch.setattr(control, "parse_line", parse)
    data = bytearray(LINES[what] % KEY.hex().encode() if what in LINES and what not in BINARY else BINARY[what])
    with contextlib.suppress(CryptofsError):
        ControlHandle(context).write(0, memoryview(data))
    assert KEY not in data
    assert KEY.hex().encode() not in data
    for request in taken:
        key = request.attributes[Attr.KEY]
        assert isinstance(key, bytearray)
        assert not any(key)


@pytest.mark.parametrize("form", ["hex:4142434445464748494a4b4c4d4e4f50", "text:ABCDEFGHIJKLMNOP"])
@pytest.mark.parametrize("end", ["", " iv=hex:0", " what", " key=hex:00"])
def test_pieces_of_a_line(form: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is cut into words, names and values: none of the pieces keeps the key, whatever follows it."""
    pieces: list[bytearray] = []

    class Seen(bytearray):
        """Remembers itself and what is cut out of it."""

        def __init__(self, data: Buffer) -> None:
            super().__init__(data)
            pieces.append(self)

        def split(self, *how: object) -> list[bytearray]:  # type: ignore[override]
            return [Seen(each) for each in super().split()]

        def partition(self, separator: Buffer) -> tuple[bytearray, bytearray, bytearray]:
            first, found, rest = super().partition(separator)
            return Seen(first), Seen(found), Seen(rest)

    monkeypatch.setattr(text, "bytearray", Seen, raising=False)
    key: object = None
    with contextlib.suppress(CryptofsError):
        key = text.parse_line(f"set-key key={form}{end}".encode()).attributes[Attr.KEY]
    assert (key is not None) == (end == "")
    secret = form.partition(":")[2].encode()
    assert len(pieces) > 5
    assert [bytes(each) for each in pieces if secret in each and each is not key] == []


def test_a_key_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read out of the line before its size is known."""
    read: list[bytearray] = []

    def decode(digits: bytearray) -> bytearray:
        read.append(from_hexadecimal(digits))
        return read[-1]

    from_hexadecimal = text.from_hexadecimal
    monkeypatch.setattr(text, "from_hexadecimal", decode)
    with pytest.raises(InvalidValue, match="key of 8193 bytes"):
        text.parse_line(b"set-key key=hex:" + b"41" * 8193 + b"\n")
    assert read == [bytearray(8193)]


def test_the_text_is_what_is_tested(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good line gives its key to the transform before it is zeroed."""
    data = bytearray(LINES["configured"] % KEY.hex().encode())
    ControlHandle(context).write(0, memoryview(data))
    assert context.transform is not None
    assert context.transform.keyed
    assert not any(data)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """Each copy of a key that the OpenSSL engine makes."""
    made: list[bytearray] = []

    def recording(function: object) -> object:
        def make(key: Buffer) -> bytearray:
            made.append(function(key))  # type: ignore[operator]
            return made[-1]

        return make

    for module in (transform, pairs, hash, kpp, macs, skcipher):
        monkeypatch.setattr(module, "keep", recording(module.keep))  # type: ignore[attr-defined]
    monkeypatch.setattr(RsaNumbers, "encode", recording(RsaNumbers.encode))
    return made


ENGINE = OpensslEngine()


@pytest.mark.parametrize("type_", [Type.HASH, Type.SKCIPHER, Type.AEAD])
def test_copies_of_symmetric_keys(copies: list[bytearray], type_: Type) -> None:
    """Of each name that takes a key, none is left when the transform is closed."""
    names = 0
    for name in (name for offered, name in ENGINE.names() if offered is type_):
        description = ENGINE.describe(type_, name)
        if description is None:
            # of another library
            continue
        copies.clear()
        opened_ = ENGINE.open(description, None)
        for size in (8, 16, 20, 32, 64):
            with contextlib.suppress(CryptofsError):
                opened_.set_key(os.urandom(size))
                names += 1
        opened_.close()
        assert not any(map(any, copies)), name
    assert names >= 8


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """Each bytearray that the modules for digests and MACs make."""
    made: list[bytearray] = []

    class Seen(bytearray):
        """Remembers itself."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

        def __mul__(self, count: Any) -> "Seen":
            return Seen(super().__mul__(count))

    for module in (macs, hash):
        monkeypatch.setattr(module, "bytearray", Seen, raising=False)
    return made


def test_buffers_of_macs(buffers: list[bytearray]) -> None:
    """What keys are mixed into or cut out of, and the key that begins a message of poly1305."""
    for name in ("xcbc(aes)", "hmac(blake2b-160)", "poly1305"):
        description = ENGINE.describe(Type.HASH, name)
        assert description is not None, name
        transform_ = ENGINE.open(description, None)
        if description.key_sizes.takes_key:
            transform_.set_key(KEY)
        for pieces in ((bytes(range(1, 33)), b"text"), (bytes(range(1, 33)),), (b"short",)):
            message = transform_.start(Operation.DIGEST, None, 0)
            out = memoryview(bytearray(256))
            for at, piece in enumerate(pieces):
                with contextlib.suppress(CryptofsError):
                    message.update(piece, at == len(pieces) - 1, out)
            message.close()
        transform_.close()
    encryptor = Cipher(AES(KEY), ECB()).encryptor()
    derived = [encryptor.update(bytes([number]) * 16) for number in (1, 2, 3)]
    padded = [bytes(byte ^ mask for byte in KEY) for mask in (0x36, 0x5C)]
    assert len(buffers) > 4
    for secret in (bytes(range(1, 33)), b"short", *derived, *padded):
        assert not any(secret in each for each in buffers), secret


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize(
    ("type_", "name"), [("sig", "pkcs1(rsa,sha256)"), ("akcipher", "pkcs1pad(rsa)"), ("akcipher", "rsa")]
)
def test_copies_of_rsa_keys(copies: list[bytearray], type_: str, name: str, good: bool) -> None:
    """They are zeroed as soon as the key was taken or refused."""
    key = der_of(rsa_key())
    with contextlib.suppress(CryptofsError):
        opened(type_, name, key if good else key + b"x")
    assert copies
    assert not any(map(any, copies))


@pytest.fixture
def enclosed(monkeypatch: pytest.MonkeyPatch) -> list[bytearray]:
    """Each element of DER that is put together."""
    made: list[bytearray] = []
    enclose = der.enclose

    def recording(*parts: Any) -> bytearray:
        made.append(enclose(*parts))
        return made[-1]

    monkeypatch.setattr(der, "enclose", recording)
    return made


def test_copies_of_a_curves_secret(copies: list[bytearray], enclosed: list[bytearray]) -> None:
    """A bare number is made a key in DER, which is zeroed as well."""
    secret = bytes(range(1, 33))
    transform_ = opened("kpp", "ecdh-nist-p256", secret)
    assert transform_.operate(Operation.PUBLIC_KEY, {}, b"")[0]
    # the object identifier of the curve is no secret
    assert len(enclosed) > 2
    assert [bytes(each) for each in (*copies, *enclosed) if secret in each] == []


def packed(exponent: bytes) -> bytes:
    """A private exponent as the kernel has it, without its group."""
    return struct.pack("<HHIII", 1, 16 + len(exponent), len(exponent), 0, 0) + exponent


def test_copies_of_a_finite_fields_exponent(copies: list[bytearray], enclosed: list[bytearray]) -> None:
    """It is kept until its first use, which makes a key in DER of it. Both are zeroed then."""
    secret = bytes(range(1, 65))
    transform_ = opened("kpp", "ffdhe2048(dh)", packed(secret))
    assert [bytes(each) for each in copies if any(each)] == [secret]
    assert transform_.operate(Operation.PUBLIC_KEY, {}, b"")[0]
    assert not any(map(any, copies))
    assert len(enclosed) > 4
    assert [bytes(each) for each in enclosed if secret in each] == []


def test_copies_of_an_exponent_that_is_never_used(copies: list[bytearray]) -> None:
    """It goes with the transform, or at once if it is refused."""
    opened("kpp", "ffdhe2048(dh)", packed(bytes(range(1, 65)))).close()
    with pytest.raises(InvalidValue):
        opened("kpp", "ffdhe2048(dh)", packed(b"\1"))
    assert len(copies) == 4
    assert not any(map(any, copies))


@pytest.mark.parametrize("name", ["ed25519", "x962(ecdsa-nist-p256)", "mldsa44"])
def test_copies_of_other_private_keys(copies: list[bytearray], name: str) -> None:
    """The same of keys that are plain bytes and of curves'."""
    transform_ = opened("sig", name)
    with contextlib.suppress(CryptofsError):
        transform_.set_key(os.urandom(32))
    assert copies
    assert not any(map(any, copies))


def test_each_users_work_is_given_under_its_uid(bench: Bench) -> None:
    """Whole requests and parts of two users, so that the workers can let them take turns."""
    for uid in (1000, 1001):
        client = bench.client("hash", uid=uid)
        cipher = bench.client("stream", uid=uid)
        for each in (client, cipher):
            each.slow()
        client.send(Record(Operation.DIGEST, 0, 1, 0, {}, b"x"), Record(Operation.DIGEST, MORE, 2, 0, {}, b"y"))
        cipher.send(Record(ENCRYPT, 0, 1, 0, {Attr.IV: bytes(cipher.iv_size)}, bytes(64)))
        assert bench.workers.users == [uid] * len(bench.workers.given)
        assert len(bench.workers.given) == 3
        bench.workers.finish()
        # a stream's work, too
        hashed = bench.client("hash", uid=uid)
        hashed.slow()
        stream = hashed.context.stream
        writer = stream.attach(False, True)
        stream.feed_nowait(writer, b"text")
        stream.detach(writer)
        assert bench.workers.users == [uid]
        bench.workers.finish()
