"""Whether a person waits at a terminal, and progress there."""

import os

from rich.console import Console

# terminals that cannot go back to the beginning of a line
_DUMB = ("dumb", "unknown")


def shows_bars() -> bool:
    """Whether progress bars are shown: standard error is a terminal that can redraw them.

    What variables as FORCE_COLOR say of a terminal counts for colours, not for whether there is one: a bar in a file
    or a log helps nobody.
    """
    return os.isatty(2) and os.environ.get("TERM", "").lower() not in _DUMB


def error_console() -> Console:
    """Standard error for bars; without colours where NO_COLOR is set."""
    return Console(stderr=True, force_terminal=os.isatty(2))
