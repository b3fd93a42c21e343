"""The raw stream of a context: bytes in by write, bytes out by read, for programs that know no records.

A stream carries one message at a time. It begins with the first write (or the first read of a handle that is
open for both), ends when the last writing handle closes or such a handle turns to reading, and its output ends
with one end of file. What each handle may do then, `StreamUser` says. Output that a message has more of than there is
room for (a decompression's) is computed as readers make room; what takes long is computed by a worker, and what goes
wrong there is told by the next write or read.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable

from ..algorithms import Type
from ..engines.base import OUT_SLACK, Message, Transform
from ..errors import Busy, Cancelled, CryptofsError, InvalidValue, NoSuchTarget, WouldBlock
from ..policy import Queue
from ..records import STREAM_OPERATIONS, Buffer, Operation, detached
from .scheduler import ALONE_NS
from .steps import Offload, Phase, Piece, Step, StreamUser, Tally, add_piece, engine_fault

STREAM_BUFFER = 1024 * 1024
"""Bytes of output that wait for a reader before writers have to."""
_PIECES = 4096
"""Pieces of output that wait for a reader before writers have to: each takes memory besides its data."""


class Stream:
    """One context's stream."""

    def __init__(
        self,
        transform: Transform,
        changed: Callable[[], None],
        queue: Queue,
        offload: Offload | None = None,
    ) -> None:
        """queue: where output that waits, what messages keep and their rate are counted."""
        self.limit = STREAM_BUFFER
        """Bytes of output that wait for a reader before writers have to."""
        self._queue = queue
        self._transform = transform
        self._changed = changed
        self._offload = offload
        self._at_work: Step | None = None
        self._ending = False
        self._generates = transform.description.type is Type.RNG
        self._operation = min(STREAM_OPERATIONS[transform.description.type])
        self._iv: bytes | None = None
        self._assoclen = 0
        self._iv_spent = False
        self._message: Message | None = None
        self._failure: CryptofsError | None = None
        self._out: deque[Piece] = deque()
        self._tally = Tally(queue)
        self._users: list[StreamUser] = []
        self._last_error: CryptofsError | None = None
        self.bytes_in = 0
        self.bytes_out = 0

    # Handles

    def attach(self, reads: bool, writes: bool) -> StreamUser:
        """A handle was opened. Errors: WouldBlock for writing while the output buffer is full."""
        if writes and not self._has_room:
            raise WouldBlock(f"{self._tally.waiting} bytes of output wait to be read: at most {self.limit}")
        user = StreamUser(reads, writes)
        self._users.append(user)
        return user

    def detach(self, user: StreamUser) -> None:
        """A handle was closed; with the last one that feeds, the message ends."""
        if user not in self._users:
            return
        self._users.remove(user)
        if user.feeds and not self._fed:
            self._finish_quietly()
        self._changed()

    @property
    def _fed(self) -> bool:
        return any(user.feeds for user in self._users)

    @property
    def busy(self) -> bool:
        """Whether a message is under way or its output unread."""
        return self._message is not None or bool(self._out)

    def is_alone(self, user: StreamUser) -> bool:
        """Whether no other handle is open: then only the writer itself could read."""
        return self._users == [user]

    # Parameters

    def set_parameters(self, operation: Operation | None, iv: bytes | None, assoclen: int | None) -> None:
        """Set what is given for the next message; an IV serves one message."""
        if operation is not None:
            self._operation = operation
        if iv is not None:
            self._iv, self._iv_spent = iv, False
        if assoclen is not None:
            self._assoclen = assoclen

    def reset(self) -> None:
        """Drop the running message and all output."""
        dropped = self.busy or self._failure is not None
        self._drop_message()
        self._forget_output()
        self._failure = self._last_error = None
        for user in self._users:
            user.cut(dropped)
        self._changed()

    # Data

    @property
    def writable(self) -> bool:
        """Whether a write would be taken now."""
        if self._at_work is not None or self._ending or (self._message is not None and self._message.pending):
            return False
        return self._has_room

    @property
    def is_full(self) -> bool:
        """Whether as much output waits as may: then only a reader makes room."""
        return not self._has_room

    @property
    def _has_room(self) -> bool:
        return self._tally.waiting < self.limit and len(self._out) < _PIECES

    @property
    def readable(self) -> bool:
        """Whether output is ready."""
        return self._generates or bool(self._out)

    def readable_by(self, user: StreamUser) -> bool:
        """Whether a read of this handle would go on without waiting: the end of file counts, too."""
        told = user.at_end or user.phase in (Phase.CUT, Phase.DONE)
        turns = user.writes and not self._fed_by_others(user) and not self._ending
        return self.readable or told or turns

    def writable_by(self, user: StreamUser) -> bool:
        """Whether a write on this handle would return without waiting, even with an error."""
        return self.writable or user.stopped

    def _fed_by_others(self, user: StreamUser) -> bool:
        return any(other.feeds for other in self._users if other is not user)

    def feed_nowait(self, user: StreamUser, data: Buffer) -> None:
        """Take input. Errors: WouldBlock while the output buffer is full; Busy behind a read, Cancelled after a reset;
        those of the transform.
        """
        user.check_write()
        if self._failure is not None:
            raise self._failure.again()
        if not self.writable:
            raise WouldBlock(f"{self._tally.waiting} bytes of output wait to be read: at most {self.limit}")
        if self._generates:
            raise InvalidValue("a stream of type rng is only read")
        self._queue.check(0, len(data))
        user.phase = Phase.FEEDING
        self._update(data, last=False)
        self._go_on()
        self.bytes_in += len(data)
        self._changed()

    def give_up(self, error: CryptofsError | None = None) -> None:
        """A writer could not continue: its message is incomplete, and the reader gets an error."""
        self._drop_message()
        error = error or Cancelled("a writer gave up: nobody read the output")
        self._failure = self._last_error = error.again()

    def drain_nowait(self, user: StreamUser, size: int) -> Buffer | None:
        """Up to `size` bytes of output, b"" at the end of a message, or None where a reader has to wait."""
        if self._generates:
            return self._generate(size)
        user.check_read()
        if user.at_end:
            return user.end()
        if user.writes:
            self._turn_to_reading(user)
        if not self._out:
            return user.end() if user.writes and not self._fed and not self._ending else None
        piece = self._out[0]
        if piece.error is not None:
            self._out.popleft()
            with contextlib.suppress(CryptofsError):
                user.end()
            raise piece.error.again()
        data = piece.data[:size]
        user.begun = True
        if len(data) == len(piece.data):
            self._out.popleft()
            user.at_end = piece.ends
        else:
            piece.data = piece.data[size:]
        full = not self.writable
        self._tally.count(-len(data))
        self.bytes_out += len(data)
        self._go_on()
        if full and self._has_room:
            self._changed()
        # output of no bytes at all is the end of file itself
        return data if len(data) else user.end()

    def _turn_to_reading(self, user: StreamUser) -> None:
        """A handle that may write reads: that ends its message, unless another handle still writes."""
        empty = user.phase is Phase.FRESH and not self._out and self._message is None
        ends = user.phase is Phase.FEEDING or empty or self._message is not None or self._failure is not None
        if user.phase in (Phase.FRESH, Phase.FEEDING):
            user.phase = Phase.READING
        if ends and not self._fed:
            self._finish_quietly()

    def _generate(self, size: int) -> Buffer:
        self._queue.pass_one(0)
        out = bytearray(size)
        self._transform.once(Operation.GENERATE, None, 0, b"", memoryview(out))
        self.bytes_out += size
        return out

    def _start(self) -> Message:
        if self._iv_spent:
            raise InvalidValue("the iv served one message already: give the next by `reset iv=…`")
        self._queue.pass_one(0)
        message = self._transform.start(self._operation, self._iv, self._assoclen)
        self._tally.hold(message)
        if self._iv is not None:
            self._iv, self._iv_spent = None, True
        return message

    def _update(self, data: Buffer, last: bool) -> None:
        """Give a part to the message. Errors: those of the transform, unless a worker finds them."""
        try:
            if self._message is None:
                self._message = self._start()
        except CryptofsError as error:
            self._failure = self._last_error = error.again()
            raise
        except Exception:
            self._failure = self._last_error = engine_fault(self._transform)
            raise self._failure.again() from None
        self._ending = last
        step = self._step(data)
        if self._is_long(step) and self._offload is not None:
            # it may have to wait for its turn with a worker
            step.data = detached(data)
            self._at_work = step
            self._tally.keep(self._tally.kept + len(data) + len(step.out))
            if self._offload(functools.partial(step.compute, self._transform), self._worked):
                return
            self._at_work = None
        self._settle(step.compute(self._transform))

    def _step(self, data: Buffer) -> Step:
        assert self._message is not None
        room = self._message.room(len(data), self._ending)
        return Step(self._message, data, self._ending, memoryview(bytearray(room + OUT_SLACK)))

    def _is_long(self, step: Step) -> bool:
        return max(len(step.data), len(step.out)) * self._transform.pace > ALONE_NS

    def _worked(self, step: Step) -> None:
        """A worker is done with a step."""
        if step is not self._at_work:
            # dropped meanwhile
            step.message.close()
            return
        self._at_work = None
        ending = self._ending
        try:
            self._settle(step)
        except CryptofsError:
            self._fail_later(ending)
        self._go_on()
        self._changed()

    def _settle(self, step: Step) -> None:
        """Add a computed step's output. Errors: its own."""
        if step.error is not None:
            self._drop_message()
            self._failure = self._last_error = step.error
            raise step.error.again()
        self._tally.keep(step.message.kept)
        over = step.last and not step.message.pending
        if step.size or over:
            data = step.out[: step.size]
            if 2 * step.size < len(step.out):
                # output that waits must not hold a much larger buffer
                data = memoryview(bytes(data))
            add_piece(self._out, data, over)
            self._tally.count(step.size)
        if over:
            self._drop_message()

    def _go_on(self) -> None:
        """Compute what is pending, and the end that is due, as far as there is room for it."""
        while self._message is not None and self._at_work is None and self._has_room:
            ending = self._ending
            if not ending and not self._message.pending:
                return
            try:
                self._update(b"", ending)
            except CryptofsError:
                self._fail_later(ending)

    def _fail_later(self, ending: bool) -> None:
        """A message failed outside of any call: the next write gets the error, or the reader if all was written."""
        if ending:
            self._tell_reader()

    def _tell_reader(self) -> None:
        self._out.append(Piece(memoryview(b""), ends=True, error=self._failure))
        self._failure = None

    def _finish_quietly(self) -> None:
        """End the message outside of any call; a failure goes to the reader."""
        if self._generates or self._ending:
            return
        if self._at_work is not None or (self._message is not None and self._message.pending):
            # it ends when the worker is done, or readers have made room
            self._ending = True
            self._go_on()
            return
        if self._failure is None:
            with contextlib.suppress(CryptofsError):
                self._update(b"", last=True)
        if self._failure is not None:
            self._tell_reader()
        self._changed()

    def _forget_output(self) -> None:
        self._out.clear()
        self._tally.count(-self._tally.waiting)

    def _drop_message(self) -> None:
        if self._message is not None and self._at_work is None:
            self._message.close()
        # a worker's message is closed when the worker is done
        if self._at_work is not None:
            self._at_work.drop()
        self._message = self._at_work = None
        self._ending = False
        self._tally.let_go()

    # Clone

    def clone_message(self) -> Message:
        """A copy of the running message's state. Errors: NoSuchTarget, NotSupported."""
        if self._message is None:
            raise NoSuchTarget("clone: no message is under way on the stream")
        if self._at_work is not None:
            raise Busy("clone: a part of the message on the stream is being computed")
        return self._message.clone()

    def adopt(self, message: Message) -> None:
        """Go on with a cloned message. Errors: Busy, OverQuota."""
        try:
            if self.busy:
                raise Busy("clone: a message is under way on the other stream")
            self._queue.pass_one(message.kept)
        except CryptofsError:
            message.close()
            raise
        self._tally.hold(message)
        self._message = message
        self._tally.keep(message.kept)

    # State

    def status(self) -> list[tuple[str, object]]:
        """Rows for the context's status."""
        rows: list[tuple[str, object]] = [
            ("stream-operation", self._operation.word),
            ("stream-in", self.bytes_in),
            ("stream-out", self.bytes_out),
            ("stream-waiting", self._tally.waiting),
        ]
        if self._last_error is not None:
            rows.append(("stream-error", str(self._last_error)))
        return rows

    def lost(self) -> CryptofsError | None:
        """The loss of unread output if the stream is closed now, or None."""
        if self._tally.waiting:
            return Cancelled(f"nobody has read {self._tally.waiting} bytes of the stream's output")
        for piece in self._out:
            if piece.error is not None:
                return Cancelled(f"nobody has read the stream's error: {piece.error}")
        return Cancelled("a message on the stream has not ended") if self._message is not None else None

    def close(self) -> None:
        """Drop everything."""
        self._drop_message()
        self._forget_output()
        self._users.clear()
