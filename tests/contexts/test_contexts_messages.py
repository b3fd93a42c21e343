"""Messages of contexts: parts, failures, cancels and clones; with toys and with OpenSSL."""

import errno
import hashlib
from typing import Any

import pytest
from helpers import context_bench
from helpers.context_bench import CANCEL, CLONE, CONFIGURE, DECRYPT, DIGEST, ENCRYPT, GENERATE, INFO, KEY, MORE, Bench
from helpers.fake_engine import CANARY
from helpers.raw import build_many
from helpers.talking import submit

from cryptofs.contexts import exchange
from cryptofs.errors import InvalidValue, MalformedRecord, TooLarge
from cryptofs.records import PAYLOAD_MAX, RECORD_MAX, Attr, Record, build

bench = context_bench.bench

# Messages


def test_parts_equal_the_whole(bench: Bench) -> None:
    """Every kind: a message in parts gives what the whole gives."""
    data = bytes(range(80))
    for kind, operation in (("hash", DIGEST), ("mac", DIGEST), ("stream", ENCRYPT), ("blocks", DECRYPT)):
        client = bench.client(kind)
        words: dict[str, Any] = {"iv": client.iv} if client.iv_size else {}
        whole = client.ok(operation, data, **words)
        parts = [client.ok(operation, data[:23], id=5, more=True, **words), client.ok(operation, data[23:], id=5)]
        assert b"".join(parts) == whole
        assert len(parts[0]) == (16 if words else 0)


def test_aead_there_and_back(bench: Bench) -> None:
    """Associated data is not repeated, the tag follows the ciphertext."""
    client = bench.client("aead", authsize=12)
    sealed = client.ok(ENCRYPT, b"assocplaintext", iv=client.iv, assoclen=5)
    assert len(sealed) == 9 + 12
    assert client.ok(DECRYPT, b"assoc" + sealed, iv=client.iv, assoclen=5) == b"plaintext"
    assert client.fails(DECRYPT, b"asso!" + sealed, iv=client.iv, assoclen=5) == "EBADMSG"


def test_generate(bench: Bench) -> None:
    """As many bytes as asked for, none too."""
    client = bench.client("rng")
    for length in (0, 1, 1000, PAYLOAD_MAX):
        assert len(client.ok(GENERATE, length=length)) == length


def test_messages_are_independent(bench: Bench) -> None:
    """Parts of several messages may be mixed, in one write too; each id is answered in its order."""
    client = bench.client("hash")
    parts = [
        (1, b"a", True),
        (2, b"x", True),
        (1, b"b", True),
        (3, b"whole", False),
        (2, b"y", False),
        (1, b"c", False),
    ]
    submit(client.context, build_many(Record(DIGEST, MORE * more, id, 0, {}, data) for id, data, more in parts))
    answers = client.answers()
    assert [(answer.id, answer.more, answer.status) for answer in answers] == [
        (identity, more, 0) for identity, _, more in parts
    ]
    digests = {answer.id: bytes(answer.payload) for answer in answers if not answer.more}
    expected = {1: b"abc", 2: b"xy", 3: b"whole"}
    assert digests == {identity: hashlib.sha256(data).digest() for identity, data in expected.items()}


@pytest.mark.parametrize("bad", [{"iv": b"x"}, {"operation": ENCRYPT}, {"target": 1}])
def test_a_failed_part_poisons_the_rest(bench: Bench, bad: dict[str, Any]) -> None:
    """Later parts answer the same error, the last one too; then the id is free."""
    client = bench.client("hash")
    client.ok(DIGEST, b"a", more=True)
    words = dict(bad)
    first = client.ask(words.pop("operation", DIGEST), b"b", more=True, **words)
    assert first.status == errno.EINVAL
    for more in (True, True, False):
        later = client.ask(DIGEST, b"c", more=more)
        assert (later.status, later.attributes) == (first.status, first.attributes)
    assert client.ok(DIGEST, b"d") == hashlib.sha256(b"d").digest()


def test_a_first_part_that_fails_poisons_too(bench: Bench) -> None:
    """The tail of a message that never opened is not taken for a message of its own, in one write or in several."""
    client = bench.client("stream")
    assert client.fails(ENCRYPT, b"secret", more=True, iv=b"short") == "EINVAL"
    assert client.fails(ENCRYPT, b"tail", iv=client.iv) == "EINVAL"
    head = Record(ENCRYPT, MORE, 7, 0, {Attr.IV: b"short"}, b"head")
    tail = Record(ENCRYPT, 0, 7, 0, {Attr.IV: client.iv}, b"tail")
    submit(client.context, build_many((head, tail, tail)))
    assert [answer.status for answer in client.answers()] == [errno.EINVAL, errno.EINVAL, 0]


def test_before_configure_poisons_too(bench: Bench) -> None:
    """A message that began before configure does not come to life by it."""
    client = bench.client()
    assert client.fails(DIGEST, b"a", more=True) == "EBADFD"
    client.configure("hash")
    assert client.fails(DIGEST, b"b") == "EBADFD"
    client.ok(DIGEST, b"b")


def test_cancel_of_an_open_message(bench: Bench) -> None:
    """Each later part answers ECANCELED once; another cancel after the last part finds nothing."""
    client = bench.client("stream")
    client.ok(ENCRYPT, b"abc", id=7, more=True, iv=client.iv)
    client.ok(CANCEL, id=8, target=7)
    assert client.fails(ENCRYPT, b"def", id=7, more=True) == "ECANCELED"
    assert client.fails(ENCRYPT, b"ghi", id=7) == "ECANCELED"
    assert client.fails(CANCEL, id=8, target=7) == "ENOENT"
    assert client.ok(ENCRYPT, b"abc", id=7, iv=client.iv)


def test_cancel_does_not_change_why_a_message_failed(bench: Bench) -> None:
    """After a part has failed, every later part is answered with the same error, cancel or not."""
    client = bench.client("hash")
    assert client.fails(ENCRYPT, id=7, more=True) == "EOPNOTSUPP"
    client.ask(CANCEL, id=8, target=7)
    assert client.fails(DIGEST, id=7) == "EOPNOTSUPP"


def test_an_engine_exception(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """EIO without the exception's text, which goes to the log; other messages and later ones are unharmed."""
    bench.family = "fake"
    client = bench.client("mac")
    client.ok(DIGEST, b"other", id=9, more=True)
    client.ok(DIGEST, b"a", id=7, more=True)
    bench.fake.fuses = {"update"}
    response = client.ask(DIGEST, b"b", id=7, more=True)
    bench.fake.fuses = set()
    assert response.status == errno.EIO
    assert CANARY not in str(response.attributes)
    assert CANARY in caplog.text
    assert KEY.hex() not in caplog.text
    assert repr(KEY)[2:-1] not in caplog.text
    assert client.fails(DIGEST, b"c", id=7) == "EIO"
    assert client.ok(DIGEST, b"c", id=7) == hashlib.sha256(KEY + b"c").digest()
    assert client.ok(DIGEST, b"!", id=9) == hashlib.sha256(KEY + b"other!").digest()


@pytest.mark.parametrize("fuse", ["describe", "open", "set_key"])
def test_an_engine_exception_in_configure(bench: Bench, fuse: str) -> None:
    """EIO, answered once, and what stands behind it in the same write is answered too."""
    bench.family = "fake"
    client = bench.client()
    bench.fake.fuses = {fuse}
    attributes: dict[int, Any] = {Attr.TYPE: "hash", Attr.NAME: "hmac(toysum)", Attr.KEY: KEY}
    submit(client.context, build_many((Record(CONFIGURE, 0, 1, 0, attributes), Record(INFO, 0, 2))))
    assert [(answer.id, answer.status) for answer in client.answers()] == [(1, errno.EIO), (2, 0)]
    bench.fake.fuses = set()
    assert client.configure("mac", key=KEY).status == 0


def test_an_engine_exception_in_clone(bench: Bench) -> None:
    """EIO; the original goes on."""
    bench.family = "fake"
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=7, more=True)
    bench.fake.fuses = {"copy"}
    assert client.fails(CLONE, id=8, target=7) == "EIO"
    bench.fake.fuses = set()
    assert client.ok(DIGEST, b"b", id=7) == hashlib.sha256(b"ab").digest()


def test_a_refused_write_does_nothing(bench: Bench) -> None:
    """Nothing of a write with one bad record is done or answered."""
    client = bench.client()
    good = build(Record(CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"}))
    for bad, error in ((b"x", MalformedRecord), (bytes(24), InvalidValue), (bytes(RECORD_MAX), TooLarge)):
        with pytest.raises(error):
            submit(client.context, good + bad)
        assert client.context.transform is None
        assert client.answers() == []


# Clones


def test_clone_into_another_context(bench: Bench) -> None:
    """The copy is open under the clone's own id there; both go on by themselves."""
    client, other = bench.client("hash"), bench.client("hash")
    client.ok(DIGEST, b"common ", id=7, more=True)
    client.ok(CLONE, id=8, target=7, context=other.context.number)
    assert other.ok(DIGEST, b"b", id=8) == hashlib.sha256(b"common b").digest()
    assert client.ok(DIGEST, b"a", id=7) == hashlib.sha256(b"common a").digest()


def test_clone_within_a_context(bench: Bench) -> None:
    """Without a context the copy is in this one; the original may end first."""
    client = bench.client("mac")
    client.ok(DIGEST, b"common ", id=7, more=True)
    client.ok(CLONE, id=8, target=7)
    client.ok(CLONE, id=9, target=8)
    assert client.fails(CLONE, id=9, target=7) == "EBUSY"
    one, two, three = (client.ok(DIGEST, b"end", id=identity) for identity in (7, 9, 8))
    assert one == two == three == client.ok(DIGEST, b"common end")


def test_clone_counts_as_an_open_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quota holds for copies, in the context that gets them."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 2)
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=7, more=True)
    client.ok(CLONE, id=8, target=7)
    assert client.fails(CLONE, id=9, target=7) == "EDQUOT"
    client.ok(DIGEST, id=8)
    client.ok(CLONE, id=9, target=7)
