"""Files in pieces, with a progress bar if a user waits at a terminal."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from .terminal import shows_bars

PART = 512 * 1024
"""Bytes of a file in one request."""


def parts(source: IO[bytes], size: int = PART, *, sink: IO[bytes] | None = None) -> Iterator[bytes]:
    """The pieces of a file, each of `size` bytes except the last, with a progress bar if a user waits for it.

    sink: where the result goes, if anywhere. The bar does not appear if that is a terminal, because it would mix with
    the result.
    """
    with _progress(source, shown=shows_bars() and not (sink and sink.isatty())) as advance:
        while piece := read_full(source, size):
            yield piece
            advance(len(piece))
            if len(piece) < size:
                return


def read_full(source: IO[bytes], size: int) -> bytes:
    """`size` bytes, or as many as the file has. Errors: OSError; BlockingIOError if a non-blocking descriptor has no
    data yet, which is not an end of file."""
    pieces = []
    while size > 0 and (piece := source.read(size)) != b"":
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


@contextmanager
def _progress(source: IO[bytes], *, shown: bool) -> Iterator[Callable[[int], None]]:
    if not shown:
        yield lambda size: None
        return
    # Only now: a command without a bar starts faster by what rich takes to load.
    from .bars import advancing

    with advancing(_size(source)) as advance:
        yield advance


def _size(source: IO[bytes]) -> int | None:
    try:
        status = os.fstat(source.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
