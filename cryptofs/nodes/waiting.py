"""Waiting that always ends: when something changed, when a signal waits for the caller, or at the bound.

A FUSE reply that is withheld cannot be interrupted, not even by SIGKILL. So no handler waits longer than
WAIT_BOUND, and a watchman looks every SIGNAL_CHECK seconds whether a thread of a waiting caller is in state D, which
is where the kernel puts a thread that has a signal and waits for our reply. EINTR makes the C library of `cat`,
`dd`, the shell and Python try again without notice.

One watchman serves all waits, because a timer of its own would cost a short wait more than the waiting itself.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import trio

from ..errors import Interrupted

WAIT_BOUND = 10.0
"""Seconds that a read or write waits at most."""
SIGNAL_CHECK = 0.1
"""Seconds between two looks for a signal."""
_THREADS_LOOKED_AT = 64


class BoundReached(Interrupted):
    """Nothing happened for WAIT_BOUND seconds."""


T = TypeVar("T")
Watch = Callable[[Callable[[], None]], Callable[[], None]]


def signal_waits(pid: int) -> bool:
    """Whether a thread of this process is in uninterruptible sleep, as one with a pending signal is."""
    if pid <= 0:
        return False
    try:
        threads = os.listdir(f"/proc/{pid}/task")[:_THREADS_LOOKED_AT]
    except OSError:
        # the opener has gone, or its process table is not ours: only the bound ends the wait
        return False
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                if file.read(512).rpartition(b")")[2][1:2] == b"D":
                    return True
        except OSError:
            continue
    return False


class _Wait:
    """One wait: its event is set when something changed or when the watchman ends it."""

    __slots__ = ("deadline", "ended_by", "event", "pid")

    def __init__(self, pid: int, bound: float) -> None:
        self.pid = pid
        self.deadline = trio.current_time() + bound
        self.event = trio.Event()
        self.ended_by: Interrupted | None = None

    def end(self, error: Interrupted) -> None:
        self.ended_by = error
        self.event.set()


_waits: set[_Wait] = set()
_watchman_runs = False


async def _watch_over_waits() -> None:
    global _watchman_runs  # noqa: PLW0603 (one event loop, one watchman)
    try:
        while _waits:
            await trio.sleep(SIGNAL_CHECK)
            now = trio.current_time()
            interrupted = {pid for pid in {wait.pid for wait in _waits} if signal_waits(pid)}
            for wait in list(_waits):
                if wait.deadline <= now:
                    wait.end(BoundReached("nothing happened within the bound"))
                elif wait.pid in interrupted:
                    wait.end(Interrupted("a signal waits for the caller"))
    finally:
        _watchman_runs = False


async def wait_for(attempt: Callable[[], T | None], watch: Watch, pid: int, bound: float = WAIT_BOUND) -> T:
    """What `attempt` gives once it is not None; it is tried again whenever `watch` calls back.

    Errors: BoundReached after `bound` seconds (and up to SIGNAL_CHECK more), Interrupted when a signal waits for
    `pid`; those of `attempt`.
    """
    global _watchman_runs  # noqa: PLW0603
    wait = _Wait(pid, bound)
    _waits.add(wait)
    if not _watchman_runs:
        _watchman_runs = True
        trio.lowlevel.spawn_system_task(_watch_over_waits)
    forget: Callable[[], None] | None = None
    try:
        while True:
            forget = watch(wait.event.set)
            result = attempt()
            if result is not None:
                return result
            await wait.event.wait()
            if wait.ended_by is not None:
                raise wait.ended_by
            wait.event = trio.Event()
    finally:
        _waits.discard(wait)
        if forget is not None:
            forget()
