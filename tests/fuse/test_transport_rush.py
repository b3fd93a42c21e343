"""The transport under pressure, without a mount: turns, memory, answers that race with signals, the end."""

import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import trio
from helpers.kernel import ALICE, BOB, Refused, Rig, run

from cryptofs.contexts import Scheduler
from cryptofs.contexts.work import Task
from cryptofs.fuse import Transport, protocol
from cryptofs.records import Attr, Operation, Record, build, detached, parse_responses

HASH = {Attr.TYPE: "hash", Attr.NAME: "sha256"}
CIPHER: dict[int, Any] = {Attr.TYPE: "skcipher", Attr.NAME: "ctr(aes)", Attr.KEY: bytes(16), Attr.IV: bytes(16)}
ABC = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
LONG = bytes(1_000_000)


@pytest.fixture
def rig() -> Rig:
    """A tree on the OpenSSL engine, with workers."""
    return Rig(workers=True)


async def configured(rig: Rig, attributes: Any = HASH, who: Any = ALICE) -> tuple[int, int]:
    """A handle of `crypto` and its context's number."""
    handle = await rig.open("crypto", who=who)
    (reply,) = await rig.ask(handle, Record(Operation.CONFIGURE, id=1, attributes=attributes))
    assert reply.status == 0
    return handle, int(reply.attributes[Attr.CONTEXT])  # type: ignore[call-overload]


def by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers compute everything, at once or never."""
    for name in ("requests.ALONE_NS", "requests.LONG_NS", "scheduler.ALONE_NS", "scheduler.LONG_NS"):
        monkeypatch.setattr(f"cryptofs.contexts.{name}", 0)
    monkeypatch.setattr("cryptofs.contexts.fast.SHORT_MAX", 0)


def test_many_long_writes_leave_a_small_request_its_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded by time, too: a piece of a stream takes as long as many small requests."""
    monkeypatch.setattr("cryptofs.fuse.handlers._RETRIED", 0.0)

    async def main() -> None:
        handles, larges = [], []
        small, _ = await configured(rig)
        for _ in range(12):
            handle, number = await configured(rig)
            handles += [handle, await rig.open(f"contexts/{number}/stream")]
        for stream in handles[1::2]:
            larges.append(await rig.kernel.send_write(stream, 0, LONG))
        request = await rig.kernel.send_call(small, Record(Operation.DIGEST, id=5, payload=b"abc"))
        await rig.kernel.answer(request)
        assert sum(map(rig.kernel.is_answered, larges)) < 3
        for large in larges:
            await rig.kernel.answer(large)
        for each in (small, *reversed(handles)):
            await rig.kernel.release(each)

    run(rig, main)


def test_a_signal_that_comes_too_late(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose request is done is answered, not cancelled: it may be something that cannot be done twice."""
    by_workers(monkeypatch)

    async def main() -> None:
        handle, number = await configured(rig)
        rig.transport._handlers.try_again = lambda: None  # type: ignore[method-assign]
        call = await rig.kernel.send_call(handle, Record(Operation.DIGEST, id=5, payload=b"abc"))
        context = rig.table.get(number)
        assert context is not None
        while context.exchange.tally.requests < 2:
            await trio.sleep(0.001)
        assert not rig.kernel.is_answered(call)
        del rig.transport._handlers.try_again
        await rig.kernel.interrupt(call)
        answer = (await rig.kernel.answer(call))[protocol.IOCTL_OUT.sizeof() :]
        assert bytes(parse_responses(answer)[0].payload) == ABC
        await rig.kernel.release(handle)
        assert not rig.transport._handlers._waits

    run(rig, main)


def test_a_reader_does_not_wait_for_a_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is never a reader's, so with nothing else in flight a read gives 0 bytes at once."""
    by_workers(monkeypatch)

    async def main() -> None:
        handle, number = await configured(rig)
        # the workers are kept busy, so that the call cannot be done before the read
        for _ in range(rig.workers.threads):
            rig.workers.submit(lambda: gate.wait(20), lambda _: None, (0, 0))
        call = await rig.kernel.send_call(handle, Record(Operation.DIGEST, id=5, payload=b"abc"))
        assert await rig.kernel.read(handle, 0, 100) == b""
        context = rig.table.get(number)
        assert context is not None
        assert (context.exchange.in_flight, context.exchange.called) == (1, 1)
        written = await rig.kernel.send_write(handle, 0, build(Record(Operation.DIGEST, id=6, payload=b"x")))
        read = await rig.kernel.send_read(handle, 0, 100)
        await rig.kernel.answer(written)
        assert not rig.kernel.is_answered(read), "this one waits: for what was written"
        gate.set()
        answer = (await rig.kernel.answer(call))[protocol.IOCTL_OUT.sizeof() :]
        assert bytes(parse_responses(answer)[0].payload) == ABC
        assert parse_responses(await rig.kernel.answer(read))[0].id == 6
        assert (context.exchange.in_flight, context.exchange.called, context.exchange.outstanding) == (0, 0, 0)
        await rig.kernel.release(handle)

    gate = threading.Event()
    try:
        run(rig, main)
    finally:
        gate.set()


def test_a_few_waiting_bytes_do_not_hold_a_buffer(rig: Rig) -> None:
    """A write that waits for a reader, which may never come: it keeps its own bytes."""

    async def main() -> None:
        handle, number = await configured(rig, CIPHER)
        stream = await rig.open(f"contexts/{number}/stream", os.O_WRONLY)
        reader = await rig.open(f"contexts/{number}/stream", os.O_RDONLY)
        for _ in range(2):
            await rig.kernel.write(stream, 0, bytes(1 << 19))
        write = await rig.kernel.send_write(stream, 0, b"a few bytes")
        await rig.kernel.poll(stream, None)
        (wait,) = rig.transport._handlers._waits.values()
        assert memoryview(wait._data.obj).nbytes == 11  # type: ignore[attr-defined]
        got = b""
        while len(got) < 1 << 20:
            got += await rig.kernel.read(reader, 0, 1 << 20)
        assert protocol.WRITE_OUT.parse(await rig.kernel.answer(write)).size == 11
        await rig.kernel.release(stream)
        assert len(await rig.kernel.read(reader, 0, 100)) == 11
        for each in (reader, handle):
            await rig.kernel.release(each)

    run(rig, main)


def test_what_waits_for_a_worker_does_not_hold_a_buffer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stream's work has its turn among its own user's."""
    by_workers(monkeypatch)
    asked: list[tuple[int, int]] = []
    submit = rig.workers.submit

    def note(work: Any, done: Any, turn: tuple[int, int]) -> None:
        task = getattr(work, "__self__", None)
        if isinstance(task, Task):
            asked.append((turn[0], memoryview(getattr(task.data, "obj", task.data)).nbytes))
        submit(work, done, turn)

    monkeypatch.setattr(rig.workers, "submit", note)

    async def main() -> None:
        for who in (ALICE, BOB):
            handle, number = await configured(rig, CIPHER, who)
            stream = await rig.open(f"contexts/{number}/stream", os.O_WRONLY, who)
            await rig.kernel.write(stream, 0, b"abc")
            await rig.kernel.release(stream)
            await rig.kernel.release(handle)
        assert {each for each in asked if each[1]} == {(ALICE.uid, 3), (BOB.uid, 3)}

    run(rig, main)


_BURST = """
from cryptofs.daemon.serve import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

return_freed_memory()
first = bytearray(1_100_000)
del first
small, large = [], []
for _ in range(100):
    large.append(bytearray(900_000))
    small.append(bytearray(60_000))
before = resident()
large.clear()
print(before - resident())
"""


def test_freed_buffers_go_back_to_the_kernel() -> None:
    """The C library would keep them: it has seen one freed, and small ones that stay lie in between."""
    done = subprocess.run([sys.executable, "-c", _BURST], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 80 * 900_000


def test_detached() -> None:
    """Only a view of something much larger is copied."""
    large = bytearray(1000)
    for size, copied in ((1, True), (499, True), (500, False), (1000, False)):
        view = memoryview(large)[:size]
        assert (detached(view) is not view) == copied
        assert detached(view) == view
    assert detached(large) is large
    assert detached(b"abc") == b"abc"


def test_a_worker_forgets_what_it_has_done() -> None:
    """While it waits for more it keeps neither the request nor its answer."""

    class Large:
        """What a request would be."""

    workers = Scheduler(2)

    async def main() -> None:
        workers.start()
        results: list[weakref.ref[Large]] = []
        done = trio.Event()

        def hand_back(result: Large) -> None:
            results.append(weakref.ref(result))
            if len(results) == 4:
                done.set()

        for _ in range(4):
            large = Large()
            workers.submit(lambda large=large: large, hand_back, (0, 0))  # type: ignore[misc]
            del large
        with trio.fail_after(10):
            await done.wait()
            while any(result() is not None for result in results):
                gc.collect()
                await trio.sleep(0.01)
        workers.stop()

    trio.run(main)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_the_end_of_the_mount(rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Unmounted, or ended by the administrator through the kernel's connections: the serving ends without an error."""

    def gone(*arguments: Any) -> int:
        raise OSError(number, os.strerror(number))

    async def main() -> None:
        with trio.fail_after(10):
            await transport.serve()

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    transport = Transport(theirs.detach(), rig.tree, rig.workers, None)
    monkeypatch.setattr(os, "readv", gone)
    trio.run(main)
    transport.close()
    ours.close()


def test_an_interrupted_part_leaves_nothing_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that were interrupted, cancelled, reset or closed while they ran give all that they took back."""
    by_workers(monkeypatch)

    async def main() -> None:
        for act in ("interrupt", "cancel", "reset", "release"):
            handle, number = await configured(rig)
            context = rig.table.get(number)
            assert context is not None
            calls = [
                await rig.kernel.send_call(handle, Record(Operation.DIGEST, id=each, payload=bytes(8000)))
                for each in range(20)
            ]
            if act == "interrupt":
                for call in calls:
                    await rig.kernel.interrupt(call)
            elif act == "cancel":
                for each in range(20):
                    await rig.ask(handle, Record(Operation.CANCEL, id=99, attributes={Attr.TARGET: each}))
            elif act == "reset":
                await rig.ask(handle, Record(Operation.RESET, id=99))
            else:
                await rig.kernel.release(handle)
            numbers: set[int | None] = set()
            for call in calls:
                try:
                    data = (await rig.kernel.answer(call))[protocol.IOCTL_OUT.sizeof() :]
                    numbers.add(parse_responses(data)[0].status)
                except Refused as error:
                    numbers.add(error.errno)
            assert numbers <= {0, errno.ECANCELED, errno.EINTR, errno.ENODEV}
            while context.exchange.in_flight and act != "release":
                await trio.sleep(0.001)
            exchange = context.exchange
            assert (exchange.outstanding, exchange.bytes, exchange.kept) == (0, 0, 0)
            assert act == "release" or not exchange.called
            assert not exchange.lanes
            assert not rig.transport._handlers._waits
            if act != "release":
                await rig.kernel.release(handle)

    run(rig, main)
