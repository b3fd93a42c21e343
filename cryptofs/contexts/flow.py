"""The message that is under way on a stream, and the output that waits for its readers.

Output that a message has more of than there is room for (a decompression's) is computed as readers make room. What
takes long is computed by a worker, and what goes wrong there is told by the next write or read.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from ..engines.base import OUT_SLACK, Message, Transform
from ..errors import Busy, Cancelled, CryptofsError, NoSuchTarget, WouldBlock
from ..policy import Queue
from ..records import Buffer, Operation
from .tally import Tally
from .work import Task, engine_fault

_PIECES = 4096
"""Pieces of output that wait for a reader before writers have to: each takes memory besides its data."""

Offload = Callable[[Task, Callable[[Task], None]], bool]
"""Have a worker compute a task and call back in the event loop; false where it is to be computed here."""


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


class State(Enum):
    """How far the message of a stream is."""

    IDLE = "no message is under way"
    OPEN = "a message takes its next part"
    BUSY = "a part is being computed, or has more output than there is room for"
    ENDING = "the same for the end of the message"
    FAILED = "the message has failed, and its writer or its reader is to be told"


class Event(Enum):
    """What moves a message."""

    START = auto()
    PART = auto()
    END = auto()
    COMPUTED = auto()
    FAILURE = auto()
    TOLD = auto()
    DROP = auto()


MOVES: dict[tuple[State, Event], State] = {
    # a message starts with its first part, or with its end if it is empty
    (State.IDLE, Event.START): State.OPEN,
    (State.OPEN, Event.PART): State.BUSY,
    (State.OPEN, Event.END): State.ENDING,
    # it ends when the part before is computed
    (State.BUSY, Event.END): State.ENDING,
    (State.BUSY, Event.COMPUTED): State.OPEN,
    (State.ENDING, Event.COMPUTED): State.IDLE,
    # it may also fail before it has started, and again when a writer gives up
    **{(state, Event.FAILURE): State.FAILED for state in State},
    (State.FAILED, Event.TOLD): State.IDLE,
    **{(state, Event.DROP): State.IDLE for state in State},
}


class Flow:
    """One stream's message, its output, and what both count for their user."""

    def __init__(
        self,
        transform: Transform,
        queue: Queue,
        tally: Tally,
        offload: Offload,
        changed: Callable[[], None],
        limit: int,
    ) -> None:
        """queue: where output that waits and what a message keeps is counted. tally: where messages are counted.
        limit: bytes of output that wait for a reader before writers have to."""
        self._transform = transform
        self._queue = queue
        self._tally = tally
        self._offload = offload
        self._changed = changed
        self._limit = limit
        self.state = State.IDLE
        self.failure: CryptofsError | None = None
        """What FAILED is to tell."""
        self.last_error: CryptofsError | None = None
        """The last failure, for the status."""
        self.output: deque[Piece] = deque()
        self.waiting = 0
        """Bytes of output that wait for a reader."""
        self._message: Message | None = None
        self._operation = Operation.GENERATE
        self._task: Task | None = None
        """What a worker computes."""
        self._kept = self._state_size = 0
        self._dropped: dict[Task, tuple[int, int]] = {}
        """Tasks that a worker still has and nobody wants: what their messages keep and hold counts until they close."""

    @property
    def busy(self) -> bool:
        """Whether a message is under way, or a worker computes."""
        return self._message is not None or self._task is not None

    @property
    def has_room(self) -> bool:
        """Whether more output may wait."""
        return self.waiting < self._limit and len(self.output) < _PIECES

    @property
    def takes_parts(self) -> bool:
        """Whether a part would be computed now."""
        return self.state not in (State.BUSY, State.ENDING) and self.has_room

    def full(self) -> WouldBlock:
        """The error for a part that has to wait."""
        return WouldBlock(f"{self.waiting} bytes of output wait to be read: at most {self._limit}")

    # Every change of `state` is a move of the table

    def _move(self, event: Event) -> None:
        self.state = MOVES[self.state, event]

    def start(self, operation: Operation, iv: bytes | None, assoclen: int) -> None:
        """Begin a message. Errors: those of the transform; OverQuota. The message has failed then."""
        try:
            self._queue.pass_one(0)
            self._hold(self._transform.start(operation, iv, assoclen))
        except CryptofsError as error:
            self.fail(error)
            raise
        except Exception:
            self.fail(fault := engine_fault(self._transform, operation))
            raise fault from None
        self._operation = operation
        self._move(Event.START)

    def check_room(self, size: int) -> None:
        """Check that the user may queue a part of so many bytes. Errors: OverQuota."""
        self._queue.check(0, size)

    def feed(self, data: Buffer) -> None:
        """Give the message a part. Errors: those of the transform, unless a worker finds them."""
        self._move(Event.PART)
        self._tally.received += len(data)
        self._compute(data)
        self.go_on()

    def end(self) -> None:
        """Nothing more will come of the message: end it, or what it failed with. A failure goes to the reader."""
        if self.state is not State.FAILED:
            is_open = self.state is State.OPEN
            self._move(Event.END)
            if is_open:
                with contextlib.suppress(CryptofsError):
                    self._compute(b"")
        self.go_on()
        if self.failure is not None:
            self._tell_reader()

    def _compute(self, data: Buffer) -> None:
        """Give the message its next part, or its end. Errors: those of the transform, unless a worker finds them."""
        assert self._message is not None
        last = self.state is State.ENDING
        room = self._message.room(len(data), last)
        task = Task(
            transform=self._transform,
            operation=self._operation,
            data=data,
            out=memoryview(bytearray(room + OUT_SLACK)),
            message=self._message,
            last=last,
        )
        if not self._hand_over(task, self._kept + len(data) + len(task.out)):
            self._settle(task.compute())

    def _hand_over(self, task: Task, keeps: int) -> bool:
        if not self._offload(task, self._computed):
            return False
        self._task = task
        self._keep(keeps)
        return True

    def _computed(self, task: Task) -> None:
        """A worker is done with a task."""
        if task is not self._task:
            kept, state = self._dropped.pop(task)
            if task.message is not None:
                task.message.close()
            self._queue.charge(0, -kept)
            self._queue.release_state(state)
            return
        self._task = None
        if task.message is None:
            self._keep(0)
            self._settle_random(task)
        else:
            ending = self.state is State.ENDING
            with contextlib.suppress(CryptofsError):
                self._settle(task)
            self.go_on()
            if ending and self.failure is not None:
                self._tell_reader()
        self._changed()

    def _settle(self, task: Task) -> None:
        """Add a computed task's output. Errors: its own."""
        if task.error is not None:
            self.fail(task.error)
            raise task.error.again()
        message = task.message
        assert message is not None
        self._keep(message.kept)
        pending = message.pending
        over = task.last and not pending
        if task.written or over:
            data = task.out[: task.written]
            if 2 * task.written < len(task.out):
                # output that waits must not hold a much larger buffer
                data = memoryview(bytes(data))
            add_piece(self.output, data, over)
            self._count_waiting(task.written)
        if over:
            self._tally.answered(failed=False)
            message.close()
            self._let_go()
        # an end that came while the worker computed is still to be computed
        if over or (not pending and self.state is State.BUSY):
            self._move(Event.COMPUTED)

    def go_on(self) -> None:
        """Compute what is pending, and the end that is due, as far as there is room for it."""
        while self.state in (State.BUSY, State.ENDING) and self._task is None and self.has_room:
            ending = self.state is State.ENDING
            try:
                self._compute(b"")
            except CryptofsError:
                # outside of any call: the next write gets the error, or the reader if all was written
                if ending:
                    self._tell_reader()

    def fail(self, error: CryptofsError) -> None:
        """The message has failed: its next part gets the error, or its reader if it had ended."""
        if self.state is not State.FAILED:
            self._tally.answered(failed=True)
        self._close_message()
        self.failure = self.last_error = error.again()
        self._move(Event.FAILURE)

    def _tell_reader(self) -> None:
        self.output.append(Piece(memoryview(b""), ends=True, error=self.failure))
        self.failure = None
        self._move(Event.TOLD)

    def drop(self) -> None:
        """Drop the message and all output."""
        self._close_message()
        self.output.clear()
        self._count_waiting(-self.waiting)
        self.failure = self.last_error = None
        self._move(Event.DROP)

    def _close_message(self) -> None:
        if self._task is not None:
            # the worker's message is closed when the worker is done
            self._task.drop()
            self._keep(0 if self._message is None else self._message.kept)
            self._dropped[self._task] = self._kept, self._state_size
            self._kept = self._state_size = 0
        elif self._message is not None:
            self._message.close()
        self._task = None
        self._let_go()

    # Random bytes have no message

    def generate(self, size: int) -> None:
        """Make random bytes, unless some are being made. Errors: OverQuota."""
        if self._task is not None:
            return
        self._queue.pass_one(0)
        out = memoryview(bytearray(size))
        task = Task(transform=self._transform, operation=Operation.GENERATE, data=b"", out=out)
        if not self._hand_over(task, size):
            self._settle_random(task.compute())

    def _settle_random(self, task: Task) -> None:
        self._tally.answered(failed=task.error is not None)
        self.output.append(Piece(task.out[: task.written], error=task.error))
        self._count_waiting(task.written)

    # Output

    def take(self, size: int) -> tuple[Buffer, bool]:
        """Up to `size` bytes of the first piece, and whether the message ends with them. Errors: its failure."""
        piece = self.output[0]
        if piece.error is not None:
            self.output.popleft()
            raise piece.error.again()
        data = piece.data[:size]
        whole = len(data) == len(piece.data)
        if whole:
            self.output.popleft()
        else:
            piece.data = piece.data[size:]
        was_full = not self.takes_parts
        self._tally.sent += len(data)
        self._count_waiting(-len(data))
        self.go_on()
        if was_full and self.has_room:
            self._changed()
        return data, whole and piece.ends

    # What the user holds

    def _count_waiting(self, size: int) -> None:
        self.waiting += size
        self._queue.charge(0, size)

    def _keep(self, size: int) -> None:
        """The message, and a worker with it, keeps so many bytes now."""
        if size != self._kept:
            self._queue.charge(0, size - self._kept)
            self._kept = size

    def _hold(self, message: Message) -> None:
        """A message has begun. Errors: OverQuota; it is closed then."""
        try:
            self._queue.charge_state(message.state)
        except CryptofsError:
            message.close()
            raise
        self._message, self._state_size = message, message.state

    def _let_go(self) -> None:
        """The message is closed, or no longer the stream's."""
        self._message = None
        self._keep(0)
        if self._state_size:
            self._queue.release_state(self._state_size)
            self._state_size = 0

    # Clone

    def clone_message(self) -> Message:
        """A copy of the running message's state. Errors: NoSuchTarget, Busy, NotSupported."""
        if self._message is None:
            raise NoSuchTarget("clone: no message is under way on the stream")
        if self._task is not None:
            raise Busy("clone: a part of the message on the stream is being computed")
        return self._message.twin()

    def adopt(self, operation: Operation, message: Message) -> None:
        """Go on with a cloned message. Errors: Busy, OverQuota; the message is closed then."""
        try:
            if self.state is not State.IDLE or self.output:
                raise Busy("clone: a message is under way on the other stream")
            self._queue.pass_one(message.kept)
        except CryptofsError:
            message.close()
            raise
        self._hold(message)
        self._operation = operation
        self._keep(message.kept)
        self._move(Event.START)

    def lost(self) -> CryptofsError | None:
        """What is lost if the stream is closed now, or None."""
        if self.waiting:
            return Cancelled(f"nobody has read {self.waiting} bytes of the stream's output")
        for piece in self.output:
            if piece.error is not None:
                return Cancelled(f"nobody has read the stream's error: {piece.error}")
        return Cancelled("a message on the stream has not ended") if self._message is not None else None
