"""What one request does with its transform: prepared and settled in the event loop, computed in any thread."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from ..engines.base import OUT_SLACK, Answer, Message, Operands, Transform, overfull
from ..errors import Cancelled, CryptofsError, EngineFault, InvalidValue, OverQuota, TooLarge
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
from .exchange import MORE, Exchange
from .lanes import Job, Lane

log = logging.getLogger("cryptofs")

_RESPONSE = int(Flag.RESPONSE)
_IV, _ASSOCLEN, _LENGTH = int(Attr.IV), int(Attr.ASSOCLEN), int(Attr.LENGTH)
_GENERATE = Operation.GENERATE
_MEASURED = 4096
_LAVISH = 65_536
"""Bytes from which a buffer is not left to an answer that fills less than half of it."""
_NO_OUTPUT = memoryview(bytearray())

buffers = BufferPool()
"""The daemon's buffers: one event loop, one pool."""


def respond_whole(transform: Transform, record: Record) -> Buffer:
    """The answer to a request that is a whole message, computed here and now.

    Errors: CryptofsError as in the table of the protocol; anything else is the engine's fault.
    """
    task = _prepare_whole(transform, record)
    task.written = _compute(task)
    return _response(task)


def _response(task: "Task") -> Buffer:
    """Turn a task's output, with HEADER_SIZE bytes of room in front, into the answer to its request."""
    out, size, record = task.out, task.written, task.record
    if task.answer is not None:
        payload, attributes = task.answer
        return build(Record(record.operation, _RESPONSE, record.id, 0, attributes, payload))
    total = HEADER_SIZE + size
    pack_header(out, 0, total, VERSION, record.operation, _RESPONSE | record.flags, record.id, 0, 0)
    if len(out) < _LAVISH or total > len(out) // 2:
        return out[:total]
    # answers that wait must not take much more memory than the queue counts
    answer = memoryview(bytes(out[:total]))
    buffers.give_back(out)
    return answer


@dataclass(slots=True, eq=False)
class Task:
    """A job that is being done. message None: a whole message; operands None: not an operation of `operate`."""

    record: Record
    transform: Transform
    message: Message | None
    out: memoryview
    iv: Any = None
    assoclen: int = 0
    job: Job | None = None
    written: int = 0
    error: CryptofsError | None = None
    operands: Operands | None = None
    answer: Answer | None = None


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


def check_room(transform: Transform, record: Record, lane: Lane | None, room: int) -> None:
    """Check that the answer to a request will fit into `room` bytes, as far as its size is known. Errors: TooLarge."""
    least = HEADER_SIZE + _answer_size(transform, record, lane)
    if least > room:
        raise TooLarge(f"answer of {least} bytes: the buffer has {room}")


def _answer_size(transform: Transform, record: Record, lane: Lane | None) -> int:
    """Bytes of payload that the answer to a request is known to have before it is computed; for a part, the most that
    it may have.
    """
    size = len(record.payload)
    if lane is not None and lane.message is not None:
        return int(lane.message.room(size, not record.flags & MORE))
    length: Any = record.attributes.get(_LENGTH, 0)
    assoclen: Any = record.attributes.get(_ASSOCLEN, 0)
    if record.operation is Operation.DECRYPT:
        return max(0, size - int(assoclen) - transform.authsize)
    if record.operation is _GENERATE:
        return int(length)
    if record.flags & MORE or record.operation not in (Operation.DIGEST, Operation.ENCRYPT):
        return 0
    return transform.room(record.operation, size) - min(size, int(assoclen))


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
    if lane.message is None:
        record.operation.check(attributes, len(record.payload), record.flags)
        if _LENGTH in attributes:
            raise InvalidValue("length: of a message in one record only; the output of parts comes part by part")
        exchange.open_lane()
        exchange.hold(lane, transform.start(record.operation, attributes.get(_IV), attributes.get(_ASSOCLEN, 0)))
        lane.operation = record.operation
    elif attributes:
        raise InvalidValue("attributes belong to the first part of a message")
    elif lane.operation is not record.operation:
        raise InvalidValue(f"{record.operation.word}: the message under id {record.id} is another operation's")
    message: Message = lane.message
    out = buffers.take(HEADER_SIZE + message.room(len(record.payload), last) + OUT_SLACK)
    return Task(record, transform, message, out, job=job)


def _prepare_whole(transform: Transform, record: Record) -> Task:
    attributes: Any = record.attributes
    record.operation.check(attributes, len(record.payload), record.flags)
    length = attributes.get(_LENGTH)
    if length is not None and length > PAYLOAD_MAX:
        raise InvalidValue(f"length {length}: at most {PAYLOAD_MAX}")
    if record.operation is _GENERATE:
        transform.check(record.operation, None, 0)
        return Task(record, transform, None, buffers.take(HEADER_SIZE + length))
    if record.operation.row.operands:
        return Task(record, transform, None, _NO_OUTPUT, operands=attributes)
    room = transform.room(record.operation, len(record.payload))
    if length is not None:
        room = min(room, length)
    out = buffers.take(HEADER_SIZE + room + OUT_SLACK)
    return Task(record, transform, None, out, attributes.get(_IV), attributes.get(_ASSOCLEN, 0))


def _compute(task: Task) -> int:
    record = task.record
    out = task.out[HEADER_SIZE:]
    size = len(record.payload) or len(out)
    began = time.perf_counter_ns()
    if task.operands is not None:
        written = 0
        task.answer = task.transform.operate(record.operation, task.operands, record.payload)
    elif task.message is None:
        written = task.transform.once(record.operation, task.iv, task.assoclen, record.payload, out)
    else:
        last = not record.flags & MORE
        written = task.message.update(record.payload, last, out)
        if last and task.message.pending:
            raise overfull(record.operation, len(out) - OUT_SLACK)
    # gathering a part is no computation
    worked = max(size, written)
    if worked >= _MEASURED and (written or record.operation is Operation.DIGEST):
        # what a byte of input expands to is not known before
        paced = size if record.operation.row.expands else worked
        task.transform.note_pace(paced, time.perf_counter_ns() - began)
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


def settle(task: Task, exchange: Exchange) -> Buffer:
    """The answer to a computed task. Errors: CryptofsError; the output is then never given out."""
    job = task.job
    assert job is not None
    if job.cancelled:
        task.error = Cancelled(f"request {task.record.id} was cancelled")
    elif task.message is not None and task.error is None and task.record.flags & MORE:
        try:
            exchange.check_kept(job.lane)
        except OverQuota as error:
            task.error = error
    if task.error is not None:
        buffers.give_back(task.out)
        raise task.error
    if task.message is not None and not task.record.flags & MORE:
        job.lane.message = None
        job.lane.operation = None
        task.message.close()
    return _response(task)


def refuse(record: Record, error: CryptofsError) -> Buffer:
    """The answer with an error."""
    return build(error_response(record, error.errno, error.message))
