"""Tier three: requests that end early, and clients that go away with work in flight."""

import contextlib
import errno
import hashlib
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from helpers.daemons import Daemon
from helpers.machine import af_alg_sockets
from helpers.raw import (
    BOUND,
    LONG,
    QUEUE_REQUESTS,
    SHORT_OF_LONG,
    SLOW,
    SLOW_KEY,
    Raw,
    digest,
    encryption,
    error_of,
    hasher,
    joined,
    slow,
)
from helpers.waiting import PATIENCE, wait_until

from cryptofs.client import Context
from cryptofs.records import Attr, Flag, Operation, Record

pytestmark = pytest.mark.mount

MEBIBYTE = 1024 * 1024
ANSWERED = 24 + LONG
TRIES = 20


def cancel(identity: int, target: int) -> Record:
    """A cancel request."""
    return Record(Operation.CANCEL, 0, identity, 0, {Attr.TARGET: target})


def reset(identity: int) -> Record:
    """A reset request."""
    return Record(Operation.RESET, 0, identity)


def by_id(answers: list[Record]) -> dict[int, Record]:
    """Answers by their ids, of which no two may be the same."""
    found = {answer.id: answer for answer in answers}
    assert len(found) == len(answers)
    return found


def assert_cancelled(answer: Record) -> None:
    """ECANCELED, with a message and without output."""
    assert answer.status == errno.ECANCELED
    assert answer.attributes[Attr.MESSAGE]
    assert len(answer.payload) == 0


# cancel


@pytest.mark.parametrize("position", [0, 1, 4], ids=["running", "first in the queue", "last in the queue"])
def test_cancel(mount: Path, position: int) -> None:
    """The request answers ECANCELED once, its neighbours answer as ever, the cancel itself answers 0."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for _ in range(TRIES):
            for identity in range(5):
                raw.write(encryption(identity, LONG))
            raw.write(cancel(100, position))
            answers = by_id(raw.answers(6))
            others = [answers[identity] for identity in range(5) if identity != position]
            assert {(answer.status, len(answer.payload)) for answer in others} == {(0, LONG)}
            if answers[100].status == 0:
                assert_cancelled(answers[position])
                break
            # too late: it had finished
            assert (answers[100].status, answers[position].status) == (errno.ENOENT, 0)
        assert answers[100].status == 0


def test_cancel_of_what_is_not_there(mount: Path) -> None:
    """Never given, answered, read, cancelled already: ENOENT, or nothing more than was there before."""
    with slow(mount) as raw:
        raw.write(cancel(1, 7))
        assert raw.answers(1)[0].status == errno.ENOENT
        raw.write(encryption(7, 8))
        raw.write(cancel(2, 7))
        answers = by_id(raw.answers(2))
        assert (answers[7].status, answers[2].status) == (0, errno.ENOENT)
        raw.write(encryption(7, LONG))
        raw.write(cancel(3, 7), cancel(4, 7))
        answers = by_id(raw.answers(3))
        # the second cancel finds it unfinished still; it is answered once all the same
        assert answers[3].status == answers[4].status
        assert answers[7].status == (0 if answers[3].status else errno.ECANCELED)


def test_cancel_takes_all_of_one_id(mount: Path) -> None:
    """Several whole messages under one id: each that is unfinished answers ECANCELED, then the id works again."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for _ in range(TRIES):
            for _ in range(4):
                raw.write(encryption(1, LONG))
            raw.write(cancel(2, 1))
            raw.write(encryption(1, 8))
            answers = raw.answers(6)
            mine = [answer for answer in answers if answer.id == 1]
            assert (mine[-1].status, len(mine[-1].payload)) == (0, 8)
            statuses = [answer.status for answer in mine[:-1]]
            assert statuses == sorted(statuses)
            assert set(statuses) <= {0, errno.ECANCELED}
            if statuses.count(errno.ECANCELED) >= 2:
                return
    pytest.fail("never in time")


def test_cancel_of_a_part(mount: Path) -> None:
    """The part and all later ones answer ECANCELED, up to the last one; then the id begins a new message."""
    iv = bytes(8)
    with slow(mount, os.O_NONBLOCK) as raw:
        raw.write(encryption(3, 80, 0, iv))
        expected = bytes(raw.answers(1)[0].payload)
        for _ in range(TRIES):
            raw.write(encryption(3, LONG, Flag.MORE, iv))
            raw.write(encryption(3, LONG, Flag.MORE, None), encryption(3, 8, Flag.MORE, None))
            raw.write(cancel(9, 3))
            raw.write(encryption(3, 8, Flag.MORE, None))
            raw.write(encryption(3, 8, 0, None))
            raw.write(encryption(3, 80, 0, iv))
            answers = raw.answers(7)
            assert by_id([answer for answer in answers if answer.id != 3])[9].status == 0
            mine = [answer for answer in answers if answer.id == 3]
            statuses = [answer.status for answer in mine]
            flags = [answer.flags & Flag.MORE for answer in mine]
            assert flags == [Flag.MORE] * 4 + [0, 0]
            assert (statuses[-1], bytes(mine[-1].payload)) == (0, expected)
            # what came before the cancel may have been done; from there on nothing is
            done = statuses.index(errno.ECANCELED)
            assert statuses[done:-1] == [errno.ECANCELED] * (5 - done)
            assert done <= 3
            for answer in mine[done:-1]:
                assert_cancelled(answer)
            if done == 0:
                return
    pytest.fail("never in time")


def test_cancel_of_a_message_between_its_parts(mount: Path) -> None:
    """No part in flight: the cancel ends the open message, and its later parts answer ECANCELED."""
    with hasher(mount) as raw:
        raw.write(digest(1, b"a", Flag.MORE))
        raw.answers(1)
        raw.write(cancel(2, 1), digest(1, b"b", Flag.MORE), digest(1, b"c"), digest(1, b"abc"))
        answers = raw.answers(4)
        assert [(answer.id, answer.status) for answer in answers] == [
            (2, 0), (1, errno.ECANCELED), (1, errno.ECANCELED), (1, 0)
        ]  # fmt: skip
        assert answers[3].payload == hashlib.sha256(b"abc").digest()


def test_cancel_by_line(mount: Path) -> None:
    """`cancel target=…` on ctl: the write fails with ENOENT, or the request answers ECANCELED."""
    with slow(mount, os.O_NONBLOCK) as raw:
        control = raw.directory / "ctl"
        assert error_of(control.write_text, "cancel target=5\n") == errno.ENOENT
        for _ in range(TRIES):
            for identity in range(6):
                raw.write(encryption(identity, LONG))
            number = error_of(control.write_text, "cancel target=5\n")
            answers = by_id(raw.answers(6))
            assert (number, answers[5].status) in {(0, errno.ECANCELED), (errno.ENOENT, 0)}
            if number == 0:
                return
    pytest.fail("never in time")


def test_cancel_of_everything_frees_the_worker(mount: Path) -> None:
    """Cancelled work is not computed: what comes after it is served, and the queue has room again."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for _ in range(10):
            raw.write(*(encryption(identity, SHORT_OF_LONG) for identity in range(7)))
            raw.write(*(cancel(100 + identity, identity) for identity in range(7)), encryption(50, 8))
            answers = by_id(raw.answers(15))
            assert answers[50].status == 0
            for identity in range(7):
                accepted = answers[100 + identity].status == 0
                assert answers[identity].status == (errno.ECANCELED if accepted else 0)
        status = raw.status()
        assert (status["in-flight"], status["unread"], status["queue-bytes"]) == ("0", "0", "0")


# reset


def test_reset_with_requests_in_flight(mount: Path) -> None:
    """Everything unfinished answers ECANCELED; a message in parts is forgotten, and its id is free."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for _ in range(TRIES):
            raw.write(encryption(20, 8, Flag.MORE))
            assert raw.answers(1)[0].status == 0
            for identity in range(6):
                raw.write(encryption(identity, LONG))
            raw.write(reset(100))
            raw.write(encryption(20, 16))
            answers = by_id(raw.answers(8))
            assert answers[100].status == 0
            # not the last part of the message that was forgotten, but a message of its own
            assert (answers[20].status, len(answers[20].payload)) == (0, 16)
            cancelled = [answers[identity] for identity in range(6) if answers[identity].status]
            for answer in cancelled:
                assert_cancelled(answer)
            if len(cancelled) >= 5:
                return
    pytest.fail("never in time")


def test_reset_keeps_the_order_of_one_id(mount: Path) -> None:
    """After a reset the id may be used at once: what was dropped is answered before what is new."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for _ in range(5):
            for _ in range(4):
                raw.write(encryption(1, LONG))
            raw.write(reset(100), encryption(1, 8))
            mine = [answer for answer in raw.answers(6) if answer.id == 1]
            statuses = [answer.status for answer in mine]
            assert (statuses[-1], len(mine[-1].payload)) == (0, 8), f"answers of one id in the order {statuses}"


def test_a_key_cannot_change_under_work(mount: Path) -> None:
    """set-key while requests are in flight is EBUSY, also right after a reset; then it works."""
    with slow(mount, os.O_NONBLOCK) as raw:
        seen = set()
        for _ in range(TRIES):
            for identity in range(4):
                raw.write(encryption(identity, LONG))
            call = Record(Operation.SET_KEY, 0, 50, 0, {Attr.KEY: SLOW_KEY})
            raw.write(call)
            raw.write(reset(51), Record(Operation.SET_KEY, 0, 52, 0, {Attr.KEY: SLOW_KEY}))
            answers = raw.answers(7)
            positions = {answer.id: index for index, answer in enumerate(answers)}
            statuses = {answer.id: answer.status for answer in answers}
            for key in (50, 52):
                busy = any(positions[identity] > positions[key] for identity in range(4))
                if statuses[key] == 0:
                    assert not busy
                else:
                    assert statuses[key] == errno.EBUSY
                seen.add(statuses[key])
            raw.write(call)
            assert raw.answers(1)[0].status == 0
            if errno.EBUSY in seen:
                return
    pytest.fail("never in time")


# Order


def test_a_short_request_overtakes_a_long_one(mount: Path) -> None:
    """Independent requests of one context are answered as they finish."""
    with slow(mount, os.O_NONBLOCK) as raw:
        for _ in range(TRIES):
            for identity in range(4):
                raw.write(encryption(identity, LONG))
            raw.write(encryption(50, 8))
            order = [answer.id for answer in raw.answers(5)]
            assert sorted(order) == [0, 1, 2, 3, 50]
            if order.index(50) < 4:
                return
    pytest.fail("the short one was never answered before the last long one")


def test_parts_of_one_message_keep_their_order(mount: Path) -> None:
    """Long and short parts in turn, messages of two ids mixed: each id's output is its message's, in order."""
    key, iv = bytes(range(16)), bytes(16)
    with Raw(mount, os.O_NONBLOCK).configure("skcipher", "ctr(aes)", key) as raw:
        data = {identity: os.urandom(3 * LONG + 1000) for identity in (1, 2)}
        cuts = [0, LONG, LONG + 16, 2 * LONG, 2 * LONG + 7, 3 * LONG, 3 * LONG + 1000]
        found = {1: b"", 2: b""}
        left = 0
        for begin, end in itertools.pairwise(cuts):
            for identity in (1, 2):
                more = Flag.MORE if end != cuts[-1] else 0
                attributes = {} if begin else {Attr.IV: iv}
                raw.write(Record(Operation.ENCRYPT, more, identity, 0, attributes, data[identity][begin:end]))
                left += 1
        while left:
            raw.wait(select.POLLIN)
            for answer in raw.read():
                assert answer.status == 0
                found[answer.id] += bytes(answer.payload)
                left -= 1
        for identity in (1, 2):
            encryptor = Cipher(AES(key), CTR(iv)).encryptor()
            assert found[identity] == encryptor.update(data[identity])


def test_a_slow_reader_holds_up_nobody_else(mount: Path) -> None:
    """Two contexts' queues are full, of requests and of bytes, and nobody reads: a third one's are answered."""
    with hasher(mount) as lazy, slow(mount) as lazier, hasher(mount) as busy:
        lazy.write(*(digest(n) for n in range(QUEUE_REQUESTS)))
        for identity in range(8):
            lazier.write(encryption(identity, LONG))
        for n in range(100):
            busy.write(digest(n, b"%d" % n))
            (answer,) = busy.read()
            assert answer.payload == hashlib.sha256(b"%d" % n).digest()
        assert_served(mount)
        assert lazy.status()["unread"] == str(QUEUE_REQUESTS)
        lazier.answers(8)


BLOCKED = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from helpers.raw import QUEUE_REQUESTS, digest, hasher
raw = hasher(Path(sys.argv[1]))
raw.write(*(digest(n) for n in range(QUEUE_REQUESTS)))
print("full", flush=True)
raw.write(digest(1))
"""


def test_a_blocked_writer_holds_up_nobody_else(mount: Path) -> None:
    """A write that waits for room in its own context's queue does not keep other contexts' writes from being taken."""
    with hasher(mount) as busy:
        client = subprocess.Popen(
            [sys.executable, "-c", BLOCKED, str(mount)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"full\n"
            time.sleep(0.2)
            began = time.monotonic()
            busy.write(digest(1))
            # the daemon's bound is the only thing that ends the other write
            assert time.monotonic() - began < BOUND, "waited for another program's context"
            assert len(busy.read()) == 1
        finally:
            client.kill()
            client.communicate(timeout=30 * PATIENCE)


# Going away


def contexts_open(mount: Path) -> int:
    """How many contexts there are."""
    return len(os.listdir(mount / "contexts"))


def assert_served(mount: Path) -> None:
    """A long request of somebody else is answered: the workers are free."""
    with slow(mount) as raw:
        raw.write(encryption(1, LONG))
        poller = select.poll()
        poller.register(raw.fd, select.POLLIN)
        assert poller.poll(BOUND * 1000)
        assert raw.read()[0].status == 0


def test_closing_with_work_in_flight(daemon: Daemon) -> None:
    """50 times: contexts, descriptors, AF_ALG sockets and memory of the daemon go back to what they were."""
    mount = daemon.mountpoint

    def once(flags: int) -> None:
        with slow(mount, flags) as raw:
            for identity in range(6):
                raw.write(encryption(identity, LONG))
            raw.write(encryption(20, LONG, Flag.MORE))
        with hasher(mount, flags) as raw:
            raw.write(*(digest(n, b"x", Flag.MORE) for n in range(20)))

    def leaves_nothing(times: int) -> None:
        for n in range(times):
            once(os.O_NONBLOCK * (n % 2))
        assert_served(mount)
        wait_until(lambda: contexts_open(mount) == contexts, BOUND)

    contexts = contexts_open(mount)
    leaves_nothing(10)
    before = len(daemon.descriptors), af_alg_sockets(daemon.process.pid)
    memory = daemon.memory
    leaves_nothing(50)
    wait_until(lambda: (len(daemon.descriptors), af_alg_sockets(daemon.process.pid)) <= before)
    # the last work of closed contexts may still be with a worker
    wait_until(lambda: daemon.memory - memory < 64 * MEBIBYTE, BOUND)


CLIENT = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from helpers.raw import LONG, encryption, slow
raw = slow(Path(sys.argv[1]))
for identity in range(7):
    raw.write(encryption(identity, LONG))
print("in flight", flush=True)
while sys.argv[2] == "read":
    raw.read()
    raw.write(encryption(1, LONG))
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "read"])
def test_a_client_is_killed_with_work_in_flight(daemon: Daemon, state: str) -> None:
    """SIGKILL, while it waits for an answer too: the context goes, and others are served."""
    mount = daemon.mountpoint
    contexts = contexts_open(mount)
    sockets = af_alg_sockets(daemon.process.pid)
    for _ in range(2):
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(mount), state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"in flight\n"
            assert contexts_open(mount) == contexts + 1
            time.sleep(0.05 * (state == "read"))
        finally:
            client.kill()
            client.communicate()
        assert client.returncode == -signal.SIGKILL
        assert_served(mount)
        wait_until(lambda: contexts_open(mount) == contexts, BOUND)
    # some of what was counted at the beginning may have been of the test before
    wait_until(lambda: af_alg_sockets(daemon.process.pid) <= sockets, BOUND)


def test_the_last_holder_is_killed(daemon: Daemon) -> None:
    """50 times: the context lives on with a child that has its descriptor, and ends when that is killed."""
    mount = daemon.mountpoint
    contexts = contexts_open(mount)

    def once() -> None:
        with slow(mount) as raw:
            for identity in range(4):
                raw.write(encryption(identity, LONG))
            child = subprocess.Popen(["sleep", "60"], pass_fds=[raw.fd])
        try:
            assert raw.directory.exists()
        finally:
            child.kill()
            child.wait(BOUND)

    for _ in range(5):
        once()
    assert_served(mount)
    wait_until(lambda: contexts_open(mount) == contexts, BOUND)
    before = len(daemon.descriptors)
    memory = daemon.memory
    for _ in range(50):
        once()
    assert_served(mount)
    wait_until(lambda: contexts_open(mount) == contexts, BOUND)
    wait_until(lambda: len(daemon.descriptors) <= before)
    # the last work of closed contexts may still be with a worker
    wait_until(lambda: daemon.memory - memory < 64 * MEBIBYTE, BOUND)


def test_the_daemon_ends_with_work_in_flight(own_daemon: Daemon) -> None:
    """SIGTERM unmounts and ends it, with status 0 and no traceback, whatever is in flight."""
    with slow(own_daemon.mountpoint) as raw:
        for identity in range(7):
            raw.write(encryption(identity, LONG))
        assert own_daemon.stop() == 0
        assert "Traceback" not in own_daemon.log
        assert error_of(raw.read) in (errno.ENOTCONN, errno.ECONNABORTED)


@pytest.mark.parametrize("begin", [lambda raw: None, lambda raw: raw.write(encryption(9, 8, Flag.MORE))])
def test_close_while_others_wait(mount: Path, begin: Callable[[Raw], None]) -> None:
    """A stream's reader waits; the context is closed: the reader gets ENODEV, soon."""
    with slow(mount) as raw:
        begin(raw)
        for identity in range(6):
            raw.write(encryption(identity, LONG))
        stream = os.open(raw.directory / "stream", os.O_RDONLY)
        numbers: list[int] = []
        reader = threading.Thread(target=lambda: numbers.append(error_of(os.read, stream, 100)))
        reader.start()
        try:
            time.sleep(0.1)
            raw.close()
            joined(reader)
        finally:
            os.close(stream)
        assert numbers == [errno.ENODEV]


def test_the_client_library_goes_on_after_a_cancel(mount: Path) -> None:
    """ECANCELED of one message is no trouble for the next: also through the Python client."""
    with Context(*SLOW, SLOW_KEY, mount=mount) as context:
        message = context.message(Operation.ENCRYPT, bytes(8))
        message.update(bytes(16))
        (context.directory / "ctl").write_text(f"cancel target={message.identity}")
        for call in (message.update, message.finish):
            assert error_of(call, bytes(8)) == errno.ECANCELED
        with contextlib.suppress(OSError):
            message.finish()
        assert len(context.encrypt(bytes(16), bytes(8))) == 16
