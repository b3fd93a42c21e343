"""Reading NIST's response files and the files that were put into their form."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .packages import short


@dataclass(frozen=True)
class Entry:
    """One record: its fields, with what its section says where it does not say it itself; names in lower case."""

    fields: dict[str, str]
    file: str
    number: int

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def text(self, name: str) -> str:
        return self.fields[name]

    def integer(self, name: str) -> int:
        return int(self.fields[name])

    def hex(self, name: str) -> bytes:
        """A value in hexadecimal, or between quotes as it is."""
        value = self.fields[name]
        if value.startswith('"'):
            return value.strip('"').encode("latin-1")
        return bytes.fromhex(value)

    @property
    def encrypts(self) -> bool:
        """Whether it is in an [ENCRYPT] section, or in a file without such sections."""
        return "decrypt" not in self.fields


def entries(path: Path, start: str = "count", mark: str = "=") -> Iterator[Entry]:
    """The records of a file; `start` is the field that each of them begins with, `mark` what ends a field's name."""
    section: dict[str, str] = {}
    fields: dict[str, str] | None = None
    file = short(path)
    number = 0

    def finish() -> Iterator[Entry]:
        if fields is not None:
            yield Entry(section | fields, file, int(fields.get("count", number)))

    for raw in path.read_text().splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            yield from finish()
            fields = None
            for part in line.strip("[]").lower().split(","):
                name, _, value = part.partition("=")
                if name.strip() in ("encrypt", "decrypt"):
                    section = {}
                section[name.strip()] = value.strip()
            continue
        name, _, value = (part.strip() for part in line.partition(mark))
        name = name.lower()
        if name == start:
            yield from finish()
            fields = {}
            number += 1
        (section if fields is None else fields)[name] = value
    yield from finish()
