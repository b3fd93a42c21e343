"""Files in pieces, with a progress bar where a person waits."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

PART = 512 * 1024
"""Bytes of a file that go into one request."""


def parts(source: IO[bytes], size: int = PART) -> Iterator[bytes]:
    """The pieces of a file, each `size` bytes but the last, with a progress bar where a person waits for it."""
    with _progress(source) as advance:
        while piece := read_full(source, size):
            yield piece
            advance(len(piece))
            if len(piece) < size:
                return


def read_full(source: IO[bytes], size: int) -> bytes:
    """`size` bytes, or as many as there are. Errors: OSError; BlockingIOError where a descriptor that must not wait has
    nothing yet, which is no end of file."""
    pieces = []
    while size > 0 and (piece := source.read(size)) != b"":
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


@contextmanager
def _progress(source: IO[bytes]) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    if not console.is_terminal or sys.stdout.isatty():
        yield lambda size: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=_size(source))
        yield lambda size: progress.advance(task, size)


def _size(source: IO[bytes]) -> int | None:
    try:
        path = Path(source.name)
        return path.stat().st_size if path.is_file() else None
    except (OSError, TypeError, ValueError, AttributeError):
        return None
