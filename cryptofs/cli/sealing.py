"""The sealed file format: segments of an AEAD under a separate key for each file.

    header    "cryptofs seal 1\\n" (16 bytes), the AEAD's name padded with NUL to 32 bytes, salt (16 bytes)
    segment   65,536 bytes of plaintext (the last may be shorter) sealed, followed by the tag (16 bytes)

File key = HMAC-SHA-256(key, header), so that no nonce is used twice with one key, for any number of files.
The nonce of a segment is 7 zero bytes, its index (32 bits, big-endian) and 1 for the last segment, else 0: a
file that is truncated, reordered or extended fails. Every file has a last segment, which may be empty.
"""

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..client import Context, RequestError
from ..errors import InvalidValue
from ..formats.sealed import changed

MAGIC = b"cryptofs seal 1\n"
NAMES = ("gcm(aes)", "rfc7539(chacha20,poly1305)")
NAME_SIZE = 32
SALT_SIZE = 16
HEADER_SIZE = len(MAGIC) + NAME_SIZE + SALT_SIZE
TAG_SIZE = 16
SEGMENTS_MAX = 1 << 32
KEY_MIN = 16


def header(name: str, salt: bytes) -> bytes:
    """The first bytes of a sealed file."""
    return MAGIC + name.encode().ljust(NAME_SIZE, b"\0") + salt


def parse_header(data: bytes) -> tuple[str, bytes]:
    """Name and salt. Errors: InvalidValue for a file that is not sealed."""
    if len(data) < HEADER_SIZE or not data.startswith(MAGIC):
        raise InvalidValue("input: not a file made by `cryptofs seal`")
    name = data[len(MAGIC) : len(MAGIC) + NAME_SIZE].rstrip(b"\0").decode("ascii", "replace")
    if name not in NAMES:
        raise InvalidValue(f"name {name!r} in the header: one of {', '.join(NAMES)}")
    return name, data[-SALT_SIZE:]


def open_context(name: str, key: bytes | None, salt: bytes, mount: Path | None) -> Context:
    """The AEAD context with the file's own key. Errors: InvalidValue for a short key."""
    if key is None or len(key) < KEY_MIN:
        raise InvalidValue(f"key of {len(key or b'')} bytes: at least {KEY_MIN}")
    with Context("hash", "hmac(sha256)", key, mount=mount) as kdf:
        return Context("aead", name, kdf.digest(header(name, salt)), mount=mount)


def _nonce(index: int, last: bool) -> bytes:
    if index >= SEGMENTS_MAX:
        raise InvalidValue(f"more than {SEGMENTS_MAX} segments")
    return bytes(7) + index.to_bytes(4, "big") + bytes([last])


def _marked(pieces: Iterable[bytes]) -> Iterator[tuple[int, bool, bytes]]:
    index = 0
    held: bytes | None = None
    for piece in pieces:
        if held is not None:
            yield index, False, held
            index += 1
        held = piece
    yield index, True, held if held is not None else b""


def seal(context: Context, name: str, salt: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The sealed file for pieces of SEGMENT bytes."""
    yield header(name, salt)
    for index, last, piece in _marked(pieces):
        yield context.encrypt(piece, _nonce(index, last))


def unseal(context: Context, name: str, salt: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The plaintext for pieces of SEGMENT + TAG_SIZE bytes. Errors: InvalidValue for a wrong tag."""
    for index, last, piece in _marked(pieces):
        try:
            yield context.decrypt(piece, _nonce(index, last))
        except RequestError as error:
            if error.errno != errno.EBADMSG:
                raise
            raise InvalidValue(changed(index).message) from None
