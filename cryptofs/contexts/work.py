"""What one request does with its transform: prepared and settled in the event loop, computed in any thread."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from ..engines.base import OUT_SLACK, Message, Transform
from ..errors import Cancelled, CryptofsError, EngineFault, InvalidValue
from ..exchange import MORE, Exchange, Job, Lane
from ..records import (
    HEADER_SIZE,
    PAYLOAD_MAX,
    VERSION,
    Attr,
    Buffer,
    Flag,
    Operation,
    Record,
    build,
    error_response,
    pack_header,
)
from .buffers import BufferPool

log = logging.getLogger("cryptofs")

_RESPONSE = int(Flag.RESPONSE)
_IV, _ASSOCLEN, _LENGTH = int(Attr.IV), int(Attr.ASSOCLEN), int(Attr.LENGTH)
_GENERATE = Operation.GENERATE
_MEASURED = 4096

buffers = BufferPool()
"""The daemon's buffers: one event loop, one pool."""


def respond_whole(transform: Transform, record: Record) -> Buffer:
    """The answer to a request that is a whole message, computed here and now.

    Errors: CryptofsError as in the table of the protocol; anything else is the engine's fault.
    """
    task = _prepare_whole(transform, record)
    return _response(task.out, _compute(task), record)


def _response(out: memoryview, size: int, record: Record) -> memoryview:
    """Turn an output buffer with HEADER_SIZE bytes of room in front into the answer to `record`."""
    total = HEADER_SIZE + size
    pack_header(out, 0, total, VERSION, record.operation, _RESPONSE | record.flags, record.id, 0, 0)
    return out[:total]


@dataclass(slots=True, eq=False)
class Task:
    """A job that is being done. message None: a whole message."""

    record: Record
    transform: Transform
    message: Message | None
    out: memoryview
    iv: Any = None
    assoclen: int = 0
    job: Job | None = None
    written: int = 0
    error: CryptofsError | None = None


def estimate_ns(transform: Transform, record: Record, lane: Lane | None = None) -> float:
    """How long a request will take, nanoseconds, by what requests of its transform took before.

    lane: with a message on it, of which a last part may compute all that was gathered.
    """
    length: Any = record.attributes.get(_LENGTH, 0)
    size = len(record.payload)
    if lane is not None and lane.message is not None:
        size = max(size, lane.message.room(size, not record.flags & MORE))
    cost = float(size + length) * transform.pace
    return cost + transform.costs.get(record.operation, 0.0) if transform.costs else cost


def prepare(transform: Transform, exchange: Exchange, job: Job) -> Task:
    """Check a lane's first job and open its message. Errors: CryptofsError."""
    record, lane = job.record, job.lane
    if job.cancelled:
        raise Cancelled(f"request {record.id} was cancelled")
    if lane.failure is not None:
        raise lane.failure
    last = not record.flags & MORE
    attributes: Any = record.attributes
    if lane.message is None and last:
        task = _prepare_whole(transform, record)
        task.job = job
        return task
    if record.operation is _GENERATE:
        raise InvalidValue("generate takes no parts")
    if lane.message is None:
        _check_attributes(record)
        exchange.open_lane()
        lane.message = transform.start(record.operation, attributes.get(_IV), attributes.get(_ASSOCLEN, 0))
        lane.operation = record.operation
    elif attributes:
        raise InvalidValue("attributes belong to the first part of a message")
    elif lane.operation is not record.operation:
        raise InvalidValue(f"{record.operation.word}: the message under id {record.id} is another operation's")
    message: Message = lane.message
    out = buffers.take(HEADER_SIZE + message.room(len(record.payload), last) + OUT_SLACK)
    return Task(record, transform, message, out, job=job)


def _check_attributes(record: Record) -> None:
    length_allowed = record.operation is _GENERATE
    allowed = {_LENGTH} if length_allowed else {_IV, _ASSOCLEN}
    if not record.attributes.keys() <= allowed:
        takes = "length" if length_allowed else "iv and assoclen"
        raise InvalidValue(f"{record.operation.word} takes no attributes but {takes}")


def _prepare_whole(transform: Transform, record: Record) -> Task:
    _check_attributes(record)
    attributes: Any = record.attributes
    if record.operation is _GENERATE:
        transform.check(record.operation, None, 0)
        length = attributes.get(_LENGTH)
        if length is None:
            raise InvalidValue("generate: length is missing")
        if length > PAYLOAD_MAX:
            raise InvalidValue(f"length {length}: at most {PAYLOAD_MAX}")
        return Task(record, transform, None, buffers.take(HEADER_SIZE + length))
    out = buffers.take(HEADER_SIZE + transform.room(record.operation, len(record.payload)) + OUT_SLACK)
    return Task(record, transform, None, out, attributes.get(_IV), attributes.get(_ASSOCLEN, 0))


def _compute(task: Task) -> int:
    record = task.record
    out = task.out[HEADER_SIZE:]
    size = len(record.payload) or len(out)
    began = time.perf_counter_ns()
    if task.message is None:
        written = task.transform.once(record.operation, task.iv, task.assoclen, record.payload, out)
    else:
        written = task.message.update(record.payload, not record.flags & MORE, out)
    # gathering a part is no computation
    if size >= _MEASURED and (written or record.operation is Operation.DIGEST):
        task.transform.note_pace(max(size, written), time.perf_counter_ns() - began)
    return written


def compute(task: Task) -> Task:
    """Do the arithmetic; it runs in any thread and never raises: what goes wrong is kept in the task."""
    if task.job is not None and task.job.cancelled:
        return task
    try:
        task.written = _compute(task)
    except CryptofsError as error:
        task.error = error
    except Exception:
        log.exception("%s failed in the engine", task.record.operation.word)
        task.error = engine_fault(task.record)
    return task


def engine_fault(record: Record) -> EngineFault:
    """The error that a client sees when an engine fails unexpectedly."""
    return EngineFault(f"{record.operation.word}: the engine failed; the daemon's log says more")


def settle(task: Task) -> Buffer:
    """The answer to a computed task. Errors: CryptofsError; the output is then never given out."""
    job = task.job
    assert job is not None
    if job.cancelled:
        task.error = Cancelled(f"request {task.record.id} was cancelled")
    if task.error is not None:
        buffers.give_back(task.out)
        raise task.error
    if task.message is not None and not task.record.flags & MORE:
        job.lane.message = None
        job.lane.operation = None
        task.message.close()
    return _response(task.out, task.written, task.record)


def refuse(record: Record, error: CryptofsError) -> Buffer:
    """The answer that tells of an error."""
    return build(error_response(record, error.errno, error.message))
