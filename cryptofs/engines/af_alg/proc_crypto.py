"""What /proc/crypto says of the algorithms that are registered now.

An algorithm is listed only after something has asked for it, so a name is to be bound before it is looked up.
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
    """One implementation; sizes in bytes, 0 where it has no such thing or the kernel does not tell."""

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


# field of Entry: its tag in the file; a block size of 0 (an rng has none) stays the default
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
    """The usable implementations of the types that AF_ALG has: no internal ones, none that failed its self-test."""
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
    """The implementations that are registered now; none where the file is not there or not readable."""
    try:
        # bytes.decode knows latin-1 without importing it, which a daemon that has dropped its rights may not do
        return parse(PATH.read_bytes().decode("latin-1"))
    except OSError:
        return []


def find(entries: Iterable[Entry], type_: Type, name: str) -> Entry | None:
    """The implementation the kernel chooses for a name: the driver of that name, else the highest priority."""
    candidates = [entry for entry in entries if entry.type is type_ and name in (entry.driver, entry.name)]
    return max(candidates, key=lambda entry: (entry.driver == name, entry.priority), default=None)
