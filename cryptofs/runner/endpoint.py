"""What stands behind a descriptor that the program was given.

The program has one end of a pair of sockets, the supervisor the other. The program's end is known by its inode,
whatever number, process or copy it comes by. The close of the last copy is a hang-up on the supervisor's end. So
threads, fork, exec and dup need no bookkeeping.
"""

import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from ..errors import CryptofsError, NotSupported, SystemFault
from ..records import Buffer
from .ends import End
from .libc import Data
from .notify import PassOn
from .process import Memory, is_in_call

MSG_MORE, MSG_TRUNC, MSG_PEEK, MSG_WAITFORONE = 0x8000, 0x20, 0x02, 0x10000


class MustWait(Exception):
    """There is no answer yet: the program waits, unless it does not want to."""


class Received(NamedTuple):
    """What a receive gives. flags: MSG_TRUNC or 0; source: the sender's address."""

    data: bytes | bytearray
    flags: int = 0
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A thread that waits in the kernel for a packet of at most `room` bytes. number: of its system call; end: where
    its descriptor is; looks_on: whether the call takes what else is there behind the packet, which is not to be the
    mark."""

    tid: int
    number: int
    room: int
    end: End
    looks_on: bool = False


class Place(Protocol):
    """A descriptor of the program's, as the caller has it. memory: the caller's; end: what the descriptor is."""

    @property
    def memory(self) -> Memory: ...

    @property
    def end(self) -> End: ...

    def clear(self) -> tuple[End, list[Data]]:
        """Have nothing lie before the end; returns what the descriptor is then, and the answers that lay there."""

    def copy(self, close_on_exec: bool) -> int:
        """Give the caller one more descriptor of the file; returns its number."""


@dataclass(slots=True)
class Splice:
    """A splice or sendfile that the kernel does, because it has to wait for the pipe, or has the file's position.

    more: whether it announced more data; wanted: bytes, of which fewer mean that there is more to come; moved: bytes
    that have come.
    """

    tid: int
    number: int
    more: bool = False
    wanted: int = 0
    moved: int = 0


class Layout(NamedTuple):
    """Where the parts of a message lie in the memory of its sender. start: what says so there, the message's header and
    its array of pieces; parts: both, the control messages, and the pieces; size: bytes of all, of which `control` are
    those of the control messages."""

    start: bytes
    parts: list[tuple[int, int]]
    control: int
    size: int


class Endpoint:
    """One open file. A method that a kind does not have is EOPNOTSUPP.

    It has several ends where the kernel's own ways to copy a descriptor, or to look at it, are not allowed.
    """

    starts_readable = True
    """Whether poll finds it readable from the beginning."""
    takes_parts = False
    """Whether a send is the same as several with MSG_MORE, so that it may be of any size."""

    def __init__(self, kind: int = socket.SOCK_SEQPACKET) -> None:
        self._kind = kind
        self.end = End(kind)
        """The one that was made last."""
        self.ends = [self.end]
        self.waiting: deque[Waiting] = deque()
        self.served: list[Waiting] = []
        """Those who waited and were given an answer, which they may not have taken yet."""
        self.kept: deque[Data] = deque()
        """Answers that nobody took."""
        self.announced: deque[int] = deque()
        """Hashes of packets that the kernel is going to write, and that have been dealt with already."""
        self.splice: Splice | None = None
        self.layouts: deque[Layout] = deque(maxlen=2)
        """The last two messages'. The next one often has that of the one before the last: a program that frees memory
        for its control messages after it has allocated the next ones alternates between two places."""
        if self.starts_readable:
            self.mark()

    def close(self) -> None:
        """The program has closed its last copy."""
        for end in self.ends:
            end.close()

    def add_end(self, readable: bool) -> End:
        """One more. readable: as the last one, else not."""
        end = End(self._kind)
        if readable and self.end.marked:
            end.mark()
        self.ends.append(end)
        self.end = end
        return end

    def remove_end(self, end: End) -> None:
        """One that the program has closed, while it has others."""
        end.close()
        self.ends.remove(end)
        self.end = self.ends[-1]
        self.waiting = deque(each for each in self.waiting if each.end is not end)

    def take_packets(self) -> list[bytes]:
        """What calls that the kernel did have written, each as one message."""
        packets = [packet for end in self.ends for packet in end.take_packets()]
        return [each for each in packets if not self._was_announced(each)] if self.announced else packets

    def _was_announced(self, packet: bytes) -> bool:
        known = hash(packet)
        if known not in self.announced:
            return False
        # The kernel has refused those before it.
        while self.announced.popleft() != known:
            pass
        return True

    # What the program may do with it

    def bind(self, address: bytes) -> None:
        """bind(2)."""
        raise NotSupported("bind")

    def set_option(self, level: int, option: int, size: int, take_key: Callable[[], bytearray]) -> None:
        """setsockopt(2). size: of the option's value; take_key: gives it, if it is a key, for the caller to wipe."""
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

    def check_send(self, control: bytes) -> None:
        """Raise what `send` would raise, whatever the data is. control: the control messages."""
        raise NotSupported("send")

    def control(self, place: Place, command: int, argument: int) -> int:
        """ioctl(2); returns its value. place: the caller's descriptor."""
        raise NotSupported("ioctl")

    # Packets for calls that the kernel does

    def mark(self) -> None:
        """Make the program's ends readable, except where a thread waits."""
        for end in self.ends:
            if not any(each.end is end for each in self.waiting):
                end.mark()

    def wait(self, place: Place, number: int, room: int) -> None:
        """A thread is going to wait in the kernel for what `settle` puts there. number: of its system call."""
        tid = place.memory.tid
        self.waiting = deque(old for old in self.waiting if old.tid != tid and is_in_call(old.tid, old.number))
        end = place.end
        if end.marked and not any(each.end is end for each in self.waiting):
            # The mark goes. An answer that nobody has taken yet is for whoever reads first.
            end, answers = place.clear()
            for answer in answers:
                end.put(answer)
        self.waiting.append(Waiting(tid, number, room, end))

    def wait_on(self, rooms: Sequence[int], looks_on: bool) -> None:
        """The thread that has begun to wait waits for more packets behind the first one, of these sizes.

        looks_on: whether there are more that it does not wait for, if it waits for none.
        """
        first = self.waiting.pop()
        self.waiting.append(replace(first, looks_on=looks_on and not rooms))
        self.waiting.extend(replace(first, room=room) for room in rooms)

    def make_way(self, place: Place) -> End:
        """Take the mark away, for a call that reads at once what is put there next; returns where to put it."""
        if not place.end.marked:
            # Somebody waits there.
            return place.end
        end, answers = place.clear()
        self.kept.extend(answers)
        return end

    def settle(self) -> None:
        """Something has come: give those who wait what there is for them, and have poll find the rest."""
        if self.serve() and not self.waiting:
            self.mark()

    def serve(self) -> bool:
        """Give those who wait what there is for them; returns whether the mark may come behind it."""
        looks_on = False
        while self.waiting:
            each = self.waiting[0]
            if is_in_call(each.tid, each.number):
                try:
                    each.end.put(self.receive(each.room, 0).data)
                except MustWait:
                    return False
                except CryptofsError:
                    # An errno cannot pass through a pair. An end of file is at least no wrong byte.
                    each.end.put(b"")
                self.served.append(each)
                looks_on = each.looks_on
            self.waiting.popleft()
        return not looks_on

    def left_behind(self, place: Place) -> Data | None:
        """An answer that was put there for a thread which a signal has taken out of its call meanwhile."""
        # The caller itself is in this call now, so not in that one.
        others = [each for each in self.served if each.tid != place.memory.tid]
        if self.served and not any(is_in_call(each.tid, each.number) for each in others):
            if place.end.has_answers:
                try:
                    self.kept.extend(place.clear()[1])
                except SystemFault as error:
                    if error.errno != errno.EPERM:
                        raise
                    # It cannot be taken back here, but lies before the mark: the kernel's read finds it.
                    raise PassOn from None
                self.mark()
            self.served.clear()
        return self.kept.popleft() if self.kept else None
