"""The machine on which the figures were taken: what it is, and how busy it was. A ratio means little without that."""

import contextlib
import ctypes
import hashlib
import os
import platform
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from .placement import Placement, placements

_PR_SET_PDEATHSIG = 1
_LOAD_SECONDS_MAX = 3600
_IDLE = 10
_PINGS = 200
_REST = 0.001


def description() -> dict[str, object]:
    """A description of the machine."""
    return {
        "kernel": platform.release(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "idle governor": _idle_governor(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _idle_governor() -> str:
    words = []
    for file in ("current_driver", "current_governor_ro"):
        try:
            words.append(Path("/sys/devices/system/cpu/cpuidle", file).read_text().strip())
        except OSError:
            words.append("none")
    return "/".join(words)


def wake_ups() -> dict[str, float]:
    """The time of two wake-ups, in microseconds: a byte to another process and back, at once and after a rest."""
    return {
        f"{placement.value}{what}": round(_ping_seconds(placement, rest) * 1e6, 1)
        for placement in placements()
        for what, rest in (("", 0.0), (", after 1 ms of rest", _REST))
    }


def _ping_seconds(placement: Placement, rest: float) -> float:
    processors = sorted(os.sched_getaffinity(0))
    theirs = processors[1] if placement is Placement.APART else processors[0]
    to_child, from_parent = os.pipe()[::-1]
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(to_child)
            os.sched_setaffinity(0, {theirs})
            while data := os.read(from_parent, 1):
                os.write(to_parent, data)
        finally:
            os._exit(0)
    os.close(from_parent)
    os.close(to_parent)
    try:
        os.sched_setaffinity(0, {processors[0]})
        times = []
        for _ in range(_PINGS):
            time.sleep(rest)
            begin = time.perf_counter()
            os.write(to_child, b"x")
            os.read(from_child, 1)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)
    finally:
        os.sched_setaffinity(0, processors)
        os.close(to_child)
        os.close(from_child)
        os.waitpid(child, 0)


# How busy it is


class Business:
    """The processors' work between its creation and `report`."""

    def __init__(self) -> None:
        self._before = _ticks()

    def report(self) -> dict[str, float]:
        """Per cent of all processors' time: busy, and stolen by the host for other machines."""
        spent = [now - then for now, then in zip(_ticks(), self._before, strict=True)]
        total = sum(spent) or 1
        # user, nice, system, idle, iowait, irq, softirq, steal
        idle, stolen = spent[3] + spent[4], spent[7]
        return {"at work, %": round(100 - 100 * idle / total, 1), "stolen, %": round(100 * stolen / total, 1)}


def _ticks() -> list[int]:
    with open("/proc/stat") as file:
        return [int(word) for word in file.readline().split()[1:9]]


def condition(seconds: float = 1.0) -> dict[str, object]:
    """How busy the machine is, measured for this many seconds while this process sleeps."""
    business = Business()
    time.sleep(seconds)
    report = business.report()
    state = "idle" if report["at work, %"] < _IDLE else "busy"
    return {"state": state, "load": round(os.getloadavg()[0], 2), **report}


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Keep every processor busy with one process each. They end with the block, with this process, or in an hour."""
    children = []
    try:
        for processor in sorted(os.sched_getaffinity(0)):
            parent = os.getpid()
            child = os.fork()
            if child == 0:
                try:
                    _work(processor, parent)
                finally:
                    os._exit(0)
            children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _work(processor: int, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, {processor})
    data = bytes(4096)
    end = time.monotonic() + _LOAD_SECONDS_MAX
    # The parent may have ended before the call above.
    while time.monotonic() < end and os.getppid() == parent:
        for _ in range(100):
            hashlib.sha256(data).digest()
