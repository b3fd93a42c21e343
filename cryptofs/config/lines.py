"""The line of a key in a TOML file, which the standard library's parser does not report."""

import re
import tomllib
from itertools import takewhile
from typing import Any

_MARK = "cryptofs-mark"
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'))*)\s*=")


def _path(dotted: str) -> tuple[str, ...]:
    # The parser itself knows how names are quoted and joined.
    try:
        value: Any = tomllib.loads(f"{dotted} = '{_MARK}'")
    except tomllib.TOMLDecodeError:
        return ()
    names = []
    while isinstance(value, dict):
        ((name, value),) = value.items()
        names.append(name)
    return tuple(names)


def find_line(text: str, wanted: tuple[str, ...]) -> int:
    """The line of the key at a path, or of the first line that shares most of it; 1 if none does.

    Keys inside an inline table are found at the table's line. A line of a multi-line string that looks like a key can
    mislead it. The number is only a help for the user.
    """
    best, best_depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            path = table = _path(header[2])
        else:
            key = _KEY.match(line)
            if not key:
                continue
            path = table + _path(key[1])
        depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, wanted, strict=False)))
        if depth > best_depth:
            best, best_depth = number, depth
    return best
