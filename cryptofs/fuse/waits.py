"""Requests that wait: each is tried again when its handle has changed, until it is answered or interrupted."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from ..errors import WouldBlock
from ..nodes import Handle, Pending
from ..records import Buffer, detached


class Wait(ABC):
    """One request that waits. unique: the kernel's number of it; uid: its caller's."""

    __slots__ = ("forget", "handle", "has_room", "taken", "uid", "unique")
    what: ClassVar[str]
    """What the request is, for the log."""

    def __init__(self, unique: int, uid: int, handle: Handle) -> None:
        self.unique = unique
        self.uid = uid
        self.handle = handle
        self.forget: Callable[[], None] | None = None
        """Cancels the callback."""
        self.has_room = False
        """Whether it could continue now but yields to others."""
        self.taken = 0
        """Bytes of a write that its handle has taken."""

    @abstractmethod
    def attempt(self) -> Buffer | int | None:
        """The result, or None to wait on. Errors: those of the handle."""

    @property
    def is_done(self) -> bool:
        """Whether what was asked is done already, so that only its answer is to be given."""
        return False

    def give_up(self) -> None:
        """The caller wants no answer any more."""
        return


class WaitingRead(Wait):
    """A read that has nothing to give yet."""

    __slots__ = ("_offset", "_size")
    what = "read"

    def __init__(self, unique: int, uid: int, handle: Handle, offset: int, size: int) -> None:
        super().__init__(unique, uid, handle)
        self._offset = offset
        self._size = size

    def attempt(self) -> Buffer | None:
        return self.handle.read(self._offset, self._size)


class WaitingWrite(Wait):
    """A write that its handle takes in pieces, or cannot take yet."""

    __slots__ = ("_data", "_offset")
    what = "write"

    def __init__(self, unique: int, uid: int, handle: Handle, offset: int, data: memoryview, taken: int) -> None:
        super().__init__(unique, uid, handle)
        self._offset = offset
        # a few bytes that wait for a reader must not hold the whole buffer that they came in
        self._data = memoryview(detached(data))
        self.taken = taken
        self.has_room = taken > 0

    def attempt(self) -> int | None:
        """The size of the whole write. It is short if the rest would have to wait and must not.

        A failure is reported even if some bytes were taken before: a message without its end must not look whole.
        """
        try:
            taken = self.handle.write(self._offset + self.taken, self._data[self.taken :])
        except WouldBlock:
            if self.taken:
                return self.taken
            raise
        # what is answered later was taken as a whole
        assert isinstance(taken, int)
        self.taken += taken
        self.has_room = taken > 0
        return self.taken if self.taken == len(self._data) else None


class WaitingCall(Wait):
    """An ioctl whose record is being computed."""

    __slots__ = ("_pending",)
    what = "ioctl"

    def __init__(self, unique: int, uid: int, handle: Handle, pending: Pending) -> None:
        super().__init__(unique, uid, handle)
        self._pending = pending

    def attempt(self) -> Buffer | int | None:
        return self._pending.take()

    @property
    def is_done(self) -> bool:
        return self._pending.is_done

    def give_up(self) -> None:
        self._pending.give_up()


class WaitingControl(WaitingCall):
    """A write whose control call is being computed."""

    __slots__ = ()
    what = "write"
