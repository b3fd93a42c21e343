"""What a stream is made of: its users, its output in pieces, and the parts that are computed here or by a worker."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..engines.base import Message, Transform
from ..errors import Busy, Cancelled, CryptofsError, EngineFault, InvalidValue
from ..policy import Queue
from ..records import Buffer

log = logging.getLogger("cryptofs")


def engine_fault(transform: Transform) -> EngineFault:
    """Log an unexpected exception of an engine; returns the error for the client."""
    log.exception("a stream of %s failed in the engine", transform.description.name)
    return EngineFault("the engine failed; the daemon's log says more")


@dataclass(slots=True, eq=False)
class Step:
    """A part of a message that is being computed, or was: its output is in the first `size` bytes of `out`. dropped:
    its output is no longer wanted.
    """

    message: Message
    data: Buffer
    last: bool
    out: memoryview
    size: int = 0
    error: CryptofsError | None = None
    dropped: bool = False

    def drop(self) -> None:
        """Release the data of a step that no worker has begun: frequent drops must not fill the memory."""
        self.dropped = True
        self.data, self.out = b"", memoryview(b"")

    def compute(self, transform: Transform) -> "Step":
        """Compute it; it may run in any thread and never raises."""
        data, out = self.data, self.out
        # checked after taking them: otherwise a drop in between would leave half of them
        if self.dropped:
            return self
        try:
            self.size = self.message.update(data, self.last, out)
        except CryptofsError as error:
            self.error = error.again()
        except Exception:
            self.error = engine_fault(transform)
        return self


class Tally:
    """What a stream has of its user's `queue-bytes`. waiting: bytes of output that wait to be read; kept: bytes that
    its message keeps until it ends, and a worker has of it; state: what its message holds besides.
    """

    __slots__ = ("_queue", "kept", "state", "waiting")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.waiting = 0
        self.kept = 0
        self.state = 0

    def count(self, size: int) -> None:
        """Change the count of waiting output by so many bytes."""
        self.waiting += size
        self._queue.charge(0, size)

    def hold(self, message: Message) -> None:
        """A message has begun. Errors: OverQuota; it is closed then."""
        try:
            self._queue.charge_state(message.state)
        except CryptofsError:
            message.close()
            raise
        self.state = message.state

    def let_go(self) -> None:
        """The message is closed, or no longer the stream's."""
        self.keep(0)
        if self.state:
            self._queue.release_state(self.state)
            self.state = 0

    def keep(self, size: int) -> None:
        """The message keeps so many bytes now."""
        self._queue.charge(0, size - self.kept)
        self.kept = size


@dataclass(slots=True)
class Piece:
    """Output that waits for a reader. ends: a message ends with it; error: what the reader gets instead of data."""

    data: memoryview
    ends: bool = False
    error: CryptofsError | None = None


_SMALL, _JOINED = 4096, 16_384
"""Bytes below which a piece is put to the one before it, and which that one has at most: shells write line by line."""


def add_piece(pieces: deque[Piece], data: memoryview, ends: bool) -> None:
    """Let more output wait; a small piece is put to the one before it."""
    before = pieces[-1] if pieces else None
    if before is None or before.ends or len(data) >= _SMALL or len(before.data) > _JOINED:
        pieces.append(Piece(data, ends=ends))
    else:
        before.data, before.ends = memoryview(b"".join((before.data, data))), ends


class Phase(Enum):
    """How far an open handle is with its message."""

    FRESH = "nothing was written or read"
    FEEDING = "it has written a part"
    READING = "its read has ended the message"
    OVERRUN = "it was written to when its read had ended the message"
    DONE = "its message's end of file, or error, was read"
    CUT = "a reset has dropped its message"


@dataclass(slots=True, eq=False)
class StreamUser:
    """One open handle of the stream, and the rule that no data is lost without an error: one open is one message.

        phase      write                  read, on a handle that also writes
        FRESH      -> FEEDING             ends a message, if only an empty one -> READING
        FEEDING    goes on                ends the message -> READING
        READING    EBUSY -> OVERRUN       output, then the end of file -> DONE
        OVERRUN    EBUSY                  output, then EBUSY instead of the end of file -> DONE
        DONE       EBUSY                  EINVAL
        CUT        ECANCELED              ECANCELED -> FRESH

    A handle that only writes stays FEEDING, or CUT, until it is closed. One that only reads is FRESH, because it may
    read one message after the other, or CUT for one read. A reset makes what is DONE FRESH again.

    at_end: the next read gives the end of file. begun: a part of a message was read, and its end was not.
    """

    reads: bool
    writes: bool
    phase: Phase = Phase.FRESH
    at_end: bool = False
    begun: bool = False

    @property
    def feeds(self) -> bool:
        """Whether the message cannot end yet, because this handle may write more of it."""
        return self.phase is Phase.FEEDING or (self.phase is Phase.FRESH and not self.reads)

    @property
    def stopped(self) -> bool:
        """Whether a write is refused whatever the stream's state is."""
        return self.phase not in (Phase.FRESH, Phase.FEEDING)

    def check_write(self) -> None:
        """Called before data is taken. Errors: Busy, Cancelled."""
        if self.phase is Phase.CUT:
            raise Cancelled("a reset has dropped the message: close this descriptor and write the message again")
        if self.stopped:
            if self.phase is Phase.READING:
                self.phase = Phase.OVERRUN
            raise Busy("a read has ended the message of this descriptor: open the file again for the next message")

    def check_read(self) -> None:
        """Called before output is given. Errors: Cancelled, once; InvalidValue behind the end of file."""
        if self.phase is Phase.CUT and self.reads:
            self.phase = Phase.FRESH
            raise Cancelled("a reset has dropped the message")
        if self.phase is Phase.DONE:
            raise InvalidValue("the end of file was read: open the file again for the next message, also an empty one")

    def end(self) -> bytes:
        """The end of file. Errors: Busy instead of it, if data was refused that the writer took for a part of this."""
        overrun = self.phase is Phase.OVERRUN
        self.at_end = self.begun = False
        if self.writes:
            self.phase = Phase.DONE
        if overrun:
            raise Busy("more was written when a read had ended the message: this output is not the whole")
        return b""

    def cut(self, dropped: bool) -> None:
        """A reset. dropped: whether there was a message or output on the stream."""
        if self.phase is Phase.DONE:
            self.phase = Phase.FRESH
        elif self.phase is not Phase.FRESH or (not self.writes and (dropped or self.begun)):
            self.phase = Phase.CUT
        self.at_end = self.begun = False


Offload = Callable[[Callable[[], Step], Callable[[Step], None]], bool]
"""Have a worker compute, and call back with the result in the event loop; false where there is no worker."""
