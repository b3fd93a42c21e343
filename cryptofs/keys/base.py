"""The interface of every source of a key: it gives a keyed transform, not the key."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from ..algorithms import Type
from ..engines.base import Engine, Transform
from ..errors import InvalidValue, KeyUnavailable, NotOffered
from ..wiping import wipe


class CannotTake(Exception):
    """An engine cannot take a key in the form of its source; the next engine is asked."""


class KeyForbidden(KeyUnavailable):
    """The source may exist, but this process has no right to read it."""


class KeyRefused(InvalidValue):
    """The source gives a key that the algorithm does not accept."""


class KeySource(ABC):
    """The source of a device's key. It holds no key itself, and may be asked repeatedly."""

    @abstractmethod
    def describe(self) -> str:
        """The source in a few words, such as `file /etc/cryptofs/keys/backup.key`; never the key."""

    @abstractmethod
    def unchecked(self) -> str:
        """The checks of this source that only the daemon itself can make, and why; empty if none.

        It makes all checks that another process can make. Errors: KeyUnavailable, InvalidValue.
        """

    @abstractmethod
    def open(self, engines: tuple[Engine, ...], type_: Type, name: str, authsize: int | None) -> Transform:
        """A transform of the first engine that offers `name` and can take this key, with its key set.

        authsize: bytes of the tag, None for the largest. Errors: KeyUnavailable, which names the source and the reason;
        KeyRefused for a key that the algorithm does not take; NotOffered; InvalidValue for authsize.
        """

    def written_at(self) -> float | None:
        """When the key's file was last written, by Unix time; None for a source that does not tell."""
        return None

    def unavailable(self, why: str) -> KeyUnavailable:
        """The error for a source that exists and gives no key."""
        return KeyUnavailable(f"{self.describe()}: {why}")

    def gone(self, why: str) -> KeyUnavailable:
        """The error for a source that does not exist, or no longer exists."""
        return KeyUnavailable(f"key source gone: {self.describe()}: {why}")

    def open_with(
        self,
        engines: tuple[Engine, ...],
        type_: Type,
        name: str,
        authsize: int | None,
        give: Callable[[Transform], None],
    ) -> Transform:
        """`open`, with `give` to set the key of a transform or to raise CannotTake with the reason."""
        reasons = []
        for engine in engines:
            description = engine.describe(type_, name)
            if description is None:
                continue
            transform = engine.open(description, authsize)
            try:
                give(transform)
            except CannotTake as reason:
                transform.close()
                reasons.append(f"{engine.name} {reason}")
            except InvalidValue as error:
                transform.close()
                raise KeyRefused(f"{self.describe()}: {error.message}") from None
            except BaseException:
                transform.close()
                raise
            else:
                return transform
        if reasons:
            raise self.unavailable("; ".join(reasons))
        asked = ", ".join(engine.name for engine in engines)
        raise NotOffered(f"{type_} {name!r}: no engine offers it (asked: {asked or 'none'})")


class ByteSource(KeySource):
    """A source whose key, or other secret, enters the process as bytes."""

    @abstractmethod
    def read(self) -> bytearray:
        """The secret, which the caller must wipe. Errors: KeyUnavailable, InvalidValue for more than KEY_MAX bytes."""

    def open(self, engines: tuple[Engine, ...], type_: Type, name: str, authsize: int | None) -> Transform:
        key = self.read()
        try:
            return self.open_with(engines, type_, name, authsize, lambda transform: transform.set_key(key))
        finally:
            wipe(key)
