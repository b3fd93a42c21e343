"""Where work is done: in the event loop or by a worker, and in whose turn.

Handing work over costs about 30 us, so the event loop does what is short. What is longer goes to a worker, and users
take turns there: each user's contexts one after the other, so that a user with a thousand queued tasks delays others
by one. Many short things at once are done in slices, for which users take turns as well.
trio's own `to_thread` costs more than a small cipher call; these threads take their work from one queue.
The computations release the GIL, so two of them, and the copying of a third, run at the same time.
"""

import contextlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import trio

Work = Callable[[], Any]
Done = Callable[[Any], None]
Turn = tuple[int, int]
"""Whose turn work takes: a uid, and the number of what has its work in order, for instance of a context."""
Item = TypeVar("Item")

LONG_NS = 200_000
"""Estimated nanoseconds of computation from which a worker does it: below, handing it over costs more than it gains."""
ALONE_NS = 2_000_000
"""Estimated nanoseconds up to which the event loop computes for a client that has it to itself."""
SLICE = 1e-3
"""Seconds that the event loop works for one context before others have their turn."""
ALONE = 0.02
"""Seconds without work of another context after which one has the event loop to itself."""


class Turns(Generic[Item]):
    """What waits: the users one after the other, of each user the contexts one after the other, and each context's in
    its order. Put by one thread, taken by several."""

    def __init__(self) -> None:
        self.users: OrderedDict[int, OrderedDict[int, deque[Item]]] = OrderedDict()
        """Those for whom something waits, the next first."""
        self._lock = threading.Lock()

    def put(self, turn: Turn, item: Item) -> None:
        user, context = turn
        with self._lock:
            contexts = self.users.get(user)
            if contexts is None:
                contexts = self.users[user] = OrderedDict()
            items = contexts.get(context)
            if items is None:
                contexts[context] = deque((item,))
            else:
                items.append(item)

    def take(self) -> Item | None:
        """The next user's next context's first, or None."""
        with self._lock:
            if not self.users:
                return None
            user, contexts = self.users.popitem(last=False)
            context, items = contexts.popitem(last=False)
            item = items.popleft()
            if items:
                contexts[context] = items
            if contexts:
                self.users[user] = contexts
            return item

    def remove(self, turn: Turn) -> None:
        """Drop all that waits for this turn."""
        user, context = turn
        with self._lock:
            contexts = self.users[user]
            del contexts[context]
            if not contexts:
                del self.users[user]


class Scheduler:
    """A few threads; `start` and `stop` are called from the event loop. Before the one and after the other the event
    loop does everything."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or max(1, -1 + len(os.sched_getaffinity(0)))
        self._turns: Turns[tuple[Work, Done]] = Turns()
        # one word for each item in turns, and one that ends a thread
        self._words: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._slices: Turns[Callable[[], None]] = Turns()
        self._slices_wait = trio.Event()
        self._latest: object = None
        self._changed_at = -ALONE
        self.pending = 0
        """Tasks and slices that were submitted and are not done."""
        self.short = 0
        """A number that changes with each short request that was answered at once."""

    @property
    def running(self) -> bool:
        """Whether work can be handed over."""
        return self._token is not None

    def takes(self, nanoseconds: float, context: int) -> bool:
        """Whether a worker is to do work of this length, for the context of this number."""
        if nanoseconds <= LONG_NS or not self.running:
            return False
        return nanoseconds > ALONE_NS or not self._is_alone(context)

    def _is_alone(self, context: int) -> bool:
        # without any other client, handing work over is pure overhead
        now = time.monotonic()
        latest = (context, self.short)
        if latest != self._latest:
            self._latest, self._changed_at = latest, now
        return now - self._changed_at > ALONE

    def start(self) -> None:
        """Start the threads; results go to the event loop that this is called from."""
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.spawn_system_task(self._run_slices)
        for index in range(self.threads):
            thread = threading.Thread(target=self._run, name=f"cryptofs-worker-{index}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, work: Work, done: Done, turn: Turn) -> None:
        """Run `work` in a thread, then `done` with its result in the event loop. `work` must not raise."""
        self.pending += 1
        self._turns.put(turn, (work, done))
        self._words.put(True)

    def slice(self, work: Callable[[], None], turn: Turn) -> None:
        """Do something of SLICE at most in the event loop, when it is this context's turn."""
        self.pending += 1
        self._slices.put(turn, work)
        self._slices_wait.set()

    async def _run_slices(self) -> None:
        while True:
            work = self._slices.take()
            if work is None:
                self._slices_wait = trio.Event()
                await self._slices_wait.wait()
                continue
            self.pending -= 1
            work()
            # the transport's requests come in between
            await trio.lowlevel.checkpoint()

    def _hand_back(self, done: Done, result: Any) -> None:
        self.pending -= 1
        done(result)

    def stop(self) -> None:
        """Let the threads finish what they have begun, and end them."""
        self._token = None
        for _ in self._threads:
            self._words.put(False)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _run(self) -> None:
        # a sandbox may refuse it: then the event loop relies on the scheduler's fairness
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while self._words.get():
            item = self._turns.take()
            if item is None or self._token is None:
                # stopped: what was only queued is not begun
                continue
            work, done = item
            result = work()
            token = self._token
            if token is None:
                continue
            try:
                token.run_sync_soon(self._hand_back, done, result)
            except trio.RunFinishedError:
                return
            # while this waits for more it must not keep a megabyte of input, its output and their context
            del item, work, done, result
