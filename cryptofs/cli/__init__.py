"""The command line: `mount` and `umount` (the daemon), the rest as clients of a mount."""

import gc
import os
import sys
from collections.abc import Callable

from ..errors import CryptofsError, PinRefused, WrongUsage
from .standard import complain, describe, finish, prepare

STEPS = ("hand-over", "reload", "take-back")
"""Steps that the service manager runs as root at each start, reload and stop. They load little, and parse by
themselves."""

_FAILED = 1
_WRONG_USAGE = 2
_OWN_FAULT = 70
# As a shell shows a program that SIGINT has ended.
_INTERRUPTED = 128 + 2
# The unit does not start it again after 77, because each try may lock the token.
_STATUSES: dict[type[CryptofsError], int] = {WrongUsage: _WRONG_USAGE, PinRefused: 77}


def main() -> None:
    """Run the command line and exit: 0, 1 for an error, 2 for wrong usage; docs/command-line.md has the others.

    Every error that arrives here becomes one line on standard error.
    """
    # Imported modules stay. Scanning them repeatedly would take a third of a command's start.
    gc.disable()
    status = _status_of(_run)
    # Output from before an error must be written too.
    sys.exit(_status_of(finish) or status)


def _run() -> int:
    prepare()
    # Each is imported when it is used, because a start must be quick.
    if sys.argv[1:] and sys.argv[1] in STEPS:
        from .steps import run

        run(sys.argv[1:])
        return 0
    from .commands import run_commands

    return run_commands()


def _status_of(work: Callable[[], int | None]) -> int:
    try:
        return work() or 0
    except SystemExit as end:
        if isinstance(end.code, str):
            complain(end.code)
            return _FAILED
        return end.code or 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except CryptofsError as error:
        complain(str(error))
        return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), _FAILED)
    except MemoryError:
        complain("ENOMEM: not enough memory")
        return _FAILED
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            complain(describe(error))
            return _FAILED
        complain(_own_fault(error))
        return _OWN_FAULT


def _own_fault(error: Exception) -> str:
    """The line for an unexpected exception. It leaves out the exception's text, which is the interpreter's and may
    contain data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    return f"a bug in cryptofs: {type(error).__name__}{place}; please report it"
