"""Which processor each end of a round trip runs on.

A round trip through a file system is two processes that wake each other. The scheduler runs them on one processor for a
while, then on two. Each placement has its own cost (a switch, or waking an idle processor). That choice alone moved the
ratio of two equal operations between 0.6 and 1.8. So we fix it, measure both, and report which.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path


class Placement(Enum):
    """Where the client and the processes that answer it run."""

    APART = "two cores"
    TOGETHER = "one core"
    FREE = "free"


def placements() -> list[Placement]:
    """The fixed placements for which this machine has processors."""
    if len(os.sched_getaffinity(0)) > 1:
        return [Placement.APART, Placement.TOGETHER]
    return [Placement.TOGETHER]


@contextlib.contextmanager
def placed(placement: Placement, servers: Iterable[int]) -> Iterator[None]:
    """Fix this process and the servers (process ids, with their threads and children) to processors, and release them
    after.

    Threads and processes that a server starts in the meantime inherit its placement.
    """
    processors = os.sched_getaffinity(0)
    if placement is Placement.FREE:
        yield
        return
    first, *others = sorted(processors)
    client = {first}
    server = {others[0]} if placement is Placement.APART and others else client
    moved = [task for pid in servers for process in _with_children(pid) for task in _tasks(process)]
    try:
        os.sched_setaffinity(0, client)
        for task in moved:
            _move(task, server)
        yield
    finally:
        os.sched_setaffinity(0, processors)
        for pid in servers:
            for process in _with_children(pid):
                for task in _tasks(process):
                    _move(task, processors)


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for task in _tasks(process):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{process}/task/{task}/children").read_text().split())
    return found


def _tasks(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []


def _move(task: int, processors: set[int]) -> None:
    # A thread may end at any time; then this has nothing to move.
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(task, processors)
