"""The buffers that requests are read into.

A request's data is used where the kernel has put it: parsed, encrypted from, and wiped where it was a key. So a
buffer may be read into again only when nothing uses its contents. Nobody has to say when that is: a buffer knows
whether a view of it is left, and stays out of use as long as there is one."""

from .protocol import MESSAGE_MAX

_FREE_MAX = 8
"""Buffers that are kept for later. A fresh one costs as much as the copy of a megabyte; more than these are freed, so
that a rush does not take memory for good."""


def is_free(buffer: bytearray) -> bool:
    """Whether no view of a buffer is left."""
    # a bytearray refuses to change its size while there is one, which is the one way to ask it
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return False
    return True


class Buffers:
    """`current` is read into next."""

    def __init__(self) -> None:
        self.current = bytearray(MESSAGE_MAX)
        self._used: list[bytearray] = []
        self._free: list[bytearray] = []

    def move_on(self) -> bool:
        """Make `current` one that nobody uses, called when a request was served; returns whether it is another one."""
        if is_free(self.current):
            return False
        self._used.append(self.current)
        if not self._free:
            used, self._used = self._used, []
            for buffer in used:
                (self._free if is_free(buffer) else self._used).append(buffer)
            del self._free[_FREE_MAX:]
        self.current = self._free.pop() if self._free else bytearray(MESSAGE_MAX)
        return True
