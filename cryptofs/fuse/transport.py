"""Serving `/dev/fuse`: names and open files here, attributes and listings by pyfuse3.

    kernel -> /dev/fuse -> Transport.serve -> Handlers -> a handle of the tree -> /dev/fuse      LOOKUP OPEN READ …
                               |  ^
                               v  | SEQPACKET socket pair (Relay)
                              pyfuse3 -> Operations                                              GETATTR READDIR …

pyfuse3 takes a lock, two epoll calls and a pass of the scheduler for each request, four times as long as everything
else of a small request. So the requests that a program makes again and again are answered here, in the task that
reads them. pyfuse3 has the rest: libfuse takes the socket for a mount that was made already.

**Turns.** Requests are served as they come. Where the kernel has more and more of them, for some milliseconds, all are
read, and users have turns (`backlog`) until few are left.

**Buffers.** A request is read into a buffer of `Buffers`, and its data is used where it lies. A buffer is read into
again once no view of it is left; until then (a worker computes from it) another one takes its place.

**Sleeping.** The loop looks again for a short while after each request before it sleeps in trio (`window`). It does not
where something can only come through trio: an answer of pyfuse3's, a worker's result.
"""

import errno
import os
import time

import trio

from ..contexts import Scheduler
from ..nodes import Tree
from .backlog import PASSING, Backlog
from .buffers import Buffers
from .device import Device
from .entrance import Entrance
from .handlers import Handler, Handlers
from .protocol import HEADER, HEADER_SIZE, INTERRUPT, Header, Opcode
from .relay import Relay
from .window import WINDOW, Window

_TURN = 1e-3
"""Seconds for which requests are answered before trio's other tasks have their turn."""
_FULL, _PAUSE = 3, 16
"""Turns at whose end the kernel has had requests all the time, from which on it is seen how many it has; and turns
after which this is done again, if they were few."""
_FEW = 32
"""Requests that are served as they come: to read each before its turn costs 4 us, and changes little."""
_LOOK = 2.5e-4
"""Seconds after which the kernel is asked for requests of other users, while users have turns."""


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
        self._relay = Relay(self._device)
        self._buffers = Buffers()
        self._handlers = Handlers(self._device, self._entrance, self._wake)
        self._table: dict[int, Handler] = {**self._handlers.table, Opcode.INTERRUPT: self._interrupt}
        self._backlog = Backlog(device, self._buffers, self._table, self._handlers.opener)
        self._asleep = False
        self._called = trio.Event()

    @property
    def mountpoint(self) -> str:
        """What pyfuse3 is told to serve."""
        return self._relay.mountpoint

    def hand_over(self) -> None:
        """pyfuse3 has its end of the socket pair, and will close it."""
        self._relay.hand_over()

    @property
    def open_handles(self) -> int:
        """Files that are open now."""
        return self._handlers.open_handles

    def close(self) -> None:
        """Close the mount's descriptor: requests that wait, and later requests, get an error."""
        self._relay.close()
        self._device.close()

    async def serve(self) -> None:
        """Serve until the mount has gone. pyfuse3's own loop runs beside it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay.return_answers)
            nursery.start_soon(self._retry_while_asleep)
            try:
                await self._loop()
            except OSError as error:
                # unmounted, or ended through /sys/fs/fuse/connections
                if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                    raise
            nursery.cancel_scope.cancel()

    async def _loop(self) -> None:
        device, table, handlers = self._device.descriptor, self._table, self._handlers
        buffers, scheduler, relay, waiting = self._buffers, self._scheduler, self._relay, handlers.again.users
        readv, clock, unpack = os.readv, time.perf_counter, HEADER.unpack_from
        vector, window = [buffers.current], Window(device)
        turn_ends, full = 0.0, 0
        while True:
            try:
                size = readv(device, vector)
            except BlockingIOError:
                full = 0
                if waiting:
                    handlers.try_again()
                    await trio.lowlevel.checkpoint()
                elif relay.in_flight or scheduler.pending or not window.look_again():
                    self._asleep = True
                    await trio.lowlevel.wait_readable(device)
                    self._asleep = False
                    turn_ends = clock() + _TURN
                continue
            except OSError as error:
                if error.errno in PASSING:
                    continue
                raise
            buffer = vector[0]
            header = unpack(buffer)
            serve = table.get(header[1])
            if serve is None:
                self._pass_on(header, memoryview(buffer)[:size])
            else:
                serve(header, buffer)
                if buffers.move_on():
                    vector[0] = buffers.current
            if waiting:
                handlers.try_again()
            now = clock()
            window.until = now + WINDOW
            if now >= turn_ends:
                full += 1
                if full >= _FULL:
                    full = _FULL - _PAUSE
                    await self._serve_in_turns()
                    vector[0] = buffers.current
                    window.until = clock() + WINDOW
                else:
                    await self._let_others()
                turn_ends = clock() + _TURN

    async def _let_others(self) -> None:
        """Let trio's other tasks have their turn."""
        await trio.lowlevel.checkpoint()
        while self._relay.is_full:
            await trio.sleep(_TURN)

    async def _serve_in_turns(self) -> None:
        """Serve the users in turns, one request each, until few requests wait. Errors: OSError if the mount is gone."""
        backlog, table, waiting, clock = self._backlog, self._table, self._handlers.again.users, time.perf_counter
        turn_ends = 0.0
        while True:
            backlog.read()
            are_few = len(backlog) <= _FEW
            ends = clock() + _LOOK
            while (message := backlog.take()) is not None:
                header, buffer, _ = message
                serve = table.get(header[1])
                if serve is None:
                    self._pass_on(header, memoryview(buffer)[: header[0]])
                else:
                    serve(header, buffer)
                # its buffer may be read into again
                del message, buffer, _
                if waiting:
                    self._handlers.try_again()
                if not are_few and clock() >= ends:
                    break
            if clock() >= turn_ends:
                await self._let_others()
                turn_ends = clock() + _TURN
            if are_few:
                return

    def _pass_on(self, header: Header, message: memoryview) -> None:
        """Have pyfuse3 serve a request."""
        if self._entrance.lets_in(header[4]):
            self._relay.pass_on(header[4], header[2], message)
        else:
            self._device.refuse(header[2], errno.EACCES)

    def _interrupt(self, header: Header, buffer: bytearray) -> None:
        """A signal waits for the caller of a request."""
        (unique,) = INTERRUPT.unpack_from(buffer, HEADER_SIZE)
        if self._backlog.withdraw(unique):
            self._device.refuse(unique, errno.EINTR)
        else:
            self._handlers.interrupt(unique)

    def _wake(self) -> None:
        """A waiting request can be tried again."""
        if self._asleep:
            self._called.set()

    async def _retry_while_asleep(self) -> None:
        while True:
            await self._called.wait()
            self._called = trio.Event()
            while self._handlers.again.users:
                self._handlers.try_again()
                await trio.lowlevel.checkpoint()
