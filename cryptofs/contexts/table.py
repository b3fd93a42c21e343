"""All open contexts, their numbers, and what one user may have of them."""

from collections.abc import Iterator

from ..devices import Device, DeviceTransform, StreamTransform
from ..engines.base import Engine
from ..errors import OverQuota
from ..policy import Accounts, Policy
from ..policy.audit import audit
from .context import Context
from .scheduler import Workers

CONTEXTS_MAX = 65_536
"""Contexts that the daemon keeps open at once."""


class ContextTable:
    """The open contexts by number; numbers are never used twice."""

    def __init__(
        self, engines: tuple[Engine, ...], workers: Workers | None = None, policy: Policy | None = None
    ) -> None:
        self.engines = engines
        self.workers = workers
        self.policy = policy or Policy()
        """The policy for contexts that are opened from now on."""
        self.devices: dict[str, Device] = {}
        """The devices that can be opened now, by name."""
        self._contexts: dict[int, Context] = {}
        self._accounts = Accounts()
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
        context = self._open(uid, gid, pid, nonblocking)
        audit("open", uid, pid, context=context.number)
        return context

    def open_device(
        self, device: Device, uid: int, gid: int, pid: int, nonblocking: bool, as_stream: bool = False
    ) -> Context:
        """A new context that is configured already. as_stream: for a stream file of the device. Errors: OverQuota."""
        context = self._open(uid, gid, pid, nonblocking)
        context.device = device
        context.adopt(StreamTransform(device) if as_stream else DeviceTransform(device))
        audit("open", uid, pid, context=context.number, device=device.settings.name)
        return context

    def _open(self, uid: int, gid: int, pid: int, nonblocking: bool) -> Context:
        if len(self._contexts) >= CONTEXTS_MAX:
            raise OverQuota(f"the daemon has {len(self._contexts)} contexts open: at most {CONTEXTS_MAX}")
        account = self._accounts.open(uid, self.policy.rule(uid, gid, pid))
        self._last += 1
        context = Context(self._last, (uid, gid, pid), self.engines, self.get, nonblocking, self.workers, account)
        self._contexts[self._last] = context
        return context

    def close(self, context: Context) -> None:
        """Close a context for good; closing it twice is allowed."""
        if self._contexts.pop(context.number, None) is None:
            return
        self.completed += context.exchange.completed
        self.failed += context.exchange.failed
        context.close()
        self._accounts.close(context.account)

    def close_all(self) -> None:
        """Close every context."""
        for context in self:
            self.close(context)
