"""All open contexts, their numbers, and how many one user may have."""

from collections import Counter
from collections.abc import Iterator

from ..engines.base import Engine
from ..errors import OverQuota
from .context import Context
from .workers import Workers

CONTEXTS_MAX = 65_536
"""Contexts that the daemon keeps open at once."""
CONTEXTS_PER_USER = 16_384
"""Contexts that one uid may have open at once."""


class ContextTable:
    """The open contexts by number; numbers are never used twice."""

    def __init__(self, engines: tuple[Engine, ...], workers: Workers | None = None) -> None:
        self.engines = engines
        self.workers = workers
        self._contexts: dict[int, Context] = {}
        self._by_uid: Counter[int] = Counter()
        self._last = 0
        self.completed = 0
        self.failed = 0

    @property
    def opened(self) -> int:
        """Contexts opened since the start."""
        return self._last

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[Context]:
        return iter(list(self._contexts.values()))

    def get(self, number: int) -> Context | None:
        """An open context by its number."""
        return self._contexts.get(number)

    def open(self, uid: int, gid: int, pid: int, nonblocking: bool) -> Context:
        """A new context for a caller. Errors: OverQuota."""
        if self._by_uid[uid] >= CONTEXTS_PER_USER or len(self._contexts) >= CONTEXTS_MAX:
            raise OverQuota(
                f"uid {uid} has {self._by_uid[uid]} of at most {CONTEXTS_PER_USER} contexts open, "
                f"the daemon {len(self._contexts)} of {CONTEXTS_MAX}"
            )
        self._last += 1
        context = Context(self._last, (uid, gid, pid), self.engines, self.get, nonblocking, self.workers)
        self._contexts[self._last] = context
        self._by_uid[uid] += 1
        return context

    def close(self, context: Context) -> None:
        """Close a context for good; closing it twice is allowed."""
        if self._contexts.pop(context.number, None) is None:
            return
        self._by_uid[context.uid] -= 1
        if not self._by_uid[context.uid]:
            del self._by_uid[context.uid]
        self.completed += context.exchange.completed
        self.failed += context.exchange.failed
        context.close()

    def close_all(self) -> None:
        """Close every context."""
        for context in self:
            self.close(context)
