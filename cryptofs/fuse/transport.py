"""Serving `/dev/fuse`: names and open files here, attributes and listings by pyfuse3.

    kernel -> /dev/fuse -> Transport.serve -> a handle of the tree -> /dev/fuse      LOOKUP OPEN READ WRITE IOCTL POLL …
                               |  ^
                               v  | SEQPACKET socket pair
                              pyfuse3 -> Operations                                  GETATTR READDIR …

pyfuse3 takes a lock, two epoll calls and a pass of the scheduler for each request, four times as long as everything
else of a small request. So the requests that a program makes again and again are answered here, in the task that
reads them. pyfuse3 has the rest: libfuse takes the socket for a mount that was made already.

**Waiting.** No handler waits. A handle says that it cannot go on now, the request is kept in `_waits`, and it is tried
again whenever its handle has changed. A signal to the caller comes as INTERRUPT, and the request is answered with EINTR
at once. So a wait needs no bound.

**Buffers.** A request is read into a buffer of `Buffers`, and its data is used where it lies. A buffer is read into
again once no view of it is left; until then (a worker computes from it) another one takes its place.

**Sleeping.** The loop looks again for a short while after each request before it sleeps in trio (`window`). It does not
where something can only come through trio: an answer of pyfuse3's, a worker's result.
"""

import errno
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import trio

from ..contexts import Call, Scheduler
from ..nodes import Caller, Handle, Tree
from ..records import is_call
from .buffers import Buffers
from .device import Device
from .entrance import Entrance
from .protocol import (
    ANSWER,
    HEADER,
    HEADER_SIZE,
    INTERRUPT,
    IOCTL,
    IOCTL_DATA,
    IOCTL_DIRECTORY,
    OPEN,
    POLL,
    READ,
    RELEASE,
    SCHEDULE_NOTIFY,
    WRITE,
    WRITE_DATA,
    Opcode,
)
from .waits import Wait, WaitingCall, WaitingControl, WaitingRead, WaitingWrite
from .window import WINDOW, Window

log = logging.getLogger("cryptofs")

_TURN = 1e-3
"""Seconds for which requests are answered before trio's other tasks have their turn."""
_RETRIES, _RETRIED = 16, 2e-4
"""Waiting requests that are tried again before the next new request has its turn, and the seconds after which no more
of them are: a piece of a stream may take a hundred times as long as a small request."""
_RELAYED_MAX = 1 << 20

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM


class Transport:
    """The loop on one mount's `/dev/fuse`."""

    def __init__(self, device: int, tree: Tree, scheduler: Scheduler, only: int | None) -> None:
        """device: the descriptor of a mount that was made, which this object owns from now on. scheduler: hands its
        workers' results back through trio. only: the uid that may open files beside root, or None where the files'
        modes decide.
        """
        self._device = Device(device)
        self._entrance = Entrance(tree, only)
        self._scheduler = scheduler
        self._relay, self._pyfuse3 = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._relay.setblocking(False)
        self._relayed = 0
        self._buffers = Buffers()
        self._handles: dict[int, Handle] = {}
        self._last = 0
        self._polls: dict[int, Callable[[], None]] = {}
        self._waits: dict[int, Wait] = {}
        self._again: deque[Wait] = deque()
        self._asleep = False
        self._called = trio.Event()
        self._table: dict[int, Callable[[tuple[int, ...]], None]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.IOCTL: self._ioctl,
            Opcode.OPEN: self._open,
            Opcode.RELEASE: self._release,
            Opcode.POLL: self._poll,
            Opcode.INTERRUPT: self._interrupt,
            # nodes are found by number, so nothing is remembered for the kernel
            Opcode.FORGET: self._ignore,
            Opcode.BATCH_FORGET: self._ignore,
        }

    @property
    def mountpoint(self) -> str:
        """What pyfuse3 is told to serve."""
        return f"/dev/fd/{self._pyfuse3.fileno()}"

    def hand_over(self) -> None:
        """pyfuse3 has its end of the socket pair, and will close it."""
        self._pyfuse3.detach()

    @property
    def open_handles(self) -> int:
        """Files that are open now."""
        return len(self._handles)

    def close(self) -> None:
        """Close the mount's descriptor: requests that wait, and later requests, get an error."""
        for descriptor in (self._relay, self._pyfuse3):
            descriptor.close()
        self._device.close()

    async def serve(self) -> None:
        """Serve until the mount has gone. pyfuse3's own loop runs beside it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._return_answers)
            nursery.start_soon(self._retry_while_asleep)
            await self._loop()
            nursery.cancel_scope.cancel()

    async def _loop(self) -> None:
        device, table = self._device.descriptor, self._table
        buffers, scheduler = self._buffers, self._scheduler
        readv, clock, unpack = os.readv, time.perf_counter, HEADER.unpack_from
        vector, window = [buffers.current], Window(device)
        turn_ends = 0.0
        while True:
            try:
                size = readv(device, vector)
            except BlockingIOError:
                if self._again:
                    self._try_again()
                    await trio.lowlevel.checkpoint()
                elif self._relayed or scheduler.pending or not window.look_again():
                    self._asleep = True
                    await trio.lowlevel.wait_readable(device)
                    self._asleep = False
                    turn_ends = clock() + _TURN
                continue
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    # ENOENT: its caller was killed before it was read
                    continue
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    # unmounted, or ended through /sys/fs/fuse/connections
                    return
                raise
            header = unpack(vector[0])
            serve = table.get(header[1])
            if serve is None:
                if self._entrance.lets_in(header[4]):
                    await self._pass_on(memoryview(vector[0])[:size])
                else:
                    self._device.refuse(header[2], errno.EACCES)
            else:
                serve(header)
                if buffers.move_on():
                    vector[0] = buffers.current
            if self._again:
                self._try_again()
            now = clock()
            window.until = now + WINDOW
            if now >= turn_ends:
                await trio.lowlevel.checkpoint()
                turn_ends = clock() + _TURN

    # pyfuse3's part

    async def _pass_on(self, message: memoryview) -> None:
        self._relayed += 1
        while True:
            try:
                self._relay.send(message)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._relay)
            except OSError as error:
                # nothing that the kernel asks of pyfuse3 is as large as a datagram may be
                log.error("a request of %d bytes cannot be passed on: %s", len(message), error.strerror)
                self._relayed -= 1
                self._device.refuse(HEADER.unpack_from(message)[2], errno.EIO)
                return

    async def _return_answers(self) -> None:
        answer = memoryview(bytearray(_RELAYED_MAX))
        while True:
            await trio.lowlevel.wait_readable(self._relay)
            try:
                while size := self._relay.recv_into(answer):
                    # a notification by pyfuse3 answers no request
                    if ANSWER.unpack_from(answer)[2]:
                        self._relayed -= 1
                    self._device.put(answer[:size])
                return
            except BlockingIOError:
                continue

    # Requests: `header` is what HEADER unpacks

    def _ignore(self, header: tuple[int, ...]) -> None:
        return

    def _lookup(self, header: tuple[int, ...]) -> None:
        length, _, unique, parent, uid, gid, pid, _, _ = header
        # the name ends with a NUL
        name = self._buffers.current[HEADER_SIZE : length - 1]
        try:
            found = self._entrance.look_up(parent, name, Caller(uid, gid, pid))
        except Exception as error:
            self._device.fail(unique, error, "lookup")
        else:
            self._device.give_found(unique, found)

    def _open(self, header: tuple[int, ...]) -> None:
        _, _, unique, inode, uid, gid, pid, _, _ = header
        flags, _ = OPEN.unpack_from(self._buffers.current, HEADER_SIZE)
        try:
            handle = self._entrance.open(inode, flags, Caller(uid, gid, pid))
        except Exception as error:
            self._device.fail(unique, error, "open")
            return
        self._last += 1
        self._handles[self._last] = handle
        if not self._device.give_opened(unique, self._last, handle.seekable):
            del self._handles[self._last]
            self._entrance.close(handle)

    def _release(self, header: tuple[int, ...]) -> None:
        number = RELEASE.unpack_from(self._buffers.current, HEADER_SIZE)[0]
        forget = self._polls.pop(number, None)
        if forget is not None:
            forget()
        try:
            self._entrance.close(self._handles.pop(number))
        except Exception as error:
            self._device.fail(header[2], error, "release")
        else:
            self._device.refuse(header[2], 0)

    def _read(self, header: tuple[int, ...]) -> None:
        unique = header[2]
        number, offset, size, _, _, _, _ = READ.unpack_from(self._buffers.current, HEADER_SIZE)
        try:
            handle = self._handles[number]
            data = handle.read(offset, size)
            if data is None:
                self._wait(WaitingRead(unique, handle, offset, size))
                return
        except Exception as error:
            self._device.fail(unique, error, "read")
            return
        self._device.give(unique, data)

    def _write(self, header: tuple[int, ...]) -> None:
        unique = header[2]
        buffer = self._buffers.current
        number, offset, size, _, _, _, _ = WRITE.unpack_from(buffer, HEADER_SIZE)
        data = memoryview(buffer)[WRITE_DATA : WRITE_DATA + size]
        try:
            handle = self._handles[number]
            taken = handle.write(offset, data)
            if taken != size:
                if isinstance(taken, int):
                    self._wait(WaitingWrite(unique, handle, offset, data, taken))
                else:
                    self._wait(WaitingControl(unique, handle, taken))
                return
        except Exception as error:
            self._device.fail(unique, error, "write")
            return
        self._device.give_written(unique, size)

    def _ioctl(self, header: tuple[int, ...]) -> None:
        unique = header[2]
        buffer = self._buffers.current
        number, flags, command, _, size, room = IOCTL.unpack_from(buffer, HEADER_SIZE)
        # the handles of directories are pyfuse3's: the same number here is somebody else's file
        if flags & IOCTL_DIRECTORY or not is_call(command):
            self._device.refuse(unique, errno.ENOTTY)
            return
        data = memoryview(buffer)[IOCTL_DATA : IOCTL_DATA + size]
        try:
            handle = self._handles[number]
            response = handle.call(data, room)
            if isinstance(response, Call):
                self._wait(WaitingCall(unique, handle, response))
                return
        except Exception as error:
            self._device.fail(unique, error, "ioctl")
            return
        self._device.give_controlled(unique, response)

    def _poll(self, header: tuple[int, ...]) -> None:
        number, poll_handle, flags, _ = POLL.unpack_from(self._buffers.current, HEADER_SIZE)
        try:
            handle = self._handles[number]
            readable, writable = handle.ready()
            if flags & SCHEDULE_NOTIFY:
                # the kernel remembers one sleeper for an open file, the newest
                forget = self._polls.pop(number, None)
                if forget is not None:
                    forget()
                self._polls[number] = handle.watch(partial(self._device.wake, poll_handle))
        except Exception as error:
            self._device.fail(header[2], error, "poll")
            return
        events = (_READABLE if readable else 0) | (_WRITABLE if writable else 0)
        self._device.give_polled(header[2], events)

    # Waiting

    def _wait(self, wait: Wait) -> None:
        """Keep a request that cannot continue, or that yields to others."""
        self._waits[wait.unique] = wait
        if wait.has_room:
            self._again.append(wait)
        else:
            wait.forget = wait.handle.watch(partial(self._call, wait))

    def _call(self, wait: Wait) -> None:
        """A waiting request's handle has changed."""
        wait.forget = None
        self._again.append(wait)
        if self._asleep:
            self._called.set()

    async def _retry_while_asleep(self) -> None:
        while True:
            await self._called.wait()
            self._called = trio.Event()
            while self._again:
                self._try_again()
                await trio.lowlevel.checkpoint()

    def _try_again(self) -> None:
        ends = time.perf_counter() + _RETRIED
        for turn in range(min(_RETRIES, len(self._again))):
            if turn and time.perf_counter() > ends:
                return
            wait = self._again.popleft()
            # not if it was interrupted meanwhile
            if self._waits.pop(wait.unique, None) is not None:
                self._attempt(wait)

    def _attempt(self, wait: Wait) -> None:
        try:
            result = wait.attempt()
        except Exception as error:
            self._device.fail(wait.unique, error, wait.what)
            return
        if result is None:
            self._wait(wait)
        elif isinstance(result, int):
            self._device.give_written(wait.unique, result)
        elif isinstance(wait, WaitingCall):
            self._device.give_controlled(wait.unique, result)
        else:
            self._device.give(wait.unique, result)

    def _interrupt(self, header: tuple[int, ...]) -> None:
        """A signal waits for the caller of a request."""
        (unique,) = INTERRUPT.unpack_from(self._buffers.current, HEADER_SIZE)
        wait = self._waits.pop(unique, None)
        if wait is None:
            # it was answered meanwhile, or is one of pyfuse3's, which wait for nothing
            return
        if wait.forget is not None:
            wait.forget()
        if wait.is_done:
            # it came too late
            self._attempt(wait)
            return
        wait.give_up()
        if wait.taken:
            # report the bytes that were written, as for any write that a signal cuts short
            self._device.give_written(unique, wait.taken)
        else:
            self._device.refuse(unique, errno.EINTR)
