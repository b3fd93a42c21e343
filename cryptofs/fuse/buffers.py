"""The buffers for requests from the kernel.

A request's data is used in place: parsed, encrypted from, and wiped if it was a key. So the transport reads into a
buffer again only when nothing uses its contents. No caller has to release it: a buffer knows whether a view of it is
left, and is not reused while there is one.
"""

from .protocol import MESSAGE_MAX

_KEPT_MAX = 8
"""Buffers that are kept beside the current one. A fresh one costs as much as copying a megabyte. Further buffers are
freed with their last view, so that a short peak does not hold memory."""


def is_free(buffer: bytearray) -> bool:
    """Whether no view of a buffer is left."""
    # A bytearray with a view refuses to change its size. Python has no other way to ask.
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
        """Make an unused buffer `current`; called after each request. Returns whether it is a different one."""
        used, kept = self.current, self._kept
        if is_free(used):
            return False
        for index, buffer in enumerate(kept):
            if is_free(buffer):
                self.current, kept[index] = buffer, used
                return True
        if len(kept) == _KEPT_MAX:
            # The buffer in use for the longest time is the least likely to return soon.
            del kept[0]
        kept.append(used)
        self.current = bytearray(MESSAGE_MAX)
        return True
