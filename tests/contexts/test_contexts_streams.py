"""The streams of contexts: one message each, its end, its bound and its errors."""

import hashlib
from typing import Any

import pytest
from helpers import context_bench
from helpers.context_bench import CLONE, ENCRYPT, RESET, TYPES, Bench, drained, streamed
from helpers.fake_engine import CANARY

from cryptofs.algorithms import Type
from cryptofs.contexts import STREAM_BUFFER
from cryptofs.contexts import context as context_module
from cryptofs.errors import BadTag, Busy, Cancelled, EngineFault, InvalidValue, NotConfigured, TooLarge, WouldBlock
from cryptofs.records import OPERATIONS, PAYLOAD_MAX

bench = context_bench.bench


@pytest.mark.parametrize("kind", ["hash", "mac", "stream", "blocks", "whole", "aead"])
def test_stream_is_one_message(bench: Bench, kind: str) -> None:
    """However the writes cut it."""
    client, other = bench.client(kind), bench.client(kind)
    operation = min(OPERATIONS[Type(TYPES.get(kind, "skcipher"))])
    data = bytes(range(48))
    words: dict[str, Any] = {"iv": client.iv} if client.iv_size else {}
    whole = other.ok(operation, data, **words)
    for pieces in ((data,), (data[:1], data[1:20], b"", data[20:]), tuple(bytes((byte,)) for byte in data)):
        client.ok(RESET, **words)
        assert streamed(client, *pieces) == whole


def test_stream_parameters(bench: Bench) -> None:
    """configure and reset say what the stream does."""
    client = bench.client("aead", operation="encrypt", iv=bytes(12), assoclen=5)
    sealed = streamed(client, b"assocplain", b"text")
    assert sealed == client.ok(ENCRYPT, b"assocplaintext", iv=bytes(12), assoclen=5)
    client.ok(RESET, operation="decrypt", iv=bytes(12), assoclen=5)
    assert streamed(client, b"assoc" + sealed) == b"plaintext"


def test_stream_ends_with_the_last_writer(bench: Bench) -> None:
    """A reader waits while any writer is open, and before the first one."""
    stream = bench.client("hash").context.stream
    reader = stream.attach(True, False)
    assert stream.drain_nowait(reader, 100) is None
    one, two = stream.attach(False, True), stream.attach(False, True)
    stream.feed_nowait(one, b"a")
    stream.detach(one)
    assert stream.drain_nowait(reader, 100) is None
    stream.feed_nowait(two, b"b")
    assert not stream.readable
    stream.detach(two)
    stream.detach(two)
    assert stream.readable
    assert drained(stream, reader) == hashlib.sha256(b"ab").digest()


def test_stream_without_a_write(bench: Bench) -> None:
    """A writer that closes at once has fed an empty message."""
    assert streamed(bench.client("hash")) == hashlib.sha256().digest()


@pytest.mark.parametrize("size", [1, 32, 100])
def test_stream_of_a_handle_for_both(bench: Bench, size: int) -> None:
    """The message ends when the program turns to reading; the next needs a handle of its own."""
    stream = bench.client("hash").context.stream
    for data in (b"first", b"second", b""):
        user = stream.attach(True, True)
        stream.feed_nowait(user, data[:2])
        stream.feed_nowait(user, data[2:])
        given = bytearray()
        while piece := stream.drain_nowait(user, size):
            given += piece
        assert piece == b""
        assert given == hashlib.sha256(data).digest()
        for _ in range(2):
            with pytest.raises(Busy, match="open the file again"):
                stream.feed_nowait(user, b"more")
            with pytest.raises(InvalidValue, match="open the file again"):
                stream.drain_nowait(user, size)
        stream.detach(user)


def test_stream_read_first_on_a_handle_for_both(bench: Bench) -> None:
    """Reading before writing ends an empty message, once."""
    stream = bench.client("hash").context.stream
    user = stream.attach(True, True)
    assert stream.drain_nowait(user, 100) == hashlib.sha256().digest()
    assert stream.drain_nowait(user, 100) == b""
    with pytest.raises(InvalidValue):
        stream.drain_nowait(user, 100)
    with pytest.raises(Busy):
        stream.feed_nowait(user, b"what came too late")


def test_a_write_behind_the_read(bench: Bench) -> None:
    """The writer gets EBUSY, each time, and the reader EBUSY in place of the end of file: it has not the whole."""
    stream = bench.client("hash").context.stream
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"first")
    assert stream.drain_nowait(user, 10) == hashlib.sha256(b"first").digest()[:10]
    for _ in range(2):
        assert stream.writable_by(user)
        with pytest.raises(Busy):
            stream.feed_nowait(user, b"too late")
    assert stream.drain_nowait(user, 100) == hashlib.sha256(b"first").digest()[10:]
    with pytest.raises(Busy, match="not the whole"):
        stream.drain_nowait(user, 100)
    with pytest.raises(InvalidValue):
        stream.drain_nowait(user, 100)
    assert stream.lost() is None


def test_what_nobody_read_is_lost(bench: Bench) -> None:
    """Output, an error and a message that nobody has ended, each in words; but nothing of what was read."""
    client = bench.client("hash")
    stream = client.context.stream
    assert stream.lost() is None
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"text")
    assert "has not ended" in str(stream.lost())
    stream.drain_nowait(user, 12)
    assert "20 bytes" in str(stream.lost())
    stream.drain_nowait(user, 20)
    assert stream.lost() is None
    stream.detach(user)
    writer = stream.attach(False, True)
    stream.give_up(TooLarge("a bound"))
    stream.detach(writer)
    assert "EMSGSIZE: a bound" in str(stream.lost())
    client.ok(RESET)
    assert stream.lost() is None


def test_stream_does_not_end_while_another_feeds(bench: Bench) -> None:
    """A handle for both that turns to reading does not end another writer's message."""
    stream = bench.client("hash").context.stream
    user, writer = stream.attach(True, True), stream.attach(False, True)
    stream.feed_nowait(writer, b"a")
    stream.feed_nowait(user, b"b")
    assert stream.drain_nowait(user, 100) is None
    stream.feed_nowait(writer, b"c")
    stream.detach(writer)
    assert stream.drain_nowait(user, 100) == hashlib.sha256(b"abc").digest()


def test_a_part_without_output_wakes_nobody(bench: Bench) -> None:
    """A reader is woken when there is something to read: a thousand readers of a hash would be woken by each part."""
    client = bench.client("hash")
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    woken: list[int] = []
    client.context.watch(lambda: woken.append(1))
    stream.feed_nowait(writer, b"a part")
    assert not woken
    assert stream.drain_nowait(reader, 100) is None
    stream.detach(writer)
    assert woken
    assert stream.drain_nowait(reader, 100) == hashlib.sha256(b"a part").digest()


def test_stream_buffer_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that nobody reads makes the writer wait; nothing of a refused write is taken, and reading makes room."""
    monkeypatch.setattr(context_module, "STREAM_BUFFER", 64)
    client = bench.client("stream")
    client.ok(RESET, iv=client.iv)
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(64))
    assert not stream.writable
    woken: list[int] = []
    client.context.watch(lambda: woken.append(1))
    for _ in range(2):
        with pytest.raises(WouldBlock, match="64"):
            stream.feed_nowait(writer, b"refused")
    assert stream.bytes_in == 64
    assert not woken
    assert len(stream.drain_nowait(reader, 16) or b"") == 16
    assert woken
    stream.feed_nowait(writer, b"taken")
    stream.detach(writer)
    whole = client.ok(ENCRYPT, bytes(64) + b"taken", iv=client.iv)
    assert drained(stream, reader) == whole[16:]
    assert STREAM_BUFFER == 1024 * 1024


def test_an_iv_serves_one_message(bench: Bench) -> None:
    """The next message needs its own: its first write is EINVAL; so is the first without any."""
    client = bench.client("stream")
    with pytest.raises(InvalidValue):
        streamed(client, b"no iv yet")
    client.ok(RESET, iv=client.iv)
    first = streamed(client, b"message")
    stream = client.context.stream
    writer = stream.attach(False, True)
    for _ in range(2):
        with pytest.raises(InvalidValue, match="iv"):
            stream.feed_nowait(writer, b"message")
    stream.detach(writer)
    client.ok(RESET)
    with pytest.raises(InvalidValue, match="iv"):
        streamed(client, b"message")
    client.ok(RESET, iv=client.iv)
    assert streamed(client, b"message") == first


def test_stream_error_goes_to_the_reader(bench: Bench) -> None:
    """A wrong tag: instead of the end of file the reader gets EBADMSG, once, and status says so."""
    client = bench.client("aead", operation="decrypt", iv=bytes(12))
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(40))
    stream.detach(writer)
    assert stream.readable
    with pytest.raises(BadTag):
        stream.drain_nowait(reader, 100)
    assert stream.drain_nowait(reader, 100) is None
    assert "stream-error: EBADMSG" in client.context.status()


def test_stream_error_on_a_handle_for_both(bench: Bench) -> None:
    """The program that turns to reading gets the error, and never an end of file."""
    client = bench.client("blocks", iv=bytes(16))
    stream = client.context.stream
    user = stream.attach(True, True)
    stream.feed_nowait(user, bytes(15))
    for _ in range(2):
        with pytest.raises(InvalidValue):
            stream.drain_nowait(user, 100)


def test_stream_error_while_writing(bench: Bench) -> None:
    """A write that fails makes later writes fail with the same, until the writer closes; the reader gets it too."""
    client = bench.client("aead", iv=bytes(12))
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(PAYLOAD_MAX))
    for _ in range(2):
        with pytest.raises(TooLarge):
            stream.feed_nowait(writer, b"x")
    stream.detach(writer)
    with pytest.raises(TooLarge):
        stream.drain_nowait(reader, 100)
    client.ok(RESET, iv=bytes(12))
    assert streamed(client, b"x")


@pytest.mark.parametrize("fuse", ["begin", "update", "digest"])
def test_stream_engine_exception(bench: Bench, fuse: str) -> None:
    """The reader gets EIO without the exception's text, it is woken, and the stream can be used again."""
    bench.family = "fake"
    client = bench.client("hash")
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    woken: list[int] = []
    bench.fake.fuses = {fuse}
    if fuse == "digest":
        stream.feed_nowait(writer, b"x")
    else:
        with pytest.raises((EngineFault, RuntimeError)):
            stream.feed_nowait(writer, b"x")
        with pytest.raises(EngineFault) as again:
            stream.feed_nowait(writer, b"x")
        assert CANARY not in str(again.value)
    client.context.watch(lambda: woken.append(1))
    try:
        stream.detach(writer)
    except RuntimeError as error:
        assert fuse == "digest", error  # noqa: PT017 - it may pass to the log, but the reader has to be told
    bench.fake.fuses = set()
    assert woken
    with pytest.raises(EngineFault) as caught:
        stream.drain_nowait(reader, 100)
    assert CANARY not in str(caught.value)
    assert CANARY not in client.context.status()
    assert streamed(client, b"x") == hashlib.sha256(b"x").digest()


def test_stream_reset_drops_all(bench: Bench) -> None:
    """The message, its output and a failure. Its writer is told until it closes, its reader once."""
    client = bench.client("stream", iv=bytes(8 if bench.family == "fake" else 16))
    stream = client.context.stream
    writer, idle, reader = stream.attach(False, True), stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(40))
    client.ok(RESET, iv=client.iv)
    assert stream.readable_by(reader)
    assert stream.writable_by(writer)
    with pytest.raises(Cancelled):
        stream.drain_nowait(reader, 100)
    assert stream.drain_nowait(reader, 100) is None
    assert "stream-waiting: 0\n" in client.context.status()
    for _ in range(2):
        with pytest.raises(Cancelled):
            stream.feed_nowait(writer, b"the rest of what was dropped")
    stream.detach(writer)
    # a writer that had written nothing has lost nothing
    stream.feed_nowait(idle, b"new")
    stream.detach(idle)
    assert drained(stream, reader) == client.ok(ENCRYPT, b"new", iv=client.iv)


@pytest.mark.parametrize("turned", [False, True])
def test_reset_of_a_handle_for_both(bench: Bench, turned: bool) -> None:
    """Writing, it is told until it has read so; reading, once. Then the handle may carry a message again."""
    client = bench.client("hash")
    stream = client.context.stream
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"dropped")
    if turned:
        assert len(stream.drain_nowait(user, 10) or b"") == 10
    client.ok(RESET)
    for _ in range(2):
        with pytest.raises(Cancelled):
            stream.feed_nowait(user, b"the rest of what was dropped")
    with pytest.raises(Cancelled):
        stream.drain_nowait(user, 100)
    for data in (b"one", b"two"):
        stream.feed_nowait(user, data)
        assert stream.drain_nowait(user, 100) == hashlib.sha256(data).digest()
        assert stream.drain_nowait(user, 100) == b""
        with pytest.raises(Busy):
            stream.feed_nowait(user, b"more")
        client.ok(RESET)


def test_reset_tells_a_reader_that_has_a_part(bench: Bench) -> None:
    """What it gets next is not the rest of what it has; a reader of nothing is not disturbed."""
    client = bench.client("hash")
    stream = client.context.stream
    reader = stream.attach(True, False)
    client.ok(RESET)
    assert stream.drain_nowait(reader, 10) is None
    for told in (False, True):
        writer = stream.attach(False, True)
        stream.feed_nowait(writer, b"text")
        stream.detach(writer)
        given = stream.drain_nowait(reader, 10 if told else 100)
        if told:
            client.ok(RESET)
            with pytest.raises(Cancelled):
                stream.drain_nowait(reader, 100)
        else:
            assert given == hashlib.sha256(b"text").digest()
            assert stream.drain_nowait(reader, 100) == b""
            client.ok(RESET)
        assert stream.drain_nowait(reader, 100) is None


def test_stream_clone(bench: Bench) -> None:
    """The message under way is copied into the other stream, where it goes on and ends by itself."""
    client, other = bench.client("hash"), bench.client("hash")
    writer = client.context.stream.attach(False, True)
    client.context.stream.feed_nowait(writer, b"common ")
    client.ok(CLONE, context=other.context.number)
    assert streamed(other, b"b") == hashlib.sha256(b"common b").digest()
    client.context.stream.feed_nowait(writer, b"a")
    reader = client.context.stream.attach(True, False)
    client.context.stream.detach(writer)
    assert drained(client.context.stream, reader) == hashlib.sha256(b"common a").digest()


def test_stream_clone_ends_when_read(bench: Bench) -> None:
    """A copy on a handle for both ends when the program turns to reading, written to or not."""
    client, other = bench.client("hash"), bench.client("hash")
    stream = client.context.stream
    stream.feed_nowait(stream.attach(False, True), b"common")
    client.ok(CLONE, context=other.context.number)
    user = other.context.stream.attach(True, True)
    assert other.context.stream.drain_nowait(user, 100) == hashlib.sha256(b"common").digest()
    assert other.context.stream.drain_nowait(user, 100) == b""


def test_stream_of_random_bytes(bench: Bench) -> None:
    """Only read, without end."""
    client = bench.client("rng")
    stream = client.context.stream
    reader, user = stream.attach(True, False), stream.attach(True, True)
    assert stream.readable
    for size in (1, 10, 100_000):
        for each in (reader, user):
            given = stream.drain_nowait(each, size)
            if given is None:
                # it is long enough for a worker
                assert not stream.readable
                assert stream.drain_nowait(reader, size) is None
                bench.workers.finish()
                given = stream.drain_nowait(each, size)
            assert given is not None
            assert len(given) == size
    with pytest.raises(InvalidValue, match="only read"):
        stream.feed_nowait(user, b"x")
    stream.detach(user)
    assert len(stream.drain_nowait(reader, 5) or b"") == 5


def test_stream_needs_a_configured_context(bench: Bench) -> None:
    """EBADFD before."""
    with pytest.raises(NotConfigured):
        _ = bench.client().context.stream


def test_stream_failure_does_not_keep_the_data(bench: Bench) -> None:
    """A stream that failed does not grow with each further write."""
    stream = bench.client("stream").context.stream
    writer = stream.attach(False, True)
    lengths = []
    for _ in range(4):
        with pytest.raises(InvalidValue) as caught:
            stream.feed_nowait(writer, bytes(100))
        length, trace = 0, caught.value.__traceback__
        while trace is not None:
            length, trace = length + 1, trace.tb_next
        lengths.append(length)
    assert lengths[-1] == lengths[1]
