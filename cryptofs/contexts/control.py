"""The control calls: what each does to a context.

One table serves the records on `crypto`, the records on `ctl` and the text lines on `ctl`. A call that may take long
(a public key is parsed, a name is asked of the kernel for the first time) is computed by a worker: what comes for the
context meanwhile waits for it.
"""

import logging
from collections.abc import Callable
from functools import partial

from ..engines.base import Transform
from ..errors import (
    Busy,
    CryptofsError,
    EngineFault,
    Gone,
    InvalidValue,
    NoSuchTarget,
    NotPermitted,
    OverQuota,
)
from ..records import Attr, Operation, Record
from ..wiping import wipe
from .configuring import (
    Long,
    Reply,
    compute,
    configure,
    describe,
    integer_of,
    keep,
    set_key,
    stream_parameters,
    text_of,
)
from .context import Context
from .exchange import QUEUE_BYTES, QUEUE_REQUESTS

log = logging.getLogger("cryptofs")

Outcome = Reply | CryptofsError
"""The attributes of a call's answer, or why it failed."""


def run(context: Context, record: Record, done: Callable[[Outcome], None]) -> Outcome | None:
    """Do a control call. Returns the outcome, or None where a worker does it: `done` gets the outcome then.

    A key in a bytearray of the record's own is wiped when the call is done.
    """
    try:
        if context.closed:
            raise Gone(f"context {context.number} was closed")
        if context.blocked:
            keep(record)
            context.let_wait(partial(_run_later, context, record, done))
            return None
        call = CONTROLS.get(record.operation)
        if call is None:
            raise InvalidValue(f"{record.operation.word}: not a control call; write it to crypto")
        record.operation.check(record.attributes, len(record.payload), record.flags)
        reply = call(context, record)
        if isinstance(reply, Long):
            if context.shared.scheduler.running:
                context.block()
                context.hand_over(partial(compute, reply), partial(_finish, context, record, reply, done))
                return None
            result = compute(reply)
            if isinstance(result, Exception):
                reply.fail()
                return _failed(context, record, result)
            reply = reply.finish(result)
    except Exception as error:
        return _failed(context, record, error)
    _forget_key(record)
    return reply


def _run_later(context: Context, record: Record, done: Callable[[Outcome], None]) -> None:
    outcome = run(context, record, done)
    if outcome is not None:
        done(outcome)


def _finish(
    context: Context,
    record: Record,
    call: Long,
    done: Callable[[Outcome], None],
    result: Transform | Exception,
) -> None:
    outcome: Outcome
    try:
        if isinstance(result, Exception):
            # not raised again: its traceback and this frame would hold each other, and the key
            call.fail()
            outcome = _failed(context, record, result)
        elif context.closed:
            call.abandon(result)
            outcome = _failed(context, record, Gone(f"context {context.number} was closed"))
        else:
            outcome = call.finish(result)
            _forget_key(record)
    except Exception as error:
        outcome = _failed(context, record, error)
    done(outcome)
    if not context.closed:
        context.unblock()


def _failed(context: Context, record: Record, error: Exception) -> CryptofsError:
    _forget_key(record)
    if not isinstance(error, CryptofsError):
        log.error("context %d: %s failed", context.number, record.operation.word, exc_info=error)
        return EngineFault(f"{record.operation.word}: the engine failed; the daemon's log says more")
    if isinstance(error, NotPermitted | OverQuota):
        asked: dict[str, str | int] = {}
        for word, each in (("type", Attr.TYPE), ("name", Attr.NAME), ("driver", Attr.DRIVER)):
            if context.transform is None and (text := text_of(record, each)) is not None:
                asked[word] = text
        context.refused(record.operation.word, error, asked)
    # its frames hold the key
    return error.again()


def _forget_key(record: Record) -> None:
    key = record.attributes.get(Attr.KEY)
    if isinstance(key, bytearray):
        wipe(key)


def _info(context: Context, record: Record) -> Reply:
    reply: Reply = {Attr.CONTEXT: context.number}
    if context.transform is not None:
        reply = describe(context, context.transform)
    reply[Attr.NONBLOCKING] = int(context.nonblocking)
    reply[Attr.QUEUE_REQUESTS] = QUEUE_REQUESTS
    reply[Attr.QUEUE_BYTES] = QUEUE_BYTES
    return reply


def _reset(context: Context, record: Record) -> Reply:
    transform = context.require_transform()
    parameters = stream_parameters(record, transform)
    context.exchange.reset()
    if context.has_stream or any(value is not None for value in parameters):
        context.stream.reset()
        context.stream.set_parameters(*parameters)
    return {}


def _cancel(context: Context, record: Record) -> Reply:
    target = integer_of(record, Attr.TARGET)
    assert target is not None
    context.exchange.cancel(target)
    return {}


def _clone(context: Context, record: Record) -> Reply:
    context.require_transform()
    number = integer_of(record, Attr.CONTEXT)
    other = context if number is None else context.shared.peers(number)
    if other is None or other.uid != context.uid or other.transform is None:
        raise NoSuchTarget(f"context {number}: no configured context of yours has this number")
    if other.device is not context.device:
        raise NotPermitted("clone: the state of a device's message stays in contexts of that device")
    if other.require_transform().description != context.require_transform().description:
        raise InvalidValue(
            f"clone: context {context.number} is {context.require_transform().description.driver}, "
            f"context {other.number} is {other.require_transform().description.driver}"
        )
    target = integer_of(record, Attr.TARGET)
    if target is None:
        if other is context:
            raise InvalidValue("clone: a stream is cloned into another context")
        other.stream.adopt(context.stream.clone_message())
        return {}
    source = context.exchange.message_lane(target)
    if source is None:
        raise NoSuchTarget(f"message {target}: none is open under this id")
    if source.jobs:
        raise Busy(f"message {target}: parts of it are in flight")
    if record.id in other.exchange.lanes:
        raise Busy(f"message {record.id}: open already in context {other.number}")
    other.exchange.open_lane()
    other.exchange.adopt(record.id, source.operation, source.message.twin())
    return {}


def _set(context: Context, record: Record) -> Reply:
    value = integer_of(record, Attr.NONBLOCKING)
    if value not in (0, 1):
        raise InvalidValue(f"nonblocking {value}: 0 or 1")
    context.nonblocking = bool(value)
    context.changed()
    return {}


CONTROLS: dict[Operation, Callable[[Context, Record], Reply | Long]] = {
    Operation.CONFIGURE: configure,
    Operation.SET_KEY: set_key,
    Operation.INFO: _info,
    Operation.RESET: _reset,
    Operation.CANCEL: _cancel,
    Operation.CLONE: _clone,
    Operation.SET: _set,
}
