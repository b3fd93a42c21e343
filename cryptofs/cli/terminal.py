"""Whether a user waits at a terminal."""

import os

# Terminals that cannot go back to the beginning of a line.
_DUMB = ("dumb", "unknown")


def shows_bars() -> bool:
    """Whether to show progress bars: standard error is a terminal that can redraw them.

    Variables such as FORCE_COLOR concern colours, not the presence of a terminal. A bar in a file or a log is useless.
    """
    return os.isatty(2) and os.environ.get("TERM", "").lower() not in _DUMB
