"""The listener of a seccomp filter: takes the calls that the filter hands over, and answers them."""

import contextlib
import errno
import fcntl
import os
import struct
import sys
from functools import partial
from typing import NamedTuple

from ..errors import SystemFault
from .numbers import X32, machine
from .process import ContainersMemory, GuardedMemory, Memory

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADD = struct.Struct("=QIIII")
_CONTINUE = 1
_AT_NUMBER = 1


def _command(number: int, size: int, reads: bool) -> int:
    """The number of an ioctl of seccomp."""
    return (0xC0000000 if reads else 0x40000000) | size << 16 | ord("!") << 8 | number


_RECEIVE = _command(0, _NOTIFICATION.size, reads=True)
_SEND = _command(1, _RESPONSE.size, reads=True)
_ADD_DESCRIPTOR = _command(3, _ADD.size, reads=False)
_IS_VALID = _command(2, 8, reads=False)
_SET_FLAGS = _command(4, 8, reads=False)
_WAKE_HERE = 1
FOREIGN = -1
"""The number of each call of another architecture. Our own filter hands over those that would make a socket of ours."""
_NOTHING = bytes(_NOTIFICATION.size)


class PassOn(Exception):
    """The kernel is to do the call."""


class Call(NamedTuple):
    """A system call of the program that waits for its answer. tid: of its thread; arguments: six numbers; memory: its
    process's."""

    identity: int
    tid: int
    number: int
    arguments: tuple[int, ...]
    memory: Memory


class Listener:
    """The listener's descriptor, which this object owns."""

    sees_writes = True
    """Whether the filter hands over write(2)."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._architecture = machine().audit
        self._buffer = bytearray(_NOTIFICATION.size)
        # Since Linux 6.6: supervisor and program take turns on one processor, which costs less than waking another.
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _SET_FLAGS, _WAKE_HERE)

    def close(self) -> None:
        """Calls that the filter hands over from now on, and those that wait, fail with ENOSYS."""
        os.close(self.descriptor)

    def receive(self) -> Call | None:
        """The next call, or None if its thread has ended in the meantime."""
        buffer = self._buffer
        buffer[:] = _NOTHING
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        fields = _NOTIFICATION.unpack_from(buffer)
        identity, tid, _, number, architecture, _ = fields[:6]
        if architecture != self._architecture or number & X32:
            number = FOREIGN
        return Call(identity, tid, number, fields[6:], self._memory(identity, tid))

    def _memory(self, identity: int, tid: int) -> Memory:
        return Memory(tid)

    def answer(self, call: Call, value: int) -> None:
        """The call returns this value."""
        self._send(_RESPONSE.pack(call.identity, value, 0, 0))

    def refuse(self, call: Call, number: int) -> None:
        """The call fails with this errno."""
        self._send(_RESPONSE.pack(call.identity, 0, -number, 0))

    def pass_on(self, call: Call) -> None:
        """The kernel does the call, as if there were no filter."""
        self._send(_RESPONSE.pack(call.identity, 0, 0, _CONTINUE))

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, response)
        except OSError as error:
            # ENOENT: the thread has been killed.
            if error.errno != errno.ENOENT:
                raise

    def inject(self, call: Call, descriptor: int, number: int | None, close_on_exec: bool) -> int:
        """Give the caller a copy of a descriptor, and return its number there. number: None for the smallest free one.

        The caller still waits for its answer. Errors: OSError.
        """
        flags = 0 if number is None else _AT_NUMBER
        request = _ADD.pack(call.identity, flags, descriptor, number or 0, os.O_CLOEXEC if close_on_exec else 0)
        return int(fcntl.ioctl(self.descriptor, _ADD_DESCRIPTOR, bytearray(request), True))


class GuardedListener(Listener):
    """A listener of a process with more rights than the program may have: what a thread's number stands for is checked.

    Otherwise a program without rights could have one of its threads killed in a call, and its number given to another
    user's process: that one's memory would be read, and the answer written there.
    """

    _kind: type[GuardedMemory] = GuardedMemory

    def _memory(self, identity: int, tid: int) -> Memory:
        return self._kind(tid, partial(self._check, identity.to_bytes(8, sys.byteorder)))

    def _check(self, identity: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _IS_VALID, identity)
        except OSError:
            raise SystemFault("the thread does not wait any longer", errno.ESRCH) from None


class RuntimesListener(GuardedListener):
    """The listener of a filter that the runtime of a container has made, for processes that are not ours."""

    sees_writes = False
    """Runtimes refuse to hand over write(2), which they call themselves under the filter."""
    _kind = ContainersMemory

    def receive(self) -> Call | None:
        call = super().receive()
        if call is not None and (not call.tid or call.number == FOREIGN):
            # Nothing can be done for a process outside of this one's PID namespace. A runtime has the same rules for
            # 32-bit programs.
            self.pass_on(call)
            return None
        return call
