"""The standard streams, even if they are closed or full, or their encoding cannot show every name."""

import codecs
import contextlib
import io
import os
import sys
from typing import IO, Any

from ..errors import printable, symbol

_ESCAPE = "cryptofs-escape"
_LOCALE = b"LC_CTYPE"
_PLAIN = {"…": "..."}
"""The characters beyond ASCII in this program's texts, and their replacement for an encoding that lacks them."""


READER_GONE = 128 + 13
"""The exit status if the reader of standard output has gone: as a shell shows a program that SIGPIPE has ended."""


class _StandardOutput(io.FileIO):
    """Standard output. Its errors name it, and it ends the program if its reader has gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            silence(self)
            # Not an OSError: code that continues after an error of one file must not continue after this.
            raise SystemExit(READER_GONE) from None
        except OSError as error:
            silence(self)
            error.filename = "standard output"
            raise


def _restore_locale() -> None:
    """Give the programs that are executed the variable that the caller had: Python sets it where the locale is C."""
    with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as environment:
        # What execve(2) gave.
        given = dict(each.partition(b"=")[::2] for each in environment.read().split(b"\0"))
        os.environb.pop(_LOCALE, None)
        if _LOCALE in given:
            os.environb[_LOCALE] = given[_LOCALE]


def prepare() -> None:
    """Make 0, 1 and 2 usable, and the environment the caller's. Call it before anything is opened.

    A closed descriptor gets /dev/null with the wrong access mode. So the next opened file does not become standard
    output, and reads or writes there are still EBADF. Messages to a closed standard error are lost.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number: this one.
            os.set_inheritable(os.open(os.devnull, flags), True)
    _restore_locale()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)))
    encoding = sys.stdout.encoding if sys.stdout is not None else None
    codecs.register_error(_ESCAPE, _escape)
    raw = io.BufferedWriter(_StandardOutput(1, "wb", closefd=False))
    sys.stdout = io.TextIOWrapper(raw, encoding, _ESCAPE, line_buffering=raw.isatty())
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors=_ESCAPE)
    else:
        error = io.BufferedWriter(io.FileIO(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(error, errors=_ESCAPE, line_buffering=True)


def finish() -> None:
    """Write the rest of standard output. Errors: OSError, SystemExit."""
    sys.stdout.flush()


def silence(stream: IO[Any] | io.RawIOBase) -> None:
    """Discard the rest of a stream that cannot be written, because the interpreter would try again at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def describe(error: OSError, name: str | None = None) -> str:
    """One line for a system's error: its errno's name, the file, and the reason.

    name: what to call the file; None: the name in the error, if any.
    """
    if type(error).__str__ is not OSError.__str__:
        # The client's own errors say more than their number.
        return str(error)
    if name is None and error.filename is not None:
        name = printable(error.filename)
    return ": ".join([symbol(error.errno), *([] if name is None else [name]), os.strerror(error.errno or 0)])


def complain(message: str) -> None:
    """Print one line for the user on standard error. If even that is closed or full, only the exit status reports the
    error."""
    try:
        print(f"cryptofs: {message}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(map(_escaped, characters)), error.end


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) & 0xFF:02x}"
    return _PLAIN.get(character, f"\\u{ord(character):04x}")
