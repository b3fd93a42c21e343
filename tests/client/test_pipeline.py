"""Tier three: the client's Pipeline: many requests at a time, from threads, asyncio and trio."""

import asyncio
import concurrent.futures
import errno
import hashlib
import hmac
import mmap
import os
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.daemons import Daemon
from helpers.waiting import wait_until

from cryptofs.client import Context, Pending, Pipeline, RequestError
from cryptofs.client.flight import IN_FLIGHT
from cryptofs.records import PAYLOAD_MAX, RECORD_MAX, parse_requests

pytestmark = pytest.mark.mount

BOUND = 20.0
"""Seconds that nothing here takes."""
LONG = PAYLOAD_MAX - PAYLOAD_MAX % 8
SLOW = ("skcipher", "cbc(des3_ede)", bytes(range(24)))
"""A cipher that takes tens of milliseconds for LONG bytes."""
IV = bytes(8)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """No thread of a pipeline is left behind."""
    yield
    wait_until(lambda: not any(thread.name.startswith("cryptofs-pipeline") for thread in threading.enumerate()), 3)


@pytest.fixture
def hasher(daemon: Daemon) -> Iterator[Context]:
    """A context of SHA-256."""
    with Context("hash", "sha256", mount=daemon.mountpoint) as context:
        yield context


@pytest.fixture
def slow(daemon: Daemon) -> Iterator[Context]:
    """A context of triple DES whose pace the daemon knows."""
    with Context(*SLOW, mount=daemon.mountpoint) as context:
        context.encrypt(bytes(256 * 1024), IV)
        yield context


def error_of(pending: Pending) -> int:
    """The errno that a request ends with, 0 if it has a result."""
    error = pending.future.exception(BOUND)
    if error is None:
        return 0
    assert isinstance(error, RequestError)
    assert error.message
    return error.errno or -1


# What comes out is right


def test_thousands_of_small_digests(hasher: Context) -> None:
    """More than are ever in flight; results are taken in another order than they were submitted in."""
    with Pipeline(hasher) as pipeline:
        pending = {n: pipeline.digest(b"%d" % n) for n in range(5000)}
        for n in sorted(pending, key=lambda n: n * 7919 % 5000):
            assert pending[n].result(BOUND) == hashlib.sha256(b"%d" % n).digest()
        assert all(each.done for each in pending.values())
    assert hasher.status()["completed"] == str(5000 + 1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sizes(hasher: Context, kind: type) -> None:
    """From nothing to the largest, in one pipeline, of every kind of buffer; one byte more is refused at once."""
    sizes = [0, 1, 4096, 65_535, 65_536, 1_000_000, PAYLOAD_MAX, 3, PAYLOAD_MAX - 1, 100_000] * 2
    data = os.urandom(PAYLOAD_MAX)
    with Pipeline(hasher) as pipeline:
        pending = [pipeline.digest(kind(data[:size])) for size in sizes]
        with pytest.raises(RequestError) as caught:
            pipeline.digest(bytes(PAYLOAD_MAX + 1))
        assert caught.value.errno == errno.EMSGSIZE
        for size, each in zip(sizes, pending, strict=True):
            assert each.result(BOUND) == hashlib.sha256(data[:size]).digest()


def test_contexts_side_by_side(daemon: Daemon) -> None:
    """Digests, HMACs, AEADs there and back on four pipelines at once."""
    key = bytes(range(32))
    mount = daemon.mountpoint
    with (
        Context("hash", "sha256", mount=mount) as hasher,
        Context("hash", "hmac(sha256)", key, mount=mount) as keyed,
        Context("aead", "gcm(aes)", key, mount=mount) as sealer,
        Context("aead", "gcm(aes)", key, mount=mount) as opener,
        Pipeline(hasher) as digests,
        Pipeline(keyed) as macs,
        Pipeline(sealer) as seals,
        Pipeline(opener) as opens,
    ):
        texts = [os.urandom(n * n) for n in range(150)]
        ivs = [n.to_bytes(12, "big") for n in range(150)]
        found = [
            (digests.digest(text), macs.digest(text), seals.encrypt(text, iv, b"associated"))
            for text, iv in zip(texts, ivs, strict=True)
        ]
        sealed = [seal.result(BOUND) for _, _, seal in found]
        opened = [opens.decrypt(data, iv, b"associated") for data, iv in zip(sealed, ivs, strict=True)]
        for text, iv, (digest, mac, _), data, back in zip(texts, ivs, found, sealed, opened, strict=True):
            assert digest.result(BOUND) == hashlib.sha256(text).digest()
            assert mac.result(BOUND) == hmac.digest(key, text, "sha256")
            assert data == AESGCM(key).encrypt(iv, text, b"associated")
            assert back.result(BOUND) == text


def test_large_ciphers(slow: Context) -> None:
    """More bytes than are ever in flight; encryptions and decryptions mixed on one context."""
    texts = [os.urandom(LONG) for _ in range(10)]
    with Pipeline(slow) as pipeline:
        sealed = [pipeline.encrypt(text, IV) for text in texts]
        opened = [pipeline.decrypt(each.result(BOUND), IV) for each in sealed]
        assert [each.result(BOUND) for each in opened] == texts


@pytest.mark.parametrize("length", [1, 100_000, PAYLOAD_MAX])
def test_random_bytes(daemon: Daemon, length: int) -> None:
    """Answers are larger than their requests: they are read, and counted, all the same."""
    with Context("rng", "stdrng", mount=daemon.mountpoint) as context, Pipeline(context) as pipeline:
        # more than the daemon's queue takes
        found = [each.result(BOUND) for each in [pipeline.generate(length) for _ in range(18)]]
        assert [len(each) for each in found] == [length] * 18
        if length > 8:
            assert len(set(found)) == 18


def test_too_many_random_bytes(daemon: Daemon) -> None:
    """More than PAYLOAD_MAX fails, and nothing else does."""
    with Context("rng", "stdrng", mount=daemon.mountpoint) as context, Pipeline(context) as pipeline:
        before = pipeline.generate(16)
        for length in (PAYLOAD_MAX + 1, 4_000_000_000):
            with pytest.raises(RequestError) as caught:
                pipeline.generate(length).result(BOUND)
            assert caught.value.errno == errno.EINVAL
        assert len(before.result(BOUND)) == len(pipeline.generate(16).result(BOUND)) == 16


# Batches


def test_requests_go_out_in_batches(hasher: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is submitted while the pipeline is busy shares a write, and no write or queue is too full."""
    counts: list[int] = []
    go = threading.Event()
    real = os.pwritev

    def counted(fd: int, pieces: list[bytes], offset: int) -> int:
        data = b"".join(pieces)
        assert len(data) <= RECORD_MAX
        counts.append(len(parse_requests(data)))
        # the first write takes until all has been submitted
        assert go.wait(BOUND)
        return real(fd, pieces, offset)

    monkeypatch.setattr(os, "pwritev", counted)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: counted(fd, [data], offset))
    with Pipeline(hasher) as pipeline:
        pending = [pipeline.digest(b"%d" % n) for n in range(3000)]
        go.set()
        for n, each in enumerate(pending):
            assert each.result(BOUND) == hashlib.sha256(b"%d" % n).digest()
    assert sum(counts) == 3000
    assert len(counts) < 3000
    # the first holds what was there, the second all that may be in flight
    assert max(counts) >= IN_FLIGHT - counts[0]


@pytest.fixture
def worst_addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Segments of writes lie where they touch as many pages as they can, which is for the allocator to decide."""
    memory = mmap.mmap(-1, 4 * 1024 * 1024)
    page = mmap.PAGESIZE
    real = os.pwritev

    def moved(fd: int, pieces: list[bytes], offset: int) -> int:
        at = page
        segments = []
        with memoryview(memory) as view:
            for piece in pieces:
                size = len(piece)
                # its first byte is the last one of a page
                at += page - 1
                view[at : at + size] = piece
                segments.append(view[at : at + size])
                at = (at + size + page) // page * page
            try:
                return real(fd, segments, offset)
            finally:
                for segment in segments:
                    segment.release()

    monkeypatch.setattr(os, "pwritev", moved)
    yield
    memory.close()


@pytest.mark.parametrize("size", [1, 100_000, 1_036_288, 1_036_296, LONG])
def test_a_request_is_one_write_wherever_it_lies(slow: Context, worst_addresses: None, size: int) -> None:
    """The kernel never cuts a pipeline's write in two: a largest payload spans as many pages as a write may."""
    data = bytes(size // 8 * 8)
    with Pipeline(slow) as pipeline:
        for pending in [pipeline.encrypt(data, IV) for _ in range(2)]:
            assert len(pending.result(BOUND)) == len(data)


@pytest.mark.parametrize("size", [1, 100_000, 1_036_288, 1_036_296, LONG])
def test_a_contexts_request_is_one_write(slow: Context, worst_addresses: None, size: int) -> None:
    """Nor does it cut a plain context's."""
    data = bytes(size // 8 * 8)
    assert len(slow.encrypt(data, IV)) == len(data)


# Threads, loops


def test_several_threads_submit(hasher: Context) -> None:
    """Each gets its own results; nothing is lost or mixed."""
    wrong: list[str] = []

    def work(number: int) -> None:
        texts = [b"%d/%d" % (number, n) for n in range(300)]
        pending = [pipeline.digest(text) for text in texts]
        for text, each in zip(texts, pending, strict=True):
            if each.result(BOUND) != hashlib.sha256(text).digest():
                wrong.append(text.decode())

    with Pipeline(hasher) as pipeline:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_trio_waits(hasher: Context) -> None:
    """Many tasks wait for one request each, and one that has come already is given at once."""

    async def main() -> None:
        async def one(n: int) -> None:
            assert await pipeline.digest(b"%d" % n).wait_result() == hashlib.sha256(b"%d" % n).digest()

        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                for n in range(300):
                    nursery.start_soon(one, n)
            pending = pipeline.digest(b"abc")
            assert await pending.wait_result() == await pending.wait_result() == pending.result(0)

    with Pipeline(hasher) as pipeline:
        trio.run(main)


def test_trio_errors(hasher: Context) -> None:
    """An error of the request is raised where it is waited for."""

    async def main() -> None:
        with pytest.raises(RequestError) as caught:
            await pipeline.encrypt(b"abc").wait_result()
        assert caught.value.errno == errno.EOPNOTSUPP

    with Pipeline(hasher) as pipeline:
        trio.run(main)


def test_trio_cancellation_cancels_the_request(slow: Context) -> None:
    """When the waiting task is cancelled, the request is: those that were waiting in the queue are never computed."""

    async def main() -> list[Pending]:
        pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(12)]
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                for each in pending[1:]:
                    nursery.start_soon(each.wait_result)
                await pending[0].wait_result()
                nursery.cancel_scope.cancel()
        return pending

    with Pipeline(slow) as pipeline:
        numbers = [error_of(each) for each in trio.run(main)]
        assert numbers[0] == 0
        assert set(numbers[1:]) <= {0, errno.ECANCELED}
        assert errno.ECANCELED in numbers
        assert len(pipeline.encrypt(bytes(8), IV).result(BOUND)) == 8


def test_asyncio_waits_for_the_future(slow: Context) -> None:
    """`future` serves other loops; a task of theirs that is cancelled cancels the request, and harms no other."""

    async def main() -> None:
        pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(8)]
        waits = [asyncio.ensure_future(asyncio.wrap_future(each.future)) for each in pending]
        waits[7].cancel()
        waits[2].cancel()
        found = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), BOUND)
        for n, each in enumerate(found):
            assert isinstance(each, asyncio.CancelledError) if n in (2, 7) else len(each) == LONG

    with Pipeline(slow) as pipeline:
        asyncio.run(main())
        assert len(pipeline.encrypt(bytes(8), IV).result(BOUND)) == 8


# Errors, cancel, timeouts


def test_errors_are_their_requests_own(daemon: Daemon) -> None:
    """Wrong requests among right ones: errno and message for each, and no harm to the others."""
    key = bytes(16)
    with Context("aead", "gcm(aes)", key, mount=daemon.mountpoint) as context, Pipeline(context) as pipeline:
        good = AESGCM(key).encrypt(bytes(12), b"text", b"")
        bad = good[:-1] + bytes([good[-1] ^ 1])
        calls = [
            (lambda: pipeline.decrypt(good, bytes(12)), 0),
            (lambda: pipeline.decrypt(bad, bytes(12)), errno.EBADMSG),
            (lambda: pipeline.decrypt(good, bytes(11)), errno.EINVAL),
            (lambda: pipeline.encrypt(b"text"), errno.EINVAL),
            (lambda: pipeline.digest(b"text"), errno.EOPNOTSUPP),
            (lambda: pipeline.generate(10), errno.EOPNOTSUPP),
        ]
        pending = [(call(), number) for _ in range(50) for call, number in calls]
        for each, number in pending:
            assert error_of(each) == number
        with pytest.raises(RequestError, match="iv of 11 bytes: gcm"):
            pending[2][0].result(BOUND)


def test_result_with_a_timeout(slow: Context) -> None:
    """TimeoutError says nothing about the request: its result comes later."""
    with Pipeline(slow) as pipeline:
        pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(6)]
        with pytest.raises(TimeoutError):
            pending[-1].result(0)
        assert not pending[-1].done
        assert len(pending[-1].result(BOUND)) == LONG


def test_cancel_before_it_is_sent(slow: Context) -> None:
    """More is submitted than may be in flight: what waits in the client is cancelled here and now, and never sent."""
    with Pipeline(slow) as pipeline:
        pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(12)]
        pending[-1].cancel()
        pending[-1].cancel()
        assert pending[-1].done
        assert error_of(pending[-1]) == errno.ECANCELED
        assert [error_of(each) for each in pending[:-1]] == [0] * 11
    assert slow.status()["completed"] == str(2 + 11)


def test_cancel_after_it_was_sent(slow: Context) -> None:
    """Those that the daemon has not computed yet answer ECANCELED; cancelling what is done has no effect."""
    with Pipeline(slow) as pipeline:
        for _ in range(10):
            pending = [pipeline.encrypt(bytes(LONG // 2 // 8 * 8), IV) for _ in range(10)]
            pending[0].result(BOUND)
            for each in pending[4:]:
                each.cancel()
            numbers = [error_of(each) for each in pending]
            assert numbers[:4] == [0] * 4
            assert set(numbers[4:]) <= {0, errno.ECANCELED}
            for each in pending:
                each.cancel()
            if errno.ECANCELED in numbers:
                break
        assert errno.ECANCELED in numbers
        assert len(pipeline.encrypt(bytes(8), IV).result(BOUND)) == 8
    status = slow.status()
    assert (status["in-flight"], status["unread"]) == ("0", "0")


def test_callbacks_may_use_the_pipeline(hasher: Context) -> None:
    """A callback of a result submits the next request, and cancels another."""
    done = threading.Event()
    found: list[bytes] = []

    def step(future: concurrent.futures.Future[bytes]) -> None:
        found.append(future.result(0))
        if len(found) == 50:
            done.set()
            return
        following = pipeline.digest(found[-1])
        pipeline.digest(b"to be cancelled").cancel()
        following.future.add_done_callback(step)

    with Pipeline(hasher) as pipeline:
        pipeline.digest(b"").future.add_done_callback(step)
        assert done.wait(BOUND)
    expected = b""
    for each in found:
        expected = hashlib.sha256(expected).digest()
        assert each == expected


# The end


def test_close_waits_for_what_was_submitted(slow: Context) -> None:
    """All results are there after it; later submissions are refused; closing twice is allowed."""
    pipeline = Pipeline(slow)
    pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(8)]
    pipeline.close()
    assert all(each.done for each in pending)
    assert [len(each.result(0)) for each in pending] == [LONG] * 8
    with pytest.raises(RequestError) as caught:
        pipeline.encrypt(bytes(8), IV)
    assert caught.value.errno == errno.EBADF
    pipeline.close()
    # the context is as good as new
    assert len(slow.encrypt(bytes(8), IV)) == 8
    with Pipeline(slow) as again:
        assert len(again.encrypt(bytes(8), IV).result(BOUND)) == 8


def test_nothing_submitted(hasher: Context) -> None:
    """Opening and closing is all there is to it."""
    for _ in range(20):
        Pipeline(hasher).close()


@pytest.mark.parametrize("abandoned", [False, True])
def test_the_daemon_is_killed(own_daemon: Daemon, abandoned: bool) -> None:
    """Every pending request fails within seconds, those too that were not sent; the thread ends by itself.

    abandoned: some were given up by the event loop that waited for them.
    """
    context = Context(*SLOW, mount=own_daemon.mountpoint)
    try:
        pipeline = Pipeline(context)
        pending = [pipeline.encrypt(bytes(LONG), IV) for _ in range(40)]
        if abandoned:
            assert pending[20].future.cancel()
            assert pending[39].future.cancel()
        pending[0].result(BOUND)
        own_daemon.process.kill()
        own_daemon.process.wait(BOUND)
        began = time.monotonic()
        numbers = {error_of(each) for each in pending if not each.future.cancelled()}
        assert time.monotonic() - began < BOUND
        assert numbers - {0} <= {errno.ENOTCONN, errno.ECONNABORTED}
        assert numbers != {0}
        with pytest.raises(RequestError):
            pipeline.encrypt(bytes(8), IV)
        pipeline.close()
    finally:
        try:
            context.close()
        except OSError as error:
            print(f"closing: {error}")


def test_a_lone_long_request_can_be_cancelled(mount: pathlib.Path) -> None:
    """What is submitted or cancelled while the pipeline waits for a long answer goes out at once."""
    with Context("skcipher", "cbc(des3_ede)", bytes(range(24)), mount=mount) as context, Pipeline(context) as pipeline:
        data = bytes(PAYLOAD_MAX - PAYLOAD_MAX % 8)
        pipeline.encrypt(data, bytes(8)).result(BOUND)
        cancelled = 0
        for _ in range(10):
            # several, so that the last ones are still waiting when the cancel arrives
            pending = [pipeline.encrypt(data, bytes(8)) for _ in range(4)]
            time.sleep(0.005)
            pending[-1].cancel()
            error = pending[-1].future.exception(BOUND)
            if error is None:
                assert len(pending[-1].result()) == len(data)
            else:
                assert isinstance(error, RequestError)
                assert error.errno == errno.ECANCELED
                cancelled += 1
            for each in pending[:-1]:
                assert len(each.result(BOUND)) == len(data)
        assert cancelled
