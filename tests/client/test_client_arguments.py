"""The Python client's arguments: every bytes-like object means its bytes, and everything else is refused in words."""

import array
import ctypes
import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import cryptofs.client
from cryptofs.client import ClientError, Context, Pipeline, Refused, RequestError
from cryptofs.records import PAYLOAD_MAX, Attr, Operation, Record, build, octets, parse_requests

pytestmark = pytest.mark.mount

DATA = bytes(range(240)) * 4
KEY = bytes(range(32))


def _mapped() -> mmap.mmap:
    memory = mmap.mmap(-1, len(DATA))
    memory[:] = DATA
    return memory


def _numpy(make: Callable[[Any], Any]) -> Any:
    return make(pytest.importorskip("numpy"))


class _Lying(bytes):
    """Bytes whose length is what they say."""

    def __len__(self) -> int:
        return 24


KINDS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: DATA,
    "a subclass of bytes": lambda: _Lying(DATA),
    "bytearray": lambda: bytearray(DATA),
    "array of unsigned ints": lambda: array.array("I", DATA),
    "array of doubles": lambda: array.array("d", DATA),
    "memoryview of ints": lambda: memoryview(DATA).cast("I"),
    "memoryview of characters": lambda: memoryview(DATA).cast("c"),
    "matrix": lambda: memoryview(DATA).cast("B", (4, 10, 24)),
    "matrix of shorts": lambda: memoryview(DATA).cast("B").cast("H", (4, 120)),
    "reversed": lambda: memoryview(DATA[::-1])[::-1],
    "every other byte": lambda: memoryview(bytes(byte for each in DATA for byte in (each, 0)))[::2],
    "every other int": lambda: memoryview(b"".join(DATA[n : n + 4] * 2 for n in range(0, 960, 4))).cast("I")[::2],
    "mmap": _mapped,
    "ctypes array": lambda: (ctypes.c_uint32 * (len(DATA) // 4)).from_buffer_copy(DATA),
    "ctypes structure": lambda: type("S", (ctypes.BigEndianStructure,), {"_fields_": [("a", ctypes.c_uint16 * 480)]})
    .from_buffer_copy(DATA),
    "numpy": lambda: _numpy(lambda np: np.frombuffer(DATA, "<u4").reshape(6, 40)),
    "numpy of the other byte order": lambda: _numpy(lambda np: np.frombuffer(DATA, ">u8")),
    "numpy by columns": lambda: _numpy(lambda np: np.asfortranarray(np.frombuffer(DATA, "u2").reshape(40, 12))),
    "numpy with a step": lambda: _numpy(lambda np: np.repeat(np.frombuffer(DATA, "f4"), 3)[::3]),
}  # fmt: skip
EMPTY: dict[str, Callable[[], Any]] = {
    "array": lambda: array.array("I"),
    "memoryview": lambda: memoryview(array.array("d")),
    "numpy": lambda: _numpy(lambda np: np.zeros((3, 0, 2))),
}
WRONG: dict[str, Callable[[], Any]] = {
    "str": lambda: "text",
    "int": lambda: 5,
    "float": lambda: 1.0,
    "bool": lambda: True,
    "list": lambda: [1, 2, 3],
    "path": lambda: Path("x"),
    "numpy objects": lambda: _numpy(lambda np: np.array([b"x", None])),
    "numpy dates": lambda: _numpy(lambda np: np.zeros(3, "M8[s]")),
}


@pytest.fixture(scope="module")
def hasher(mount: Path) -> Iterator[Context]:
    """A context of SHA-256."""
    with Context("hash", "sha256", mount=mount) as context:
        yield context


@pytest.fixture(scope="module")
def sealer(mount: Path) -> Iterator[Context]:
    """A context of AES-GCM."""
    with Context("aead", "gcm(aes)", key=KEY, mount=mount) as context:
        yield context


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_like_data(hasher: Context, sealer: Context, kind: str) -> None:
    """Data, associated data, IV, parts and a pipeline's data: the bytes that `bytes` would make of them."""
    make = KINDS[kind]
    expected = hashlib.sha256(DATA).digest()
    assert hasher.digest(make()) == expected
    message = hasher.message(Operation.DIGEST)
    assert message.update(make()) == b""
    assert message.finish(make()) == hashlib.sha256(DATA * 2).digest()
    sealed = AESGCM(KEY).encrypt(bytes(12), DATA, DATA)
    assert sealer.encrypt(make(), iv=bytearray(12), assoc=make()) == sealed
    assert sealer.decrypt(array.array("B", sealed), iv=array.array("I", [0] * 3), assoc=make()) == DATA
    with Pipeline(sealer) as pipeline:
        assert pipeline.encrypt(make(), iv=memoryview(bytes(12)).cast("I"), assoc=make()).result(20) == sealed


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_like_keys(mount: Path, kind: str) -> None:
    """A key is its bytes as well, and a record is as long as its payload."""
    make = KINDS[kind]
    with Context("hash", "hmac(sha256)", key=make(), mount=mount) as context:
        before = context.digest(b"x")
        context.set_key(b"another")
        assert context.digest(b"x") != before
        context.set_key(make())
        assert context.digest(b"x") == before
    (record,) = parse_requests(build(Record(Operation.DIGEST, 0, 1, 0, {Attr.KEY: make()}, make())))
    assert record.payload == DATA
    assert record.attributes[Attr.KEY] == DATA


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_data(hasher: Context, kind: str) -> None:
    """No items are no bytes, whatever their shape."""
    assert hasher.digest(EMPTY[kind]()) == hashlib.sha256(b"").digest()


def test_data_is_never_taken_for_records(mount: Path) -> None:
    """A payload that holds records, given as ints: its digest, and no set-key in the middle of it."""
    inner = build(Record(Operation.SET_KEY, 0, 999, 0, {Attr.KEY: b"the attacker's k"}))
    crafted = bytes(8) + inner * 5
    assert len(crafted) % 4 == 0
    with Context("hash", "hmac(sha256)", key=b"the true key", mount=mount) as context:
        before = context.digest(b"x")
        whole = context.digest(crafted)
        for step in ("I", "H"):
            assert context.digest(memoryview(crafted).cast(step)) == whole
        assert context.digest(b"x") == before
        assert context.status()["unread"] == "0"


def test_a_pipeline_takes_data_as_it_is(hasher: Context) -> None:
    """What changes or shrinks after it was submitted does neither to the request."""
    with Pipeline(hasher) as pipeline:
        data = bytearray(DATA)
        pending = [pipeline.digest(data) for _ in range(200)]
        data[:] = b"other"
        view = memoryview(bytearray(DATA)).toreadonly()
        later = pipeline.digest(view)
        assert {each.result(20) for each in [*pending, later]} == {hashlib.sha256(DATA).digest()}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_bytes_like(hasher: Context, sealer: Context, mount: Path, kind: str) -> None:
    """A TypeError that names the argument, nothing is sent, and a pipeline serves everybody else."""
    value = WRONG[kind]()
    completed = sealer.status()["completed"]
    for call, word in (
        (lambda: sealer.encrypt(value, iv=bytes(12)), "data"),
        (lambda: sealer.encrypt(b"", iv=value), "iv"),
        (lambda: sealer.encrypt(b"", iv=bytes(12), assoc=value), "assoc"),
        (lambda: sealer.set_key(value), "key"),
        (lambda: Context("hash", "hmac(sha256)", key=value, mount=mount), "key"),
        (lambda: sealer.request(Record(Operation.INFO, id=1, payload=value)), "data"),
        (lambda: sealer.verify(value, b""), "signature"),
        (lambda: sealer.agree(value), "peer_key"),
        (lambda: sealer.decapsulate(value), "ciphertext"),
    ):
        with pytest.raises(TypeError, match=f"^{word}: a bytes-like object"):
            call()
    assert sealer.status()["completed"] == completed
    with Pipeline(hasher) as pipeline:
        before = pipeline.digest(b"before")
        for submit in (pipeline.digest, pipeline.encrypt, pipeline.decrypt, pipeline.sign):
            with pytest.raises(TypeError, match="bytes-like"):
                submit(value)
        with pytest.raises(TypeError):
            pipeline.encrypt(b"", iv=value)
        assert before.result(20) == hashlib.sha256(b"before").digest()
        assert pipeline.digest(b"after").result(20) == hashlib.sha256(b"after").digest()


def test_words_and_numbers_of_other_types(mount: Path, hasher: Context) -> None:
    """A name that is no text and a number that is none are TypeErrors, too."""
    with pytest.raises(TypeError, match="type: a str, not bytes"):
        Context(b"hash", "sha256", mount=mount)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name: a str, not int"):
        Context("hash", 256, mount=mount)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Context("aead", "gcm(aes)", KEY, authsize=12.0, mount=mount)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hasher.generate("16")  # type: ignore[arg-type]


def test_octets_copies_only_what_it_must() -> None:
    """Memory in order is looked at where it lies."""
    data = bytearray(DATA)
    for value in (data, memoryview(data).cast("I"), memoryview(data).cast("B", (4, 240))):
        view = octets(value)
        assert isinstance(view, memoryview)
        assert view.obj is data
    assert octets(DATA) is DATA
    released = memoryview(DATA)
    released.release()
    with pytest.raises(TypeError, match="memory can be read"):
        octets(released)


# Values that the client refuses by itself


def test_refused_values_are_oserrors(mount: Path, hasher: Context, sealer: Context) -> None:
    """Each has an exported class, a true errno and a message with the value and the bound; nothing was sent."""
    completed = {context: context.status()["completed"] for context in (hasher, sealer)}
    message = sealer.message(Operation.ENCRYPT, iv=bytes(65))
    with Pipeline(hasher) as pipeline:
        calls: list[tuple[Callable[[], Any], int, str]] = [
            (lambda: sealer.encrypt(b"", iv=bytes(65)), errno.EINVAL, "iv of 65 bytes: at most 64"),
            (lambda: message.finish(b""), errno.EINVAL, "iv of 65 bytes"),
            (lambda: sealer.set_key(bytes(8193)), errno.EINVAL, "key of 8193 bytes: at most 8192"),
            (lambda: Context("hash", "hmac(sha256)", bytes(9000), mount=mount), errno.EINVAL, "key of 9000 bytes"),
            (lambda: Context("hash", "sha256é", mount=mount), errno.EINVAL, "printable ASCII"),
            (lambda: Context("hash", "sha256\n", mount=mount), errno.EINVAL, "printable ASCII"),
            (lambda: Context("hash", "x" * 64, mount=mount), errno.EINVAL, "name of 64 bytes: at most 63"),
            (lambda: Context("aead", "gcm(aes)", KEY, authsize=-1, mount=mount), errno.EINVAL, "authsize -1"),
            (lambda: Context("compression", "zstd", level=1 << 32, mount=mount), errno.EINVAL, "level 4294967296"),
            (lambda: hasher.generate(-1), errno.EINVAL, "length -1"),
            (lambda: Context.of_device("../crypto", mount=mount), errno.EINVAL, "one directory"),
            (lambda: Context.of_device("a\0b", mount=mount), errno.EINVAL, "one directory"),
            (lambda: pipeline.encrypt(b"", iv=bytes(65)), errno.EINVAL, "iv of 65 bytes"),
            (lambda: pipeline.generate(-1), errno.EINVAL, "length -1"),
            (lambda: pipeline.digest(bytes(PAYLOAD_MAX + 1)), errno.EMSGSIZE, f"payload of {PAYLOAD_MAX + 1} bytes"),
            (
                lambda: hasher.request(Record(Operation.DIGEST, id=1, payload=bytes(PAYLOAD_MAX + 1))),
                errno.EMSGSIZE,
                f"at most {PAYLOAD_MAX}",
            ),
        ]
        for call, number, words in calls:
            with pytest.raises(OSError, match=words) as caught:
                call()
            assert isinstance(caught.value, Refused)
            assert isinstance(caught.value, RequestError)
            assert caught.value.errno == number
            assert caught.value.strerror == caught.value.message
        assert pipeline.digest(b"x").result(20) == hashlib.sha256(b"x").digest()
    assert hasher.status()["completed"] == str(int(completed[hasher]) + 1)
    assert sealer.status()["completed"] == completed[sealer]


def test_every_error_class_is_exported() -> None:
    """What the client defines as an error, a caller can name; and all of it is an OSError."""
    from cryptofs.client import errors

    defined = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    own = {name for name, value in defined.items() if value.__module__ == errors.__name__}
    assert own <= set(cryptofs.client.__all__)
    assert all(issubclass(defined[name], ClientError) and issubclass(defined[name], OSError) for name in own)
    assert len(own) >= 5


def test_missing_files_and_mounts(mount: Path, tmp_path: Path) -> None:
    """What open(2) says stays what it says."""
    with pytest.raises(FileNotFoundError):
        Context.of_device("nosuch", mount=mount)
    with pytest.raises(cryptofs.client.MountNotFound) as caught:
        Context("hash", "sha256", mount=tmp_path)
    assert caught.value.errno == errno.ENOENT


def test_refused_writes_say_why(hasher: Context) -> None:
    """What the daemon refuses as a whole write is a RequestError with its own words, and the next request is served."""
    with pytest.raises(RequestError, match="status 7") as caught:
        hasher.request(Record(Operation.DIGEST, 0, hasher.new_id(), 7, {}, b"x"))
    assert caught.value.errno == errno.EINVAL
    assert hasher.digest(b"x") == hashlib.sha256(b"x").digest()


# Sizes of answers


def test_short_messages_are_signed(mount: Path) -> None:
    """An ML-DSA signature is larger than what is signed: as a message in parts, through a pipeline, and of nothing."""
    for name in ("mldsa44", "mldsa65"):
        with Context("sig", name, mount=mount) as context:
            context.generate_key()
            for text in (b"", b"short", os.urandom(900), os.urandom(3000)):
                whole = context.message(Operation.SIGN).finish(text)
                assert context.verify(whole, text)
                parted = context.message(Operation.SIGN)
                parted.update(text)
                assert context.verify(parted.finish(), text)
                with Pipeline(context) as pipeline:
                    assert context.verify(pipeline.sign(text).result(20), text)


def test_an_answer_larger_than_expected(mount: Path) -> None:
    """Records of a caller's own, whose answers the client cannot guess: they are read all the same."""
    with Context("rng", "stdrng", mount=mount) as context:
        for length in (10, 3000, 70_000, PAYLOAD_MAX):
            reply = context.request(Record(Operation.GENERATE, 0, context.new_id(), 0, {Attr.LENGTH: length}))
            assert len(reply.payload) == length


def test_an_answer_that_somebody_gave_up(mount: Path) -> None:
    """A large answer that was left unread does not hold up the next, small one."""
    with Context("rng", "stdrng", mount=mount) as context:
        left = build(Record(Operation.GENERATE, 0, context.new_id(), 0, {Attr.LENGTH: 500_000}))
        os.pwrite(context.fileno(), left, 0)
        assert len(context.generate(16)) == 16
