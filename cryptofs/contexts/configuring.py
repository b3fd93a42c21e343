"""How a context gets its transform and its key: the control calls that may take long."""

from collections.abc import Callable
from dataclasses import dataclass

from ..algorithms import Description, Type, check_name, parse_type
from ..engines.base import Engine, Transform, resolve
from ..errors import Busy, InvalidValue, NotOffered, OverQuota
from ..policy import Thing
from ..policy.audit import audit
from ..records import ATTRIBUTE_WORDS, OPERATION_WORDS, STREAM_OPERATIONS, Attr, Operation, Record, Value
from .context import Context

Reply = dict[int, Value]


@dataclass(frozen=True)
class Long:
    """A call that may take long. compute: runs in any thread; finish: then in the event loop, with the transform that
    it gave; abandon: instead, where the context was closed; fail: instead, where compute has failed."""

    compute: Callable[[], Transform]
    finish: Callable[[Transform], Reply]
    abandon: Callable[[Transform], None]
    fail: Callable[[], None]


def compute(call: Long) -> Transform | Exception:
    """Do the part that may take long; it never raises."""
    try:
        return call.compute()
    except Exception as error:
        return error


def keep(record: Record) -> None:
    """Let go of the write that a record came in: that is used again, and keys in it are wiped."""
    record.payload = bytes(record.payload)
    record.attributes = {
        number: value if isinstance(value, int | str) else bytearray(value)
        for number, value in record.attributes.items()
    }


def text_of(record: Record, attribute: Attr) -> str | None:
    """An attribute of text, or None."""
    value = record.attributes.get(attribute)
    assert value is None or isinstance(value, str)
    return value


def integer_of(record: Record, attribute: Attr) -> int | None:
    """An attribute that is a number, or None."""
    value = record.attributes.get(attribute)
    assert value is None or isinstance(value, int)
    return value


def key_of(record: Record) -> bytes | bytearray | memoryview | None:
    """The key that a call brings, or None."""
    value = record.attributes.get(Attr.KEY)
    assert not isinstance(value, int | str)
    return value


def stream_parameters(record: Record, transform: Transform) -> tuple[Operation | None, bytes | None, int | None]:
    """Operation, iv and assoclen for the stream's next message, each None if it is not given. Errors: InvalidValue."""
    word = text_of(record, Attr.OPERATION)
    allowed = STREAM_OPERATIONS[transform.description.type]
    operation = None if word is None else OPERATION_WORDS.get(word)
    if word is not None and operation not in allowed:
        known = ", ".join(sorted(each.word for each in allowed))
        raise InvalidValue(f"operation {word!r}: a stream of type {transform.description.type} does {known}")
    iv = record.attributes.get(Attr.IV)
    assert not isinstance(iv, int | str)
    assoclen = integer_of(record, Attr.ASSOCLEN)
    size = transform.description.iv_size
    if iv is not None and len(iv) != size:
        raise InvalidValue(f"iv of {len(iv)} bytes: {transform.description.name} takes {size or 'no'} bytes")
    if assoclen and transform.description.type is not Type.AEAD:
        raise InvalidValue(f"assoclen {assoclen}: {transform.description.name} has no associated data")
    return operation, None if iv is None else bytes(iv), assoclen


def configure(context: Context, record: Record) -> Reply | Long:
    """Give the context its transform, and a key if there is one."""
    if context.transform is not None:
        raise Busy(f"context {context.number} is configured already: one configure a context")
    type_ = parse_type(text_of(record, Attr.TYPE) or "")
    name = check_name(text_of(record, Attr.NAME) or "")
    # before any engine sees it: asking the kernel for a name may load a module
    context.rule.check_name(type_, name)
    authsize = integer_of(record, Attr.AUTHSIZE)
    if authsize is not None and type_ is not Type.AEAD:
        raise InvalidValue(f"authsize {authsize}: type {type_} has no tag")
    engines = _engines(context, text_of(record, Attr.ENGINE))
    driver = text_of(record, Attr.DRIVER)
    level = integer_of(record, Attr.LEVEL)
    is_slow = any(engine.is_slow(type_, each) for engine in engines for each in (name, driver) if each is not None)
    if is_slow:
        keep(record)

    def open_() -> Transform:
        engine, description = _find(context, type_, name, driver, engines)
        try:
            return engine.open(description, authsize)
        except NotOffered:
            # it was offered before and the kernel forbids it now; the engine knows, so the next one is found
            engine, description = _find(context, type_, name, driver, engines)
            return engine.open(description, authsize)

    def set_up(transform: Transform) -> Transform:
        try:
            if level is not None:
                transform.set_level(level)
            key = key_of(record)
            if key is not None:
                transform.set_key(key)
            stream_parameters(record, transform)
        except BaseException:
            transform.close()
            raise
        return transform

    def finish(transform: Transform) -> Reply:
        if transform.key_set:
            try:
                context.queue.usage.charge(Thing.KERNEL_KEYS, transform.kernel_keys)
            except OverQuota:
                transform.close()
                raise
        context.transform = transform
        parameters = stream_parameters(record, transform)
        if any(value is not None for value in parameters):
            context.stream.set_parameters(*parameters)
        description = transform.description
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
        return describe(context, transform)

    if is_slow:
        return Long(lambda: set_up(open_()), finish, _close, nothing)
    transform = open_()
    if Attr.KEY in record.attributes and transform.slow_keys:
        keep(record)
        return Long(lambda: set_up(transform), finish, _close, nothing)
    return finish(set_up(transform))


def _close(transform: Transform) -> None:
    transform.close()


def nothing() -> None:
    """A call that failed has left nothing to take back."""


def _engines(context: Context, wanted: str | None) -> tuple[Engine, ...]:
    engines = context.shared.engines
    if wanted is None:
        return engines
    chosen = tuple(engine for engine in engines if engine.name == wanted)
    if not chosen:
        raise NotOffered(f"engine {wanted!r}: not among those that serve here")
    return chosen


def _find(
    context: Context, type_: Type, name: str, driver: str | None, engines: tuple[Engine, ...]
) -> tuple[Engine, Description]:
    found = resolve(engines, type_, name)
    order = ", ".join(engine.name for engine in engines)
    if found is None:
        raise NotOffered(f"{type_} {name!r}: no engine offers it (asked: {order or 'none'})")
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


def describe(context: Context, transform: Transform) -> Reply:
    """What a context computes with, for the answer to configure and info."""
    description = transform.description
    # the rows have the words of their attributes
    rows = (*description.identity, *description.sizes, *transform.settings)
    return {Attr.CONTEXT: context.number, **{ATTRIBUTE_WORDS[word]: value for word, value in rows}}


def set_key(context: Context, record: Record) -> Reply | Long:
    """Replace the key. Errors: Busy while anything is in flight; those of the transform; OverQuota."""
    transform, usage = context.require_transform(), context.queue.usage
    if context.busy:
        raise Busy(f"set-key: {context.busy}")
    # the kernel has few keys to give: a transform that takes one counts as its user's
    taken = 0 if transform.key_set else transform.kernel_keys
    usage.charge(Thing.KERNEL_KEYS, taken)
    keep(record)
    key = key_of(record)
    assert key is not None

    def set_key() -> Transform:
        transform.set_key(key)
        return transform

    def release() -> None:
        usage.release(Thing.KERNEL_KEYS, taken)

    if transform.slow_keys:
        return Long(set_key, lambda _: {}, lambda _: None, release)
    try:
        set_key()
    except BaseException:
        release()
        raise
    return {}
