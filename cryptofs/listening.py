"""A Unix socket at a path, which only its owner may open. A stale one is replaced, a live one is left alone."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import SystemFault, printable

_BACKLOG = 64
_PATIENCE = 5.0
"""Seconds that a start waits for another one in its directory, which everybody who may read it can lock."""


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """The listening socket, of mode 0600. At the end it is closed, and its file is removed.

    Errors: SystemFault (EADDRINUSE if another program listens there, or the file is no socket; ETIMEDOUT if another
    process keeps the directory locked).
    """
    server = _listen(path)
    made = os.stat(path)
    try:
        yield server
    finally:
        server.close()
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), made):
                path.unlink()


def _listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        with _only_one(path.parent):
            if path.is_socket() and not _is_served(path):
                # A program that was killed has left it.
                path.unlink()
            server.bind(os.fspath(path))
            server.listen(_BACKLOG)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise SystemFault(
                f"{printable(path)}: another program listens there, or it is no socket", error.errno
            ) from None
        # Python refuses a path that is too long without an errno.
        raise SystemFault(f"{printable(path)}: {error.strerror or error}", error.errno or errno.ENAMETOOLONG) from None
    finally:
        os.umask(mask)
    return server


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Of two programs that start at the same time, one waits for the other. Errors: OSError (ETIMEDOUT)."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + _PATIENCE
        while not _locked(descriptor):
            if time.monotonic() > end:
                raise OSError(
                    errno.ETIMEDOUT,
                    f"another process has locked {printable(directory)}: choose a directory of your own",
                )
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A program that accepts nobody and has a full backlog is alive, too.
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED
