"""Files of an AEAD in segments: what the stream files of a device, and `encrypt_file` of the client, make.

    head 1    "cryptofs file 1\\n" (16 bytes), file id (16 random bytes)
    head 2    "cryptofs file 2\\n" (16 bytes), version of the key (32 bits, big-endian), file id (16 random bytes)
    segment   nonce, 65,536 bytes of plaintext (the last has fewer, if only none) encrypted, tag

Each segment is a message whose associated data are what follows the first line of the head, the segment's index (64
bits, big-endian) and 1 for the last segment, else 0: what is cut, reordered, extended, mixed with another file or given
to another version of the key fails. A device whose key has only version 1 makes files with head 1.
"""

import os
from dataclasses import dataclass

from ..errors import BadTag

MAGIC = b"cryptofs file 1\n"
MAGIC_OF_VERSIONS = b"cryptofs file 2\n"
ID_SIZE = 16
VERSION_SIZE = 4
START = len(MAGIC)
"""Bytes of a file that tell how long its head is."""
HEADER_SIZE = START + ID_SIZE
"""Bytes of head 1."""
SEGMENT = 65_536
"""Bytes of plaintext in a segment."""


@dataclass(frozen=True)
class Head:
    """The head of a file. version: of the key, None in head 1, which does not name it."""

    identity: bytes
    version: int | None = None

    @classmethod
    def new(cls, version: int | None) -> "Head":
        """The head of a new file."""
        return cls(os.urandom(ID_SIZE), version)

    @property
    def _bound(self) -> bytes:
        return self.identity if self.version is None else self.version.to_bytes(VERSION_SIZE, "big") + self.identity

    def __bytes__(self) -> bytes:
        return (MAGIC if self.version is None else MAGIC_OF_VERSIONS) + self._bound

    @property
    def assoclen(self) -> int:
        """Bytes of the associated data of each segment."""
        return len(self._bound) + 9

    def associated(self, index: int, last: bool) -> bytes:
        """The associated data of a segment."""
        return self._bound + index.to_bytes(8, "big") + bytes([last])


def head_size(start: bytes | bytearray) -> int:
    """Bytes of the head of a file with these first START bytes. Errors: BadTag for what is no such file."""
    if len(start) < START:
        raise BadTag(f"input of {len(start)} bytes: not a file that cryptofs sealed, which begins with {HEADER_SIZE}")
    if start.startswith(MAGIC):
        return HEADER_SIZE
    if start.startswith(MAGIC_OF_VERSIONS):
        return HEADER_SIZE + VERSION_SIZE
    raise BadTag("input: not a file that cryptofs sealed")


def parse_head(head: bytes | bytearray) -> Head:
    """The head in the first bytes of a file, as many as `head_size` says. Errors: BadTag for what is no such file."""
    size = head_size(head)
    if len(head) < size:
        raise BadTag(f"input of {len(head)} bytes: not a file that cryptofs sealed, which begins with {size}")
    identity = bytes(head[size - ID_SIZE : size])
    if size == HEADER_SIZE:
        return Head(identity)
    version = int.from_bytes(head[START : START + VERSION_SIZE], "big")
    if not version:
        raise BadTag("key version 0 in the head: not a file that cryptofs sealed")
    return Head(identity, version)


def changed(index: int) -> BadTag:
    """The error for a segment that does not open."""
    return BadTag(f"segment {index}: changed, truncated, moved, or sealed with another key")
