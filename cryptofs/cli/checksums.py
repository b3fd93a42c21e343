"""Checksum files in the format of sha256sum and similar tools: escaped names, and the lines."""

import errno
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import printable
from .standard import describe

_LINE_MAX = 65_536
"""Bytes of a line: a path has at most 4,095, and twice as many if each is escaped."""
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_MEANINGS = {escape: character for character, escape in _ESCAPES.items()}


class Unreadable(Exception):
    """A file cannot be read: a line for the user, and whether the file is missing."""

    def __init__(self, message: str, missing: bool) -> None:
        super().__init__(message)
        self.missing = missing


class Expected(NamedTuple):
    """The content of one line."""

    name: bytes
    digest: bytes
    """In hexadecimal, lower case."""


def quoted(name: bytes) -> tuple[bytes, bytes]:
    """The beginning of a line (a backslash if the name is escaped), and the name as it appears in the line."""
    shown = re.sub(rb"[\\\n\r]", lambda match: _ESCAPES[match[0]], name)
    return (b"\\" if shown != name else b""), shown


def unquoted(shown: bytes) -> bytes | None:
    """The name without escapes; None if an escape is invalid."""
    if re.fullmatch(rb"(?:[^\\]|\\[\\nr])*", shown, re.DOTALL) is None:
        return None
    return re.sub(rb"\\[\\nr]", lambda match: _MEANINGS[match[0]], shown)


class Listing:
    """The lines of one file of checksums: iterate once. `None` is a line that is not a checksum.

    number: of the last line that was read; good, bad: counts of lines. Errors while iterating: Unreadable.
    """

    def __init__(self, name: bytes, tag: str, algorithm: str, digits: int) -> None:
        """tag, algorithm: the allowed beginnings of a tagged line; digits: of a digest in hexadecimal."""
        self._file = name
        self._standard = name == b"-"
        tags = b"|".join(re.escape(each.encode()) for each in {tag, algorithm})
        digest = rb"(?P<digest>[0-9a-fA-F]{%d})" % digits
        begin = rb"[ \t]*(?P<escaped>\\?)"
        self._tagged = re.compile(rb"%s(?:%s) ?\((?P<name>.+)\)[ \t]*=[ \t]*%s" % (begin, tags, digest), re.DOTALL)
        # Old BSD tools omit the space or asterisk before the name.
        self._plain = re.compile(rb"%s%s[ \t](?:[ *](?=.))?(?P<name>.+)" % (begin, digest), re.DOTALL)
        self.number = self.good = self.bad = 0

    def __iter__(self) -> Iterator[Expected | None]:
        for line in self._lines():
            self.number += 1
            if line.startswith(b"#") or not line:
                continue
            found = self._parsed(line)
            if found is None:
                self.bad += 1
            else:
                self.good += 1
            yield found

    def _lines(self) -> Iterator[bytes]:
        try:
            with open(0 if self._standard else self._file, "rb", closefd=not self._standard) as source:
                while line := source.readline(_LINE_MAX):
                    rest = line
                    while len(rest) == _LINE_MAX and not rest.endswith(b"\n"):
                        # No name is this long, so the kept part is not a checksum.
                        line, rest = b"?", source.readline(_LINE_MAX)
                    yield line.removesuffix(b"\n").removesuffix(b"\r")
        except OSError as error:
            shown = "standard input" if self._standard else printable(self._file)
            raise Unreadable(describe(error, shown), missing=error.errno == errno.ENOENT) from None

    def _parsed(self, line: bytes) -> Expected | None:
        match = self._tagged.fullmatch(line) or self._plain.fullmatch(line)
        if match is None:
            return None
        name = unquoted(match["name"]) if match["escaped"] else match["name"]
        # Standard input cannot be both the list and a listed file, and no file name contains NUL.
        if name is None or b"\0" in name or (self._standard and name == b"-"):
            return None
        return Expected(name, match["digest"].lower())
