"""The buffers that requests are read into.

A request's data is used where the kernel has put it: parsed, encrypted from, and wiped where it was a key. So a
buffer may be read into again only when nothing uses its contents. Nobody has to say when that is: a buffer knows
whether a view of it is left, and stays out of use as long as there is one."""

from .protocol import MESSAGE_MAX

_KEPT_MAX = 8
"""Buffers that are kept beside the one that is read into. A fresh one costs as much as the copy of a megabyte. What is
more goes with its last view, so that a rush does not take memory for good."""


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
        self._kept: list[bytearray] = []

    def move_on(self) -> bool:
        """Make `current` one that nobody uses, called when a request was served; returns whether it is another one."""
        used, kept = self.current, self._kept
        if is_free(used):
            return False
        for index, buffer in enumerate(kept):
            if is_free(buffer):
                self.current, kept[index] = buffer, used
                return True
        if len(kept) == _KEPT_MAX:
            # the one that has been used for longest is the least likely to come back soon
            del kept[0]
        kept.append(used)
        self.current = bytearray(MESSAGE_MAX)
        return True
