"""Worker threads for long computations.

trio's own `to_thread` costs more than a small cipher call; these threads take their work from one queue and hand
the result back to the event loop, about 30 us in all. The computations release the GIL, so two of them, and the
copying of a third, run at the same time.
"""

import os
import threading
import time
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


class Workers:
    """A few threads; `start` and `stop` are called from the event loop."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or max(1, -1 + len(os.sched_getaffinity(0)))
        self._queue: SimpleQueue[tuple[Work, Done] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._latest: object = None
        self._changed_at = -ALONE

    def alone(self, who: object) -> bool:
        """Whether `who` has been the same for ALONE seconds: handing its work over would then only cost."""
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

    def submit(self, work: Work, done: Done) -> None:
        """Run `work` in a thread, then `done` with its result in the event loop. `work` must not raise."""
        self._queue.put((work, done))

    def stop(self) -> None:
        """Let the threads finish what they have begun, and end them."""
        self._token = None
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while (item := self._queue.get()) is not None:
            work, done = item
            if self._token is None:
                # stopped: what was only queued is not begun
                continue
            result = work()
            token = self._token
            if token is None:
                continue
            try:
                token.run_sync_soon(done, result)
            except trio.RunFinishedError:
                return
