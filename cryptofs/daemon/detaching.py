"""Detaching from the caller: the process keeps none of its descriptors, terminal, directory or signals."""

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable

_READY = b"ready"


def inherited() -> frozenset[int]:
    """The descriptors beyond the standard ones that this process inherited.

    Call it before you open files that must stay open over exec(2).
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        # The descriptor of the listing itself is closed by now.
        with contextlib.suppress(OSError):
            if descriptor > 2 and not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.add(descriptor)
    return frozenset(found)


def detach(live: Callable[[Callable[[], None]], None]) -> None:
    """Run `live` in a separate process. This one ends when `live` calls its argument, or with status 1 if it never
    does.

    That process leads its own session in the directory `/`, with umask 077 and no signal blocked. Once it is ready, it
    has none of the inherited descriptors. Until then its errors go to the caller's standard error.
    """
    kept = inherited()
    reader, writer = os.pipe()
    # Otherwise both processes would write the buffered output.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.fork():
        os.close(writer)
        with open(reader, "rb") as pipe:
            sys.exit(0 if pipe.read() == _READY else 1)
    os.close(reader)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def ready() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.close(nothing)
        for descriptor in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        # Last, because the caller may take its lock as soon as its command has ended.
        os.write(writer, _READY)
        os.close(writer)

    live(ready)
