"""One piece of work, of a record or of a stream: prepared and settled in the event loop, computed in any thread."""

import logging
import time
from dataclasses import dataclass

from ..engines.base import OUT_SLACK, Answer, Message, Operands, Transform, overfull
from ..errors import CryptofsError, EngineFault, TooLarge
from ..records import Buffer, Operation

log = logging.getLogger("cryptofs")

# smaller ones say little about the pace: what every call costs is most of their time
_MEASURED = 4096
_NOTHING = memoryview(b"")


@dataclass(slots=True, eq=False, kw_only=True)
class Task:
    """A part of a message, or a whole one.

    message: what it is a part of, None for a whole message; last: whether the message ends with it. out: where its
    output goes, with OUT_SLACK bytes to spare. operands: of an operation that `Transform.operate` does.
    `compute` sets written (bytes in `out`) or answer, or else error.
    """

    transform: Transform
    operation: Operation
    data: Buffer
    out: memoryview
    message: Message | None = None
    last: bool = True
    iv: Buffer | None = None
    assoclen: int = 0
    operands: Operands | None = None
    written: int = 0
    answer: Answer | None = None
    error: CryptofsError | None = None
    dropped: bool = False

    @property
    def nanoseconds(self) -> float:
        """How long it will take, by what was seen so far."""
        if self.message is not None and self.message.gathers and not self.last:
            return 0.0
        return self.transform.estimate_ns(self.operation, max(len(self.data), len(self.out)))

    def drop(self) -> None:
        """Nobody wants the result any more. The data of a task that no worker has begun is released: dropping many must
        not fill the memory."""
        self.dropped = True
        self.data, self.out = b"", _NOTHING

    def compute(self) -> "Task":
        """Do the arithmetic. It runs in any thread and never raises."""
        data, out = self.data, self.out
        # checked after taking them: a drop in between would leave half of them
        if self.dropped:
            return self
        began = time.perf_counter_ns()
        try:
            self._run(data, out)
        except CryptofsError as error:
            # without its traceback, whose frames hold the data
            self.error = error.again()
        except Exception:
            self.error = engine_fault(self.transform, self.operation)
        else:
            self._note_pace(len(data) or len(out), time.perf_counter_ns() - began)
        return self

    def _run(self, data: Buffer, out: memoryview) -> None:
        if self.operands is not None:
            self.answer = self.transform.operate(self.operation, self.operands, data)
        elif self.message is None:
            self.written = self.transform.once(self.operation, self.iv, self.assoclen, data, out)
        else:
            self.written = self.message.update(data, self.last, out)

    def _note_pace(self, size: int, nanoseconds: int) -> None:
        worked = max(size, self.written)
        # gathering a part is no computation
        if worked < _MEASURED or not self.transform.shows_pace(self.operation):
            return
        if self.written or self.answer is not None or self.operation is Operation.DIGEST:
            # what a byte of input becomes is not known before
            paced = size if self.operation.row.expands else worked
            self.transform.note_pace(paced, nanoseconds)

    def overfull(self) -> TooLarge:
        """The error for a message that has ended with more output than `out` may have."""
        return overfull(self.operation, len(self.out) - OUT_SLACK)


def engine_fault(transform: Transform, operation: Operation) -> EngineFault:
    """Log the unexpected exception that is being handled; returns the error for the client."""
    log.exception("%s by %s failed in the engine", operation.word, transform.description.name)
    return EngineFault(f"{operation.word}: the engine failed; the daemon's log says more")
