"""What a stream is made of: its users, its output in pieces, and the parts that are computed here or by a worker."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..engines.base import Message, Transform
from ..errors import CryptofsError, EngineFault, InvalidValue
from ..policy import Account
from ..records import Buffer

log = logging.getLogger("cryptofs")


def engine_fault(transform: Transform) -> EngineFault:
    """Called where an engine raised what it should not: log it, and what to tell the client."""
    log.exception("a stream of %s failed in the engine", transform.description.name)
    return EngineFault("the engine failed; the daemon's log says more")


def count_request(account: Account | None, size: int = 0) -> None:
    """A message of a stream begins, and keeps `size` bytes: it takes one request of its user's rate. It is none
    of those that wait to be read, where its output is counted. Errors: OverQuota.
    """
    if account is not None:
        account.check(1, size)
        account.charge(1, 0)
        account.give_back(1, 0)


@dataclass(slots=True, eq=False)
class Step:
    """A part of a message that is computed, or was: its output is in the first `size` bytes of `out`. dropped: nobody
    waits for it any more.
    """

    message: Message
    data: Buffer
    last: bool
    out: memoryview
    size: int = 0
    error: CryptofsError | None = None
    dropped: bool = False

    def drop(self) -> None:
        """Let go of what a worker has not begun to compute: who drops often must not fill the memory with it."""
        self.dropped = True
        self.data, self.out = b"", memoryview(b"")

    def compute(self, transform: Transform) -> "Step":
        """Compute it; it may run in any thread and never raises."""
        data, out = self.data, self.out
        # looked at after they were taken: else a drop in between would leave half of them
        if self.dropped:
            return self
        try:
            self.size = self.message.update(data, self.last, out)
        except CryptofsError as error:
            self.error = error.again()
        except Exception:
            self.error = engine_fault(transform)
        return self


class Tally:
    """What a stream has of its user's `queue-bytes`, in an account if a rule bounds them. waiting: bytes of output that
    wait to be read; kept: bytes that its message keeps until it ends, and a worker has of it.
    """

    __slots__ = ("_account", "kept", "waiting")

    def __init__(self, account: Account | None) -> None:
        self._account = account
        self.waiting = 0
        self.kept = 0

    def count(self, size: int) -> None:
        """So many bytes more of output wait, or fewer."""
        self.waiting += size
        if self._account is not None:
            self._account.charge(0, size)

    def keep(self, size: int) -> None:
        """The message keeps so many bytes now."""
        if self._account is not None:
            self._account.charge(0, size - self.kept)
        self.kept = size


@dataclass(slots=True)
class Piece:
    """Output that waits for a reader. ends: a message ends with it; error: what the reader gets instead of data."""

    data: memoryview
    ends: bool = False
    error: CryptofsError | None = None


@dataclass(slots=True, eq=False)
class StreamUser:
    """One open handle of the stream: what it may do and what it has done. needs_write: whether a read for which nothing
    was written is an error.
    """

    reads: bool
    writes: bool
    feeding: bool = False
    at_end: bool = False
    seen_message: bool = False
    needs_write: bool = False

    def end_again(self) -> bytes:
        """What a read gets for which there is no message: one more end of file, or InvalidValue."""
        if self.needs_write:
            raise InvalidValue(
                "nothing was written since the last message ended: write first, or open the file anew for an empty "
                "message"
            )
        return b""


Offload = Callable[[Callable[[], Step], Callable[[Step], None]], bool]
"""Have a worker compute, and call back with the result in the event loop; false where there is no worker."""
