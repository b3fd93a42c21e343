"""The control calls: what each does to a context.

One table serves the records on `crypto`, the records on `ctl` and the text lines on `ctl`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..algorithms import Description, Type, check_name, parse_type
from ..engines.base import Engine, Transform, resolve
from ..errors import Busy, InvalidValue, NoSuchTarget, NotOffered, NotPermitted
from ..policy import Thing, Usage
from ..policy.audit import audit
from ..records import OPERATION_WORDS, STREAM_OPERATIONS, Attr, Buffer, Operation, Record, Value
from .exchange import QUEUE_BYTES, QUEUE_REQUESTS

if TYPE_CHECKING:
    from .context import Context

Reply = dict[int, Value]


def _text(record: Record, attribute: Attr) -> str | None:
    value = record.attributes.get(attribute)
    assert value is None or isinstance(value, str)
    return value


def _integer(record: Record, attribute: Attr) -> int | None:
    value = record.attributes.get(attribute)
    assert value is None or isinstance(value, int)
    return value


def _key(record: Record) -> bytes | bytearray | memoryview | None:
    value = record.attributes.get(Attr.KEY)
    assert not isinstance(value, int | str)
    return value


def _stream_parameters(record: Record, transform: Transform) -> tuple[Operation | None, bytes | None, int | None]:
    word = _text(record, Attr.OPERATION)
    allowed = STREAM_OPERATIONS[transform.description.type]
    operation = None if word is None else OPERATION_WORDS.get(word)
    if word is not None and operation not in allowed:
        known = ", ".join(sorted(each.word for each in allowed))
        raise InvalidValue(f"operation {word!r}: a stream of type {transform.description.type} does {known}")
    iv = record.attributes.get(Attr.IV)
    assert not isinstance(iv, int | str)
    assoclen = _integer(record, Attr.ASSOCLEN)
    size = transform.description.iv_size
    if iv is not None and len(iv) != size:
        raise InvalidValue(f"iv of {len(iv)} bytes: {transform.description.name} takes {size or 'no'} bytes")
    if assoclen and transform.description.type is not Type.AEAD:
        raise InvalidValue(f"assoclen {assoclen}: {transform.description.name} has no associated data")
    return operation, None if iv is None else bytes(iv), assoclen


def concerned(context: "Context", record: Record | None) -> dict[str, str | int]:
    """What a refusal concerns, for the audit trail. record: the control call that was refused, if it was one."""
    values: dict[str, str | int] = {"context": context.number}
    if context.device is not None:
        values["device"] = context.device.settings.name
    if context.transform is not None:
        values |= {"type": context.transform.description.type.value, "name": context.transform.description.name}
    elif record is not None:
        asked = {"type": Attr.TYPE, "name": Attr.NAME, "driver": Attr.DRIVER}
        values |= {word: text for word, each in asked.items() if (text := _text(record, each)) is not None}
    return values


def _configure(context: "Context", record: Record) -> Reply:
    if context.transform is not None:
        raise Busy(f"context {context.number} is configured already: one configure a context")
    type_ = parse_type(_text(record, Attr.TYPE) or "")
    name = check_name(_text(record, Attr.NAME) or "")
    # before any engine sees it: asking the kernel for a name may load a module
    context.rule.check_name(type_, name)
    engine, description = _find(context, type_, name, record)
    authsize = _integer(record, Attr.AUTHSIZE)
    if authsize is not None and type_ is not Type.AEAD:
        raise InvalidValue(f"authsize {authsize}: type {type_} has no tag")
    try:
        transform = engine.open(description, authsize)
    except NotOffered:
        # it was offered before and the kernel forbids it now; the engine knows, so the next one is found
        engine, description = _find(context, type_, name, record)
        transform = engine.open(description, authsize)
    try:
        level = _integer(record, Attr.LEVEL)
        if level is not None:
            transform.set_level(level)
        key = _key(record)
        if key is not None:
            _give_key(context, transform, key)
        parameters = _stream_parameters(record, transform)
    except BaseException:
        discard(context.usage, transform)
        raise
    context.adopt(transform)
    if any(value is not None for value in parameters):
        context.stream.set_parameters(*parameters)
    audit(
        "configure",
        context.uid,
        context.pid,
        context=context.number,
        type=type_.value,
        name=description.name,
        engine=description.engine,
        driver=description.driver,
    )
    return _describe(context, transform)


def _give_key(context: "Context", transform: Transform, key: Buffer) -> None:
    """Set a key. The kernel has few to give: a transform that takes one counts as its user's."""
    taken = 0 if transform.key_set else transform.kernel_keys
    context.usage.charge(Thing.KERNEL_KEYS, taken)
    try:
        transform.set_key(key)
    except BaseException:
        context.usage.release(Thing.KERNEL_KEYS, taken)
        raise


def discard(usage: Usage, transform: Transform) -> None:
    """Close a transform, and release the key that it took."""
    taken = transform.kernel_keys if transform.key_set else 0
    transform.close()
    usage.release(Thing.KERNEL_KEYS, taken)


def _find(context: "Context", type_: Type, name: str, record: Record) -> tuple[Engine, Description]:
    engines = context.engines
    wanted = _text(record, Attr.ENGINE)
    if wanted is not None:
        engines = tuple(engine for engine in engines if engine.name == wanted)
        if not engines:
            raise NotOffered(f"engine {wanted!r}: not among those that serve here")
    found = resolve(engines, type_, name)
    order = ", ".join(engine.name for engine in engines)
    if found is None:
        raise NotOffered(f"{type_} {name!r}: no engine offers it (asked: {order or 'none'})")
    driver = _text(record, Attr.DRIVER)
    if driver is None or found[1].driver == driver:
        return found
    # a driver other than the preferred one is bound under its own name, which is then asked of the kernel
    context.rule.check_name(type_, driver)
    for engine in engines:
        offered = engine.describe(type_, driver)
        if offered is not None and offered.driver == driver and offered.name == found[1].name:
            return engine, offered
        offered = engine.describe(type_, name)
        if offered is not None and offered.driver == driver:
            return engine, offered
    raise NotOffered(f"driver {driver!r} for {name!r}: no engine offers it (asked: {order})")


def _describe(context: "Context", transform: Transform) -> Reply:
    description = transform.description
    reply: Reply = {
        Attr.CONTEXT: context.number,
        Attr.TYPE: description.type.value,
        Attr.NAME: description.name,
        Attr.ENGINE: description.engine,
        Attr.DRIVER: description.driver,
        Attr.BLOCK_SIZE: description.block_size,
        Attr.IV_SIZE: description.iv_size,
        Attr.KEY_SIZES: str(description.key_sizes),
        Attr.DIGEST_SIZE: description.digest_size,
        Attr.MAX_AUTHSIZE: description.max_authsize,
    }
    if description.type is Type.AEAD:
        reply[Attr.AUTHSIZE] = transform.authsize
    if transform.level is not None:
        reply[Attr.LEVEL] = transform.level
    return reply


def _set_key(context: "Context", record: Record) -> Reply:
    transform = context.require_transform()
    if context.busy:
        raise Busy(f"set-key: {context.busy}")
    key = _key(record)
    assert key is not None
    _give_key(context, transform, key)
    return {}


def _info(context: "Context", record: Record) -> Reply:
    reply: Reply = {Attr.CONTEXT: context.number}
    if context.transform is not None:
        reply = _describe(context, context.transform)
    reply[Attr.NONBLOCKING] = int(context.nonblocking)
    reply[Attr.QUEUE_REQUESTS] = QUEUE_REQUESTS
    reply[Attr.QUEUE_BYTES] = QUEUE_BYTES
    return reply


def _reset(context: "Context", record: Record) -> Reply:
    transform = context.require_transform()
    parameters = _stream_parameters(record, transform)
    context.exchange.reset()
    if context.has_stream or any(value is not None for value in parameters):
        context.stream.reset()
        context.stream.set_parameters(*parameters)
    return {}


def _cancel(context: "Context", record: Record) -> Reply:
    target = _integer(record, Attr.TARGET)
    assert target is not None
    context.exchange.cancel(target)
    return {}


def _clone(context: "Context", record: Record) -> Reply:
    context.require_transform()
    number = _integer(record, Attr.CONTEXT)
    other = context if number is None else context.peers(number)
    if other is None or other.uid != context.uid or other.transform is None:
        raise NoSuchTarget(f"context {number}: no configured context of yours has this number")
    if other.device is not context.device:
        raise NotPermitted("clone: the state of a device's message stays in contexts of that device")
    if other.require_transform().description != context.require_transform().description:
        raise InvalidValue(
            f"clone: context {context.number} is {context.require_transform().description.driver}, "
            f"context {other.number} is {other.require_transform().description.driver}"
        )
    target = _integer(record, Attr.TARGET)
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
    other.exchange.adopt(record.id, source.operation, source.message.clone())
    return {}


def _set(context: "Context", record: Record) -> Reply:
    value = _integer(record, Attr.NONBLOCKING)
    if value not in (0, 1):
        raise InvalidValue(f"nonblocking {value}: 0 or 1")
    context.nonblocking = bool(value)
    context.changed()
    return {}


CONTROLS: dict[Operation, Callable[["Context", Record], Reply]] = {
    Operation.CONFIGURE: _configure,
    Operation.SET_KEY: _set_key,
    Operation.INFO: _info,
    Operation.RESET: _reset,
    Operation.CANCEL: _cancel,
    Operation.CLONE: _clone,
    Operation.SET: _set,
}
