"""Worker threads for long computations.

trio's own `to_thread` costs more than a small cipher call; these threads take their work from one queue and hand
the result back to the event loop, about 30 us in all. The computations release the GIL, so two of them, and the
copying of a third, run at the same time. Users take turns: a user with a thousand queued computations delays others by
one.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import trio

Work = Callable[[], Any]
Done = Callable[[Any], None]

LONG_NS = 200_000
"""Estimated nanoseconds of computation from which a worker does it: below, handing it over costs more than it gains."""


ALONE_NS = 2_000_000
"""Estimated nanoseconds up to which the event loop computes for a client that has it to itself."""
ALONE = 0.02
"""Seconds without long work of another context after which one has the event loop to itself."""


class Turns:
    """Work that waits, by user: each user's in its order, the users one after the other. Put by one thread, taken by
    several."""

    def __init__(self) -> None:
        self._by_user: dict[int, deque[tuple[Work, Done]]] = {}
        self._order: deque[int] = deque()
        self._lock = threading.Lock()

    def put(self, user: int, item: tuple[Work, Done]) -> None:
        with self._lock:
            queue = self._by_user.get(user)
            if queue is None:
                queue = self._by_user[user] = deque()
                self._order.append(user)
            queue.append(item)

    def take(self) -> tuple[Work, Done] | None:
        """The next user's first, or None."""
        with self._lock:
            if not self._order:
                return None
            user = self._order.popleft()
            queue = self._by_user[user]
            item = queue.popleft()
            if queue:
                self._order.append(user)
            else:
                del self._by_user[user]
            return item


class Workers:
    """A few threads; `start` and `stop` are called from the event loop."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or max(1, -1 + len(os.sched_getaffinity(0)))
        self._turns = Turns()
        # one word for each item in turns, and one that ends a thread
        self._words: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._latest: object = None
        self._changed_at = -ALONE
        self.pending = 0
        """Computations that were submitted and whose results have not come back."""

    def alone(self, who: object) -> bool:
        """Whether `who` has been the same for ALONE seconds: handing its work over would then be pure overhead."""
        now = time.monotonic()
        if who != self._latest:
            self._latest, self._changed_at = who, now
        return now - self._changed_at > ALONE

    @property
    def running(self) -> bool:
        """Whether work can be handed over."""
        return self._token is not None

    def start(self) -> None:
        """Start the threads; results go to the event loop that this is called from."""
        self._token = trio.lowlevel.current_trio_token()
        for index in range(self.threads):
            thread = threading.Thread(target=self._run, name=f"cryptofs-worker-{index}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, work: Work, done: Done, user: int) -> None:
        """Run `work` in a thread, then `done` with its result in the event loop. `work` must not raise.

        user: the uid whose turn it takes.
        """
        self.pending += 1
        self._turns.put(user, (work, done))
        self._words.put(True)

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
