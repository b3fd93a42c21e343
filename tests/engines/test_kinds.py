"""How messages in parts are cut, gathered and bounded, whatever engine computes them."""

import hashlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from helpers.fake_engine import CANARY, FakeEngine, mix, tag_of, toy
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.engines.base import OUT_SLACK, Engine, Message, Transform, resolve
from cryptofs.engines.kinds import RunningCipher
from cryptofs.errors import BadTag, CryptofsError, InvalidValue, KeyMissing, NotSupported, TooLarge
from cryptofs.records import OPERATIONS, PAYLOAD_MAX, Operation

few = settings(deadline=None, max_examples=80)
KEY = bytes(16)
IVS = {"ctr(toy)": bytes(8), "cbc(toy)": bytes(range(16)), "xts(toy)": bytes(range(16)), "gcm(toy)": bytes(12)}
ENCRYPT, DECRYPT, DIGEST, GENERATE = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE


def feed(message: Message, data: bytes | bytearray, last: bool) -> bytes:
    """One part into a buffer of just the size that is promised to the engine; nothing beyond `room` is written."""
    room = message.room(len(data), last)
    out = bytearray(b"\xa5" * (room + OUT_SLACK))
    size = message.update(memoryview(data), last, memoryview(out))
    assert 0 <= size <= room
    assert out[room:] == b"\xa5" * OUT_SLACK
    return bytes(out[:size])


def in_parts(message: Message, parts: Iterable[bytes]) -> list[bytes]:
    """What each part gives; the last one ends the message."""
    pieces = list(parts)
    given = [feed(message, part, index == len(pieces) - 1) for index, part in enumerate(pieces)]
    message.close()
    return given


def once(transform: Transform, operation: Operation, iv: bytes | None, data: bytes, assoclen: int = 0) -> bytes:
    """A whole message the short way, into no more than `room` bytes."""
    room = transform.room(operation, len(data))
    out = bytearray(b"\xa5" * (room + OUT_SLACK))
    size = transform.once(operation, iv, assoclen, memoryview(data), memoryview(out))
    assert size <= room
    assert out[room:] == b"\xa5" * OUT_SLACK
    return bytes(out[:size])


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these places; equal places make empty parts."""
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


any_cuts = st.lists(st.integers(0, 200), max_size=8)


# Parts


@few
@given(st.binary(max_size=200), any_cuts)
def test_hash_in_parts(data: bytes, cuts: list[int]) -> None:
    """Any cut gives the digest of the whole, with the last part alone."""
    transform = toy("hmac(toysum)")
    *early, last = in_parts(transform.start(DIGEST, None, 0), cut(data, cuts))
    assert early == [b""] * len(early)
    assert last == hashlib.sha256(KEY + data).digest() == once(transform, DIGEST, None, data)


@few
@given(st.binary(max_size=200), any_cuts)
def test_stream_cipher_in_parts(data: bytes, cuts: list[int]) -> None:
    """Any cut gives the output of the whole, each part all whole chunks so far."""
    engine = FakeEngine()
    transform = toy("ctr(toy)", engine)
    parts = cut(data, cuts)
    given = in_parts(transform.start(ENCRYPT, IVS["ctr(toy)"], 0), parts)
    assert (engine.ended_runs, engine.open_runs) == (1, 0)
    assert b"".join(given) == mix(KEY, IVS["ctr(toy)"], 0, data) == once(transform, ENCRYPT, IVS["ctr(toy)"], data)
    taken = gave = 0
    for part, output in zip(parts[:-1], given[:-1], strict=True):
        taken += len(part)
        gave += len(output)
        assert gave == taken - taken % 16


@few
@given(st.binary(max_size=200), any_cuts)
def test_block_cipher_in_parts(data: bytes, cuts: list[int]) -> None:
    """The parts may be of any size, the message must be whole blocks; the error comes with the last part."""
    transform = toy("cbc(toy)")
    message = transform.start(DECRYPT, IVS["cbc(toy)"], 0)
    *parts, last = cut(data, cuts)
    given = b"".join(feed(message, part, False) for part in parts)
    if len(data) % 16:
        with pytest.raises(InvalidValue, match=f"{len(data)} bytes.* 16"):
            feed(message, last, True)
        with pytest.raises(InvalidValue):
            once(transform, DECRYPT, IVS["cbc(toy)"], data)
    else:
        assert given + feed(message, last, True) == mix(KEY, IVS["cbc(toy)"], 0, data)
    message.close()


@few
@given(st.sampled_from((ENCRYPT, DECRYPT)), st.integers(0, 12), any_cuts)
def test_whole_cipher_in_parts(operation: Operation, blocks: int, cuts: list[int]) -> None:
    """What must be whole gives nothing before its last part, then all."""
    transform = toy("xts(toy)")
    data = bytes(range(16)) * blocks
    *early, last = in_parts(transform.start(operation, IVS["xts(toy)"], 0), cut(data, cuts))
    assert not any(early)
    assert last == mix(KEY, IVS["xts(toy)"], 0, data) == once(transform, operation, IVS["xts(toy)"], data)


@few
@given(st.binary(max_size=30), st.binary(max_size=100), st.integers(4, 16), any_cuts, any_cuts)
def test_aead_in_parts(assoc: bytes, text: bytes, authsize: int, there: list[int], back: list[int]) -> None:
    """Any cut, through the associated data too; it is not repeated in the output."""
    transform = toy("gcm(toy)", authsize=authsize)
    iv = IVS["gcm(toy)"]
    mixed = mix(KEY, iv, 0, text)
    sealed = mixed + tag_of(KEY, iv, assoc, mixed)[:authsize]
    given = in_parts(transform.start(ENCRYPT, iv, len(assoc)), cut(assoc + text, there))
    assert b"".join(given) == given[-1] == sealed == once(transform, ENCRYPT, iv, assoc + text, len(assoc))
    given = in_parts(transform.start(DECRYPT, iv, len(assoc)), cut(assoc + sealed, back))
    assert b"".join(given) == given[-1] == text == once(transform, DECRYPT, iv, assoc + sealed, len(assoc))


@few
@given(st.integers(0, 70), st.integers(1, 3))
def test_one_byte_at_a_time(size: int, step: int) -> None:
    """The finest cuts, where the carry does all the work."""
    data = bytes(range(size))
    parts = [data[at : at + step] for at in range(0, size, step)] + [b""]
    message = toy("ctr(toy)").start(ENCRYPT, IVS["ctr(toy)"], 0)
    assert b"".join(in_parts(message, parts)) == mix(KEY, IVS["ctr(toy)"], 0, data)


@pytest.mark.parametrize("name", ["toysum", "ctr(toy)", "cbc(toy)", "xts(toy)", "gcm(toy)"])
def test_nothing_at_all(name: str) -> None:
    """An empty message, in one part, in two and in many."""
    transform = toy(name)
    operation = min(OPERATIONS[transform.description.type])
    expected = once(transform, operation, IVS.get(name), b"")
    for count in (1, 2, 5):
        assert b"".join(in_parts(transform.start(operation, IVS.get(name), 0), [b""] * count)) == expected
    assert len(expected) == {"toysum": 32, "gcm(toy)": 16}.get(name, 0)


def test_parts_do_not_look_at_the_buffer_later() -> None:
    """A caller may reuse its buffer as soon as a part was taken."""
    for name, operation in (("toysum", DIGEST), ("ctr(toy)", ENCRYPT), ("xts(toy)", ENCRYPT)):
        transform = toy(name)
        message = transform.start(operation, IVS.get(name), 0)
        buffer = bytearray(b"abcdefg")
        given = feed(message, buffer, False)
        buffer[:] = b"zzzzzzz"
        given += feed(message, b"hijklmnop", True)
        assert given == once(transform, operation, IVS.get(name), b"abcdefghijklmnop")


# Limits


@pytest.mark.parametrize("name", ["xts(toy)", "gcm(toy)"])
def test_gather_limit(name: str) -> None:
    """Parts are gathered up to PAYLOAD_MAX bytes in all, inclusive; one more is EMSGSIZE at once."""
    half = bytes(PAYLOAD_MAX // 2)
    for rest, fits in ((len(half), True), (len(half) + 1, False)):
        message = toy(name).start(ENCRYPT, IVS[name], 0)
        assert feed(message, half, False) == b""
        if fits:
            assert message.update(bytes(rest), False, memoryview(bytearray(OUT_SLACK))) == 0
            with pytest.raises(TooLarge, match=str(PAYLOAD_MAX)):
                feed(message, b"1", False)
        else:
            with pytest.raises(TooLarge, match=str(PAYLOAD_MAX)):
                message.update(bytes(rest), False, memoryview(bytearray(OUT_SLACK)))
        message.close()


def test_streamed_messages_have_no_limit() -> None:
    """A hash and a chaining cipher take more than PAYLOAD_MAX."""
    part = bytes(PAYLOAD_MAX)
    message = toy("toysum").start(DIGEST, None, 0)
    assert in_parts(message, [part, part, b"x"])[-1] == hashlib.sha256(2 * part + b"x").digest()


@pytest.mark.parametrize(
    ("operation", "assoclen", "size", "says"),
    [
        (ENCRYPT, 5, 4, "assoclen 5"),
        (DECRYPT, 5, 4, "assoclen 5"),
        (DECRYPT, 4, 19, "tag of 16"),
        (DECRYPT, 0, 15, "tag of 16"),
        (ENCRYPT, (1 << 32) - 1, 4, "assoclen 4294967295"),
    ],
)
def test_aead_too_short(operation: Operation, assoclen: int, size: int, says: str) -> None:
    """A message shorter than its associated data or tag is EINVAL with both numbers."""
    with pytest.raises(InvalidValue, match=says):
        once(toy("gcm(toy)"), operation, bytes(12), bytes(size), assoclen)


def test_bad_tag() -> None:
    """A tag that is wrong, in one part and in several."""
    engine = FakeEngine()
    transform = toy("gcm(toy)", engine)
    sealed = once(transform, ENCRYPT, bytes(12), b"text")
    for broken in (sealed[:-1] + bytes((sealed[-1] ^ 1,)), bytes((sealed[0] ^ 1,)) + sealed[1:]):
        with pytest.raises(BadTag):
            once(transform, DECRYPT, bytes(12), broken)
        with pytest.raises(BadTag):
            in_parts(transform.start(DECRYPT, bytes(12), 0), [broken[:3], broken[3:]])
    engine.fail_tags = True
    with pytest.raises(BadTag):
        once(transform, DECRYPT, bytes(12), sealed)


# What start checks


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(
    ("name", "operation", "iv", "assoclen", "error"),
    [
        ("toysum", ENCRYPT, None, 0, NotSupported),
        ("toysum", DIGEST, b"x", 0, InvalidValue),
        ("toysum", DIGEST, None, 1, InvalidValue),
        ("ctr(toy)", DIGEST, bytes(8), 0, NotSupported),
        ("ctr(toy)", GENERATE, bytes(8), 0, NotSupported),
        ("ctr(toy)", ENCRYPT, None, 0, InvalidValue),
        ("ctr(toy)", ENCRYPT, bytes(7), 0, InvalidValue),
        ("ctr(toy)", ENCRYPT, bytes(9), 0, InvalidValue),
        ("ctr(toy)", ENCRYPT, bytes(8), 1, InvalidValue),
        ("xts(toy)", DECRYPT, bytes(8), 0, InvalidValue),
        ("xts(toy)", DIGEST, bytes(16), 0, NotSupported),
        ("xts(toy)", DECRYPT, bytes(16), 1, InvalidValue),
        ("gcm(toy)", DIGEST, bytes(12), 0, NotSupported),
        ("gcm(toy)", ENCRYPT, None, 0, InvalidValue),
        ("toyrng", DIGEST, None, 0, NotSupported),
        ("toyrng", GENERATE, b"x", 0, InvalidValue),
    ],
)
def test_start_refuses(
    name: str, operation: Operation, iv: bytes | None, assoclen: int, error: type[CryptofsError], short: bool
) -> None:
    """The long way and the short way refuse the same."""
    transform = toy(name)
    out = memoryview(bytearray(64))
    with pytest.raises(error):
        transform.once(operation, iv, assoclen, b"", out) if short else transform.start(operation, iv, assoclen)


@pytest.mark.parametrize("name", ["hmac(toysum)", "ctr(toy)", "xts(toy)", "gcm(toy)"])
def test_keys(name: str) -> None:
    """No key is KeyMissing, a bad size names the good ones and leaves the old key, none taken is refused."""
    engine = FakeEngine()
    keyed = toy(name, engine)
    operation = min(OPERATIONS[keyed.description.type])
    bare = engine.open(keyed.description, None)
    with pytest.raises(KeyMissing, match="16 32"):
        once(bare, operation, IVS.get(name), bytes(16))
    with pytest.raises(InvalidValue, match=r"17 bytes.*16 32"):
        bare.set_key(bytes(17))
    assert not bare.keyed
    before = once(keyed, operation, IVS.get(name), bytes(16))
    with pytest.raises(InvalidValue):
        keyed.set_key(b"")
    assert once(keyed, operation, IVS.get(name), bytes(16)) == before
    keyed.set_key(b"\1" * 32)
    assert once(keyed, operation, IVS.get(name), bytes(16)) != before
    with pytest.raises(InvalidValue, match="takes none"):
        toy("toysum").set_key(b"")


# Random numbers


def test_rng() -> None:
    """All of `out` is filled; input is refused."""
    transform = toy("toyrng")
    out = bytearray(300)
    assert transform.once(GENERATE, None, 0, b"", memoryview(out)) == 300
    assert out == bytes(index & 0xFF for index in range(300))
    assert transform.once(GENERATE, None, 0, b"", memoryview(bytearray())) == 0
    with pytest.raises(InvalidValue, match="payload of 1"):
        transform.once(GENERATE, None, 0, b"x", memoryview(out))


# Clones, closing, failing


@few
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_clone(common: bytes, one: bytes, other: bytes) -> None:
    """A clone and its original go on independently, in either order of ending."""
    engine = FakeEngine()
    first = toy("toysum", engine).start(DIGEST, None, 0)
    feed(first, common, False)
    second = first.clone()
    third = second.clone()
    feed(first, one, False)
    assert feed(second, other, True) == hashlib.sha256(common + other).digest()
    second.close()
    assert feed(first, b"", True) == hashlib.sha256(common + one).digest()
    first.close()
    assert feed(third, b"", True) == hashlib.sha256(common).digest()
    third.close()
    assert engine.open_runs == 0


@pytest.mark.parametrize("name", ["ctr(toy)", "xts(toy)", "gcm(toy)"])
def test_only_hashes_are_cloned(name: str) -> None:
    """Another message is not, and goes on unharmed."""
    transform = toy(name)
    message = transform.start(ENCRYPT, IVS[name], 0)
    feed(message, b"abc", False)
    with pytest.raises(NotSupported):
        message.clone()
    assert feed(message, bytes(13), True)


@pytest.mark.parametrize("name", ["toysum", "ctr(toy)", "cbc(toy)", "xts(toy)", "gcm(toy)", "toyrng"])
def test_close_twice(name: str) -> None:
    """Closing is idempotent, for messages at any point of their life and for transforms; nothing stays open."""
    engine = FakeEngine()
    transform = toy(name, engine)
    operation = min(OPERATIONS[transform.description.type])
    for parts in range(1 if name == "toyrng" else 3):
        message = transform.start(operation, IVS.get(name), 0)
        for index in range(parts):
            feed(message, b"", index == 1)
        message.close()
        message.close()
    assert engine.open_runs == 0
    transform.close()
    transform.close()
    assert engine.transforms == []


@pytest.mark.parametrize("fuse", ["update", "digest", "copy"])
def test_failures_pass_through(fuse: str) -> None:
    """What an engine raises is not hidden here, and closing still works."""
    engine = FakeEngine()
    message = toy("toysum", engine).start(DIGEST, None, 0)
    engine.fuses.add(fuse)
    with pytest.raises(RuntimeError, match=CANARY):
        message.clone() if fuse == "copy" else feed(message, b"x", True)
    message.close()
    assert engine.open_runs == 0


def test_once_closes_its_message_when_it_fails() -> None:
    """The short way leaves nothing open either."""
    engine = FakeEngine()
    for name, operation in (("toysum", DIGEST), ("ctr(toy)", ENCRYPT)):
        transform = toy(name, engine)
        engine.fuses = {"update"}
        with pytest.raises(RuntimeError):
            once(transform, operation, IVS.get(name), b"data")
        engine.fuses = set()
        once(transform, operation, IVS.get(name), b"data")
    assert engine.open_runs == 0


def test_resolve_asks_in_order() -> None:
    """The first engine that offers a name, or none."""
    first, second = FakeEngine(), FakeEngine()
    engines: tuple[Engine, ...] = (first, second)
    description = toy("toysum").description
    assert resolve(engines, description.type, "toysum") == (first, description)
    assert resolve(engines[::-1], description.type, "toysum") == (second, description)
    assert resolve((), description.type, "toysum") is None
    assert resolve(engines, description.type, "sha256") is None


def test_the_toy_is_strict() -> None:
    """The toy cipher notices a part that is no whole chunk, so the tests above would."""
    running: RunningCipher = toy("ctr(toy)").begin_cipher(ENCRYPT, bytes(8))  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        running.update(bytes(15), False, memoryview(bytearray(15)))
    with pytest.raises(AssertionError):
        running.update(b"", False, memoryview(b""))
    assert running.update(bytes(32), False, memoryview(bytearray(32))) == 32
    assert running.update(bytes(15), True, memoryview(bytearray(15))) == 15
    with pytest.raises(AssertionError):
        running.update(b"", True, memoryview(b""))
    running.close()
