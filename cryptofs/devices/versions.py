"""The versions of a device's key. The newest makes messages; every one that is kept opens them."""

import time
import weakref
from collections.abc import Iterable

from ..engines.base import Transform
from ..errors import KeyVersionMissing
from ..records import Attr, Value
from .counts import Count


class Version:
    """One version of a device's key: its number, its transform, and the count of messages that it has encrypted.

    A message holds its version (`Message.holder`). So a version that is removed keeps its transform until the last
    message that began with it ends, in whichever thread that is, and then the key goes.
    """

    def __init__(self, number: int, transform: Transform, count: Count) -> None:
        self.number = number
        self.transform = transform
        self.count = count
        """Of messages encrypted with the daemon's nonces."""
        self.loaded_at = time.time()
        """When the daemon took the key from its source, by Unix time."""
        self.attributes: dict[int, Value] = {Attr.KEY_VERSION: number}
        """What an answer carries where the device's versions are named."""
        self._end = weakref.finalize(self, _close, transform)
        self._end.atexit = False

    def close(self) -> None:
        """Release the key, now. Only when no message is under way; calling it twice is allowed."""
        self._end()


def _close(transform: Transform) -> None:
    transform.close()


class Versions:
    """The versions that a device keeps. A reload makes a new object, so that what works with one is never disturbed."""

    def __init__(self, versions: Iterable[Version]) -> None:
        """versions: at least one."""
        self.all = tuple(sorted(versions, key=lambda each: -each.number))
        """The newest first: the order in which they are tried."""
        self.newest = self.all[0]
        self.named = [each.number for each in self.all] != [1]
        """Whether answers and files name the version. A lone version 1 is a key as every other one."""

    def get(self, number: int, device: str) -> Version:
        """The version of this number. Errors: KeyVersionMissing."""
        for each in self.all:
            if each.number == number:
                return each
        raise KeyVersionMissing(f"device {device}: key version {number} is not kept, only {self}")

    def __str__(self) -> str:
        return ", ".join(str(each.number) for each in self.all)
