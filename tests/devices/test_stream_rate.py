"""A user's rate holds for streams: each message of a device's stream file and of the raw stream is one request."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.stream_devices import context_of, device_of, newest, open_stream, read_all
from helpers.talking import perform

from cryptofs.algorithms import Type
from cryptofs.client import Context
from cryptofs.contexts import ContextTable
from cryptofs.engines.opening import open_engines
from cryptofs.errors import OverQuota
from cryptofs.policy import Policy, Rule
from cryptofs.policy import ledger as policy
from cryptofs.records import Attr, Operation, Record

RATE = 5
KEY = bytes(range(32))
CONFIG = f"[policy]\nrate = {RATE}\n" + "".join(
    (
        declare("mac", "hash", "hmac(sha256)", "{secret}"),
        declare("gcm", "aead", "gcm(aes)", "{secret}"),
    )
)
DIGEST = Operation.DIGEST


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that gives everybody five requests a second."""
    with serving_config(tmp_path_factory.mktemp("rate"), CONFIG, secret=KEY) as daemon:
        yield daemon


def mac(data: bytes) -> bytes:
    """By another library."""
    state = hmac.HMAC(KEY, hashes.SHA256())
    state.update(data)
    return state.finalize()


def over_quota(call: object, *arguments: object) -> bool:
    """Whether a call is EDQUOT; any other error is the test's."""
    try:
        call(*arguments)  # type: ignore[operator]
    except OSError as error:
        if error.errno != errno.EDQUOT:
            raise
        return True
    return False


def spend() -> None:
    """Wait until a second's worth may come at once."""
    time.sleep(1.1)


@pytest.mark.mount
def test_messages_of_a_stream_file(mount: Path) -> None:
    """No more than the rate, and those are right."""
    spend()
    made = refused = 0
    began = time.monotonic()
    stream = open_stream(mount, "mac", "digest")
    while time.monotonic() - began < 2:
        os.close(stream)
        stream = open_stream(mount, "mac", "digest")
        if over_quota(os.write, stream, b"text"):
            refused += 1
            # what went in is no message: the reader is told the same
            assert over_quota(os.read, stream, 100)
        else:
            assert read_all(stream) == mac(b"text")
            made += 1
    seconds = time.monotonic() - began
    os.close(stream)
    assert refused > 0
    assert RATE <= made <= RATE + RATE * seconds + 1


@pytest.mark.mount
def test_what_was_refused_passes_for_nothing(mount: Path) -> None:
    """A writer that goes on regardless: until its reader was told, no byte makes a message."""
    spend()
    stream = open_stream(mount, "gcm", "encrypt")
    crypto = Context.of_device("gcm", mount=mount)
    for _ in range(RATE - 1):
        crypto.encrypt(b"")
    assert over_quota(os.write, stream, b"the beginning")
    time.sleep(1.1)
    assert over_quota(os.write, stream, b"the end")
    assert over_quota(os.read, stream, 1000)
    os.close(stream)
    stream = open_stream(mount, "gcm", "encrypt")
    os.write(stream, b"the next")
    assert len(read_all(stream)) == 32 + 28 + 8
    crypto.close()
    os.close(stream)


@pytest.mark.mount
def test_an_empty_message(mount: Path) -> None:
    """The read that begins it is refused; a later message is taken."""
    spend()
    streams = [open_stream(mount, "mac", "digest") for _ in range(RATE + 1)]
    answers = [over_quota(os.read, stream, 100) for stream in streams]
    assert answers == [False] * RATE + [True]
    for stream in streams:
        os.close(stream)
    spend()
    stream = open_stream(mount, "mac", "digest")
    os.write(stream, b"text")
    assert read_all(stream) == mac(b"text")
    os.close(stream)


@pytest.mark.mount
def test_the_raw_stream(mount: Path) -> None:
    """Of contexts/<id>, by handles of its own: the reader of what was refused gets the error, not an empty output."""
    spend()
    crypto = os.open(mount / "devices/mac/crypto", os.O_RDWR)
    path = newest(mount) / "stream"
    for _ in range(RATE):
        path.write_bytes(b"text")
        assert path.read_bytes() == mac(b"text")
    assert over_quota(path.write_bytes, b"text")
    assert over_quota(path.read_bytes)
    assert "at most 5 a second" in (newest(mount) / "status").read_text()
    spend()
    path.write_bytes(b"text")
    assert path.read_bytes() == mac(b"text")
    os.close(crypto)


@pytest.mark.mount
def test_random_bytes(mount: Path) -> None:
    """Each read of a generator's stream is a request."""
    spend()
    with Context("rng", "stdrng", mount=mount) as context:
        stream = os.open(context.directory / "stream", os.O_RDONLY)
        answers = [over_quota(os.read, stream, 100) for _ in range(2 * RATE)]
        os.close(stream)
    # configure was one
    assert RATE - 1 <= answers.count(False) <= RATE + 1
    assert True in answers


@pytest.mark.mount
def test_refusals_are_recorded(mount: Path, daemon: Daemon) -> None:
    """In the audit trail, with context and device; an earlier one of this user stands for those that follow it."""
    refused = False
    while not refused:
        stream = open_stream(mount, "mac", "digest")
        refused = over_quota(os.write, stream, b"text")
        os.close(stream)
    daemon.wait_for_line("refused=EDQUOT", "a second", " context=", " device=", ": write ")


# Without a mount


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The accounts' time."""
    clock = Clock()
    monkeypatch.setattr(policy, "time", clock)
    return clock


def test_one_request_for_each_message(clock: Clock) -> None:
    """However many writes it has, however it ends; and nothing stays in what waits to be read."""
    context = context_of(device_of(Type.HASH, "hmac(sha256)", KEY, {DIGEST}), Rule(rate=3, requests=10))
    stream, queue = context.stream, context.exchange.queue
    for number in range(2):
        user = stream.attach(True, True)
        for _ in range(5 * number):
            stream.feed_nowait(user, b"part")
        assert stream.drain_nowait(user, 100) == mac(b"part" * 5 * number)
        assert stream.drain_nowait(user, 100) == b""
        assert queue.requests == 0
        stream.detach(user)
    user = stream.attach(False, True)
    stream.feed_nowait(user, b"dropped")
    stream.reset()
    stream.detach(user)
    user = stream.attach(True, True)
    with pytest.raises(OverQuota, match="1 requests at once: at most 3 a second"):
        stream.feed_nowait(user, b"refused")
    clock.now += 1
    with pytest.raises(OverQuota):
        stream.feed_nowait(user, b"the rest of what was refused")
    with pytest.raises(OverQuota):
        stream.drain_nowait(user, 100)
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"part")
    assert stream.drain_nowait(user, 100) == mac(b"part")
    context.close()


def test_a_cloned_message(clock: Clock) -> None:
    """It is a message as well: else one that was begun would serve for any number of digests."""
    engines = open_engines(("openssl",))
    table = ContextTable(engines, policy=Policy(Rule(rate=3)))
    one, two = (table.open(1000, 1000, 1, False) for _ in range(2))
    for context in (one, two):
        perform(
            context,
            Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "hmac(sha256)", Attr.KEY: KEY}),
        )
    one.stream.feed_nowait(one.stream.attach(True, True), b"head")
    for number in range(3):
        reader = two.stream.attach(True, True)
        if number == 2:
            with pytest.raises(OverQuota, match="at most 3 a second"):
                perform(one, Record(Operation.CLONE, attributes={Attr.CONTEXT: two.number}))
            assert not two.stream.busy
            clock.now += 1
        perform(one, Record(Operation.CLONE, attributes={Attr.CONTEXT: two.number}))
        two.stream.feed_nowait(reader, b"tail")
        assert two.stream.drain_nowait(reader, 100) == mac(b"headtail")
        assert two.stream.drain_nowait(reader, 100) == b""
    table.close_all()


def test_no_rate_no_count() -> None:
    """A rule without one bounds no stream, and counts no more than it did."""
    context = context_of(device_of(Type.HASH, "hmac(sha256)", KEY, {DIGEST}), Rule(requests=1))
    for _ in range(100):
        user = context.stream.attach(True, True)
        context.stream.feed_nowait(user, b"part")
        assert context.stream.drain_nowait(user, 100) == mac(b"part")
        context.stream.detach(user)
    assert (context.exchange.queue.requests, context.exchange.queue.queue_bytes) == (0, 0)
    context.close()
