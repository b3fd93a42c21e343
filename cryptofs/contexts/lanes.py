"""What waits on one context: lanes of requests by id, and calls that wait for their answer."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..errors import CryptofsError, Gone, TooLarge
from ..records import (
    ATTRIBUTE_HEADER_SIZE,
    HEADER_SIZE,
    PAYLOAD_MAX,
    Attr,
    Buffer,
    Operation,
    Record,
    build,
    parse_responses,
)
from .work import Task

CALLED = 1 << 64
"""Added to the id of a message whose parts come by ioctl. So its lane is not that of a message that is written, and a
thread that calls does not meet one that writes, whatever ids they use."""


@dataclass(slots=True, eq=False)
class Lane:
    """The messages of one id.

    number: its key among the lanes; message: the engine's running message; failure: what ended it early; kept: bytes
    that the message keeps, state: what it holds besides; both are counted in the exchange's."""

    number: int
    operation: Operation | None = None
    message: Any = None
    failure: CryptofsError | None = None
    kept: int = 0
    state: int = 0
    jobs: "deque[Job]" = field(default_factory=deque)

    @property
    def is_open(self) -> bool:
        """Whether a message has begun on this lane and its last part has not run."""
        return self.message is not None or self.failure is not None


@dataclass(slots=True, eq=False)
class Call:
    """A request that came by ioctl: its answer goes to the system call that brought it, never to a reader.

    room: bytes that the caller's buffer has.
    """

    room: int
    response: Buffer | None = None
    job: "Job | None" = None
    gone: bool = False
    """Whether its context was closed."""

    def take(self) -> Buffer | None:
        """The answer, or None while there is none. Errors: TooLarge where the buffer is smaller; Gone."""
        if self.gone:
            raise Gone("the context was closed")
        response = self.response
        if response is None or len(response) <= self.room:
            return response
        (answer,) = parse_responses(response)
        if not answer.status:
            raise TooLarge(f"answer of {len(response)} bytes: the buffer has {self.room}")
        # an error needs its number, and as much of its message as fits
        space = self.room - HEADER_SIZE - ATTRIBUTE_HEADER_SIZE
        text = str(answer.attributes.get(Attr.MESSAGE, ""))[: max(0, space - space % 4)]
        answer.attributes = {Attr.MESSAGE: text} if text else {}
        return build(answer)

    @property
    def is_done(self) -> bool:
        """Whether there is an answer."""
        return self.response is not None

    def give_up(self) -> None:
        """The caller was interrupted: cancel the request if it has not finished, and drop the answer."""
        if self.job is not None:
            self.job.cancel()


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request; cost: bytes counted against QUEUE_BYTES until its answer is read, less what its message
    keeps of it and, at the end, more what the message has kept."""

    record: Record
    cost: int
    lane: Lane
    call: Call | None = None
    cancelled: bool = False
    began: int = field(default_factory=time.perf_counter_ns)
    """When it was accepted."""
    task: Task | None = None
    """What a worker has of it."""
    forgets: bool = False
    """Whether the lane is free for a new message after this job, whatever its outcome: the last job before a reset."""

    def cancel(self) -> None:
        """Answer ECANCELED when its turn comes, whatever it has computed by then."""
        self.cancelled = True
        if self.task is not None:
            self.task.dropped = True


def lane_number(record: Record, call: Call | None) -> int:
    """The key of a request's lane."""
    return record.id if call is None else record.id + CALLED


def cost_of(record: Record) -> int:
    """What a request and its answer take of QUEUE_BYTES."""
    row, attributes = record.operation.row, record.attributes
    # an answer without a bound may be full
    length = attributes.get(Attr.LENGTH, PAYLOAD_MAX if Attr.LENGTH in row.optional else 0)
    cost = 2 * (HEADER_SIZE + len(record.payload)) + (length if isinstance(length, int) else 0)
    # a control call's key, too, which may wait
    if attributes and (row.operands or not row.types):
        cost += sum(len(_kept(record, number)) for number in row.kept)
    return cost


def _kept(record: Record, attribute: Attr) -> Buffer:
    value = record.attributes.get(attribute, b"")
    assert not isinstance(value, int | str)
    return value


def detach(record: Record) -> None:
    """Release the write that a request came in: a small request that waits must not hold a megabyte."""
    record.payload = bytes(record.payload)
    # what the operation does not take it refuses, whatever the value is
    kept = record.operation.row.kept
    record.attributes = {
        number: value if isinstance(value, int | str) else bytes(value) if number in kept else b""
        for number, value in record.attributes.items()
    }
