"""The algorithms that are registered now, from /proc/crypto.

An algorithm is listed only after a program has asked for it, so bind a name before you look it up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...algorithms import Type

PATH = Path("/proc/crypto")

_TYPES = {
    "shash": Type.HASH,
    "ahash": Type.HASH,
    "skcipher": Type.SKCIPHER,
    "lskcipher": Type.SKCIPHER,
    "aead": Type.AEAD,
    "rng": Type.RNG,
}


@dataclass(frozen=True)
class Entry:
    """One implementation; sizes in bytes, 0 if it has no such size or the kernel does not report it."""

    type: Type
    name: str
    driver: str
    priority: int = 0
    block_size: int = 1
    iv_size: int = 0
    min_key: int = 0
    max_key: int = 0
    digest_size: int = 0
    max_authsize: int = 0


# Field of Entry: its tag in the file. A block size of 0 (an rng) stays the default.
_NUMBERS = {
    "priority": "priority",
    "block_size": "blocksize",
    "iv_size": "ivsize",
    "min_key": "min keysize",
    "max_key": "max keysize",
    "digest_size": "digestsize",
    "max_authsize": "maxauthsize",
}


def parse(text: str) -> list[Entry]:
    """The usable implementations of the types that AF_ALG has. It leaves out internal ones, and those that failed their
    self-test."""
    entries = []
    for paragraph in text.split("\n\n"):
        tags = {}
        for line in paragraph.splitlines():
            tag, _, value = line.partition(":")
            tags[tag.strip()] = value.strip()
        type_ = _TYPES.get(tags.get("type", ""))
        name, driver = tags.get("name", ""), tags.get("driver", "")
        if type_ is None or not name or tags.get("internal") == "yes" or tags.get("selftest") == "failed":
            continue
        numbers = {field: int(tags[tag]) for field, tag in _NUMBERS.items() if tags.get(tag, "").isdecimal()}
        entries.append(Entry(type_, name, driver, **numbers))
    return entries


def read() -> list[Entry]:
    """The implementations that are registered now; none if the file is missing or not readable."""
    try:
        # bytes.decode knows latin-1 without an import. A daemon that has dropped its rights may not be able to import.
        return parse(PATH.read_bytes().decode("latin-1"))
    except OSError:
        return []


def find(entries: Iterable[Entry], type_: Type, name: str) -> Entry | None:
    """The implementation that the kernel chooses for a name: the driver of that name, else the highest priority."""
    candidates = [entry for entry in entries if entry.type is type_ and name in (entry.driver, entry.name)]
    return max(candidates, key=lambda entry: (entry.driver == name, entry.priority), default=None)
