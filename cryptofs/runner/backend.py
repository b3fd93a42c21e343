"""What computes for a program under `cryptofs run`: the interface, and the engines in this process.

The transforms behave as the kernel's do behind AF_ALG: a refused key leaves none, the size of the tag may change while
there is a key. Errors are CryptofsErrors with the kernel's errno.
"""

from collections.abc import Sequence
from typing import Protocol

from ..algorithms import Description, Type
from ..engines.base import OUT_SLACK, Engine, Message, resolve
from ..engines.opening import open_engines
from ..errors import CryptofsError, KeyMissing, NotOffered
from ..records import Buffer, Operation
from ..wiping import wipe

Output = bytes | bytearray
"""What a transform gives: bytes of the caller's own."""
_COPIED = 4096
"""Bytes of data up to which `Transform.short` and its copies cost less than the views of `once`."""


class RunHash(Protocol):
    """A running hash. After `finish` or `close`, only `close` may follow."""

    def update(self, data: Buffer) -> None:
        """Add data."""

    def finish(self, data: Buffer = b"") -> bytes:
        """Add data and return the digest."""

    def clone(self) -> "RunHash":
        """A second hash in the same state. Errors: NotSupported."""

    def close(self) -> None:
        """Give up what it holds; you may call it twice."""


class RunTransform(Protocol):
    """One algorithm with its key and tag size.

    description: what serves the name. authsize: bytes of the tag, 0 for anything except an AEAD. needs_key: whether it
    refuses every message (KeyMissing), because it has no key yet or has refused the last one.
    """

    @property
    def description(self) -> Description: ...

    @property
    def authsize(self) -> int: ...

    @property
    def needs_key(self) -> bool: ...

    def set_key(self, key: Buffer) -> None:
        """Replace the key; the caller wipes its own. Errors: InvalidValue, and the transform then has no key."""

    def set_authsize(self, size: int) -> None:
        """Choose the size of the tag, and keep the key. Errors: InvalidValue naming the possible sizes."""

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer) -> Output:
        """A whole message: encrypt, decrypt or digest.

        iv: iv_size bytes, or None if that is 0. data: of an AEAD, `assoclen` bytes of associated data, the text, and to
        decrypt the tag. The output does not contain the associated data.

        Errors: KeyMissing, InvalidValue, TooLarge, BadTag, EngineFault.
        """

    def compute(self, operation: Operation, data: Buffer) -> bytes:
        """An operation of a key pair: encrypt, decrypt or agree. Errors: KeyMissing, InvalidValue, NotSupported."""

    def generate(self, size: int) -> Output:
        """Random bytes of an rng."""

    def hash(self) -> RunHash:
        """A hash without data yet. Errors: KeyMissing, NotSupported."""

    def close(self) -> None:
        """Wipe the key and give up the rest; you may call it twice."""


class Backend(Protocol):
    """Where transforms come from."""

    def describe(self, type_: Type, name: str) -> Description:
        """What `open` would give. Errors: NotOffered for a name that nothing serves or policy denies."""

    def open(self, type_: Type, name: str) -> RunTransform:
        """A transform without a key, with the largest tag. Errors: NotOffered."""


class LocalBackend:
    """Engines in this process. order: their names, in the order in which they are asked."""

    def __init__(self, order: Sequence[str]) -> None:
        """Errors: NotOffered for a name of an engine that does not exist."""
        self._engines = open_engines(order)

    def describe(self, type_: Type, name: str) -> Description:
        return self._resolve(type_, name)[1]

    def open(self, type_: Type, name: str) -> RunTransform:
        return LocalTransform(*self._resolve(type_, name))

    def _resolve(self, type_: Type, name: str) -> tuple[Engine, Description]:
        found = resolve(self._engines, type_, name)
        if found is None:
            raise NotOffered(f"{type_} {name[:200]!r}: no engine offers it")
        return found


class LocalTransform:
    """A transform of an engine in this process."""

    def __init__(self, engine: Engine, description: Description) -> None:
        self.description = description
        self._engine = engine
        self._transform = engine.open(description, None)
        self._required = description.key_sizes.required
        self.needs_key = self._required
        self._key: bytearray | None = None
        """An AEAD's, because another tag size needs another transform."""

    @property
    def authsize(self) -> int:
        return self._transform.authsize

    def set_key(self, key: Buffer) -> None:
        self._forget_key()
        self.needs_key = self._required
        self._transform.set_key(key)
        if self.description.type is Type.AEAD:
            self._key = bytearray(key)
        self.needs_key = False

    def set_authsize(self, size: int) -> None:
        changed = self._engine.open(self.description, size)
        if self._key is not None:
            try:
                changed.set_key(self._key)
            except CryptofsError:
                changed.close()
                raise
        self._transform.close()
        self._transform = changed

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer) -> Output:
        if self.needs_key:
            raise self._no_key()
        transform = self._transform
        if not assoclen and len(data) <= _COPIED:
            try:
                short = transform.short(operation, iv if iv is None else bytes(iv), bytes(data))
            except Exception:
                # `once` does it, or finds out what is wrong.
                short = None
            if short is not None:
                return short
        out = bytearray(transform.room(operation, len(data)) + OUT_SLACK)
        with memoryview(out) as view:
            written = transform.once(operation, iv, assoclen, data, view)
        del out[written:]
        return out

    def compute(self, operation: Operation, data: Buffer) -> bytes:
        return self._transform.operate(operation, {}, data)[0]

    def generate(self, size: int) -> Output:
        out = bytearray(size)
        with memoryview(out) as view:
            self._transform.once(Operation.GENERATE, None, 0, b"", view)
        return out

    def hash(self) -> RunHash:
        if self.needs_key:
            raise self._no_key()
        return LocalHash(self._transform.start(Operation.DIGEST, None, 0), self.description.digest_size)

    def close(self) -> None:
        self._forget_key()
        self.needs_key = True
        self._transform.close()

    def _forget_key(self) -> None:
        if self._key is not None:
            wipe(self._key)
            self._key = None

    def _no_key(self) -> KeyMissing:
        return KeyMissing(f"{self.description.name} has no key: {self.description.key_sizes} bytes")


class LocalHash:
    """A running hash of an engine in this process."""

    def __init__(self, message: Message, digest_size: int) -> None:
        self._message = message
        self._digest_size = digest_size

    def update(self, data: Buffer) -> None:
        self._message.update(data, False, memoryview(b""))

    def finish(self, data: Buffer = b"") -> bytes:
        out = bytearray(self._digest_size + OUT_SLACK)
        try:
            with memoryview(out) as view:
                written = self._message.update(data, True, view)
        finally:
            self._message.close()
        return bytes(out[:written])

    def clone(self) -> RunHash:
        return LocalHash(self._message.clone(), self._digest_size)

    def close(self) -> None:
        self._message.close()
