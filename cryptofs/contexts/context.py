"""One crypto context: whose it is, what it computes with, what waits on it, and the work that it has with workers."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from ..algorithms import Rows, format_rows
from ..devices import Device
from ..engines.base import Engine, Transform
from ..errors import CryptofsError, NotConfigured
from ..policy import Queue, Rule, Thing
from ..policy.audit import audit_refusal
from ..records import detached
from .exchange import Exchange
from .scheduler import SLICE, Scheduler
from .stream import STREAM_BUFFER, Stream
from .tally import Latencies
from .work import Task

Result = TypeVar("Result")
NOTHING: Mapping[str, str | int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Shared:
    """What all contexts have in common. peers: finds an open context by its number."""

    engines: tuple[Engine, ...]
    scheduler: Scheduler
    latencies: Latencies
    peers: "Callable[[int], Context | None]"


class Context:
    """What one open of `crypto` makes; it lives as long as that open file description.

    `requests` accepts and answers its records, `control` does its control calls.
    number: its name under contexts/. uid, gid, pid: of the opener. nonblocking: reads and writes that would
    wait fail with EAGAIN instead.
    """

    __slots__ = (
        "_later",
        "_running",
        "_stream",
        "_watchers",
        "blocked",
        "closed",
        "device",
        "exchange",
        "gid",
        "last_error",
        "nonblocking",
        "number",
        "pid",
        "queue",
        "rule",
        "shared",
        "transform",
        "uid",
        "usage",
    )

    def __init__(
        self, number: int, caller: tuple[int, int, int], shared: Shared, queue: Queue, nonblocking: bool
    ) -> None:
        self.number = number
        self.uid, self.gid, self.pid = caller
        self.shared = shared
        self.nonblocking = nonblocking
        self.queue = queue
        self.rule: Rule = queue.usage.rule
        """What its opener may do, as it was when the context was opened."""
        self.transform: Transform | None = None
        self.exchange = Exchange(queue)
        self.device: Device | None = None
        """The device that it was opened through."""
        self.closed = False
        self.blocked = False
        """Whether requests wait: for a control call that a worker does, or for their turn."""
        self.last_error: CryptofsError | None = None
        """Why the last write on `crypto` was refused: such a write has no answer."""
        self._stream: Stream | None = None
        # by themselves: a thousand readers may come and go
        self._watchers: dict[Callable[[], None], None] = {}
        self._running = 0
        self._later: deque[Callable[[], None]] | None = None

    # What it computes with

    def require_transform(self) -> Transform:
        """The transform. Errors: NotConfigured."""
        if self.transform is None:
            raise NotConfigured(f"context {self.number} is not configured")
        return self.transform

    @property
    def stream(self) -> Stream:
        """The raw stream of this context. Errors: NotConfigured."""
        return self._stream if self._stream is not None else self.open_stream(STREAM_BUFFER)

    def open_stream(self, limit: int) -> Stream:
        """Make the raw stream. limit: bytes of output that wait for a reader before writers have to."""
        tally = self.exchange.tally
        self._stream = Stream(self.require_transform(), self.queue, tally, self.offload, self.changed, limit)
        return self._stream

    @property
    def has_stream(self) -> bool:
        return self._stream is not None

    @property
    def busy(self) -> str | None:
        """What is in flight, in words, or None: a key must not change under it."""
        if self.blocked:
            return "requests wait for a control call, or for their turn"
        if self.exchange.lanes or self._running:
            return f"{len(self.exchange.lanes)} messages are in flight"
        if self._stream is not None and self._stream.busy:
            return "a stream is in flight"
        return None

    # Work

    def hand_over(self, work: Callable[[], Result], done: Callable[[Result], None]) -> None:
        """Have a worker do something, and call back with the result in the event loop, also after the context was
        closed. The transform stays open until then."""
        self._running += 1
        self.shared.scheduler.submit(work, partial(self._handed_back, done), (self.uid, self.number))

    def _handed_back(self, done: Callable[[Result], None], result: Result) -> None:
        self._running -= 1
        done(result)
        if not self.closed:
            self.changed()
        elif not self._running:
            self._release()

    def offload(self, task: Task, done: Callable[[Task], None]) -> bool:
        """Have a worker compute a task, if it is long enough for one."""
        if not self.shared.scheduler.takes(task.nanoseconds, self.number):
            return False
        # it may wait for its turn long, and must not keep the buffer that it came in
        task.data = detached(task.data)
        self.hand_over(task.compute, done)
        return True

    def block(self) -> None:
        """Let all that comes wait, until `unblock`."""
        self.blocked = True

    def let_wait(self, action: Callable[[], None]) -> None:
        """Do something when the context is not blocked any more. If it is closed before, the action is called as well:
        it does nothing then but wipe keys."""
        if self._later is None:
            self._later = deque()
        self._later.append(action)

    def let_wait_first(self, action: Callable[[], None]) -> None:
        """`let_wait`, ahead of all that has come since."""
        if self._later is None:
            self._later = deque()
        self._later.appendleft(action)

    def unblock(self) -> None:
        """Go on with what has come meanwhile: for one slice, or up to the next call that blocks the context."""
        self.blocked = False
        ends = time.perf_counter() + SLICE
        while self._later and not self.blocked:
            self._later.popleft()()
            if self._later and not self.blocked and time.perf_counter() > ends:
                self.go_on_later()
        self.changed()

    def go_on_later(self) -> None:
        """What waits has its turn after others."""
        self.block()
        self.shared.scheduler.slice(self.unblock, (self.uid, self.number))

    # Who waits

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, once, when something has changed; returns a function that cancels this."""
        self._watchers[callback] = None
        return partial(self._watchers.pop, callback, None)

    def changed(self) -> None:
        """Something that a waiting reader, writer or poll may want has happened."""
        if self._watchers:
            watchers = deque(self._watchers)
            self._watchers.clear()
            self._call_back(watchers)

    def _call_back(self, watchers: deque[Callable[[], None]]) -> None:
        """Call back, for one slice. A user may have thousands of readers on one stream."""
        ends = time.perf_counter() + SLICE
        while watchers:
            watchers.popleft()()
            if time.perf_counter() > ends and watchers:
                self.shared.scheduler.slice(partial(self._call_back, watchers), (self.uid, self.number))
                return

    # What is told

    def concerns(self) -> dict[str, str | int]:
        """What an event in the audit trail concerns."""
        values: dict[str, str | int] = {"context": self.number}
        if self.device is not None:
            values["device"] = self.device.settings.name
        if self.transform is not None:
            description = self.transform.description
            values |= {"type": description.type.value, "name": description.name}
        return values

    def refused(self, what: str, error: CryptofsError, asked: Mapping[str, str | int] = NOTHING) -> None:
        """Record a refusal by policy or quota. asked: what was asked for and has not become the context's."""
        audit_refusal(what, self.uid, self.pid, error, **{**self.concerns(), **asked})

    def status(self) -> str:
        """`tag: value` lines for people and scripts; never a key."""
        rows: Rows = [("context", self.number), ("uid", self.uid), ("pid", self.pid)]
        if self.device is not None:
            rows.append(("device", self.device.settings.name))
        if self.transform is None:
            rows.append(("state", "unconfigured"))
        else:
            key = ("key", "(hidden)" if self.transform.key_set else "(none)")
            rows += [("state", "configured"), *self.transform.description.identity, key, *self.transform.settings]
        rows.append(("nonblocking", int(self.nonblocking)))
        rows += self.exchange.status()
        if self.last_error is not None:
            rows.append(("last-error", str(self.last_error)))
        if self._stream is not None:
            rows += self._stream.status()
        return format_rows(rows)

    # The end

    def close(self) -> None:
        """Drop everything, now. What a worker is computing goes when it is done, and the transform with the last."""
        if self.closed:
            return
        self.closed = True
        later, self._later = self._later, None
        self.exchange.close()
        if self._stream is not None:
            if (lost := self._stream.lost()) is not None:
                self.refused("close", lost)  # no program can learn of it: close(2) has returned
            self._stream.close()
        if not self._running or not self.shared.scheduler.running:
            self._release()
        for action in later or ():
            # what waited is not done, but it may hold a key, which goes now
            action()
        self.changed()

    def _release(self) -> None:
        if self.transform is not None:
            taken = self.transform.kernel_keys if self.transform.key_set else 0
            self.transform.close()
            self.transform = None
            self.queue.usage.release(Thing.KERNEL_KEYS, taken)
