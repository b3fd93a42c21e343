"""What every engine offers to the contexts, and the checks that are the same whichever engine serves.

An engine opens transforms by (type, name); a transform holds one algorithm and its key and starts messages;
a message takes its input in one part or more. Input and output are buffers, sizes are bytes.

What may be called where:
- engines: everything, from any thread, several at once. `warm_up` comes first, alone.
- transforms: everything from any thread. Operations, `start` and messages' methods may run at the same time in several
  threads; `set_key`, `set_level` and `close` only while nothing else of this transform runs or is open.
- messages: everything from any thread, one call at a time.
No call counts on the thread that made the object. A call in the event loop delays every client for as long as the
call takes: `Engine.is_slow` and `Transform.slow_keys` tell which calls may take more than a millisecond.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ..algorithms import Description, Rows, Type
from ..errors import InvalidValue, KeyMissing, NotSupported, TooLarge
from ..records import OPERATIONS, Buffer, Operation, Value

Operands = Mapping[int, Value]
Answer = tuple[bytes, Operands]
"""A payload, and what an answer carries besides, by attribute."""


OUT_SLACK = 16
"""Bytes that every output buffer has beyond `room`: OpenSSL wants them for a block it may hold back."""


def overfull(operation: Operation, room: int) -> TooLarge:
    """The error for a message that ends with more output than one answer may have."""
    return TooLarge(f"{operation.word}: more than {room} bytes of output, which is all that this answer may have")


class Message(ABC):
    """One message on its way through a transform."""

    @abstractmethod
    def room(self, size: int, last: bool) -> int:
        """How many bytes of output a part of `size` bytes can give at most."""

    @abstractmethod
    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        """Take a part, write its output to `out` (`room` bytes and OUT_SLACK more), return how many bytes were written.

        Errors: InvalidValue, TooLarge, BadTag, EngineFault. After an error or the last part only `close` may follow.
        """

    @property
    def pending(self) -> bool:
        """Whether there is output that did not fit into `out`: the next `update` gives it, also one without data; one
        after the last part says again that it is the last. Only compressions have it.
        """
        return False

    @property
    def kept(self) -> int:
        """Bytes that the message keeps of what it was given, or has not given out yet: they are counted against the
        client. What is less than a chunk does not count.
        """
        return 0

    state = 4096
    """Bytes that the message holds besides, as long as it is open: objects, and its library's state or a socket."""

    gathers = False
    """Whether parts before the last are only kept, and nothing is computed before it."""

    holder: object = None
    """What must live as long as the message: the version of a device's key that it began with."""

    attributes: Operands = MappingProxyType({})
    """What the answer to the last part carries besides its payload."""

    def clone(self) -> "Message":
        """A second message in the same state. Errors: NotSupported, except for hashes."""
        raise NotSupported("clone: only the state of a hash can be cloned")

    def twin(self) -> "Message":
        """`clone`, of a message that may be a device's. Errors: NotSupported."""
        twin = self.clone()
        twin.holder, twin.attributes = self.holder, self.attributes
        return twin

    def close(self) -> None:
        """Give up what the message holds; calling it twice is allowed."""
        return


class Around(Message):
    """A message around another one, which keeps what is kept."""

    def __init__(self, inner: Message) -> None:
        self._inner = inner

    @property
    def kept(self) -> int:
        return self._inner.kept

    def close(self) -> None:
        self._inner.close()


class Transform(ABC):
    """One algorithm with its key and tag size."""

    slow_keys = False
    """Whether `set_key` may take more than a millisecond, for a key that is refused as well: call it in a worker."""

    costs: Mapping[Operation, float] = MappingProxyType({})
    """Nanoseconds that an operation takes whatever its size is, by what was seen so far: as `pace`."""

    kernel_keys = 0
    """Keys of the kernel's keyring that it takes once it has a key."""

    def __init__(self, description: Description, authsize: int = 0) -> None:
        self.description = description
        self.authsize = authsize
        self.level = None if description.levels is None else description.levels.default
        self.keyed = not description.key_sizes.required
        self.key_set = False
        self.pace = 1.0
        """Nanoseconds for a byte, as measured so far. The scheduler plans work with it."""

    def set_key(self, key: Buffer) -> None:
        """Replace the key. Errors: InvalidValue naming the sizes that would do. Only while no message is open."""
        sizes = self.description.key_sizes
        if not sizes.takes_key:
            raise InvalidValue(f"key of {len(key)} bytes: {self.description.name} takes none")
        if not sizes.admits(len(key)):
            raise self.refuse_key(key)
        self.replace_key(key)
        self.keyed = self.key_set = True

    @property
    def settings(self) -> Rows:
        """What was chosen for it beside its key, as rows: the size of an AEAD's tag, a compression's level."""
        rows: Rows = [("authsize", self.authsize)] if self.description.type is Type.AEAD else []
        return rows if self.level is None else [*rows, ("level", self.level)]

    def set_level(self, level: int) -> None:
        """Choose a compression's level. Errors: InvalidValue naming the levels there are."""
        levels = self.description.levels
        if levels is None or not levels.admits(level):
            raise InvalidValue(f"level {level}: {self.description.name} takes {levels or 'none'}")
        self.level = level

    def note_pace(self, size: int, nanoseconds: int) -> None:
        """A message or part of `size` bytes took so long."""
        self.pace += (nanoseconds / size - self.pace) / 4

    def shows_pace(self, operation: Operation) -> bool:
        """Whether the time that a message takes is the pace of one key."""
        return True

    def estimate_ns(self, operation: Operation, size: int) -> float:
        """How many nanoseconds an operation on so many bytes takes, by what was seen so far."""
        return size * self.pace + self.costs.get(operation, 0.0)

    def refuse_key(self, key: Buffer) -> InvalidValue:
        """The error for a key of the wrong size."""
        return InvalidValue(
            f"key of {len(key)} bytes: {self.description.name} takes {self.description.key_sizes} bytes"
        )

    def start(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        """Begin a message. iv: as many bytes as iv_size, None where that is 0; assoclen: of an AEAD message.

        Errors: NotSupported for an operation of another type, KeyMissing, InvalidValue.
        """
        self.check(operation, iv, assoclen)
        return self.begin(operation, iv, assoclen)

    def check(self, operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        """Raise what `start` would raise for these."""
        description = self.description
        if operation not in OPERATIONS[description.type]:
            raise NotSupported(f"{operation.word}: {description.name} is of type {description.type}")
        if not self.keyed:
            raise KeyMissing(f"{description.name} has no key yet: {description.key_sizes} bytes by set-key")
        if (len(iv) if iv is not None else 0) != description.iv_size:
            given = "no iv" if iv is None else f"iv of {len(iv)} bytes"
            raise InvalidValue(f"{given}: {description.name} takes {description.iv_size or 'no'} bytes")
        if assoclen and description.type is not Type.AEAD:
            raise InvalidValue(f"assoclen {assoclen}: {description.name} has no associated data")

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        """A whole message in one part: `start`, `update` and `close` in one, for the short way."""
        message = self.start(operation, iv, assoclen)
        try:
            written = message.update(data, True, out)
            if message.pending:
                raise overfull(operation, len(out) - OUT_SLACK)
            return written
        finally:
            message.close()

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        """A whole small message without associated data as fast as can be, or None where `once` has to do or refuse it.

        operation: its number. None has no effect and says nothing: an engine need not offer this, and may give up on
        any message, wrong ones above all.
        """
        return None

    def short_by_version(self, operation: int, iv: bytes | None, data: bytes) -> tuple[int, bytes] | None:
        """`short` for a device whose answers name a version of its key: that version, and the output."""
        return None

    def operate(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        """A whole message of an operation with operands, which may need and give more than one thing.

        operands: by attribute; data: the payload. Errors: NotSupported where the type has no such operation;
        KeyMissing, Busy, InvalidValue, KeyRejected.
        """
        self.check(operation, None, 0)
        raise NotSupported(f"{operation.word}: {self.description.name} has no such operation")

    def room(self, operation: Operation, size: int) -> int:
        """How many bytes of output a whole message of `size` bytes can give at most."""
        description = self.description
        return (description.digest_size if operation is Operation.DIGEST else size) + self.authsize

    @property
    def answers_more(self) -> bool:
        """Whether every answer carries more than its payload: that is for `operate` and for messages' `attributes`."""
        return False

    def of_version(self, version: int) -> "Transform":
        """The same transform with one version of a device's key. Errors: InvalidValue, KeyVersionMissing."""
        raise InvalidValue(f"key-version {version}: a device's key has versions, the key of this context has none")

    def replace_key(self, key: Buffer) -> None:
        """Set the key, whose size would do. A transform that takes no key need not have this."""
        raise self.refuse_key(key)

    @abstractmethod
    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        """Begin a message whose parameters have been checked."""

    def close(self) -> None:
        """Free what the transform holds and wipe its key; calling it twice is allowed."""
        return


class Engine(ABC):
    """A provider of transforms."""

    name: str
    kernel_keys = 0
    """Keys of the kernel's keyring that its transforms may hold together."""

    @abstractmethod
    def describe(self, type_: Type, name: str) -> Description | None:
        """What the engine would open under this name, or None where it does not offer it."""

    @abstractmethod
    def open(self, description: Description, authsize: int | None) -> Transform:
        """A transform for what `describe` gave; authsize None: the largest. Errors: InvalidValue for authsize."""

    @abstractmethod
    def names(self) -> Iterable[tuple[Type, str]]:
        """Names that the engine may offer, for lists; `describe` has the last word."""

    def is_slow(self, type_: Type, name: str) -> bool:
        """Whether `describe` or `open` of this name may take more than a millisecond: call them in a worker.

        It is asked in the event loop. True means: this time; what was described once may be quick the next time.
        """
        return False

    def warm_up(self) -> None:
        """Load what later calls need; it may take seconds and is called before the first client."""
        return


def resolve(engines: Iterable[Engine], type_: Type, name: str) -> tuple[Engine, Description] | None:
    """The first engine in the given order that offers a name, with the description, or None."""
    for engine in engines:
        description = engine.describe(type_, name)
        if description is not None:
            return engine, description
    return None
