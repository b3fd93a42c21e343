"""Requests that were read before their turn.

The kernel gives requests in the order in which they came, whoever sent them: behind a user with thousands of threads
everybody waits. So where more requests come than can be served, all that the kernel has is read, and the users have
turns, one request each. What was read is bounded. Beyond the bound, requests wait in the kernel.
"""

import errno
import os
from collections.abc import Callable, Mapping

from ..contexts import Turns
from ..wiping import wipe
from .buffers import Buffers
from .handlers import Handler
from .protocol import HEADER, HEADER_SIZE, RELEASE, Header, Opcode

PASSING = frozenset((errno.EINTR, errno.ENOENT))
"""What a read of `/dev/fuse` may fail with, and go on. ENOENT: the caller was killed before its request was read."""
_REQUESTS_MAX, _BYTES_MAX = 8192, 32 << 20
"""Requests that are read before their turn, and their bytes."""
_KERNEL = -1
"""Whose turn the kernel's own requests have."""
_INTERRUPTIBLE = frozenset((Opcode.READ, Opcode.WRITE, Opcode.IOCTL))
"""Requests that a signal ends before their turn. The other ones wait for nothing, and programs do not expect stat or
open to fail by a signal."""

_DATA = frozenset((Opcode.WRITE, Opcode.IOCTL))
"""Requests with a program's data."""
_WITHOUT_TURN = frozenset((Opcode.INTERRUPT, Opcode.FORGET, Opcode.BATCH_FORGET))
"""What is served when it is read: it takes no time, and has no answer."""


Message = tuple[Header, bytearray, memoryview | None]
"""A request: its header, a buffer that has the whole of it and may be larger, and what keeps this buffer from being
read into again."""


class Backlog:
    """What one mount's descriptor had, by users."""

    def __init__(
        self, device: int, buffers: Buffers, table: Mapping[int, Handler], opener: Callable[[int], int | None]
    ) -> None:
        """table: serves what has no turn. opener: the uid of an open file."""
        self._device = device
        self._buffers = buffers
        self._table = table
        self._opener = opener
        self._turns: Turns[Message] = Turns()
        self._count = self._size = 0

    def __len__(self) -> int:
        return self._count

    def read(self) -> None:
        """Read all that the kernel has, or as much as may wait here. Errors: OSError if the mount has gone."""
        for _ in range(_REQUESTS_MAX - self._count):
            if self._size >= _BYTES_MAX:
                return
            buffer = self._buffers.current
            try:
                size = os.readv(self._device, [buffer])
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in PASSING:
                    continue
                raise
            header = HEADER.unpack_from(buffer)
            if header[1] in _WITHOUT_TURN:
                self._table[header[1]](header, buffer)
            else:
                self._keep(header, buffer, size)

    def _keep(self, header: Header, buffer: bytearray, size: int) -> None:
        user = self._user(header, buffer)
        if 2 * size > len(buffer):
            message: Message = (header, buffer, memoryview(buffer))
            self._buffers.move_on()
        else:
            message = (header, buffer[:size], None)
            if header[1] in _DATA:
                # a key is wiped where it is used, which is the copy
                buffer[HEADER_SIZE:size] = bytes(size - HEADER_SIZE)
        self._turns.put((user, header[2]), message)
        self._count += 1
        self._size += len(message[1])

    def _user(self, header: Header, buffer: bytearray) -> int:
        if header[1] == Opcode.RELEASE:
            # the kernel sends it, and the user that opens a file next relies on it
            uid = self._opener(RELEASE.unpack_from(buffer, HEADER_SIZE)[0])
            return _KERNEL if uid is None else uid
        uid, pid = header[4], header[6]
        return uid if uid or pid else _KERNEL

    def take(self) -> Message | None:
        """The next user's first request, or None."""
        message = self._turns.take()
        if message is not None:
            self._count -= 1
            self._size -= len(message[1])
        return message

    def withdraw(self, unique: int) -> bool:
        """Drop a request that a signal ends; returns whether it is one and was here."""
        for user, messages in self._turns.users.items():
            if unique in messages:
                ((header, buffer, _),) = messages[unique]
                if header[1] not in _INTERRUPTIBLE:
                    return False
                self._turns.remove((user, unique))
                self._count -= 1
                self._size -= len(buffer)
                wipe(memoryview(buffer)[: header[0]])
                return True
        return False
