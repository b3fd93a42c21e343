"""Detaching from the caller: nothing of its descriptors, terminal, directory or signals is kept."""

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable

_READY = b"ready"


def inherited() -> frozenset[int]:
    """The descriptors beyond the standard ones that the program which started this one left open to it.

    To be asked before files are opened that are to stay open over exec(2).
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        # the one of the listing itself is closed by now
        with contextlib.suppress(OSError):
            if descriptor > 2 and not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.add(descriptor)
    return frozenset(found)


def detach(live: Callable[[Callable[[], None]], None]) -> None:
    """Run `live` in a process of its own, and end this one when it calls what it is given, with 1 if it never does.

    That process leads a session of its own in the directory `/`, with umask 077, no signal blocked and, once it is
    ready, none of the descriptors that were inherited; until then its errors go to the caller's standard error.
    """
    kept = inherited()
    reader, writer = os.pipe()
    # both processes would write the buffered output
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
        # last: the caller may take its lock as soon as its command has ended
        os.write(writer, _READY)
        os.close(writer)

    live(ready)
