"""A pair of sockets: the program has one end, the supervisor the other.

Packets that lie before the program's end are for calls that the kernel does: reads that wait, and asynchronous ones.
One without bytes is the mark, which has poll find the end readable.
"""

import array
import contextlib
import errno
import fcntl
import functools
import os
import socket
import termios
from collections import deque
from collections.abc import Callable

from ..errors import TooLarge
from .libc import Data
from .process import Memory

MSG_DONTWAIT = 0x40
_PACKET_MAX = 1 << 24
_SNDBUFFORCE = 32
_FRESH = 65536
"""Bytes of a socket's send buffer that the kernel takes for its own administration, at most."""


class End:
    """One pair. `theirs` is only kept until the program has it: then its last close is a hang-up on `ours`."""

    def __init__(self, kind: int) -> None:
        self.theirs, self.ours = socket.socketpair(socket.AF_UNIX, kind)
        self.link = b"socket:[%d]" % os.fstat(self.theirs.fileno()).st_ino
        """What /proc says of each descriptor of the program's end: its inode."""
        self.marked = False
        self.numbers: set[int] = set()
        """Those that the program was given for it."""
        self._kind = kind
        self._outgoing: deque[Data] = deque()
        """What the pair has no room for yet."""
        self.watch_room: Callable[[bool], None] = lambda wanted: None
        """Has `flush` called when there is room, or stops that. The object that watches `ours` sets it."""

    def close(self) -> None:
        """Close both."""
        self.theirs.close()
        self.ours.close()

    def mark(self) -> None:
        """Make the program's end readable."""
        if not self.marked:
            self.put(b"")
            self.marked = True

    def put(self, data: Data) -> None:
        """Lay an answer before the program's end, or keep it until there is room.

        Errors: TooLarge for more than a pair of sockets takes at once.
        """
        try:
            if self._outgoing:
                raise BlockingIOError
            self._put(data)
        except BlockingIOError:
            self._outgoing.append(data)
            self.watch_room(True)

    def _put(self, data: Data) -> None:
        if len(data):
            try:
                self.ours.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, 2 * len(data) + _FRESH)
            except PermissionError:
                self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(data) + _FRESH)
        try:
            # The supervisor must not wait for the program, which may be waiting for it.
            self.ours.send(data, MSG_DONTWAIT)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise TooLarge(f"{len(data)} bytes for a call that waits: the system allows less (wmem_max)") from None
            raise

    def flush(self) -> None:
        """The pair has room again."""
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                try:
                    self._put(self._outgoing[0])
                except TooLarge:
                    self._put(b"")
                self._outgoing.popleft()
            self.watch_room(False)

    @property
    def has_answers(self) -> bool:
        """Whether something but the mark lies before the program's end."""
        return bool(self._outgoing) or _unread(self.ours) > (_size_of_a_mark(self._kind) if self.marked else 0)

    def drain(self, memory: Memory, number: int) -> list[Data]:
        """Take back what lies there; what of it was an answer is returned. number: of the program's descriptor.

        Errors: SystemFault (EPERM where pidfd_getfd is not allowed).
        """
        with socket.socket(fileno=memory.take_descriptor(number)) as theirs:
            self.marked = False
            packets: list[Data] = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    packets.append(theirs.recv(_PACKET_MAX, MSG_DONTWAIT))
        packets += self._outgoing
        self._outgoing.clear()
        return [each for each in packets if len(each)]

    def take_packets(self) -> list[bytes]:
        """What calls that the kernel did have written, each as one message."""
        packets = []
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            # Without bytes: the other end is closed, or an empty message.
            while packet := self.ours.recv(_PACKET_MAX, MSG_DONTWAIT):
                packets.append(packet)
        return packets


def _unread(ours: socket.socket) -> int:
    """What the packets take that the other end has not read, in the kernel's memory."""
    count = array.array("i", [0])
    fcntl.ioctl(ours, termios.TIOCOUTQ, count)
    return count[0]


@functools.cache
def _size_of_a_mark(kind: int) -> int:
    theirs, ours = socket.socketpair(socket.AF_UNIX, kind)
    with theirs, ours:
        ours.send(b"")
        return _unread(ours)
