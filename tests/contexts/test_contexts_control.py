"""Control calls on contexts: configure, info, set-key, set and reset; with toys and with OpenSSL."""

import errno

import pytest
from helpers import context_bench
from helpers.context_bench import CANCEL, DIGEST, ENCRYPT, FAMILIES, INFO, KEY, RESET, SET, SET_KEY, Bench

from cryptofs.records import Attr

bench = context_bench.bench


@pytest.mark.parametrize("kind", sorted(FAMILIES["fake"]))
def test_configure_tells_what_serves(bench: Bench, kind: str) -> None:
    """The reply describes the algorithm; info says the same and the queue's bounds."""
    client = bench.client()
    info = client.ask(INFO).attributes
    assert set(info) == {Attr.CONTEXT, Attr.NONBLOCKING, Attr.QUEUE_REQUESTS, Attr.QUEUE_BYTES}
    reply = dict(client.configure(kind).attributes)
    assert reply[Attr.CONTEXT] == client.context.number == info[Attr.CONTEXT]
    assert reply[Attr.NAME] == FAMILIES[bench.family][kind]
    assert reply[Attr.ENGINE] == ("library" if kind == "packer" else bench.family)
    assert reply.get(Attr.LEVEL) == (3 if kind == "packer" else None)
    assert (Attr.AUTHSIZE in reply) == (kind == "aead")
    assert reply.get(Attr.AUTHSIZE, 16) == 16
    reply |= {Attr.NONBLOCKING: 0, Attr.QUEUE_REQUESTS: 4096, Attr.QUEUE_BYTES: 16 * 1024 * 1024}
    assert client.ask(INFO).attributes == reply


def test_configure_by_driver_and_engine(bench: Bench) -> None:
    """What serves can be demanded, and a driver's name names it too."""
    reply = bench.client().configure("hash").attributes
    wanted = {"engine": str(reply[Attr.ENGINE]), "driver": str(reply[Attr.DRIVER])}
    assert bench.client().configure("hash", **wanted).status == 0
    assert bench.client().configure("hash", driver=wanted["driver"]).status == 0
    by_name = bench.client().configure("hash", name=wanted["driver"])
    assert by_name.status == 0
    assert by_name.attributes[Attr.DRIVER] == wanted["driver"]


def test_a_failed_configure_leaves_nothing(bench: Bench) -> None:
    """After one the context is still unconfigured, holds no transform, and can be configured."""
    client = bench.client()
    for words in ({"key": bytes(15)}, {"key": KEY, "iv": b"x"}, {"key": KEY, "operation": "digest"}):
        assert client.configure("blocks", **words).status == errno.EINVAL
        assert client.fails(ENCRYPT, bytes(16), iv=bytes(16)) == "EBADFD"
        assert bench.fake.transforms == []
    assert client.configure("blocks", key=KEY).status == 0


def test_second_configure_changes_nothing(bench: Bench) -> None:
    """EBUSY, and the first one holds."""
    client = bench.client("hash")
    assert client.configure("rng").status == errno.EBUSY
    assert len(client.ok(DIGEST, b"abc")) == 32


def test_set_key(bench: Bench) -> None:
    """A new key replaces the old one between messages; a refused one does not."""
    client, other = bench.client("mac"), bench.client("mac", key=KEY[::-1])
    assert client.fails(SET_KEY, key=bytes(8193 - 1)) == "EINVAL" if bench.family == "fake" else True
    first = client.ok(DIGEST, b"abc")
    client.ok(SET_KEY, key=KEY[::-1])
    assert client.ok(DIGEST, b"abc") == other.ok(DIGEST, b"abc") != first


def test_set_key_when_the_message_has_ended(bench: Bench) -> None:
    """EBUSY lasts as long as the message, failed or not."""
    client = bench.client("mac")
    client.ok(DIGEST, b"a", id=7, more=True)
    assert client.fails(SET_KEY, id=8, key=KEY) == "EBUSY"
    client.ok(CANCEL, id=8, target=7)
    assert client.fails(SET_KEY, id=8, key=KEY) == "EBUSY"
    assert client.fails(DIGEST, id=7) == "ECANCELED"
    client.ok(SET_KEY, id=8, key=KEY)


def test_reset_forgets_messages(bench: Bench) -> None:
    """Open and failed messages are gone; their ids are free, their state is not mixed in."""
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=1, more=True)
    assert client.fails(ENCRYPT, id=2, more=True) == "EOPNOTSUPP"
    client.ok(RESET, id=3)
    assert client.context.exchange.lanes == {}
    assert client.ok(DIGEST, b"b", id=1) == client.ok(DIGEST, b"b", id=2)


def test_set_nonblocking(bench: Bench) -> None:
    """It is told by info and by the status."""
    client = bench.client("hash")
    for value in (1, 0):
        client.ok(SET, nonblocking=value)
        assert client.context.nonblocking == bool(value)
        assert client.ask(INFO).attributes[Attr.NONBLOCKING] == value
        assert f"nonblocking: {value}\n" in client.context.status()
