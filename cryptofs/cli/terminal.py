"""Whether a person waits at a terminal, and progress there."""

import os

from rich.console import Console

# terminals that cannot go back to the beginning of a line
_DUMB = ("dumb", "unknown")


def shows_bars() -> bool:
    """Whether progress bars are shown: standard error is a terminal that can redraw them.

    Variables such as FORCE_COLOR decide on colours, not on whether there is a terminal: a bar in a file or a log is of
    no use.
    """
    return os.isatty(2) and os.environ.get("TERM", "").lower() not in _DUMB


def error_console() -> Console:
    """Standard error for bars; without colours where NO_COLOR is set."""
    return Console(stderr=True, force_terminal=os.isatty(2))
