"""A cipher message in parts."""

from cryptography.hazmat.primitives.ciphers import CipherContext

from ...records import Buffer


class Run:
    """A message in parts on its own context. At the end, a context from a pool returns there."""

    __slots__ = ("_context", "_pool")

    def __init__(self, context: CipherContext, pool: list[CipherContext] | None = None) -> None:
        self._context: CipherContext | None = context
        self._pool = pool

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        context = self._context
        if context is None or not len(data):
            return 0
        self._context = None  # A context that failed must not reach the pool.
        written = context.update_into(data, out)
        self._context = context
        return written

    def close(self) -> None:
        if self._context is not None and self._pool is not None:
            self._pool.append(self._context)
        self._context = None
