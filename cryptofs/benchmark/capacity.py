"""How many contexts, and requests in flight, a daemon can hold at once."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from ..records import parse_responses
from . import calls
from .mounts import CannotMeasure, Mount


@contextlib.contextmanager
def contexts(mount: Mount, count: int) -> Iterator[float]:
    """Keep `count` contexts for sha256 open; returns the daemon's resident memory for each, in bytes.

    Errors: CannotMeasure if this process may not open so many files.
    """
    _allow_files(count + 200)
    configure = calls.configuration("sha256")
    before = _resident(mount.pid)
    descriptors: list[int] = []
    try:
        for _ in range(count):
            descriptor = os.open(mount.crypto, os.O_RDWR | os.O_CLOEXEC)
            descriptors.append(descriptor)
            os.pwrite(descriptor, configure, 0)
            calls.checked(os.pread(descriptor, 4096, 0))
        yield (_resident(mount.pid) - before) / count
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def in_flight(mount: Mount, count: int) -> int:
    """Write `count` requests before reading any answer; returns how many were answered, each once."""
    batch = b"".join(calls.request("sha256", 512, identity) for identity in range(count))
    answered: list[int] = []
    with calls.opened(mount.crypto, "sha256") as descriptor:
        os.pwrite(descriptor, batch, 0)
        while data := os.pread(descriptor, 65_536, 0):
            calls.checked(data)
            answered += [answer.id for answer in parse_responses(data)]
    if len(answered) != len(set(answered)):
        raise CannotMeasure("a request was answered twice")
    return len(answered)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            raise CannotMeasure(f"at most {hard} open files here, {count} needed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")
