"""A context's requests: accepted all or none, done in their order by lane, answered once each.

    accept -> admit -> a control call                     -> answer
                    -> a whole message, short             -> answer
                    -> a lane -> prepare -> compute here  -> settle -> answer
                                         -> by a worker   -> settle -> answer

The answers are made here and wait in the exchange. A request that comes by ioctl has its answer in its `Call`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..engines.base import OUT_SLACK, Transform
from ..errors import Cancelled, CryptofsError, InvalidValue, NotPermitted, OverQuota, TooLarge
from ..records import (
    CONTROL_OPERATIONS,
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
from . import control
from .buffers import buffers
from .configuring import keep
from .context import Context
from .exchange import MORE
from .lanes import CALLED, Call, Job, Lane, cost_of, lane_number
from .scheduler import ALONE_NS, LONG_NS
from .work import Task, engine_fault

_RESPONSE = int(Flag.RESPONSE)
_IV, _ASSOCLEN, _LENGTH, _KEY_VERSION = (int(each) for each in (Attr.IV, Attr.ASSOCLEN, Attr.LENGTH, Attr.KEY_VERSION))
_SIGNATURE_CONTEXT = int(Attr.SIGNATURE_CONTEXT)
_GENERATE = Operation.GENERATE
_NO_FRAME = memoryview(bytearray(HEADER_SIZE))
_LAVISH = 65_536
"""Bytes from which a buffer is not left to an answer that fills less than half of it."""


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Task):
    """The work for one record. frame: where its answer is made, with `out` behind the header. job: None for a whole
    message that is answered before its write returns."""

    record: Record
    frame: memoryview
    job: Job | None = None

    def drop(self) -> None:
        super(Request, self).drop()
        self.frame, self.record.payload = _NO_FRAME, b""


# What comes in


def accept(context: Context, records: Sequence[Record]) -> None:
    """Accept parsed requests, all or none. Short ones are done when this returns, long ones by workers.

    Errors: those of `Exchange.admit`.
    """
    context.exchange.admit(records)
    planned = 0.0
    for record in records:
        planned = begin(context, record, None, planned)
    context.changed()


def call(context: Context, record: Record, room: int) -> Buffer | Call:
    """Do what a request that came by ioctl asks: its answer, or the call that has it later.

    room: bytes that the caller's buffer has. Errors: those of `Exchange.admit`; TooLarge where the answer will not
    fit: then nothing was done, where that can be known before.
    """
    exchange = context.exchange
    if context.transform is not None and record.operation not in CONTROL_OPERATIONS:
        # as far as the size of the answer is known
        least = HEADER_SIZE + _answer_size(context.transform, record, exchange.lanes.get(record.id + CALLED))
        if least > room:
            raise TooLarge(f"answer of {least} bytes: the buffer has {room}")
    came = Call(room)
    exchange.admit((record,), came)
    begin(context, record, came, 0.0)
    context.changed()
    response = came.take()
    if response is None:
        return came
    if isinstance(response, memoryview):
        buffers.lend(response)
    return response


def take(context: Context, size: int) -> Buffer | None:
    """As many whole answers as fit into `size` bytes, or None if none is ready. Errors: TooLarge."""
    response = context.exchange.take(size)
    if response is not None:
        if isinstance(response, memoryview):
            buffers.lend(response)
        context.changed()
    return response


def begin(context: Context, record: Record, came: Call | None, planned: float) -> float:
    """Do an admitted request, or have it done.

    planned: nanoseconds that the requests before it in the same write take; returns those with its own.
    """
    if record.operation in CONTROL_OPERATIONS:
        _do_control(context, record, came)
        return planned
    if context.blocked:
        keep(record)
        context.let_wait(partial(_go_on, context, record, came))
        return planned
    exchange, transform = context.exchange, context.transform
    lane = exchange.lanes.get(lane_number(record, came))
    own = _estimate_ns(transform, record, lane) if transform is not None else 0.0
    planned += own
    if planned > ALONE_NS or lane is not None or record.flags or transform is None:
        _advance(context, exchange.enqueue(record, came), planned > ALONE_NS)
    elif planned > LONG_NS and context.shared.scheduler.takes(own, context.number):
        _advance(context, exchange.enqueue(record, came), True)
    else:
        _answer_whole(context, transform, record, came)
    return planned


def _go_on(context: Context, record: Record, came: Call | None) -> None:
    if not context.closed:
        begin(context, record, came, 0.0)


def _do_control(context: Context, record: Record, came: Call | None) -> None:
    done = partial(_answer_control, context, record, came)
    outcome = control.run(context, record, done)
    if outcome is not None:
        done(outcome)


def _answer_control(context: Context, record: Record, came: Call | None, outcome: control.Outcome) -> None:
    if context.closed:
        return
    if isinstance(outcome, CryptofsError):
        reply = error_response(record, outcome.errno, outcome.message)
    else:
        reply = Record(record.operation, _RESPONSE, record.id, 0, outcome)
    context.exchange.answer(build(reply), cost_of(record), reply.status != 0, came)


def refused_write(context: Context, how: str, error: CryptofsError) -> None:
    """Remember why a write or ioctl was refused: it has no answer. how: what it was, for the audit trail."""
    context.last_error = error.again()
    if isinstance(error, OverQuota):
        context.refused(how, error)


# A whole message that is short is answered at once


def answer_declined(context: Context, record: Record) -> None:
    """Answer a short request that the fast way could not, after `has_room` has found room for it."""
    context.exchange.admit_one(record)
    _answer_whole(context, context.require_transform(), record, None)


def _answer_whole(context: Context, transform: Transform, record: Record, came: Call | None) -> None:
    began = time.perf_counter_ns()
    # an error is never raised from its task: the frames of its traceback would hold the task, and the task the error
    error: CryptofsError | None = None
    try:
        task = _prepare_whole(transform, record)
        error = task.compute().error
    except CryptofsError as refused:
        error = refused.again()
    except Exception:
        error = engine_fault(transform, record.operation)
    response = _response(context, task) if error is None else _refusal(context, record, error)
    context.exchange.answer(response, cost_of(record), error is not None, came)
    context.shared.latencies.note(time.perf_counter_ns() - began)


# Jobs: a lane's first job runs, here or in a worker, and when it is answered the next one does


def _advance(context: Context, first: Job, long: bool) -> None:
    if first.lane.jobs[0] is not first:
        return
    scheduler = context.shared.scheduler
    job: Job | None = first
    planned = 0.0
    while job is not None:
        try:
            transform = context.require_transform()
            task = _prepare(context, transform, job)
        except CryptofsError as error:
            job = _fail(context, job, error)
            continue
        except Exception:
            assert context.transform is not None
            job = _fail(context, job, engine_fault(context.transform, job.record.operation))
            continue
        planned += _estimate_ns(transform, task.record, job.lane)
        long = long or scheduler.takes(planned, context.number)
        if long and scheduler.running:
            job.task = task
            context.hand_over(task.compute, partial(_handed_back, context))
            return
        task.compute()
        job = _settle(context, task)


def _handed_back(context: Context, task: Request) -> None:
    if task.job is not None:
        # each would keep the other, and megabytes, until the garbage collector comes
        task.job.task = None
    if context.closed:
        if task.message is not None:
            task.message.close()
            if task.job is not None:
                context.exchange.let_go(task.job.lane)
        buffers.give_back(task.frame)
        return
    following = _settle(context, task)
    if following is not None:
        _advance(context, following, False)


def _settle(context: Context, task: Request) -> Job | None:
    """Answer a computed job; returns the one that runs next on its lane."""
    job, exchange, message, error = task.job, context.exchange, task.message, task.error
    assert job is not None
    if job.cancelled:
        error = Cancelled(f"request {task.record.id} was cancelled")
    elif message is not None and error is None:
        if not task.last:
            error = exchange.over_kept(job.lane)
        elif message.pending:
            error = task.overfull()
    if error is not None:
        buffers.give_back(task.frame)
        return _fail(context, job, error)
    if message is not None and task.last:
        job.lane.message = None
        job.lane.operation = None
        message.close()
    return _finish(context, job, _response(context, task))


def _fail(context: Context, job: Job, error: CryptofsError) -> Job | None:
    context.exchange.fail(job.lane, error, last=not job.record.flags & MORE)
    return _finish(context, job, _refusal(context, job.record, error), failed=True)


def _finish(context: Context, job: Job, response: Buffer, failed: bool = False) -> Job | None:
    following = context.exchange.finish(job, response, failed)
    context.shared.latencies.note(time.perf_counter_ns() - job.began)
    return following


def _refusal(context: Context, record: Record, error: CryptofsError) -> Buffer:
    if isinstance(error, NotPermitted | OverQuota):
        context.refused(record.operation.word, error)
    return build(error_response(record, error.errno, error.message))


def _response(context: Context, task: Request) -> Buffer:
    """The answer to a request that was computed well."""
    record, frame, tally = task.record, task.frame, context.exchange.tally
    if task.answer is not None:
        payload, attributes = task.answer
        tally.sent += len(payload)
        return build(Record(record.operation, _RESPONSE, record.id, 0, attributes, payload))
    tally.sent += task.written
    total = HEADER_SIZE + task.written
    message = task.message
    if message is not None and task.last and message.attributes:
        whole = Record(record.operation, _RESPONSE, record.id, 0, message.attributes, frame[HEADER_SIZE:total])
        answer = memoryview(build(whole))
        buffers.give_back(frame)
        return answer
    pack_header(frame, 0, total, VERSION, record.operation, _RESPONSE | record.flags, record.id, 0, 0)
    if len(frame) < _LAVISH or total > len(frame) // 2:
        return frame[:total]
    # answers that wait must not take much more memory than the queue counts
    answer = memoryview(bytes(frame[:total]))
    buffers.give_back(frame)
    return answer


# How a request becomes work


def _prepare(context: Context, transform: Transform, job: Job) -> Request:
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
        if _SIGNATURE_CONTEXT in attributes:
            raise InvalidValue("signature-context: of a message in one record only")
        if (version := attributes.get(_KEY_VERSION)) is not None:
            transform = transform.of_version(version)
        context.exchange.open_lane()
        message = transform.start(record.operation, attributes.get(_IV), attributes.get(_ASSOCLEN, 0))
        context.exchange.hold(lane, message)
        lane.operation = record.operation
    elif attributes:
        raise InvalidValue("attributes belong to the first part of a message")
    elif lane.operation is not record.operation:
        raise InvalidValue(f"{record.operation.word}: the message under id {record.id} is another operation's")
    return _request(transform, record, lane.message.room(len(record.payload), last), message=lane.message, job=job)


def _prepare_whole(transform: Transform, record: Record) -> Request:
    attributes: Any = record.attributes
    record.operation.check(attributes, len(record.payload), record.flags)
    if (version := attributes.get(_KEY_VERSION)) is not None:
        transform = transform.of_version(version)
    length = attributes.get(_LENGTH)
    if length is not None and length > PAYLOAD_MAX:
        raise InvalidValue(f"length {length}: at most {PAYLOAD_MAX}")
    if record.operation is _GENERATE:
        transform.check(record.operation, None, 0)
        # it fills all that it is given
        frame = buffers.take(HEADER_SIZE + length)
        return _over(transform, record, frame)
    if record.operation.row.operands or transform.answers_more:
        return _over(transform, record, _NO_FRAME, operands=attributes)
    room = transform.room(record.operation, len(record.payload))
    room = room if length is None else min(room, length)
    return _request(transform, record, room, iv=attributes.get(_IV), assoclen=attributes.get(_ASSOCLEN, 0))


def _request(transform: Transform, record: Record, room: int, **words: Any) -> Request:
    return _over(transform, record, buffers.take(HEADER_SIZE + room + OUT_SLACK), **words)


def _over(transform: Transform, record: Record, frame: memoryview, **words: Any) -> Request:
    return Request(
        transform=transform,
        operation=record.operation,
        data=record.payload,
        out=frame[HEADER_SIZE:],
        last=not record.flags & MORE,
        record=record,
        frame=frame,
        **words,
    )


def _estimate_ns(transform: Transform, record: Record, lane: Lane | None) -> float:
    """How long a request will take. lane: with a message on it, whose last part may compute all that was gathered."""
    size = len(record.payload)
    if lane is not None and lane.message is not None:
        size = max(size, lane.message.room(size, not record.flags & MORE))
    length: Any = record.attributes.get(_LENGTH, 0)
    return transform.estimate_ns(record.operation, size + int(length))


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
