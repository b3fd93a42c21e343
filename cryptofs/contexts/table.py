"""All open contexts, their numbers, and what one user may have of them."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator

from ..devices import Device, DeviceTransform, StreamTransform
from ..engines.base import Engine
from ..policy import CONTEXTS_PER_USER, HANDLES_PER_USER, Bound, Ledger, Policy, Thing, Usage
from ..policy.audit import audit
from .context import Context, Shared
from .scheduler import Scheduler
from .tally import Latencies, Tally

CONTEXTS_MAX = 65_536
"""Contexts that the daemon keeps open at once."""
HANDLES_MAX = 2 * CONTEXTS_MAX
"""Files and directories of the mount that may be open at once, those of contexts included."""
STATE_MAX = 512 * 1024 * 1024
"""Bytes that open messages may hold besides their data."""
RESERVED = 256
"""Contexts that only root and the daemon's own user may open: somebody has to see to a daemon that others have
filled, and the service would be restarted when its pulse cannot open one."""


class ContextTable:
    """The open contexts by number; numbers are never used twice."""

    def __init__(
        self, engines: tuple[Engine, ...], scheduler: Scheduler | None = None, policy: Policy | None = None
    ) -> None:
        self.engines = engines
        # one that is never started leaves everything to the event loop
        self.latencies = Latencies()
        """How long the requests of all contexts took."""
        self._shared = Shared(engines, scheduler or Scheduler(), self.latencies, self.get)
        self.policy = policy or Policy()
        """The policy for contexts that are opened from now on."""
        self.devices: dict[str, Device] = {}
        """The devices that can be opened now, by name."""
        self._contexts: dict[int, Context] = {}
        # by uid, in ascending order: a listing begins in the middle, and costs what it shows; root sees all
        self._numbers: dict[int, list[int]] = {}
        # all things of one daemon; its keys are those of the engines that use the kernel's
        keys = sum(engine.kernel_keys for engine in engines)
        self.ledger = Ledger(
            {
                Thing.CONTEXTS: Bound(CONTEXTS_MAX, RESERVED, CONTEXTS_PER_USER),
                Thing.HANDLES: Bound(HANDLES_MAX, 4 * RESERVED, HANDLES_PER_USER),
                Thing.STATE: Bound(STATE_MAX, STATE_MAX // 8, STATE_MAX // 4),
                Thing.KERNEL_KEYS: Bound(keys, keys // 8, keys // 4),
            }
        )
        """What users hold."""
        self._last = 0
        self._closed = Tally()
        # by a device's name: what contexts have done that are closed, and that are open, by their numbers
        self._closed_of: defaultdict[str, Tally] = defaultdict(Tally)
        self._open_of: defaultdict[str, dict[int, Tally]] = defaultdict(dict)

    @property
    def opened(self) -> int:
        """Contexts opened since the start."""
        return self._last

    def tally(self) -> Tally:
        """What was done since the start."""
        return self._closed.with_all(context.exchange.tally for context in self._contexts.values())

    def device_tally(self, name: str) -> Tally:
        """What was done since the start with devices of this name: one that is declared again goes on with the
        count."""
        return self._closed_of[name].with_all(self._open_of[name].values())

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[Context]:
        return iter(list(self._contexts.values()))

    def get(self, number: int) -> Context | None:
        """An open context by its number."""
        return self._contexts.get(number)

    def seen_by(self, uid: int, after: int) -> Iterator[Context]:
        """The contexts with numbers above `after` that a user sees, by number: the user's own, or all for root. Nothing
        may be opened or closed while this is iterated."""
        numbers = self._numbers.get(uid, [])
        for index in range(bisect_right(numbers, after), len(numbers)):
            yield self._contexts[numbers[index]]

    def usage(self, uid: int, gid: int, pid: int) -> Usage:
        """What a caller holds, under the rule that applies now."""
        return self.ledger.user(uid, self.policy.rule(uid, gid, pid))

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
        context.transform = StreamTransform(device) if as_stream else DeviceTransform(device)
        self._open_of[device.settings.name][context.number] = context.exchange.tally
        audit("open", uid, pid, context=context.number, device=device.settings.name)
        return context

    def _open(self, uid: int, gid: int, pid: int, nonblocking: bool) -> Context:
        usage = self.usage(uid, gid, pid)
        usage.charge(Thing.CONTEXTS)
        self._last += 1
        context = Context(self._last, (uid, gid, pid), self._shared, usage.queue, nonblocking)
        self._contexts[self._last] = context
        for viewer in {0, uid}:
            self._numbers.setdefault(viewer, []).append(self._last)
        return context

    def close(self, context: Context) -> None:
        """Close a context for good; closing it twice is allowed."""
        if self._contexts.pop(context.number, None) is None:
            return
        for viewer in {0, context.uid}:
            numbers = self._numbers[viewer]
            del numbers[bisect_left(numbers, context.number)]
            if not numbers:
                del self._numbers[viewer]
        self._closed.add(context.exchange.tally)
        if context.device is not None:
            name = context.device.settings.name
            self._closed_of[name].add(self._open_of[name].pop(context.number))
        context.close()
        context.queue.usage.release(Thing.CONTEXTS)

    def close_all(self) -> None:
        """Close every context."""
        for context in self:
            self.close(context)
