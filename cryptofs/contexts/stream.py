"""The raw stream of a context: bytes in by write, bytes out by read, for programs that know no records.

A stream carries one message at a time. It begins with the first write (or the first read of a handle that is
open for both), ends when the last writing handle closes or such a handle turns to reading, and its output ends
with one end of file.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..algorithms import Type
from ..engines.base import OPERATIONS, OUT_SLACK, Message, Transform
from ..errors import Busy, Cancelled, CryptofsError, EngineFault, InvalidValue, NoSuchTarget, WouldBlock
from ..policy import Account
from ..records import Buffer, Operation

log = logging.getLogger("cryptofs")

STREAM_BUFFER = 1024 * 1024
"""Bytes of output that wait for a reader before writers have to."""


_PIECES = 4096
"""Pieces of output that wait for a reader before writers have to: each takes memory besides its data."""
_SMALL, _JOINED = 4096, 16_384
"""Bytes below which a piece is put to the one before it, and which that one has at most: shells write line by line."""


@dataclass(slots=True)
class _Piece:
    """Output that waits for a reader. ends: a message ends with it; error: what the reader gets instead of data."""

    data: memoryview
    ends: bool = False
    error: CryptofsError | None = None


@dataclass(slots=True, eq=False)
class StreamUser:
    """One open handle of the stream: what it may do and what it has done."""

    reads: bool
    writes: bool
    feeding: bool = False
    at_end: bool = False
    seen_message: bool = False


class Stream:
    """One context's stream."""

    def __init__(self, transform: Transform, changed: Callable[[], None], account: Account | None = None) -> None:
        """account: where the waiting output is counted, if a rule bounds what the user queues."""
        self.limit = STREAM_BUFFER
        """Bytes of output that wait for a reader before writers have to."""
        self._account = account
        self._transform = transform
        self._changed = changed
        self._generates = transform.description.type is Type.RNG
        self._operation = min(OPERATIONS[transform.description.type])
        self._iv: bytes | None = None
        self._assoclen = 0
        self._iv_spent = False
        self._message: Message | None = None
        self._failure: CryptofsError | None = None
        self._out: deque[_Piece] = deque()
        self._waiting = 0
        self._users: list[StreamUser] = []
        self._last_error: CryptofsError | None = None
        self.bytes_in = 0
        self.bytes_out = 0

    # Handles

    def attach(self, reads: bool, writes: bool) -> StreamUser:
        """A handle was opened. Errors: WouldBlock for writing while the output buffer is full."""
        if writes and not self.writable:
            raise WouldBlock(f"{self._waiting} bytes of output wait to be read: at most {self.limit}")
        user = StreamUser(reads, writes, feeding=writes and not reads)
        self._users.append(user)
        return user

    def detach(self, user: StreamUser) -> None:
        """A handle was closed; with the last one that feeds, the message ends."""
        if user not in self._users:
            return
        self._users.remove(user)
        if user.feeding and not self._fed:
            self._finish_quietly()
        self._changed()

    @property
    def _fed(self) -> bool:
        return any(user.feeding for user in self._users)

    @property
    def busy(self) -> bool:
        """Whether a message is under way or its output unread."""
        return self._message is not None or bool(self._out)

    def is_alone(self, user: StreamUser) -> bool:
        """Whether nobody else has it open: then who writes is the only one who could read."""
        return self._users == [user]

    @property
    def has_reader(self) -> bool:
        """Whether any handle is open for reading."""
        return any(user.reads for user in self._users)

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
        self._drop_message()
        self._forget_output()
        self._failure = self._last_error = None
        for user in self._users:
            user.at_end = False
        self._changed()

    # Data

    @property
    def writable(self) -> bool:
        """Whether a write would be taken now."""
        return self._waiting < self.limit and len(self._out) < _PIECES

    @property
    def readable(self) -> bool:
        """Whether output is ready."""
        return self._generates or bool(self._out)

    def readable_by(self, user: StreamUser) -> bool:
        """Whether a read of this handle would go on without waiting: the end of file counts, too."""
        return self.readable or user.at_end or (user.writes and not self._fed_by_others(user))

    def _fed_by_others(self, user: StreamUser) -> bool:
        return any(other.feeding for other in self._users if other is not user)

    def feed_nowait(self, user: StreamUser, data: Buffer) -> None:
        """Take input. Errors: WouldBlock while the output buffer is full; those of the transform."""
        if self._failure is not None:
            raise self._failure.again()
        if not self.writable:
            raise WouldBlock(f"{self._waiting} bytes of output wait to be read: at most {self.limit}")
        if self._generates:
            raise InvalidValue("a stream of type rng is only read")
        if self._account is not None:
            self._account.check(0, len(data))
        user.feeding = True
        user.at_end = False
        self._update(data, last=False)
        self.bytes_in += len(data)
        self._changed()

    def give_up(self, error: CryptofsError | None = None) -> None:
        """A writer could not go on: what it has written is not its whole message, and the reader is to learn of it."""
        self._drop_message()
        self._failure = self._last_error = (
            error.again() if error is not None else Cancelled("a writer gave up: nobody read the output")
        )

    def drain_nowait(self, user: StreamUser, size: int) -> Buffer | None:
        """Up to `size` bytes of output, b"" at the end of a message, or None where a reader has to wait."""
        if self._generates:
            return self._generate(size)
        if user.at_end:
            user.at_end = False
            return b""
        if user.writes:
            self._turn_to_reading(user)
        if not self._out:
            return b"" if user.writes and not self._fed else None
        piece = self._out[0]
        if piece.error is not None:
            self._out.popleft()
            raise piece.error.again()
        data = piece.data[:size]
        if len(data) == len(piece.data):
            self._out.popleft()
            user.at_end = piece.ends and len(data) > 0
        else:
            piece.data = piece.data[size:]
        full = not self.writable
        self._count(-len(data))
        self.bytes_out += len(data)
        if full and self.writable:
            self._changed()
        return data

    def _turn_to_reading(self, user: StreamUser) -> None:
        first = not user.seen_message and not self._out and self._message is None
        unfed = self._message is not None and not self._fed
        if user.feeding or first or unfed:
            user.feeding = False
            user.seen_message = True
            if not self._fed:
                self._finish_quietly()

    def _generate(self, size: int) -> Buffer:
        out = bytearray(size)
        self._transform.once(Operation.GENERATE, None, 0, b"", memoryview(out))
        self.bytes_out += size
        return out

    def _start(self) -> Message:
        if self._iv_spent:
            raise InvalidValue("the iv served one message already: give the next by `reset iv=…`")
        message = self._transform.start(self._operation, self._iv, self._assoclen)
        if self._iv is not None:
            self._iv, self._iv_spent = None, True
        return message

    def _update(self, data: Buffer, last: bool) -> None:
        try:
            if self._message is None:
                self._message = self._start()
            room = self._message.room(len(data), last)
            out = memoryview(bytearray(room + OUT_SLACK))
            size = self._message.update(data, last, out)
        except Exception as error:
            self._drop_message()
            if isinstance(error, CryptofsError):
                self._failure = self._last_error = error.again()
                raise
            self._failure = self._last_error = EngineFault("the engine failed; the daemon's log says more")
            log.exception("a stream of %s failed in the engine", self._transform.description.name)
            raise self._failure.again() from None
        if size or last:
            self._put(out[:size], last)
            self._count(size)
        if last:
            self._drop_message()

    def _put(self, data: memoryview, last: bool) -> None:
        before = self._out[-1] if self._out else None
        if before is None or before.ends or len(data) >= _SMALL or len(before.data) > _JOINED:
            self._out.append(_Piece(data, ends=last))
        else:
            before.data, before.ends = memoryview(b"".join((before.data, data))), last

    def _finish_quietly(self) -> None:
        """End the message where no caller can be told; a failure goes to the reader."""
        if self._generates:
            return
        if self._failure is None:
            try:
                self._update(b"", last=True)
            except CryptofsError as error:
                self._failure = error.again()
        if self._failure is not None:
            self._out.append(_Piece(memoryview(b""), ends=True, error=self._failure))
            self._failure = None
        self._changed()

    def _count(self, size: int) -> None:
        self._waiting += size
        if self._account is not None:
            self._account.charge(0, size)

    def _forget_output(self) -> None:
        self._out.clear()
        self._count(-self._waiting)

    def _drop_message(self) -> None:
        if self._message is not None:
            self._message.close()
            self._message = None

    # Clone

    def clone_message(self) -> Message:
        """A copy of the running message's state. Errors: NoSuchTarget, NotSupported."""
        if self._message is None:
            raise NoSuchTarget("clone: no message is under way on the stream")
        return self._message.clone()

    def adopt(self, message: Message) -> None:
        """Go on with a cloned message. Errors: Busy."""
        if self.busy:
            message.close()
            raise Busy("clone: a message is under way on the other stream")
        self._message = message

    # State

    def status(self) -> list[tuple[str, object]]:
        """Rows for the context's status."""
        rows: list[tuple[str, object]] = [
            ("stream-operation", self._operation.word),
            ("stream-in", self.bytes_in),
            ("stream-out", self.bytes_out),
            ("stream-waiting", self._waiting),
        ]
        if self._last_error is not None:
            rows.append(("stream-error", str(self._last_error)))
        return rows

    def close(self) -> None:
        """Drop everything."""
        self._drop_message()
        self._forget_output()
        self._users.clear()
