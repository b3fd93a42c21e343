"""`contexts/<id>/ctl`: one write is one control call, a read on the same handle gives its reply."""

from collections.abc import Callable
from functools import partial

from ..contexts import Context, control
from ..errors import CryptofsError, Gone, InvalidValue
from ..records import (
    HEADER_SIZE,
    Buffer,
    Flag,
    Record,
    build,
    error_response,
    format_tags,
    parse_line,
    parse_requests,
)
from ..wiping import wipe
from .base import Handle, Pending


class _Answer:
    """A control call that a worker does."""

    def __init__(self, context: Context, size: int, settle: Callable[[control.Outcome], None]) -> None:
        self._context = context
        self._size = size
        self._settle = settle
        self._outcome: control.Outcome | None = None

    def done(self, outcome: control.Outcome) -> None:
        """The outcome has come."""
        self._outcome = outcome

    @property
    def is_done(self) -> bool:
        return self._outcome is not None

    def give_up(self) -> None:
        return

    def take(self) -> int | None:
        if self._outcome is None:
            if self._context.closed:
                raise Gone(f"context {self._context.number} was closed")
            return None
        self._settle(self._outcome)
        return self._size


class ControlHandle(Handle):
    """One open of `ctl`. The write fails with the call's errno; the reply has details."""

    seekable = True  # Offsets mean nothing here, but Python's buffered files and `head` seek.

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reply: Buffer = b""

    def write(self, offset: int, data: memoryview) -> int | Pending:
        context = self._context
        if context.closed:
            raise Gone(f"context {context.number} was closed")
        binary = len(data) >= HEADER_SIZE and int.from_bytes(data[:4], "little") == len(data)
        self._reply = b""
        request: Record | None = None
        try:
            request = self._one_record(data) if binary else parse_line(data)
            answer = _Answer(context, len(data), partial(self._settle, binary, request))
            outcome = control.run(context, request, answer.done)
        except CryptofsError as error:
            self._refuse(binary, request, error)
            raise
        finally:
            # It may contain a key, valid or not. What a worker needs was copied.
            wipe(data)
        if outcome is None:
            return answer
        context.changed()
        self._settle(binary, request, outcome)
        return len(data)

    def _settle(self, binary: bool, request: Record, outcome: control.Outcome) -> None:
        """Keep the reply. Errors: the call's."""
        if isinstance(outcome, CryptofsError):
            self._refuse(binary, request, outcome)
            raise outcome
        if binary:
            self._reply = build(Record(request.operation, Flag.RESPONSE, request.id, 0, outcome))
        else:
            self._reply = format_tags(outcome).encode()

    def _refuse(self, binary: bool, request: Record | None, error: CryptofsError) -> None:
        if request is not None and binary:
            self._reply = build(error_response(request, error.errno, error.message))
        else:
            self._reply = f"error: {error.symbol}\nmessage: {error.message}\n".encode()

    @staticmethod
    def _one_record(data: memoryview) -> Record:
        records = parse_requests(data)
        if len(records) != 1:
            raise InvalidValue(f"{len(records)} records: one control call a write")
        return records[0]

    def read(self, offset: int, size: int) -> Buffer:
        # The write has moved the offset, so it does not show how much of the reply was read.
        if not self._reply and self._context.closed:
            raise Gone(f"context {self._context.number} was closed")
        piece, self._reply = self._reply[:size], self._reply[size:]
        return piece

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._context.watch(callback)
