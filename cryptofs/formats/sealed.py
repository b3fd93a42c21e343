"""Files of an AEAD in segments: what the stream files of a device, and `encrypt_file` of the client, make.

    header    "cryptofs file 1\\n" (16 bytes), file id (16 random bytes)
    segment   nonce, 65,536 bytes of plaintext (the last has fewer, if only none) encrypted, tag

Each segment is a message whose associated data are the file id, the segment's index (64 bits, big-endian) and 1 for the
last segment, else 0: what is cut, reordered, extended or mixed with another file fails.
"""

from ..errors import BadTag

MAGIC = b"cryptofs file 1\n"
ID_SIZE = 16
HEADER_SIZE = len(MAGIC) + ID_SIZE
SEGMENT = 65_536
"""Bytes of plaintext in a segment."""
ASSOCLEN = ID_SIZE + 9


def parse_header(header: bytes | bytearray) -> bytes:
    """The file id in the first HEADER_SIZE bytes. Errors: BadTag for what is no such file."""
    if len(header) < HEADER_SIZE:
        raise BadTag(f"input of {len(header)} bytes: not a file that cryptofs sealed, which begins with {HEADER_SIZE}")
    if not header.startswith(MAGIC):
        raise BadTag("input: not a file that cryptofs sealed")
    return bytes(header[len(MAGIC) : HEADER_SIZE])


def associated(identity: bytes, index: int, last: bool) -> bytes:
    """The associated data of a segment."""
    return identity + index.to_bytes(8, "big") + bytes([last])


def changed(index: int) -> BadTag:
    """The error for a segment that does not open."""
    return BadTag(f"segment {index}: changed, truncated, moved, or sealed with another key")
