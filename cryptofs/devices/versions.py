"""The versions of a device's key. The newest makes messages; every one that is kept opens them."""

import time
import weakref
from collections.abc import Callable, Iterable
from typing import TypeVar

from ..engines.base import Transform
from ..errors import BadTag, CryptofsError, KeyRejected, KeyUnavailable, KeyVersionMissing, SignatureMalformed
from ..records import Attr, Value
from .counts import Count

_WRONG_KEY = (BadTag, KeyRejected, SignatureMalformed)
"""What a message says that another version of the key made."""
Result = TypeVar("Result")


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
        self.written_at: float | None = None
        """When the key's file was last written before that, by Unix time; None for a source that does not tell."""
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


def first_right(versions: tuple[Version, ...], attempt: Callable[[Version], Result]) -> tuple[Version, Result]:
    """The first version whose key is right, and what the attempt gave with it.

    Errors: those of the attempt, if they say nothing of the key. If no key is right: an error of a version that could
    not be tried (a token that has gone), because it may be the right one; else that of the newest.
    """
    untried: CryptofsError | None = None
    wrong: CryptofsError | None = None
    for version in versions:
        try:
            return version, attempt(version)
        except _WRONG_KEY as error:
            wrong = wrong or error
        except KeyUnavailable as error:
            untried = untried or error
    failure = untried or wrong
    assert failure is not None
    if len(versions) > 1 and failure is wrong:
        tried = ", ".join(str(each.number) for each in versions)
        raise type(failure)(f"{failure.message}; tried key versions {tried}")
    raise failure.again()
