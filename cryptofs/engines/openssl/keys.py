"""How the engine keeps keys: in a bytearray of its own, which is zeroed when it is not needed any more.

OpenSSL wipes its expanded keys when the objects that hold them go away, so dropping those is enough.
"""

from abc import abstractmethod
from typing import Generic, TypeVar

from ...records import Buffer
from ...wiping import wipe
from ..base import Transform

__all__ = ["Core", "Keyed", "keep", "wipe"]

Core = TypeVar("Core")


def keep(key: Buffer) -> bytearray:
    """A copy of a key that `wipe` can zero."""
    return bytearray(key)


class Keyed(Transform, Generic[Core]):
    """A transform with a key and what was made from it, the core.

    A key that is refused leaves the transform with the one it had.
    """

    _core: Core
    _parts: tuple[bytearray, ...] = ()

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        """The parts of a key whose size is right, as copies. Errors: InvalidValue."""
        return (keep(key),)

    @abstractmethod
    def make_core(self, *parts: bytearray) -> Core:
        """What the key is used through; it may hold on to the parts. Errors: InvalidValue."""

    def replace_key(self, key: Buffer) -> None:
        parts = self.split(key)
        try:
            core = self.make_core(*parts)
        except BaseException:
            wipe(*parts)
            raise
        wipe(*self._parts)
        self._parts = parts
        self._core = core

    def close(self) -> None:
        self.keyed = False
        self.__dict__.pop("_core", None)
        wipe(*self._parts)
        self._parts = ()
