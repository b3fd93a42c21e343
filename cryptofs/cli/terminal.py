"""Whether a user waits at a terminal, and progress there."""

import os

from rich.console import Console

# Terminals that cannot go back to the beginning of a line.
_DUMB = ("dumb", "unknown")


def shows_bars() -> bool:
    """Whether to show progress bars: standard error is a terminal that can redraw them.

    Variables such as FORCE_COLOR concern colours, not the presence of a terminal. A bar in a file or a log is useless.
    """
    return os.isatty(2) and os.environ.get("TERM", "").lower() not in _DUMB


def error_console() -> Console:
    """Standard error for bars; without colours if NO_COLOR is set."""
    return Console(stderr=True, force_terminal=os.isatty(2))
