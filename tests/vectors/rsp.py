"""Reading NIST's response files and the files that were put into their form."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cryptography_vectors

ROOT = Path(cryptography_vectors.__file__).parent


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


def files(directory: str, pattern: str = "*") -> list[Path]:
    """Files of the vectors package, sorted. Errors: FileNotFoundError if there are none."""
    found = sorted((ROOT / directory).glob(pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in {directory} of cryptography_vectors")
    return found


def short(path: Path) -> str:
    """A path for people: within the vectors package."""
    return str(path.relative_to(ROOT))


def entries(path: Path, start: str = "count") -> Iterator[Entry]:
    """The records of a file; `start` is the field that each of them begins with."""
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
        name, _, value = (part.strip() for part in line.partition("="))
        name = name.lower()
        if name == start:
            yield from finish()
            fields = {}
            number += 1
        (section if fields is None else fields)[name] = value
    yield from finish()
