"""Users have turns: what is read before its turn, its order and bounds, signals, and what pyfuse3 has at a time."""

import contextlib
import errno
import itertools
import os
import resource
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from helpers.daemons import SHARED, Daemon, serving
from helpers.kernel import ALICE, BOB, Refused, Rig, run
from helpers.other_user import become, needs_root
from helpers.waiting import PATIENCE, wait_until

from cryptofs.fuse import backlog, protocol
from cryptofs.fuse import transport as transport_module
from cryptofs.fuse.backlog import Backlog
from cryptofs.fuse.buffers import Buffers
from cryptofs.fuse.device import Device
from cryptofs.fuse.relay import Relay
from cryptofs.records import Attr, Operation, Record, build

KERNEL = SimpleNamespace(uid=0, gid=0, pid=0)
LOOKUP, READ = protocol.Opcode.LOOKUP, protocol.Opcode.READ
WRITE, RELEASE = protocol.Opcode.WRITE, protocol.Opcode.RELEASE
HASH = build(Record(Operation.CONFIGURE, id=1, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"}))
DIGEST = build(Record(Operation.DIGEST, id=7, payload=b"abc"))


def write_body(handle: int, data: bytes) -> bytes:
    values = {"handle": handle, "offset": 0, "size": len(data), "write_flags": 0, "lock_owner": 0}
    return protocol.WRITE_IN.build({**values, "flags": 0, "padding": 0}) + data


def release_body(handle: int) -> bytes:
    return protocol.RELEASE_IN.build({"handle": handle, "flags": 0, "release_flags": 0, "lock_owner": 0})


# In the loop


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A tree whose transport gives turns as soon as it has served one request."""
    for name, value in (("_TURN", 0.0), ("_FULL", 1), ("_FEW", 0), ("_LOOK", 1.0)):
        monkeypatch.setattr(transport_module, name, value)
    return Rig(workers=True)


def test_users_take_turns(rig: Rig) -> None:
    """One request each: who comes behind another's hundred waits for as many of them as he has himself."""

    async def main() -> None:
        alice = [rig.kernel.put(LOOKUP, b"crypto\0", 1, ALICE) for _ in range(100)]
        bob = [rig.kernel.put(LOOKUP, b"crypto\0", 1, BOB) for _ in range(3)]
        third = rig.kernel.put(LOOKUP, b"crypto\0", 1, SimpleNamespace(uid=1002, gid=1002, pid=1))
        for unique in (*alice, *bob, third):
            await rig.kernel.wait_for(unique)
        users = {**dict.fromkeys(alice, "a"), **dict.fromkeys(bob, "b"), third: "c"}
        order = rig.kernel.answered
        assert "".join(users[unique] for unique in order[:9]) == "aabcababa"
        assert [unique for unique in order if users[unique] == "a"] == alice
        assert [unique for unique in order if users[unique] == "b"] == bob

    run(rig, main)


def test_order_of_one_user(rig: Rig) -> None:
    """The kernel sends a close for itself. It has its opener's turn: behind his writes, and before his next open."""

    async def main() -> None:
        handle = await rig.open("crypto")
        many = [rig.kernel.put(LOOKUP, b"crypto\0", 1, BOB) for _ in range(10)]
        writes = [rig.kernel.put(WRITE, write_body(handle, data)) for data in (HASH, DIGEST, DIGEST)]
        close = rig.kernel.put(RELEASE, release_body(handle), who=KERNEL)
        after = rig.kernel.put(LOOKUP, b"crypto\0", 1, ALICE)
        for unique in (*writes, close, after):
            await rig.kernel.wait_for(unique)
        order = [unique for unique in rig.kernel.answered if unique not in many]
        assert order == [*writes, close, after]
        for unique in order:
            await rig.kernel.answer(unique)
        assert not len(rig.table)

    run(rig, main)


def test_a_signal_before_the_turn(rig: Rig) -> None:
    """Such a write is EINTR, once, and is never done; such a lookup is answered in its turn."""

    async def main() -> None:
        handle = await rig.open("crypto")
        await rig.kernel.write(handle, 0, HASH)
        first = [rig.kernel.put(LOOKUP, b"crypto\0", 1) for _ in range(5)]
        write = rig.kernel.put(WRITE, write_body(handle, DIGEST))
        name = rig.kernel.put(LOOKUP, b"crypto\0", 1)
        for unique in (write, name, write):
            rig.kernel.put(protocol.Opcode.INTERRUPT, protocol.INTERRUPT_IN.build({"unique": unique}), who=KERNEL)
        for unique in (*first, name):
            await rig.kernel.answer(unique)
        with pytest.raises(Refused) as caught:
            await rig.kernel.answer(write)
        assert caught.value.errno == errno.EINTR
        context = rig.table.get(1)
        assert context is not None
        assert context.exchange.tally.requests == 1, "configure, and nothing else"
        await rig.kernel.release(handle)

    run(rig, main)


# What is read


class Kept:
    """A backlog and the kernel's end of its descriptor."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self.device = Device(theirs.detach())
        self.buffers = Buffers()
        self.served: list[int] = []
        table: Any = dict.fromkeys((protocol.Opcode.FORGET, protocol.Opcode.INTERRUPT), self._serve)
        self.backlog = Backlog(self.device.descriptor, self.buffers, table, {}.get)

    def _serve(self, header: protocol.Header, buffer: bytearray) -> None:
        self.served.append(header[2])

    def send(self, unique: int, opcode: int = READ, uid: int = 1000, pid: int = 5, data: bytes = bytes(40)) -> None:
        size = protocol.HEADER_SIZE + len(data)
        self.ours.send(protocol.HEADER.pack(size, opcode, unique, 0, uid, uid, pid, 0, 0) + data)

    def taken(self) -> list[int]:
        found = []
        while (message := self.backlog.take()) is not None:
            found.append(message[0][2])
        return found


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.ours.close()
    made.device.close()


def test_what_is_read_is_bounded(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """In number, and in bytes of the buffers that are held; the rest stays with the kernel."""
    monkeypatch.setattr(backlog, "_REQUESTS_MAX", 10)
    for unique in range(15):
        kept.send(unique)
    kept.backlog.read()
    assert len(kept.backlog) == 10
    assert kept.backlog.take() is not None
    kept.backlog.read()
    assert len(kept.backlog) == 10
    assert kept.taken() == list(range(1, 11))
    kept.backlog.read()
    assert kept.taken() == list(range(11, 15))
    monkeypatch.setattr(backlog, "_BYTES_MAX", 2 * protocol.MESSAGE_MAX)
    for unique in range(3):
        # each keeps the buffer that it was read into
        kept.send(unique, WRITE, data=bytes(protocol.MESSAGE_MAX // 2))
        kept.backlog.read()
    assert len(kept.backlog) == 2
    kept.taken()
    kept.backlog.read()
    assert kept.taken() == [2]
    assert not len(kept.backlog)


def test_data_stays_with_its_request(kept: Kept) -> None:
    """Large and small; and no other buffer has it, because it may be a key."""
    large = b"a key of a user" * 40_000
    for unique, data in enumerate((b"a key of a user" * 10, large, b"another", large[::-1])):
        kept.send(unique, WRITE, data=data)
    kept.backlog.read()
    assert b"a key" not in kept.buffers.current
    for data in (b"a key of a user" * 10, large, b"another", large[::-1]):
        message = kept.backlog.take()
        assert message is not None
        header, buffer, _ = message
        assert buffer[protocol.HEADER_SIZE : header[0]] == data


def test_what_a_signal_ends_is_wiped(kept: Kept) -> None:
    """Its bytes do not stay, and count no more."""
    for unique in range(3):
        kept.send(unique, WRITE, data=b"a key of a user")
    kept.backlog.read()
    buffers = [items[0][1] for items in kept.backlog._turns.users[1000].values()]
    assert kept.backlog.withdraw(1)
    assert not kept.backlog.withdraw(1)
    assert not kept.backlog.withdraw(77)
    assert [b"a key" in buffer for buffer in buffers] == [True, False, True]
    assert kept.taken() == [0, 2]
    assert (len(kept.backlog), kept.backlog._size) == (0, 0)


def test_whose_turn_it_is(kept: Kept) -> None:
    """The kernel's own requests delay no user, nor does root in another namespace; what has no answer has no turn."""
    for unique in range(3):
        kept.send(unique, uid=0, pid=0)
    kept.send(3, uid=0)
    kept.send(4, uid=0xFFFF_FFFF, pid=0)
    kept.send(5, protocol.Opcode.FORGET)
    kept.send(6, protocol.Opcode.INTERRUPT, uid=0, pid=0)
    kept.send(7, RELEASE, uid=0, pid=0)
    kept.backlog.read()
    assert kept.served == [5, 6]
    assert kept.taken() == [0, 3, 4, 1, 2, 7]


# pyfuse3's part


def test_pyfuse3_has_a_few_at_a_time() -> None:
    """And users have turns for the next ones."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device = Device(theirs.detach())
    relay = Relay(device)
    pyfuse3 = relay._pyfuse3
    pyfuse3.setblocking(False)

    def came() -> list[int]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(protocol.HEADER.unpack_from(pyfuse3.recv(4096))[2])
        return found

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.return_answers)
            for unique in range(1, 101):
                user = 1000 if unique <= 98 else 1001
                message = protocol.HEADER.pack(40, 3, unique, 1, user, user, 5, 0, 0)
                relay.pass_on(user, unique, memoryview(message))
            order = came()
            assert order == list(range(1, 9)), "few, as they came"
            while len(order) < 100:
                pyfuse3.send(protocol.ANSWER.pack(16, 0, order[len(order) - relay.in_flight]))
                await trio.testing.wait_all_tasks_blocked()
                order += came()
                assert relay.in_flight == 8
            assert order[8:13] == [9, 99, 10, 100, 11]
            assert sorted(order) == list(range(1, 101))
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
        assert protocol.ANSWER.unpack(ours.recv(16)) == (16, 0, 1)
    finally:
        relay.close()
        device.close()
        ours.close()


# On a mount

ATTACKER, GOOD = 64_011, 64_012
_MANY, _SOME = 600, 50


def _open_many(path: Path, count: int, orders: int, reports: int) -> None:
    """Open `crypto` in so many threads, and report the numbers of their contexts, or nothing."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    # by a link to an open name no name is looked up: an open is one request
    link = f"/proc/self/fd/{os.open(path, os.O_PATH)}"
    os.write(reports, b"ready\n")
    os.read(orders, 1)
    opened: list[int] = []

    def work() -> None:
        with contextlib.suppress(OSError):
            opened.append(os.open(link, os.O_RDWR))

    threading.stack_size(1 << 17)
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [os.pread(each, 64, 0).decode().strip() for each in opened]
    os.write(reports, " ".join(numbers).encode() + b"\n")


class Opening:
    """A process of this user, many threads of which open `crypto` when it is told to."""

    def __init__(self, path: Path, count: int, uid: int) -> None:
        self._count = count
        orders, self._orders = os.pipe()
        reader, writer = os.pipe()
        self._child = os.fork()
        if not self._child:
            try:
                become(uid)
                _open_many(path, count, orders, writer)
            finally:
                os._exit(0)
        os.close(orders)
        os.close(writer)
        self._reports = os.fdopen(reader)
        assert self._reports.readline() == "ready\n"

    def begin(self) -> None:
        """Begin, and wait until all its threads wait for the daemon."""
        os.write(self._orders, b"x")
        wait_until(lambda: self._waiting() == self._count, 30 * PATIENCE, lambda: f"{self._waiting()} wait")

    def _waiting(self) -> int:
        found = 0
        for task in Path(f"/proc/{self._child}/task").iterdir():
            with contextlib.suppress(OSError):
                found += b"request_wait_answer" in (task / "stack").read_bytes()
        return found

    def numbers(self) -> list[int]:
        """Of the contexts that it has got, in order."""
        return sorted(map(int, self._reports.readline().split()))

    def end(self) -> None:
        os.close(self._orders)
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._reports.close()


@contextlib.contextmanager
def behind_many() -> Iterator[tuple[Daemon, Opening, Opening]]:
    """A daemon that is stopped, one user's opens, which wait for it, and another's, which came behind them."""
    with tempfile.TemporaryDirectory(prefix="cryptofs-test-") as place:
        Path(place).chmod(0o755)
        with serving(Path(place) / "mount", *SHARED) as daemon, contextlib.ExitStack() as at_end:
            pair = []
            for count, uid in ((_MANY, ATTACKER), (_SOME, GOOD)):
                pair.append(Opening(daemon.mountpoint / "crypto", count, uid))
                at_end.callback(pair[-1].end)
            os.kill(daemon.process.pid, signal.SIGSTOP)
            at_end.callback(daemon.process.send_signal, signal.SIGCONT)
            for each in pair:
                each.begin()
            yield daemon, pair[0], pair[1]


@pytest.mark.mount
@needs_root
def test_two_users_on_a_mount() -> None:
    """The opens of a user who comes behind hundreds alternate with those: contexts are numbered as they are opened."""
    with behind_many() as (daemon, attacker, good):
        daemon.process.send_signal(signal.SIGCONT)
        numbers = good.numbers()
        assert len(attacker.numbers()) == _MANY
    assert len(numbers) == _SOME
    assert {later - earlier for earlier, later in itertools.pairwise(numbers)} == {2}
    # as many as come in some milliseconds are served before the turns begin
    assert numbers[-1] < _MANY + _SOME


@pytest.mark.mount
@needs_root
def test_the_end_with_a_backlog() -> None:
    """SIGTERM ends the daemon and everybody's waiting, whatever was read before its turn."""
    with behind_many() as (daemon, attacker, good):
        daemon.process.send_signal(signal.SIGCONT)
        # time for some of them
        time.sleep(0.005)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(30 * PATIENCE) == 0
        attacker.numbers()
        good.numbers()
