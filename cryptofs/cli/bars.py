"""Progress bars on standard error."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn


def error_console() -> Console:
    """Standard error for bars; without colours if NO_COLOR is set."""
    return Console(stderr=True, force_terminal=os.isatty(2))


@contextmanager
def advancing(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar of bytes; its value takes how many more are done. total: None if nobody knows."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)
