"""Reused buffers for larger responses: allocating a fresh one costs as much as copying it.

Only the event loop takes and returns them. A buffer still holds its last content. A response is always a view of
exactly the bytes that were written for its request.
"""

from bisect import bisect_left

from ..engines.base import OUT_SLACK
from ..records import RECORD_MAX

_SIZES = (*((8192 << power) + 1024 for power in range(7)), RECORD_MAX + OUT_SLACK)
"""The sizes of kept buffers, bytes: each holds responses of more than half of it, so that what waits to be read takes
little more memory than the queue counts."""
_SMALLEST = 4096
_KEPT = 8


class BufferPool:
    """Up to _KEPT free buffers of each size; a response takes one of the next larger size."""

    def __init__(self) -> None:
        self._free: dict[int, list[bytearray]] = {size: [] for size in _SIZES}
        self._lent: bytearray | None = None

    def take(self, size: int) -> memoryview:
        """A buffer of `size` bytes."""
        if not _SMALLEST <= size <= _SIZES[-1]:
            return memoryview(bytearray(size))
        kept = _SIZES[bisect_left(_SIZES, size)]
        free = self._free[kept]
        return memoryview(free.pop() if free else bytearray(kept))[:size]

    def give_back(self, response: object) -> None:
        """The response in this buffer was dropped."""
        if isinstance(response, memoryview) and isinstance(response.obj, bytearray):
            self._keep(response.obj)

    def _keep(self, buffer: bytearray) -> None:
        free = self._free.get(len(buffer))
        if free is not None and len(free) < _KEPT:
            free.append(buffer)

    def lend(self, response: memoryview) -> None:
        """The response is being sent. The transport does so before anything else runs in the event loop, so the buffer
        of the response before is free."""
        if self._lent is not None:
            self._keep(self._lent)
        self._lent = response.obj if isinstance(response.obj, bytearray) else None


buffers = BufferPool()
"""The daemon's: one event loop, one pool."""
