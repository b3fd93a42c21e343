"""Buffers for large responses that are used again: making a fresh one costs as much as copying it once more.

Only the event loop takes and returns them. A buffer still holds what it was used for last; a response is always
a view of exactly the bytes that were written into it for this request.
"""

from ..engines.base import OUT_SLACK
from ..records import RECORD_MAX

BIG = 65_536
"""Bytes from which a response is built in a kept buffer."""
_KEPT = 8
_SIZE = RECORD_MAX + OUT_SLACK


class BufferPool:
    """Up to _KEPT buffers of the largest response's size."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []
        self._lent: list[bytearray] = []

    def take(self, size: int) -> memoryview:
        """A buffer of `size` bytes; a big one comes from those that are kept."""
        if not BIG <= size <= _SIZE:
            return memoryview(bytearray(size))
        return memoryview(self._free.pop() if self._free else bytearray(_SIZE))[:size]

    def give_back(self, response: object) -> None:
        """The response in this buffer was sent or dropped."""
        if isinstance(response, memoryview):
            buffer = response.obj
            if isinstance(buffer, bytearray) and len(buffer) == _SIZE and len(self._free) < _KEPT:
                self._free.append(buffer)

    def lend(self, response: object) -> None:
        """The response is being sent: pyfuse3 does so before anything else runs in the event loop, so what was
        lent before is free by now."""
        for sent in self._lent:
            if len(self._free) < _KEPT:
                self._free.append(sent)
        self._lent.clear()
        if isinstance(response, memoryview):
            buffer = response.obj
            if isinstance(buffer, bytearray) and len(buffer) == _SIZE:
                self._lent.append(buffer)
