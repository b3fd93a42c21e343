"""Versions of a device's key, without a mount: what each makes, what opens it, and what is left when one goes."""

import errno
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from helpers.stream_devices import OPENSSL, context_of
from helpers.talking import take, write
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.algorithms import Type
from cryptofs.contexts import Context, ContextTable, FastWay
from cryptofs.devices import Device, DeviceSettings
from cryptofs.engines.base import Transform
from cryptofs.errors import CryptofsError, InvalidValue
from cryptofs.formats import sealed
from cryptofs.policy import Policy, Rule
from cryptofs.records import DEVICE_OPERATIONS, HEADER_SIZE, Attr, Operation, Record, Value, build, parse_responses

ENCRYPT, DECRYPT, DIGEST, SIGN, VERIFY = (
    Operation.ENCRYPT,
    Operation.DECRYPT,
    Operation.DIGEST,
    Operation.SIGN,
    Operation.VERIFY,
)
MORE = 1


def key(version: int) -> bytes:
    """The key of a version."""
    return bytes([version]) * 32


def transform_of(type_: Type, name: str, secret: bytes) -> Transform:
    """OpenSSL's, with its key."""
    description = OPENSSL[0].describe(type_, name)
    assert description is not None
    transform = OPENSSL[0].open(description, None)
    transform.set_key(secret)
    return transform


def device(*versions: int, type_: Type = Type.AEAD, name: str = "gcm(aes)", **more: Any) -> Device:
    """A device that keeps these versions."""
    own = DeviceSettings("d", type_, name, DEVICE_OPERATIONS[type_], 1000, **more)
    form = private if type_ is Type.SIG else bytes
    return Device(own, {each: transform_of(type_, name, form(key(each))) for each in versions})


def private(secret: bytes) -> bytes:
    """An Ed25519 key with its private half."""
    pair = Ed25519PrivateKey.from_private_bytes(secret)
    return pair.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def asked(
    context: Context, operation: Operation, payload: bytes, version: int | None = None, **more: Any
) -> tuple[bytes, int | None]:
    """The answer to a whole message, and the version that it names. Errors: an OSError of the answer's status."""
    attributes: dict[int, Value] = {} if version is None else {Attr.KEY_VERSION: version}
    attributes |= {Attr[name.upper()]: value for name, value in more.items()}
    write(context, build(Record(operation, 0, 1, 0, attributes, payload)))
    return answered(context)[-1]


def answered(context: Context) -> list[tuple[bytes, int | None]]:
    """The answers that wait."""
    responses = parse_responses(bytes(take(context, 1 << 20) or b""))
    for response in responses:
        if response.status:
            raise OSError(response.status, str(response.attributes[Attr.MESSAGE]))
    return [(bytes(each.payload), each.attributes.get(Attr.KEY_VERSION)) for each in responses]  # type: ignore[misc]


def refused(number: int, call: Callable[[], object]) -> str:
    """Check that a call fails with this errno; returns the message."""
    with pytest.raises((OSError, CryptofsError)) as caught:
        call()
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def streamed(context: Context, operation: Operation, data: bytes) -> bytes:
    """Data through the context's stream."""
    stream = context.stream
    stream.set_parameters(operation, None, None)
    user = stream.attach(True, True)
    stream.feed_nowait(user, data)
    pieces = []
    while piece := stream.drain_nowait(user, 1 << 20):
        pieces.append(bytes(piece))
    stream.detach(user)
    return b"".join(pieces)


def test_one_key_answers_as_ever() -> None:
    """Version 1 alone is not named, in no answer, status or file; a request may name it."""
    only = device(1)
    context = context_of(only, as_stream=False)
    for size in (5, 8000, 100_000):
        made, version = asked(context, ENCRYPT, bytes(size))
        assert version is None
        assert asked(context, DECRYPT, made) == (bytes(size), None)
        assert asked(context, DECRYPT, made, 1) == (bytes(size), None)
    assert "version" not in only.status() + context.status()
    assert streamed(context_of(only), ENCRYPT, b"x").startswith(sealed.MAGIC)
    assert "only 1" in refused(errno.ENOKEY, lambda: asked(context, DECRYPT, made, 2))
    write(context, b"".join(build(Record(ENCRYPT, 0, each, 0, {}, b"x")) for each in range(3)))
    assert [version for _, version in answered(context)] == [None] * 3


@pytest.mark.parametrize("size", [5, 8000, 100_000])
def test_the_newest_makes_and_all_open(size: int) -> None:
    """Alone, in a batch, in parts; each answer names its version."""
    old, both = context_of(device(1), as_stream=False), context_of(device(1, 3), as_stream=False)
    text = bytes(size)
    was = asked(old, ENCRYPT, text)[0]
    made, version = asked(both, ENCRYPT, text)
    assert version == 3
    assert AESGCM(key(3)).decrypt(made[:12], made[12:], b"") == text
    assert asked(both, DECRYPT, made) == (text, 3)
    assert asked(both, DECRYPT, was) == asked(both, DECRYPT, was, 1) == (text, 1)
    assert asked(both, ENCRYPT, text, 1)[1] == 1
    refused(errno.EBADMSG, lambda: asked(both, DECRYPT, was, 3))
    refused(errno.EBADMSG, lambda: asked(old, DECRYPT, made))
    assert "tried key versions 3, 1" in refused(errno.EBADMSG, lambda: asked(both, DECRYPT, bytes(size) + bytes(28)))
    assert "only 3, 1" in refused(errno.ENOKEY, lambda: asked(both, DECRYPT, was, 2))
    write(both, b"".join(build(Record(DECRYPT, 0, each, 0, {}, was)) for each in range(3)))
    assert answered(both) == [(text, 1)] * 3
    half = len(was) // 2
    write(both, build(Record(DECRYPT, MORE, 7, 0, {}, was[:half])) + build(Record(DECRYPT, 0, 7, 0, {}, was[half:])))
    assert answered(both) == [(b"", None), (text, 1)]
    write(both, build(Record(ENCRYPT, MORE, 7, 0, {}, text)) + build(Record(ENCRYPT, 0, 7, 0, {}, b"")))
    (_, first), (_, last) = answered(both)
    assert (first, last) == (None, 3)


def test_associated_data_and_the_callers_nonce() -> None:
    """What is tried is the whole message."""
    both = context_of(device(1, 2, caller_nonce=True), as_stream=False)
    old = AESGCM(key(1)).encrypt(bytes(12), b"text", b"assoc")
    assert asked(both, DECRYPT, b"assoc" + old, iv=bytes(12), assoclen=5) == (b"text", 1)
    assert asked(both, DECRYPT, b"assoc" + bytes(12) + old, assoclen=5) == (b"text", 1)
    made, version = asked(both, ENCRYPT, b"assoc" + b"text", iv=bytes(12), assoclen=5)
    assert (AESGCM(key(2)).decrypt(bytes(12), made, b"assoc"), version) == (b"text", 2)


def test_ciphers_and_macs() -> None:
    """Nothing shows that a cipher's key is wrong, so the newest is taken, or the one that is named."""
    old = context_of(device(1, type_=Type.SKCIPHER, name="ctr(aes)"), as_stream=False)
    both = context_of(device(1, 2, type_=Type.SKCIPHER, name="ctr(aes)"), as_stream=False)
    made = asked(old, ENCRYPT, b"text")[0]
    assert asked(both, DECRYPT, made, 1) == (b"text", 1)
    garbage, version = asked(both, DECRYPT, made)
    assert (garbage != b"text", version) == (True, 2)
    macs = context_of(device(1, 2, type_=Type.HASH, name="hmac(sha256)"), as_stream=False)
    old_mac = asked(context_of(device(1, type_=Type.HASH, name="hmac(sha256)"), as_stream=False), DIGEST, b"text")[0]
    assert asked(macs, DIGEST, b"text", 1) == (old_mac, 1)
    assert asked(macs, DIGEST, b"text")[1] == 2


def test_signatures() -> None:
    """The newest signs, all verify, and each public key can be asked for."""
    both = device(1, 2, type_=Type.SIG, name="ed25519")
    old = context_of(device(1, type_=Type.SIG, name="ed25519"), as_stream=False)
    context = context_of(both, as_stream=False)
    was, (made, version) = asked(old, SIGN, b"text")[0], asked(context, SIGN, b"text")
    assert version == 2
    assert asked(context, VERIFY, b"text", signature=made)[1] == 2
    assert asked(context, VERIFY, b"text", signature=was)[1] == 1
    refused(errno.EKEYREJECTED, lambda: asked(context, VERIFY, b"text", 2, signature=was))
    refused(errno.EKEYREJECTED, lambda: asked(context, VERIFY, b"another", signature=was))
    refused(errno.EINVAL, lambda: asked(context, SIGN, b"text", 1))
    assert asked(context, Operation.PUBLIC_KEY, b"", 1)[0] == asked(old, Operation.PUBLIC_KEY, b"")[0]


def test_a_context_without_a_device_has_no_versions() -> None:
    """EINVAL, not silence."""
    table = ContextTable(OPENSSL, policy=Policy(Rule()))
    context = table.open(1000, 1000, 1, False)
    attributes: dict[int, Value] = {Attr.TYPE: "aead", Attr.NAME: "gcm(aes)", Attr.KEY: key(1)}
    write(context, build(Record(Operation.CONFIGURE, 0, 1, 0, attributes)))
    answered(context)
    for flags in (0, MORE):
        named: dict[int, Value] = {Attr.IV: bytes(12), Attr.KEY_VERSION: 1}
        write(context, build(Record(ENCRYPT, flags, 1 + flags, 0, named, b"")))
        assert "has none" in refused(errno.EINVAL, lambda: answered(context))


def test_the_time_of_all_versions_is_planned() -> None:
    """A message that no version opens must not surprise the scheduler; one whose version is known costs once."""
    view = context_of(device(*range(1, 65)), as_stream=False).require_transform()
    assert view.estimate_ns(DECRYPT, 1000) == 64 * view.estimate_ns(ENCRYPT, 1000)
    assert view.of_version(3).estimate_ns(DECRYPT, 1000) == view.estimate_ns(ENCRYPT, 1000)
    ciphers = context_of(device(1, 2, type_=Type.SKCIPHER, name="ctr(aes)"), as_stream=False).require_transform()
    assert ciphers.estimate_ns(DECRYPT, 1000) == ciphers.estimate_ns(ENCRYPT, 1000)


def test_a_slow_version_is_planned_with() -> None:
    """The newest may be in memory, and an old one in a token."""
    own = device(1, 2)
    own.versions.get(1, "d").transform.pace = 1e6
    view = context_of(own, as_stream=False).require_transform()
    assert view.estimate_ns(DECRYPT, 1000) >= 1e9
    assert view.estimate_ns(ENCRYPT, 1000) < 1e6


def test_the_time_of_all_tries_is_nobodys_pace() -> None:
    """What no version opens does not change what an encryption is expected to take."""
    own = device(*range(1, 33))
    context = context_of(own, as_stream=False)
    before = [each.transform.pace for each in own.versions.all]
    refused(errno.EBADMSG, lambda: asked(context, DECRYPT, bytes(100_000)))
    made = asked(context_of(device(1), as_stream=False), ENCRYPT, bytes(100_000))[0]
    assert asked(context, DECRYPT, made)[1] == 1
    assert [each.transform.pace for each in own.versions.all] == before
    asked(context, ENCRYPT, bytes(100_000))
    assert own.transform.pace != before[0]


# The fast way

KINDS = [
    (Type.AEAD, "gcm(aes)"),
    (Type.AEAD, "rfc7539(chacha20,poly1305)"),
    (Type.SKCIPHER, "ctr(aes)"),
    (Type.SKCIPHER, "ecb(aes)"),
    (Type.HASH, "hmac(sha256)"),
]


@pytest.mark.parametrize(("type_", "name"), KINDS, ids=[name for _, name in KINDS])
@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(1, 7), min_size=1, max_size=6),
    st.lists(st.tuples(st.sampled_from(["new", "old", "garbage"]), st.sampled_from([0, 1, 4, 255, 300])), max_size=5),
)
def test_both_ways_agree(type_: Type, name: str, kept: set[int], steps: list[tuple[str, bytes]]) -> None:
    """Whatever is asked, by the fast way or by the general one: the same answer, version and figures."""
    own = device(*kept, type_=type_, name=name)
    fast, general, third = (context_of(own, as_stream=False) for _ in range(3))

    def both(operation: Operation, payload: bytes) -> list[Record]:
        data = build(Record(operation, 0, 7, 0, {}, payload))
        if not FastWay(fast).answer(memoryview(data)):
            write(fast, data)
        write(general, data)
        answers = [parse_responses(bytes(take(each, 1 << 20) or b""))[0] for each in (fast, general)]
        assert answers[0].status == answers[1].status
        assert answers[0].attributes == answers[1].attributes
        for count in ("requests", "failed", "bytes_in", "bytes_out"):
            assert getattr(fast.exchange.tally, count) == getattr(general.exchange.tally, count), count
        for count in ("outstanding", "in_flight", "bytes"):
            assert getattr(fast.exchange, count) == getattr(general.exchange, count), count
        return answers

    for what, blocks in steps:
        text = bytes(range(16)) * blocks
        if type_ is Type.HASH:
            one, other = both(DIGEST, text)
            assert one.payload == other.payload
            continue
        if what == "garbage":
            sealed_text = text
        else:
            version = max(kept) if what == "new" else min(kept)
            sealed_text = asked(context_of(device(version, type_=type_, name=name), as_stream=False), ENCRYPT, text)[0]
        one, other = both(DECRYPT, sealed_text)
        assert one.payload == other.payload
        for each in both(ENCRYPT, text):
            assert asked(third, DECRYPT, bytes(each.payload))[0] == text


def test_the_fast_way_is_taken() -> None:
    """For what the newest version makes, and what one of the newest opens."""
    context = context_of(device(*range(1, 7)), as_stream=False)
    way = FastWay(context)

    def goes(*records: Record) -> bool:
        taken = way.answer(memoryview(b"".join(map(build, records)))) > 0
        take(context, 1 << 20)
        return taken

    assert goes(Record(ENCRYPT, 0, 1, 0, {}, b"x"))
    for version, fast in ((6, True), (3, True), (2, False)):
        made = asked(context_of(device(version), as_stream=False), ENCRYPT, b"x")[0]
        assert goes(Record(DECRYPT, 0, 1, 0, {}, made)) == fast
        assert not goes(Record(DECRYPT, 0, 1, 0, {Attr.KEY_VERSION: version}, made))
    assert not goes(*[Record(ENCRYPT, 0, each, 0, {}, b"x") for each in range(2)])
    # By ioctl, the version needs room beside the payload.
    data, size = memoryview(build(Record(ENCRYPT, 0, 1, 0, {}, b"x"))), HEADER_SIZE + 12 + 1 + 16
    assert way.call(data, size) is None
    assert context.exchange.tally.bytes_out == 29 + 2
    answer = way.call(data, size + 8)
    assert answer is not None
    assert parse_responses(bytes(answer))[0].attributes == {Attr.KEY_VERSION: 6}


@pytest.mark.parametrize("versions", [(1,), (1, 2)])
def test_a_message_counts_once(versions: tuple[int, ...]) -> None:
    """Also where the engine has no short way, and the general one does it: AF_ALG's AEADs."""
    own = device(*versions)
    context = context_of(own, as_stream=False)
    data = build(Record(ENCRYPT, 0, 1, 0, {}, b"x"))
    assert FastWay(context).answer(memoryview(data))
    assert own.messages == 1
    own.transform.short = lambda operation, iv, data: None  # type: ignore[method-assign]
    assert not FastWay(context).answer(memoryview(data))
    write(context, data)
    assert own.messages == 2


# Sealed files


def test_a_file_names_its_version() -> None:
    """It opens with that version only, and its head cannot be changed."""
    both = device(1, 7)
    file = streamed(context_of(both), ENCRYPT, b"text")
    assert sealed.parse_head(file).version == 7
    assert streamed(context_of(both), DECRYPT, file) == b"text"
    assert streamed(context_of(device(7)), DECRYPT, file) == b"text"
    gone = refused(errno.ENOKEY, lambda: streamed(context_of(device(2, 3)), DECRYPT, file))
    assert "key version 7 is not kept, only 3, 2" in gone
    other = file[:16] + (1).to_bytes(4, "big") + file[20:]
    refused(errno.EBADMSG, lambda: streamed(context_of(both), DECRYPT, other))
    refused(errno.EBADMSG, lambda: streamed(context_of(both), DECRYPT, file[:16] + bytes(4) + file[20:]))
    first_format = sealed.MAGIC + file[20:]
    refused(errno.EBADMSG, lambda: streamed(context_of(both), DECRYPT, first_format))


def test_a_file_that_names_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first segment shows which one it is, and the others are tried with no other."""
    monkeypatch.setattr(sealed, "SEGMENT", 64)
    file = streamed(context_of(device(1)), ENCRYPT, bytes(300))
    for versions in ((1, 2), (1, 2, 9)):
        assert streamed(context_of(device(*versions)), DECRYPT, file) == bytes(300)
    refused(errno.EBADMSG, lambda: streamed(context_of(device(2, 3)), DECRYPT, file))


# Rotation


def test_what_is_under_way_ends_with_its_version() -> None:
    """Messages in parts, and streams, when their version is removed; then its key goes."""
    one = device(1)
    context, stream_context = context_of(one, as_stream=False), context_of(one)
    write(context, build(Record(ENCRYPT, MORE, 7, 0, {}, b"begun ")))
    stream = stream_context.stream
    stream.set_parameters(ENCRYPT, None, None)
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"begun ")
    first = one.transform
    closed: list[int] = []
    first.close = lambda: closed.append(1)  # type: ignore[method-assign]
    one.take_versions(device(2, 3))
    assert asked(context, ENCRYPT, b"new")[1] == 3
    refused(errno.ENOKEY, lambda: asked(context, ENCRYPT, b"old", 1))
    assert not closed
    write(context, build(Record(ENCRYPT, 0, 7, 0, {}, b"ended")))
    made = answered(context)[-1][0]
    assert AESGCM(key(1)).decrypt(made[:12], made[12:], b"") == b"begun ended"
    stream.feed_nowait(user, b"ended")
    file = bytes(stream.drain_nowait(user, 1000))
    assert streamed(context_of(device(1)), DECRYPT, file) == b"begun ended"
    while stream.drain_nowait(user, 1000):
        pass
    assert closed == [1]


def test_versions_that_differ_in_their_form_are_refused() -> None:
    """A message that is tried has one form."""
    own = DeviceSettings("d", Type.AEAD, "gcm(aes)", frozenset({ENCRYPT, DECRYPT}))
    short = OPENSSL[0].describe(Type.AEAD, "gcm(aes)")
    assert short is not None
    tagged = OPENSSL[0].open(short, 12)
    tagged.set_key(key(2))
    with pytest.raises(InvalidValue, match="differ"):
        Device(own, {1: transform_of(Type.AEAD, "gcm(aes)", key(1)), 2: tagged})


STEPS = st.one_of(
    st.tuples(st.just("rotate"), st.integers(1, 3)),
    st.tuples(st.just("remove"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["record", "file"]), st.binary(max_size=40)),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_model(steps: list[tuple[str, Any]]) -> None:
    """Rotations, removals and messages in any order: what was made opens while its version is kept, and never later."""
    kept = [1]
    own = device(1)
    records, files = context_of(own, as_stream=False), context_of(own)
    made: list[tuple[str, bytes, bytes, int]] = []
    for what, value in steps:
        if what == "rotate":
            kept = [*kept, min(kept[-1] + value, 250)] if kept[-1] < 250 else kept
        elif what == "remove" and len(kept) > 1:
            kept = [each for each in kept if each != kept[value % len(kept)]]
        if what in ("rotate", "remove"):
            own.take_versions(device(*dict.fromkeys(kept)))
            continue
        if what == "record":
            text, version = asked(records, ENCRYPT, value)
            assert version == (None if kept == [1] else kept[-1])
        else:
            text = streamed(files, ENCRYPT, value)
            assert sealed.parse_head(text).version == (None if kept == [1] else kept[-1])
        made.append((what, text, value, kept[-1]))
    for what, text, value, version in made:
        if version in kept:
            got = asked(records, DECRYPT, text)[0] if what == "record" else streamed(context_of(own), DECRYPT, text)
            assert got == value
        else:
            with pytest.raises((OSError, CryptofsError)) as caught:
                asked(records, DECRYPT, text) if what == "record" else streamed(context_of(own), DECRYPT, text)
            assert caught.value.errno in (errno.EBADMSG, errno.ENOKEY)
