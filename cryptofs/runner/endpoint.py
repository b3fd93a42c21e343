"""What stands behind a descriptor that the program was given.

The program has one end of a pair of sockets, the supervisor the other. The program's end is known by its inode,
whatever number, process or copy it comes by. The close of the last copy is a hang-up on the supervisor's end. So
threads, fork, exec and dup need no bookkeeping.
"""

import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import CryptofsError, NotSupported, TooLarge
from ..records import Buffer
from .libc import Data
from .process import Memory, is_in_call

MSG_DONTWAIT, MSG_MORE, MSG_TRUNC, MSG_PEEK = 0x40, 0x8000, 0x20, 0x02
_PACKET_MAX = 1 << 24
_SNDBUFFORCE = 32
_FRESH = 65536
"""Bytes of a socket's send buffer that the kernel takes for its own administration, at most."""


class MustWait(Exception):
    """There is no answer yet: the program waits, unless it does not want to."""


class Received(NamedTuple):
    """What a receive gives. flags: MSG_TRUNC or 0; source: the sender's address."""

    data: bytes | bytearray
    flags: int = 0
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A thread that waits in the kernel for a packet of at most `room` bytes. number: of its system call."""

    tid: int
    number: int
    room: int


@dataclass(slots=True)
class Splice:
    """A splice that the kernel does, because it has to wait for the pipe. more: whether it announced more data; moved:
    whether any has come."""

    tid: int
    number: int
    more: bool
    moved: bool = False


class Layout(NamedTuple):
    """Where the parts of a message lie in the memory of its sender. start: what says so there, the message's header and
    its array of pieces; parts: both, the control messages, and the pieces; size: bytes of all, of which `control` are
    those of the control messages."""

    start: bytes
    parts: list[tuple[int, int]]
    control: int
    size: int


class Endpoint:
    """One open file. A method that a kind does not have is EOPNOTSUPP."""

    starts_readable = True
    """Whether poll finds it readable from the beginning."""
    takes_parts = False
    """Whether a send is the same as several with MSG_MORE, so that it may be of any size."""

    def __init__(self, kind: int = socket.SOCK_SEQPACKET) -> None:
        self.theirs, self.ours = socket.socketpair(socket.AF_UNIX, kind)
        self.inode = os.fstat(self.theirs.fileno()).st_ino
        self.waiting: deque[Waiting] = deque()
        self.served: list[Waiting] = []
        """Those who waited and were given an answer, which they may not have taken yet."""
        self.kept: deque[Data] = deque()
        """Answers that nobody took."""
        self.outgoing: deque[Data] = deque()
        """What the pair has no room for yet."""
        self.watch_room: Callable[[bool], None] = lambda wanted: None
        """Has `flush` called when there is room, or stops that. The object that watches our end of the pair sets it."""
        self.marked = False
        """Whether a packet without bytes lies before the program's end, so that poll finds it readable."""
        self.splice: Splice | None = None
        self.layout: Layout | None = None
        """The last message's, because the next one often has the same."""
        if self.starts_readable:
            self.mark()

    def close(self) -> None:
        """The program has closed its last copy."""
        self.theirs.close()
        self.ours.close()

    # What the program may do with it

    def bind(self, address: bytes) -> None:
        """bind(2)."""
        raise NotSupported("bind")

    def set_option(self, level: int, option: int, key: bytearray, size: int) -> None:
        """setsockopt(2). key: the option's value, which the caller wipes; size: what was given as its size."""
        raise NotSupported("setsockopt")

    def accept(self) -> "Endpoint":
        """accept(2)."""
        raise NotSupported("accept")

    def name(self) -> bytes:
        """getsockname(2)."""
        raise NotSupported("getsockname")

    def send(self, data: Buffer, control: bytes, flags: int, tid: int) -> int:
        """sendmsg(2): takes data and control messages; returns how many bytes it took."""
        raise NotSupported("send")

    def receive(self, size: int, flags: int) -> Received:
        """recvmsg(2). Errors: MustWait."""
        raise NotSupported("recv")

    def check_send(self) -> None:
        """Raise what `send` would raise, whatever the data is."""
        raise NotSupported("send")

    def control(self, memory: Memory, number: int, copy: Callable[[], int], command: int, argument: int) -> int:
        """ioctl(2); returns its value. number: the caller's descriptor; copy: gives the caller one more descriptor of
        this file, returns its number.
        """
        raise NotSupported("ioctl")

    # Packets for calls that the kernel does

    def mark(self) -> None:
        """Make the program's end readable."""
        if not self.marked:
            self.put(b"")
            self.marked = True

    def drain(self, memory: Memory, number: int) -> list[Data]:
        """Take back what lies before the program's end; what of it was an answer is returned."""
        self.marked = False
        packets: list[Data] = []
        with socket.socket(fileno=memory.take_descriptor(number)) as theirs, contextlib.suppress(BlockingIOError):
            while True:
                packets.append(theirs.recv(_PACKET_MAX, MSG_DONTWAIT))
        packets += self.outgoing
        self.outgoing.clear()
        return [each for each in packets if len(each)]

    def put(self, data: Data) -> None:
        """Lay an answer before the program's end, for the call that the kernel does, or keep it until there is room.

        Errors: TooLarge for more than a pair of sockets takes at once.
        """
        try:
            if self.outgoing:
                raise BlockingIOError
            self._put(data)
        except BlockingIOError:
            self.outgoing.append(data)
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
            while self.outgoing:
                try:
                    self._put(self.outgoing[0])
                except TooLarge:
                    self._put(b"")
                self.outgoing.popleft()
            self.watch_room(False)

    def offer(self, memory: Memory, number: int, answers: Sequence[Data]) -> None:
        """Lay answers ready for a call that reads them at once. number: the caller's descriptor."""
        if self.marked:
            self.drain(memory, number)
        for each in answers:
            self.put(each)
        if not self.waiting:
            self.mark()

    def wait(self, memory: Memory, each: Waiting, number: int) -> None:
        """A thread is going to wait in the kernel for what `settle` puts there. number: its descriptor's."""
        self.waiting = deque(old for old in self.waiting if old.tid != each.tid and is_in_call(old.tid, old.number))
        if not self.waiting:
            # The mark goes. An answer that nobody has taken yet is for whoever reads first.
            for answer in self.drain(memory, number):
                self.put(answer)
        self.waiting.append(each)

    def settle(self) -> None:
        """Something has come: give those who wait what there is for them."""
        while self.waiting:
            each = self.waiting[0]
            if is_in_call(each.tid, each.number):
                try:
                    self.put(self.receive(each.room, 0).data)
                except MustWait:
                    return
                except CryptofsError:
                    # An errno cannot pass through a pair. An end of file is at least no wrong byte.
                    self.put(b"")
                self.served.append(each)
            self.waiting.popleft()
        self.mark()

    def left_behind(self, memory: Memory, number: int) -> Data | None:
        """An answer that was put there for a thread which a signal has taken out of its call meanwhile."""
        # The caller itself is in this call now, so not in that one.
        others = [each for each in self.served if each.tid != memory.tid]
        if self.served and not any(is_in_call(each.tid, each.number) for each in others):
            self.served.clear()
            self.kept.extend(self.drain(memory, number))
            self.mark()
        return self.kept.popleft() if self.kept else None

    def take_packets(self) -> list[bytes]:
        """What calls that the kernel did have written, each as one message."""
        packets = []
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            # Without bytes: the other end is closed, or an empty message.
            while packet := self.ours.recv(_PACKET_MAX, MSG_DONTWAIT):
                packets.append(packet)
        return packets
