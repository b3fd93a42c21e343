"""What each request does: open files by their number, their polls, and requests that wait.

No handler waits. A handle says that it cannot go on now, the request is kept in `_waits`, and it is tried again
whenever its handle has changed. A signal to the caller comes as INTERRUPT, and the request is answered with EINTR at
once. So a wait needs no bound.
"""

import errno
import select
import time
from collections.abc import Callable
from functools import partial

from ..contexts import Call, Turns
from ..nodes import Caller, Handle
from ..records import is_call
from .device import Device
from .entrance import Entrance
from .protocol import (
    HEADER_SIZE,
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
    Header,
    Opcode,
)
from .waits import Wait, WaitingCall, WaitingControl, WaitingRead, WaitingWrite

_RETRIES, _RETRIED = 16, 2e-4
"""Waiting requests that are tried again before the next new request has its turn, and the seconds after which no more
of them are: a piece of a stream may take a hundred times as long as a small request."""

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM

Handler = Callable[[Header, bytearray], None]
"""Serves a request: its header, and the buffer that it is in, header included. The buffer may be larger."""


class Handlers:
    """One mount's open files."""

    def __init__(self, device: Device, entrance: Entrance, wake: Callable[[], None]) -> None:
        """wake: called when a waiting request can be tried again."""
        self._device = device
        self._entrance = entrance
        self._wake = wake
        self._handles: dict[int, Handle] = {}
        self._last = 0
        self._polls: dict[int, Callable[[], None]] = {}
        self._waits: dict[int, Wait] = {}
        self.again: Turns[Wait] = Turns()
        """Waiting requests whose handle has changed."""
        self.table: dict[int, Handler] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.IOCTL: self._ioctl,
            Opcode.OPEN: self._open,
            Opcode.RELEASE: self._release,
            Opcode.POLL: self._poll,
            # nodes are found by number, so nothing is remembered for the kernel
            Opcode.FORGET: self._ignore,
            Opcode.BATCH_FORGET: self._ignore,
        }

    @property
    def open_handles(self) -> int:
        """Files that are open now."""
        return len(self._handles)

    def opener(self, number: int) -> int | None:
        """The uid that has opened a file, or None if no open file has this number."""
        handle = self._handles.get(number)
        return self._entrance.opener(handle) if handle is not None else None

    def _ignore(self, header: Header, buffer: bytearray) -> None:
        return

    def _lookup(self, header: Header, buffer: bytearray) -> None:
        length, _, unique, parent, uid, gid, pid, _, _ = header
        # the name ends with a NUL
        name = buffer[HEADER_SIZE : length - 1]
        try:
            found = self._entrance.look_up(parent, name, Caller(uid, gid, pid))
        except Exception as error:
            self._device.fail(unique, error, "lookup")
        else:
            self._device.give_found(unique, found)

    def _open(self, header: Header, buffer: bytearray) -> None:
        _, _, unique, inode, uid, gid, pid, _, _ = header
        flags, _ = OPEN.unpack_from(buffer, HEADER_SIZE)
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

    def _release(self, header: Header, buffer: bytearray) -> None:
        number = RELEASE.unpack_from(buffer, HEADER_SIZE)[0]
        forget = self._polls.pop(number, None)
        if forget is not None:
            forget()
        try:
            self._entrance.close(self._handles.pop(number))
        except Exception as error:
            self._device.fail(header[2], error, "release")
        else:
            self._device.refuse(header[2], 0)

    def _read(self, header: Header, buffer: bytearray) -> None:
        unique = header[2]
        number, offset, size, _, _, _, _ = READ.unpack_from(buffer, HEADER_SIZE)
        try:
            handle = self._handles[number]
            data = handle.read(offset, size)
            if data is None:
                self._wait(WaitingRead(unique, header[4], handle, offset, size))
                return
        except Exception as error:
            self._device.fail(unique, error, "read")
            return
        self._device.give(unique, data)

    def _write(self, header: Header, buffer: bytearray) -> None:
        unique = header[2]
        number, offset, size, _, _, _, _ = WRITE.unpack_from(buffer, HEADER_SIZE)
        data = memoryview(buffer)[WRITE_DATA : WRITE_DATA + size]
        try:
            handle = self._handles[number]
            taken = handle.write(offset, data)
            if taken != size:
                if isinstance(taken, int):
                    self._wait(WaitingWrite(unique, header[4], handle, offset, data, taken))
                else:
                    self._wait(WaitingControl(unique, header[4], handle, taken))
                return
        except Exception as error:
            self._device.fail(unique, error, "write")
            return
        self._device.give_written(unique, size)

    def _ioctl(self, header: Header, buffer: bytearray) -> None:
        unique = header[2]
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
                self._wait(WaitingCall(unique, header[4], handle, response))
                return
        except Exception as error:
            self._device.fail(unique, error, "ioctl")
            return
        self._device.give_controlled(unique, response)

    def _poll(self, header: Header, buffer: bytearray) -> None:
        number, poll_handle, flags, _ = POLL.unpack_from(buffer, HEADER_SIZE)
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
            self.again.put((wait.uid, 0), wait)
        else:
            wait.forget = wait.handle.watch(partial(self._call, wait))

    def _call(self, wait: Wait) -> None:
        """A waiting request's handle has changed."""
        wait.forget = None
        self.again.put((wait.uid, 0), wait)
        self._wake()

    def try_again(self) -> None:
        """Try some of the waiting requests again that may be able to continue, the users in turns."""
        ends = time.perf_counter() + _RETRIED
        for turn in range(_RETRIES):
            if turn and time.perf_counter() > ends:
                return
            wait = self.again.take()
            if wait is None:
                return
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

    def interrupt(self, unique: int) -> None:
        """A signal waits for the caller of a request."""
        wait = self._waits.pop(unique, None)
        if wait is None:
            # it was answered meanwhile, or has its turn soon, or is one of pyfuse3's, which wait for nothing
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
