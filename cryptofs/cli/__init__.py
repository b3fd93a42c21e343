"""The command line: `mount` and `umount` (the daemon), the rest as clients of a mount."""

import gc
import sys

from ..errors import CryptofsError

STEPS = ("hand-over", "take-back")
"""What a service's manager runs as root at each start and stop: this loads little, and parses by itself."""


def main() -> None:
    """Run the command line; an error is one line on standard error and exit status 1."""
    # what is imported stays: looking through it again and again would take a third of a command's start
    gc.disable()
    try:
        if sys.argv[1:] and sys.argv[1] in STEPS:
            from .steps import run

            run(sys.argv[1:])
        else:
            from .commands import commands

            commands(standalone_mode=True)
    except CryptofsError as error:
        sys.exit(f"cryptofs: {error}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        sys.exit(f"cryptofs: {what}{error.strerror or error}")
