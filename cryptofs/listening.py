"""A Unix socket at a path, which only its owner may open. A stale one is replaced, a live one is left alone."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .errors import SystemFault, printable

_BACKLOG = 64


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """The listening socket, of mode 0600. At the end it is closed, and its file is removed.

    Errors: SystemFault (EADDRINUSE if another program listens there, or the file is no socket).
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
    """Of two programs that start at the same time, one waits for the other."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED
