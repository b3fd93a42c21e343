"""Tier three: contexts and streams that do not wait, and everything that waits for them instead.

A request is long where its payload is large and its cipher slow: it is then really in flight, for milliseconds. What
depends on that being seen in time is tried several times over, because a busy machine may look too late.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from helpers.daemons import Daemon, serving
from helpers.machine import TESTS
from helpers.raw import (
    BOUND,
    LONG,
    QUEUE_REQUESTS,
    SHORT_OF_LONG,
    Raw,
    build_many,
    digest,
    encryption,
    error_of,
    hasher,
    joined,
    slow,
)
from helpers.waiting import PATIENCE

from cryptofs.records import (
    RECORD_MAX,
    Attr,
    Flag,
    Operation,
    Record,
    parse_responses,
)

pytestmark = pytest.mark.mount


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[tuple[Daemon, Raw]]:
    """A daemon to be killed, with long work in flight on a context of its mount."""
    with serving(tmp_path / "mount", rough=True) as daemon, slow(daemon.mountpoint, os.O_NONBLOCK) as raw:
        for identity in range(7):
            raw.write(encryption(identity, LONG))
        yield daemon, raw


# EAGAIN and 0 bytes


def by_open(mount: Path) -> Raw:
    """O_NONBLOCK at open."""
    return slow(mount, os.O_NONBLOCK)


def by_record(mount: Path) -> Raw:
    """`set` as a record."""
    raw = slow(mount)
    assert raw.call(Operation.SET, {Attr.NONBLOCKING: 1}).status == 0
    return raw


def by_line(mount: Path) -> Raw:
    """`set` as a line on ctl."""
    raw = slow(mount)
    (raw.directory / "ctl").write_text("set nonblocking=1\n")
    return raw


@pytest.mark.parametrize("make", [by_open, by_record, by_line])
def test_nothing_ready_is_eagain(mount: Path, make: Callable[[Path], Raw]) -> None:
    """In flight: EAGAIN; nothing in flight: 0 bytes; whichever way the context was made non-blocking."""
    with make(mount) as raw:
        assert raw.status()["nonblocking"] == "1"
        for _ in range(20):
            assert raw.read() == []
            raw.write(encryption(1, LONG))
            seen = error_of(os.pread, raw.fd, 0, 0), error_of(os.pread, raw.fd, RECORD_MAX, 0)
            if seen[1] == errno.EAGAIN:
                break
            # too late: that read took the answer
            assert seen[1] == 0
        assert seen[1] == errno.EAGAIN
        (answer,) = raw.answers(1)
        assert (answer.status, len(answer.payload)) == (0, LONG)


@pytest.mark.parametrize("way", ["record", "line"])
def test_blocking_again(mount: Path, way: str) -> None:
    """`set nonblocking=0` makes a context that was opened with O_NONBLOCK wait."""
    with slow(mount, os.O_NONBLOCK) as raw:
        if way == "record":
            assert raw.call(Operation.SET, {Attr.NONBLOCKING: 0}).status == 0
        else:
            (raw.directory / "ctl").write_text("set nonblocking=0\n")
        for _ in range(5):
            raw.write(encryption(1, LONG))
            assert len(raw.read()) == 1
        assert raw.read() == []


def test_an_unconfigured_context_does_not_wait(mount: Path) -> None:
    """Its number is there at once, and so is the answer to what cannot be done."""
    with Raw(mount, os.O_NONBLOCK) as raw:
        assert os.pread(raw.fd, 64, 0) == b"%d\n" % raw.number
        assert raw.wait(select.POLLOUT | select.POLLIN) == select.POLLOUT
        raw.write(digest(1))
        assert raw.wait(select.POLLIN) == select.POLLIN
        (answer,) = raw.read()
        assert answer.status == errno.EBADFD


def test_a_blocking_read_waits(mount: Path) -> None:
    """Each read of a blocking context gives an answer while one is due, then 0 bytes."""
    with slow(mount) as raw:
        for identity in range(4):
            raw.write(encryption(identity, SHORT_OF_LONG))
        answers: list[Record] = []
        while piece := raw.read(SHORT_OF_LONG + 24):
            answers += piece
        assert sorted(answer.id for answer in answers) == [0, 1, 2, 3]


def test_a_full_queue_of_requests(mount: Path) -> None:
    """EAGAIN for what does not fit, of which nothing is done; everything that was accepted is answered."""
    with hasher(mount, os.O_NONBLOCK) as raw:
        accepted = 0
        for _ in range(100):
            records = [digest(accepted + n) for n in range(300)]
            if error_of(raw.write, *records):
                break
            accepted += len(records)
        assert accepted == QUEUE_REQUESTS // 300 * 300
        while accepted < QUEUE_REQUESTS:
            raw.write(digest(accepted))
            accepted += 1
        assert error_of(raw.write, digest(99_999)) == errno.EAGAIN
        status = raw.status()
        assert int(status["unread"]) + int(status["in-flight"]) == QUEUE_REQUESTS
        answers = raw.answers(QUEUE_REQUESTS)
        assert sorted(answer.id for answer in answers) == list(range(QUEUE_REQUESTS))
        assert {bytes(answer.payload) for answer in answers} == {hashlib.sha256(b"abc").digest()}


def test_a_full_queue_of_bytes(mount: Path) -> None:
    """The same for few requests that are large, whose answers are not there yet."""
    with slow(mount, os.O_NONBLOCK) as raw:
        accepted = 0
        while not (number := error_of(raw.write, encryption(accepted, LONG))):
            accepted += 1
        assert (number, accepted) == (errno.EAGAIN, 16 * 1024 * 1024 // (2 * (24 + LONG)))
        assert sorted(answer.id for answer in raw.answers(accepted)) == list(range(accepted))


def test_a_full_queue_is_eagain_on_a_blocking_context(mount: Path) -> None:
    """A write never waits, for it would hold up everybody's; once answers have been read it goes through."""
    with hasher(mount) as raw:
        raw.write(*(digest(n) for n in range(QUEUE_REQUESTS)))
        began = time.monotonic()
        assert error_of(raw.write, digest(5000)) == errno.EAGAIN
        assert time.monotonic() - began < BOUND / 2
        first = raw.read()
        raw.write(digest(5000))
        answers = [*first, *raw.answers(QUEUE_REQUESTS + 1 - len(first))]
        assert sorted(answer.id for answer in answers) == [*range(QUEUE_REQUESTS), 5000]
        assert raw.read() == []


def test_a_refused_write_of_several_is_not_half_done(mount: Path) -> None:
    """One record too many in a write: EAGAIN, and the state of a message is what it was before."""
    with hasher(mount, os.O_NONBLOCK) as raw:
        raw.write(digest(7, b"a", Flag.MORE))
        raw.answers(1)
        raw.write(*(digest(100 + n) for n in range(QUEUE_REQUESTS - 2)))
        batch = (digest(7, b"x", Flag.MORE), digest(7, b"y", Flag.MORE), digest(7, b"z"))
        assert error_of(raw.write, *batch) == errno.EAGAIN
        raw.write(digest(7, b"bc"))
        answers = {answer.id: answer for answer in raw.answers(QUEUE_REQUESTS - 1)}
        assert answers[7].payload == hashlib.sha256(b"abc").digest()


# poll, select, epoll


def test_poll_in_every_state(mount: Path) -> None:
    """Idle: writable; an answer ready: readable; queue full: not writable until answers were read."""
    both = select.POLLIN | select.POLLOUT
    with hasher(mount, os.O_NONBLOCK) as raw:
        poller = select.poll()
        poller.register(raw.fd, both)
        assert poller.poll(0) == [(raw.fd, select.POLLOUT)]
        raw.write(digest(1))
        assert poller.poll(0) == [(raw.fd, both)]
        assert select.select([raw], [raw], [raw], 0) == ([raw], [raw], [])
        raw.write(*(digest(2 + n) for n in range(QUEUE_REQUESTS - 1)))
        assert poller.poll(0) == [(raw.fd, select.POLLIN)]
        raw.read(24 + 32)
        assert poller.poll(0) == [(raw.fd, both)]
        raw.answers(QUEUE_REQUESTS - 1)
        assert poller.poll(0) == [(raw.fd, select.POLLOUT)]


def by_poll(raw: Raw, event: str) -> bool:
    """poll(2)."""
    poller = select.poll()
    poller.register(raw.fd, select.POLLIN if event == "read" else select.POLLOUT)
    return bool(poller.poll(BOUND * 1000))


def by_select(raw: Raw, event: str) -> bool:
    """select(2)."""
    readable, writable, _ = select.select([raw] * (event == "read"), [raw] * (event == "write"), [], BOUND)
    return bool(readable or writable)


def by_epoll(raw: Raw, event: str, flags: int = 0) -> bool:
    """epoll(7), level-triggered."""
    with select.epoll() as epoll:
        epoll.register(raw.fd, (select.EPOLLIN if event == "read" else select.EPOLLOUT) | flags)
        return bool(epoll.poll(BOUND))


def by_epoll_edge(raw: Raw, event: str) -> bool:
    """epoll(7), edge-triggered."""
    return by_epoll(raw, event, select.EPOLLET)


def by_epoll_once(raw: Raw, event: str) -> bool:
    """epoll(7) with EPOLLONESHOT."""
    return by_epoll(raw, event, select.EPOLLONESHOT)


def by_asyncio(raw: Raw, event: str) -> bool:
    """asyncio's loop."""

    async def wait() -> bool:
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        add, remove = (
            (loop.add_reader, loop.remove_reader) if event == "read" else (loop.add_writer, loop.remove_writer)
        )
        add(raw.fd, came.set)
        try:
            return await asyncio.wait_for(came.wait(), BOUND)
        finally:
            remove(raw.fd)

    return asyncio.run(wait())


def by_trio(raw: Raw, event: str) -> bool:
    """trio's loop."""

    async def wait() -> bool:
        with trio.move_on_after(BOUND):
            await (trio.lowlevel.wait_readable if event == "read" else trio.lowlevel.wait_writable)(raw.fd)
            return True
        return False

    return trio.run(wait)


WAITS = [by_poll, by_select, by_epoll, by_epoll_edge, by_epoll_once, by_asyncio, by_trio]


@pytest.mark.parametrize("wait", WAITS)
def test_readable_when_a_long_request_is_done(mount: Path, wait: Callable[[Raw, str], bool]) -> None:
    """Readiness comes with the answer: the read after it does not meet EAGAIN."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for size in (LONG, SHORT_OF_LONG, SHORT_OF_LONG):
            raw.write(encryption(1, size))
            assert wait(raw, "read")
            (answer,) = raw.read()
            assert (answer.status, len(answer.payload)) == (0, size)


@pytest.mark.parametrize("wait", WAITS)
def test_writable_when_a_full_queue_is_read(mount: Path, wait: Callable[[Raw, str], bool]) -> None:
    """A waiter for room wakes up when another thread reads answers."""
    with hasher(mount, os.O_NONBLOCK) as raw:
        raw.write(*(digest(n) for n in range(QUEUE_REQUESTS)))
        reader = threading.Timer(0.1, read_ready, (raw,))
        reader.start()
        try:
            assert wait(raw, "write")
        finally:
            joined(reader)
        raw.write(digest(1))
        while int(raw.status()["in-flight"]) or int(raw.status()["unread"]):
            read_ready(raw)


def read_ready(raw: Raw, size: int = RECORD_MAX) -> list[Record]:
    """A read, when it would not wait: many requests of one write are done in slices."""
    assert select.select([raw.fd], [], [], BOUND)[0]
    return raw.read(size)


def test_edge_triggered_loses_no_wake_up(mount: Path) -> None:
    """200 rounds: after a read until EAGAIN or nothing, the next answer makes the next edge."""
    with slow(mount, os.O_NONBLOCK) as raw, select.epoll() as epoll:
        epoll.register(raw.fd, select.EPOLLIN | select.EPOLLET)
        waited = 0
        for round_ in range(200):
            # one that a worker does, one that is done before the write returns, or both
            sizes = ((64 * 1024,), (8,), (64 * 1024, 8))[round_ % 3]
            for identity, size in enumerate(sizes):
                raw.write(encryption(identity, size))
            left = len(sizes)
            while left:
                assert epoll.poll(BOUND), f"round {round_}: {left} of {len(sizes)} answers never woke anybody"
                with contextlib.suppress(BlockingIOError):
                    while answers := raw.read(64 * 1024 + 24):
                        left -= len(answers)
                waited += 1
            assert left == 0
        assert waited >= 200


def test_edge_triggered_writing(mount: Path) -> None:
    """Rounds of filling the queue to EAGAIN and reading it empty: each time an edge for writing."""
    with hasher(mount, os.O_NONBLOCK) as raw, select.epoll() as epoll:
        batch = [digest(n, b"") for n in range(QUEUE_REQUESTS // 2)]
        raw.write(*batch)
        epoll.register(raw.fd, select.EPOLLOUT | select.EPOLLET)
        assert epoll.poll(0) == [(raw.fd, select.EPOLLOUT)]
        for _ in range(25 if PATIENCE == 1 else 3):
            raw.write(*batch)
            assert error_of(raw.write, digest(1)) == errno.EAGAIN
            epoll.poll(0)  # an edge that is left of the write itself
            taken = len(read_ready(raw, 10 * 56))
            assert epoll.poll(BOUND) == [(raw.fd, select.EPOLLOUT)]
            while taken < len(batch):
                taken += len(read_ready(raw, (len(batch) - taken) * 56))
        taken = 0
        while taken < len(batch):
            taken += len(read_ready(raw))


def test_a_hundred_contexts_in_one_epoll(mount: Path) -> None:
    """Each becomes readable for its own answers only, blocking ones and others."""
    contexts = [hasher(mount, os.O_NONBLOCK * (n % 2)) for n in range(100)]
    try:
        with select.epoll() as epoll:
            by_fd = {raw.fd: n for n, raw in enumerate(contexts)}
            for fd in by_fd:
                epoll.register(fd, select.EPOLLIN)
            assert epoll.poll(0) == []
            for part in range(0, 100, 10):
                expected = {n: hashlib.sha256(b"%d" % n).digest() for n in range(part, 100, 7)}
                for n in expected:
                    contexts[n].write(digest(n, b"%d" % n))
                while expected:
                    ready = epoll.poll(BOUND)
                    assert ready
                    for fd, events in ready:
                        assert events == select.EPOLLIN
                        (answer,) = contexts[by_fd[fd]].read()
                        assert answer.payload == expected.pop(by_fd[fd])
                assert epoll.poll(0) == []
    finally:
        for raw in contexts:
            raw.close()


def test_two_epolls_watch_one_context(mount: Path) -> None:
    """One answer wakes both, by the same descriptor or by a copy of it."""
    with slow(mount, os.O_NONBLOCK) as raw, select.epoll() as one, select.epoll() as two:
        copy = os.dup(raw.fd)
        try:
            one.register(raw.fd, select.EPOLLIN | select.EPOLLET)
            two.register(copy, select.EPOLLIN)
            for _ in range(10):
                raw.write(encryption(1, SHORT_OF_LONG))
                assert one.poll(BOUND) == [(raw.fd, select.EPOLLIN)]
                assert two.poll(BOUND) == [(copy, select.EPOLLIN)]
                assert len(raw.read()) == 1
        finally:
            os.close(copy)


def test_a_streams_readiness(mount: Path) -> None:
    """Readable by its output, writable while its buffer has room, and EAGAIN where it has not."""
    both = select.POLLIN | select.POLLOUT
    with Raw(mount).configure("skcipher", "ctr(aes)", bytes(16)) as raw:
        (raw.directory / "ctl").write_text(f"reset iv=hex:{bytes(16).hex()}")
        writer = os.open(raw.directory / "stream", os.O_WRONLY | os.O_NONBLOCK)
        reader = os.open(raw.directory / "stream", os.O_RDONLY | os.O_NONBLOCK)
        try:
            poller = select.poll()
            poller.register(reader, both)
            assert poller.poll(0) == [(reader, select.POLLOUT)]
            assert error_of(os.read, reader, 100) == errno.EAGAIN
            written = os.write(writer, bytes(99_999))
            assert poller.poll(BOUND * 1000) == [(reader, both)]
            deadline = time.monotonic() + BOUND
            while True:
                while not (number := error_of(os.write, writer, bytes(99_999))):
                    written += 99_999
                assert number == errno.EAGAIN
                # a part that a worker computes is refused company, too, and is done soon after
                if poller.poll(0) == [(reader, select.POLLIN)]:
                    break
                assert time.monotonic() < deadline, "always writable, and never written to"
            data = b""
            drained = threading.Timer(0.1, lambda: os.read(reader, 1))
            drained.start()
            with select.epoll() as epoll:
                epoll.register(writer, select.EPOLLOUT | select.EPOLLET)
                with contextlib.suppress(BlockingIOError):
                    joined(drained)
                    while True:
                        data += os.read(reader, RECORD_MAX)
                assert epoll.poll(BOUND) == [(writer, select.EPOLLOUT)]
            assert len(data) + 1 == written // 16 * 16
            assert poller.poll(0) == [(reader, select.POLLOUT)]
            os.close(writer)
            writer = -1
            assert poller.poll(BOUND * 1000) == [(reader, both)]
            tail = os.read(reader, RECORD_MAX)
            assert len(data) + 1 + len(tail) == written
            assert len(tail) == written % 16 > 0
            assert os.read(reader, RECORD_MAX) == b""
            assert error_of(os.read, reader, RECORD_MAX) == errno.EAGAIN
        finally:
            for fd in (writer, reader):
                if fd >= 0:
                    os.close(fd)


def test_a_streams_end_is_readable(mount: Path) -> None:
    """The end of file makes a stream readable, as on a FIFO: a reader that waits for events gets to see it."""
    with hasher(mount) as raw:
        reader = os.open(raw.directory / "stream", os.O_RDONLY | os.O_NONBLOCK)
        try:
            (raw.directory / "stream").write_bytes(b"abc")
            poller = select.poll()
            poller.register(reader, select.POLLIN)
            found = []
            while not found or found[-1]:
                assert poller.poll(1000 * PATIENCE), (
                    f"after reads of {[len(piece) for piece in found]} bytes: not readable"
                )
                found.append(os.read(reader, 100))
            assert found == [hashlib.sha256(b"abc").digest(), b""]
        finally:
            os.close(reader)


@pytest.mark.parametrize("flags", [0, select.EPOLLET])
def test_poll_when_the_daemon_is_killed(dying: tuple[Daemon, Raw], flags: int) -> None:
    """An error or a hang-up, or an error from the read: within a second, and never a wait without end."""
    daemon, raw = dying
    with select.epoll() as epoll:
        epoll.register(raw.fd, select.EPOLLPRI | flags)
        killer = threading.Timer(0.05, daemon.process.kill)
        killer.start()
        try:
            events = epoll.poll(BOUND)
        finally:
            joined(killer)
    assert events or error_of(os.pread, raw.fd, RECORD_MAX, 0) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert all(event & (select.EPOLLERR | select.EPOLLHUP) for _, event in events)
    assert error_of(os.pread, raw.fd, RECORD_MAX, 0) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert error_of(lambda: raw.write(encryption(1, 8))) in (errno.ENOTCONN, errno.ECONNABORTED)
    poller = select.poll()
    poller.register(raw.fd, select.POLLIN)
    assert poller.poll(BOUND * 1000)[0][1] & (select.POLLERR | select.POLLHUP)


def test_a_blocked_reader_when_the_daemon_is_killed(own_daemon: Daemon) -> None:
    """A read that waits for an answer ends with an error."""
    with slow(own_daemon.mountpoint) as raw:
        errors: list[int] = []

        def read_all() -> None:
            while not (number := error_of(lambda: raw.write(encryption(1, LONG)) or raw.read())):
                continue
            errors.append(number)

        reader = threading.Thread(target=read_all)
        reader.start()
        time.sleep(0.2)
        own_daemon.process.kill()
        joined(reader)
        assert errors[0] in (errno.ENOTCONN, errno.ECONNABORTED)


# Programs, threads, children


@pytest.mark.parametrize("count", [1, 49, 10_000])
def test_a_client_in_c(mount: Path, tmp_path: Path, count: int) -> None:
    """poll.c gets each of its answers exactly once, with more requests than a queue takes."""
    program = tmp_path / "poll"
    source = TESTS / "clients" / "poll.c"
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
    done = subprocess.run(
        [program, mount, str(count)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * PATIENCE, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"ok %d\n" % count, b"", 0)


@pytest.mark.parametrize("at_offset", [False, True])
def test_two_threads_on_one_context(mount: Path, at_offset: bool) -> None:
    """One reads while the other writes: with read and write the one waits for the other's answer, never for longer."""
    with slow(mount) as raw:
        count = 30
        found: list[int] = []
        go = threading.Semaphore(0)

        def read_all() -> None:
            while len(found) < count:
                # there is something to wait for
                assert go.acquire(timeout=BOUND)
                size = SHORT_OF_LONG + 24
                data = os.pread(raw.fd, size, 0) if at_offset else os.read(raw.fd, size)
                (answer,) = parse_responses(data)
                found.append(answer.id)

        reader = threading.Thread(target=read_all)
        reader.start()
        try:
            for identity in range(count):
                data = build_many([encryption(identity, SHORT_OF_LONG)])
                began = time.monotonic()
                written = os.pwrite(raw.fd, data, 0) if at_offset else os.write(raw.fd, data)
                assert written == len(data)
                assert time.monotonic() - began < BOUND
                go.release()
        finally:
            joined(reader)
        assert sorted(found) == list(range(count))
        assert raw.read() == []


CHILD = """
import os, sys
fd, size = map(int, sys.argv[1:])
for _ in range(5):
    os.write(1, b"+" if os.pread(fd, size, 0) else b"0")
"""


def test_a_child_shares_the_context(mount: Path) -> None:
    """A child that has the descriptor reads what the parent wrote, while the parent goes on writing."""
    with slow(mount) as raw:
        for identity in range(4):
            raw.write(encryption(identity, SHORT_OF_LONG))
        raw.write(encryption(4, LONG))
        child = subprocess.Popen(
            [sys.executable, "-ISc", CHILD, str(raw.fd), str(LONG + 24)],
            pass_fds=[raw.fd],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        try:
            answered = 0
            for identity in range(10, 15):
                raw.write(encryption(identity, SHORT_OF_LONG))
            output, _ = child.communicate(timeout=BOUND)
            assert output.startswith(b"+")
            deadline = time.monotonic() + BOUND
            while answers := raw.read():
                assert time.monotonic() < deadline
                answered += len(answers)
        finally:
            child.kill()
            child.communicate()
        assert raw.status()["completed"] == str(1 + 1 + 10)
        assert answered <= 9


def test_a_child_blocked_in_read_does_not_hold_up_a_writer(mount: Path) -> None:
    """The child waits with os.read; the parent's os.write waits at most for the work in flight."""
    script = "import os, sys\nfor _ in range(20): os.write(1, b'%d\\n' % len(os.read(int(sys.argv[1]), 131096)))"
    with slow(mount) as raw:
        raw.write(encryption(0, SHORT_OF_LONG))
        child = subprocess.Popen(
            [sys.executable, "-ISc", script, str(raw.fd)],
            pass_fds=[raw.fd],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        try:
            for identity in range(1, 20):
                data = build_many([encryption(identity, SHORT_OF_LONG)])
                began = time.monotonic()
                assert os.write(raw.fd, data) == len(data)
                assert time.monotonic() - began < BOUND
            output, _ = child.communicate(timeout=BOUND)
            # the child may find nothing in flight, but it got nothing else
            sizes = output.split()
            left = len(raw.read()) if sizes.count(b"131096") < 20 else 0
            assert set(sizes) <= {b"131096", b"0"}
            assert sizes.count(b"131096") + left <= 20
        finally:
            child.kill()
            child.communicate()
