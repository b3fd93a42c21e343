"""The raw stream of a context: bytes in by write, bytes out by read, for programs that know no records.

A stream carries one message at a time. It begins with the first write (or the first read of a handle that is
open for both), ends when the last writing handle closes or such a handle turns to reading, and its output ends
with one end of file. What each handle may do, `StreamUser` says; the message itself is the `Flow`'s.
A stream of type rng has no message: each read makes what it asks for.
"""

import contextlib
from collections.abc import Callable

from ..algorithms import Rows, Type
from ..engines.base import Message, Transform
from ..errors import Cancelled, CryptofsError, InvalidValue
from ..policy import Queue
from ..records import STREAM_OPERATIONS, Buffer, Operation
from .flow import Flow, Offload, State
from .phases import Phase, StreamUser
from .tally import Tally

STREAM_BUFFER = 1024 * 1024
"""Bytes of output that wait for a reader before writers have to."""


class Stream:
    """One context's stream: its open handles, and the parameters of its next message."""

    def __init__(
        self,
        transform: Transform,
        queue: Queue,
        tally: Tally,
        offload: Offload,
        changed: Callable[[], None],
        limit: int,
    ) -> None:
        """queue, tally, offload, limit: as in `Flow`."""
        self._flow = Flow(transform, queue, tally, offload, changed, limit)
        self._changed = changed
        self._generates = transform.description.type is Type.RNG
        self._operation = min(STREAM_OPERATIONS[transform.description.type])
        self._iv: bytes | None = None
        self._assoclen = 0
        self._iv_spent = False
        self._users: set[StreamUser] = set()
        # those of them that may still write: others are many
        self._feeding: set[StreamUser] = set()
        self.bytes_in = 0
        self.bytes_out = 0

    # Handles

    def attach(self, reads: bool, writes: bool) -> StreamUser:
        """A handle was opened. Errors: WouldBlock for writing while the output buffer is full."""
        if writes and not self._flow.has_room:
            raise self._flow.full()
        user = StreamUser(reads, writes)
        self._users.add(user)
        self._note(user)
        return user

    def _note(self, user: StreamUser) -> None:
        """A handle's phase has changed."""
        if user.feeds:
            self._feeding.add(user)
        else:
            self._feeding.discard(user)

    def detach(self, user: StreamUser) -> None:
        """A handle was closed; with the last one that feeds, the message ends."""
        if user not in self._users:
            return
        self._users.remove(user)
        self._feeding.discard(user)
        if user.feeds and not self._feeding:
            self._end()
        self._changed()

    def is_alone(self, user: StreamUser) -> bool:
        """Whether no other handle is open: then only the writer itself could read."""
        return self._users == {user}

    # What can be done now

    @property
    def busy(self) -> bool:
        """Whether a message is under way, or its output unread."""
        # random bytes that an interrupted reader has left are nobody's message
        return self._flow.busy or (bool(self._flow.output) and not self._generates)

    @property
    def writable(self) -> bool:
        """Whether a write would be taken now."""
        return self._flow.takes_parts

    @property
    def is_full(self) -> bool:
        """Whether as much output waits as may: then only a reader makes room."""
        return not self._flow.has_room

    @property
    def readable(self) -> bool:
        """Whether output is ready."""
        return bool(self._flow.output) or (self._generates and not self._flow.busy)

    def readable_by(self, user: StreamUser) -> bool:
        """Whether a read of this handle would go on without waiting: the end of file counts, too."""
        told = user.at_end or user.phase in (Phase.CUT, Phase.DONE)
        turns = user.writes and self._feeding <= {user} and self._flow.state is not State.ENDING
        return self.readable or told or turns

    def writable_by(self, user: StreamUser) -> bool:
        """Whether a write on this handle would return without waiting, even with an error."""
        return self.writable or user.stopped

    # Between messages

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
        dropped = self.busy or self._flow.failure is not None
        self._flow.drop()
        for user in self._users:
            user.cut(dropped)
            self._note(user)
        self._changed()

    def _start(self) -> None:
        """Begin a message, unless one is under way. Errors: those of the transform; OverQuota."""
        if self._flow.state is not State.IDLE:
            return
        if self._iv_spent:
            error = InvalidValue("the iv served one message already: give the next by `reset iv=…`")
            self._flow.fail(error)
            raise error
        self._flow.start(self._operation, self._iv, self._assoclen)
        if self._iv is not None:
            self._iv, self._iv_spent = None, True

    def _end(self) -> None:
        """Nothing more will be written of the message."""
        if self._generates or self._flow.state is State.ENDING:
            return
        with contextlib.suppress(CryptofsError):
            # an empty message has output, too
            self._start()
        self._flow.end()
        self._changed()

    # Writers

    def feed_nowait(self, user: StreamUser, data: Buffer) -> None:
        """Take input. Errors: WouldBlock while the output buffer is full; Busy behind a read, Cancelled after a reset;
        those of the transform.
        """
        user.check_write()
        flow = self._flow
        if flow.failure is not None:
            raise flow.failure.again()
        if not flow.takes_parts:
            raise flow.full()
        if self._generates:
            raise InvalidValue("a stream of type rng is only read")
        flow.check_room(len(data))
        user.wrote()
        self._note(user)
        self._start()
        flow.feed(data)
        self.bytes_in += len(data)
        if flow.output:
            # otherwise there is nothing for a reader: a hash has a thousand parts, and may have a thousand readers
            self._changed()

    def give_up(self, error: CryptofsError | None = None) -> None:
        """A writer could not continue: its message is incomplete, and the reader gets an error."""
        self._flow.fail(error or Cancelled("a writer gave up: nobody read the output"))

    # Readers

    def drain_nowait(self, user: StreamUser, size: int) -> Buffer | None:
        """Up to `size` bytes of output, b"" at the end of a message, or None where a reader has to wait."""
        flow = self._flow
        if self._generates:
            if not flow.output:
                flow.generate(size)
            if not flow.output:
                return None
            data, _ = flow.take(size)
            self.bytes_out += len(data)
            return data
        user.check_read()
        if user.at_end:
            return user.end()
        if user.writes:
            self._turn_to_reading(user)
        if not flow.output:
            return user.end() if user.writes and not self._feeding and flow.state is not State.ENDING else None
        try:
            data, ends = flow.take(size)
        except CryptofsError:
            with contextlib.suppress(CryptofsError):
                user.end()
            raise
        user.read(ends)
        self.bytes_out += len(data)
        # output of no bytes at all is the end of file itself
        return data if len(data) else user.end()

    def _turn_to_reading(self, user: StreamUser) -> None:
        """A handle that may write reads: that ends its message, unless another handle still writes."""
        phase = user.turn()
        self._note(user)
        is_empty = phase is Phase.FRESH and not self._flow.output
        if (phase is Phase.FEEDING or is_empty or self._flow.state is not State.IDLE) and not self._feeding:
            self._end()

    # Clone

    def clone_message(self) -> Message:
        """A copy of the running message's state. Errors: NoSuchTarget, Busy, NotSupported."""
        return self._flow.clone_message()

    def adopt(self, message: Message) -> None:
        """Go on with a cloned message. Errors: Busy, OverQuota; the message is closed then."""
        self._flow.adopt(self._operation, message)

    # What is told

    def status(self) -> Rows:
        """Rows for the context's status."""
        rows: Rows = [
            ("stream-operation", self._operation.word),
            ("stream-in", self.bytes_in),
            ("stream-out", self.bytes_out),
            ("stream-waiting", self._flow.waiting),
        ]
        if self._flow.last_error is not None:
            rows.append(("stream-error", str(self._flow.last_error)))
        return rows

    def lost(self) -> CryptofsError | None:
        """The loss of unread output if the stream is closed now, or None."""
        return None if self._generates else self._flow.lost()

    def close(self) -> None:
        """Drop everything."""
        self._flow.drop()
        self._users.clear()
        self._feeding.clear()
