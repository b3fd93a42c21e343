"""Waiting that always ends: when something changed, when a signal waits for the caller, or at the bound.

A FUSE reply that is withheld cannot be interrupted, not even by SIGKILL. So no handler waits longer than
WAIT_BOUND, and it looks every SIGNAL_CHECK seconds whether a thread of the caller is in state D, which is where
the kernel puts a thread that has a signal and waits for our reply. EINTR makes the C library of `cat`, `dd`,
the shell and Python try again without notice.
"""

import os
from collections.abc import Awaitable, Callable
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


async def wait_for(attempt: Callable[[], T | None], watch: Watch, pid: int, bound: float = WAIT_BOUND) -> T:
    """What `attempt` gives once it is not None; it is tried again whenever `watch` calls back.

    Errors: BoundReached after `bound` seconds, Interrupted when a signal waits for `pid`; those of `attempt`.
    """
    deadline = trio.current_time() + bound
    while True:
        event = trio.Event()
        forget = watch(event.set)
        try:
            result = attempt()
            if result is not None:
                return result
            await _wait_or_interrupt(event.wait, pid, deadline)
        finally:
            forget()


async def _wait_or_interrupt(wait: Callable[[], Awaitable[None]], pid: int, deadline: float) -> None:
    while True:
        left = deadline - trio.current_time()
        if left <= 0:
            raise BoundReached("nothing happened within the bound")
        with trio.move_on_after(min(SIGNAL_CHECK, left)):
            await wait()
            return
        if signal_waits(pid):
            raise Interrupted("a signal waits for the caller")
