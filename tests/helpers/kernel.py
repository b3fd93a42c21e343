"""The kernel's end of `/dev/fuse` for tests without a mount: one end of a SEQPACKET socket pair, which keeps messages
apart as the device does."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import trio
from helpers.raw import build_many

from cryptofs.contexts import ContextTable, Scheduler
from cryptofs.engines.opening import open_engines
from cryptofs.fuse import Operations, Transport, protocol
from cryptofs.nodes import Tree
from cryptofs.records import CALL_MAX, Record, build, call_command, parse_responses

ALICE = SimpleNamespace(uid=1000, gid=1000, pid=0)
BOB = SimpleNamespace(uid=1001, gid=1001, pid=0)
SUPERUSER = SimpleNamespace(uid=0, gid=0, pid=0)
_BUFFER = 1 << 21


class Refused(OSError):
    """A request was answered with an errno."""


class Kernel:
    """Sends requests to a transport and takes its answers, as the kernel would; `woken` has notified poll handles."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._end = trio.socket.from_stdlib_socket(end)
        self._last = 0
        self._answers: dict[int, bytes] = {}
        self._came = trio.Event()
        self.woken: list[int] = []

    async def take_answers(self) -> None:
        """Take what comes, until it is cancelled."""
        while True:
            data = await self._end.recv(_BUFFER)
            header = protocol.OUT_HEADER.parse(data)
            assert header.length == len(data)
            body = data[protocol.OUT_HEADER.sizeof() :]
            if not header.unique:
                assert header.error == protocol.NOTIFY_POLL
                self.woken.append(protocol.POLL_WAKEUP.parse(body).poll_handle)
                continue
            assert header.unique not in self._answers, "a request was answered twice"
            self._answers[header.unique] = data
            self._came.set()
            self._came = trio.Event()

    def _message(self, opcode: int, body: bytes, inode: int, who: Any) -> bytes:
        self._last += 2
        header = protocol.IN_HEADER.build(
            {
                "length": protocol.HEADER_SIZE + len(body),
                "opcode": opcode,
                "unique": self._last,
                "inode": inode,
                "uid": who.uid,
                "gid": who.gid,
                "pid": who.pid,
                "extensions": 0,
                "padding": 0,
            }
        )
        return header + body

    async def send(self, opcode: int, body: bytes, inode: int = 0, who: Any = ALICE) -> int:
        """Send a request and return its number."""
        await self._end.send(self._message(opcode, body, inode, who))
        return self._last

    def put(self, opcode: int, body: bytes, inode: int = 0, who: Any = ALICE) -> int:
        """Send a request, and let nothing be served before the next one."""
        self._socket.send(self._message(opcode, body, inode, who))
        return self._last

    @property
    def answered(self) -> list[int]:
        """The numbers of requests with an answer that was not taken, in the order of the answers."""
        return list(self._answers)

    def is_answered(self, unique: int) -> bool:
        return unique in self._answers

    async def wait_for(self, unique: int) -> None:
        """Wait for an answer, and leave it."""
        while unique not in self._answers:
            await self._came.wait()

    async def answer(self, unique: int) -> bytes:
        """The data of an answer. Errors: Refused."""
        await self.wait_for(unique)
        data = self._answers.pop(unique)
        error = protocol.OUT_HEADER.parse(data).error
        if error:
            raise Refused(-error, os.strerror(-error))
        return data[protocol.OUT_HEADER.sizeof() :]

    async def ask(self, opcode: int, body: bytes, inode: int = 0, who: Any = ALICE) -> bytes:
        return await self.answer(await self.send(opcode, body, inode, who))

    async def lookup(self, parent: int, name: bytes, who: Any = ALICE) -> Any:
        """What the kernel is told of a name."""
        answer = await self.ask(protocol.Opcode.LOOKUP, name + b"\0", parent, who)
        entry = protocol.ENTRY_OUT.parse(answer)
        found = protocol.ATTRIBUTES.parse(answer[protocol.ENTRY_OUT.sizeof() :])
        assert found.inode == entry.inode
        return found

    async def open(self, inode: int, flags: int, who: Any = ALICE) -> int:
        body = protocol.OPEN_IN.build({"flags": flags, "open_flags": 0})
        return int(protocol.OPEN_OUT.parse(await self.ask(protocol.Opcode.OPEN, body, inode, who)).handle)

    async def release(self, handle: int) -> None:
        body = protocol.RELEASE_IN.build({"handle": handle, "flags": 0, "release_flags": 0, "lock_owner": 0})
        await self.ask(protocol.Opcode.RELEASE, body)

    async def send_read(self, handle: int, offset: int, size: int) -> int:
        values = {"handle": handle, "offset": offset, "size": size, "read_flags": 0, "lock_owner": 0}
        return await self.send(protocol.Opcode.READ, protocol.READ_IN.build({**values, "flags": 0, "padding": 0}))

    async def read(self, handle: int, offset: int, size: int) -> bytes:
        return await self.answer(await self.send_read(handle, offset, size))

    async def send_write(self, handle: int, offset: int, data: bytes) -> int:
        values = {"handle": handle, "offset": offset, "size": len(data), "write_flags": 0, "lock_owner": 0}
        head = protocol.WRITE_IN.build({**values, "flags": 0, "padding": 0})
        return await self.send(protocol.Opcode.WRITE, head + data)

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        answer = await self.answer(await self.send_write(handle, offset, data))
        return int(protocol.WRITE_OUT.parse(answer).size)

    async def send_ioctl(self, handle: int, command: int, data: bytes, room: int, flags: int = 0) -> int:
        values = {"handle": handle, "flags": flags, "command": command, "argument": 0}
        head = protocol.IOCTL_IN.build({**values, "in_size": len(data), "out_size": room})
        return await self.send(protocol.Opcode.IOCTL, head + data)

    async def ioctl(self, handle: int, command: int, data: bytes, room: int) -> bytes:
        answer = await self.answer(await self.send_ioctl(handle, command, data, room))
        return answer[protocol.IOCTL_OUT.sizeof() :]

    async def send_call(self, handle: int, record: Record, room: int = CALL_MAX) -> int:
        """CRYPTOFS_CALL: the buffer has `room` bytes, of which the record is the first."""
        return await self.send_ioctl(handle, call_command(room), build(record).ljust(room, b"\0"), room)

    async def call(self, handle: int, record: Record, room: int = CALL_MAX) -> Record:
        answer = await self.answer(await self.send_call(handle, record, room))
        (response,) = parse_responses(answer[protocol.IOCTL_OUT.sizeof() :])
        return response

    async def poll(self, handle: int, poll_handle: int | None) -> int:
        """poll_handle: whom to wake; None asks only."""
        flags = 0 if poll_handle is None else protocol.SCHEDULE_NOTIFY
        body = protocol.POLL_IN.build({"handle": handle, "poll_handle": poll_handle or 0, "flags": flags, "events": 0})
        return int(protocol.POLL_OUT.parse(await self.ask(protocol.Opcode.POLL, body)).events)

    async def interrupt(self, unique: int) -> None:
        """A signal waits for the caller of a request."""
        await self.send(protocol.Opcode.INTERRUPT, protocol.INTERRUPT_IN.build({"unique": unique}))


class Rig:
    """A tree that is served without a mount: names by `operations`, as pyfuse3 would call them, files by `kernel`."""

    def __init__(self, workers: bool = False) -> None:
        self.workers = Scheduler()
        self._with_workers = workers
        self.table = ContextTable(open_engines(("openssl",)), self.workers)
        self.tree = Tree(self.table)
        self.operations = Operations(self.tree)
        self.transport: Transport
        self.kernel: Kernel

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """While this lasts, requests are served."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.transport = Transport(theirs.detach(), self.tree, self.workers, None)
        self.kernel = Kernel(ours)
        if self._with_workers:
            self.workers.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.kernel.take_answers)
                nursery.start_soon(self.transport.serve)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.workers.stop()
            self.table.close_all()
            self.transport.close()
            ours.close()

    async def find(self, path: str, who: Any = ALICE) -> Any:
        """The attributes of a path, as pyfuse3 gives them."""
        inode = 1
        for name in path.split("/"):
            inode = (await self.kernel.lookup(inode, name.encode(), who)).inode
        return await self.operations.getattr(inode, who)

    async def open(self, path: str, flags: int = os.O_RDWR, who: Any = ALICE) -> int:
        """Open a path; returns the handle."""
        entry = await self.find(path, who)
        return await self.kernel.open(entry.st_ino, flags, who)

    async def ask(self, handle: int, *records: Record) -> list[Record]:
        """Write records and read all answers."""
        data = build_many(records)
        assert await self.kernel.write(handle, 0, data) == len(data)
        return parse_responses(await self.kernel.read(handle, 0, 1 << 20))


def run(rig: Rig, function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function under trio while the rig serves, for at most 30 seconds."""

    async def bounded() -> None:
        with trio.fail_after(30):
            async with rig.serving():
                await function()

    trio.run(bounded)
