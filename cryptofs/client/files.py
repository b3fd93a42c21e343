"""Files and streams of any length through a context, in constant memory, and in formats that the command line reads.

type skcipher   the IV, then the ciphertext, padded (PKCS #7) where the mode takes whole blocks: what
                `cryptofs encrypt` makes. Nothing notices a change of it.
type aead       what the stream files of a device make (docs/devices.md): a header, then segments of 65,536 bytes
                with a nonce and a tag each, bound to their place in this file.

Decryption of an aead gives out each segment once its tag was found right: what comes before an error is genuine, but
not the whole. Write it to a temporary file, and rename that when the call has returned.
"""

import errno
import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from ..records import Buffer, Octets, Operation, octets
from .context import Context
from .errors import Refused, RequestError
from .pipeline import Pending, Pipeline

# as in cryptofs/contexts/sealed.py, which the client end does not import; a test compares the two
MAGIC = b"cryptofs file 1\n"
ID_SIZE = 16
SEGMENT = 65_536
"""Bytes of plaintext in a segment."""
PART = 512 * 1024
"""Bytes that go into one request of a cipher."""
IN_FLIGHT = 32
"""Segments that are under way at a time."""
_CCM_NONCE = 12


class Readable(Protocol):
    """A file object that is open for reading bytes."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; none at the end."""


class Writable(Protocol):
    """A file object that is open for writing bytes."""

    def write(self, data: bytes, /) -> int | None:
        """The number of bytes written; an unbuffered file may take fewer."""


Source = Readable | Iterable[Buffer]
"""A file object, or pieces of any sizes."""


def encrypt_file(
    context: Context, source: Source, sink: Writable, *, iv: Buffer | None = None, padding: bool = True
) -> int:
    """Encrypt all of `source` into `sink`; returns how many bytes were written.

    context: of type skcipher or aead. iv: of a skcipher, if it is not to be drawn and written in front; it must be
    used once. padding: whether a mode of whole blocks is padded. Errors: RequestError, OSError of the two files.
    """
    return _write(encrypt_pieces(context, source, iv=iv, padding=padding), sink)


def decrypt_file(
    context: Context, source: Source, sink: Writable, *, iv: Buffer | None = None, padding: bool = True
) -> int:
    """Decrypt all of `source`, as `encrypt_file` made it; returns how many bytes were written.

    Errors: EBADMSG for an aead's segment that was changed, cut, moved or is another key's (those before it are
    written); EINVAL for a wrong padding, which is no check of a skcipher's text.
    """
    return _write(decrypt_pieces(context, source, iv=iv, padding=padding), sink)


def encrypt_pieces(
    context: Context, source: Source, *, iv: Buffer | None = None, padding: bool = True
) -> Iterator[bytes]:
    """`encrypt_file` as an iterator of what would be written."""
    if context.type == "aead":
        _check_segments(context, iv)
        return _seal(context, source)
    return _encipher(context, source, iv, padding)


def decrypt_pieces(
    context: Context, source: Source, *, iv: Buffer | None = None, padding: bool = True
) -> Iterator[bytes]:
    """`decrypt_file` as an iterator of what would be written."""
    if context.type == "aead":
        _check_segments(context, iv)
        return _unseal(context, source)
    return _decipher(context, source, iv, padding)


def unpad(text: bytes, size: int) -> bytes:
    """Without its padding. Errors: Refused (EINVAL)."""
    count = text[-1] if text else 0
    if not 1 <= count <= size or len(text) < count or text[-count:] != bytes([count]) * count:
        raise Refused(errno.EINVAL, "padding: not what encryption with pkcs7 leaves; wrong key, iv or name?")
    return text[:-count]


# Pieces


def _pieces(source: Source, size: int) -> Iterator[Octets]:
    read = getattr(source, "read", None)
    if read is None:
        assert isinstance(source, Iterable)
        if isinstance(source, bytes | bytearray | memoryview | str):
            raise TypeError(f"source: a file object or an iterator of bytes-like pieces, not {type(source).__name__}")
        for piece in source:
            yield octets(piece, "a piece of source")
        return
    while True:
        data = read(size)
        if data is None:
            raise BlockingIOError(errno.EAGAIN, "source: it has nothing to read yet; give one that waits")
        if not len(data):
            return
        yield octets(data, "what source.read gave")


def _cut(source: Source, size: int, first: int = 0) -> Iterator[bytes]:
    """Pieces of exactly `size` bytes, but a first one of `first`, if that is not 0, and a shorter last one, if any."""
    held = bytearray()
    wanted = first or size
    for piece in _pieces(source, size):
        if not held and len(piece) == wanted:
            yield bytes(piece)
            wanted = size
            continue
        held += piece
        at = 0
        while len(held) - at >= wanted:
            yield bytes(held[at : at + wanted])
            at += wanted
            wanted = size
        del held[:at]
    if held:
        yield bytes(held)


def _write(pieces: Iterator[bytes], sink: Writable) -> int:
    written = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            count = sink.write(view)  # type: ignore[arg-type]
            if count is None:
                raise BlockingIOError(errno.EAGAIN, "sink: it takes nothing now; give one that waits")
            written += count
            view = view[count:]
    return written


# Segments of an aead


def _check_segments(context: Context, iv: Buffer | None) -> None:
    if iv is not None:
        raise Refused(errno.EINVAL, "iv: the segments of an aead's file have nonces of their own")
    if context.block_size > 1:
        raise Refused(
            errno.EINVAL,
            f"{context.name} takes whole blocks of {context.block_size} bytes: use gcm, ccm or rfc7539",
        )
    if context.device is None and context.iv_size != 12:
        raise Refused(
            errno.EINVAL,
            f"{context.name} has an iv of {context.iv_size} bytes: with a key of your own use gcm or rfc7539",
        )


def nonce_size(context: Context) -> int:
    """Bytes of the nonce that a device puts before each message."""
    # an iv of ccm is a nonce and what the kernel wants around it
    return _CCM_NONCE if context.name.startswith("ccm(") else context.iv_size


def _marked(pieces: Iterator[bytes], size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Each piece with its index and whether it is the last: the first that is not full, if only an empty one."""
    index = -1
    for index, piece in enumerate(pieces):
        yield index, len(piece) < size, piece
        if len(piece) < size:
            return
    yield index + 1, True, b""


def _seal(context: Context, source: Source) -> Iterator[bytes]:
    identity = os.urandom(ID_SIZE)
    yield MAGIC + identity
    waiting: deque[tuple[bytes, Pending]] = deque()
    with Pipeline(context) as pipeline:
        for index, last, piece in _marked(_cut(source, SEGMENT), SEGMENT):
            associated = _associated(identity, index, last)
            # a device puts a nonce of its own before the segment
            nonce = b"" if context.device is not None else os.urandom(context.iv_size)
            waiting.append((nonce, pipeline.encrypt(piece, nonce or None, associated)))
            if len(waiting) >= IN_FLIGHT:
                nonce, pending = waiting.popleft()
                yield nonce + pending.result()
        for nonce, pending in waiting:
            yield nonce + pending.result()


def _unseal(context: Context, source: Source) -> Iterator[bytes]:
    nonce_bytes = nonce_size(context)
    size = nonce_bytes + SEGMENT + context.authsize
    pieces = _cut(source, size, first=len(MAGIC) + ID_SIZE)
    header = next(pieces, b"")
    if len(header) < len(MAGIC) + ID_SIZE or not header.startswith(MAGIC):
        raise RequestError(errno.EBADMSG, "input: not a file that a device of cryptofs sealed")
    identity = header[len(MAGIC) :]
    waiting: deque[tuple[int, Pending]] = deque()
    with Pipeline(context) as pipeline:
        for index, last, piece in _marked(pieces, size):
            associated = _associated(identity, index, last)
            if context.device is not None:
                waiting.append((index, pipeline.decrypt(piece, None, associated)))
            elif len(piece) < nonce_bytes + context.authsize:
                # the pieces before the cut are given out first, as in every other case
                yield from (_opened(*each) for each in waiting)
                raise _changed(index)
            else:
                waiting.append((index, pipeline.decrypt(piece[nonce_bytes:], piece[:nonce_bytes], associated)))
            if len(waiting) >= IN_FLIGHT:
                yield _opened(*waiting.popleft())
        for each in waiting:
            yield _opened(*each)


def _associated(identity: bytes, index: int, last: bool) -> bytes:
    return identity + index.to_bytes(8, "big") + bytes([last])


def _opened(index: int, pending: Pending) -> bytes:
    try:
        return pending.result()
    except RequestError as error:
        if error.errno in (errno.EBADMSG, errno.EINVAL):
            raise _changed(index) from None
        raise


def _changed(index: int) -> RequestError:
    return RequestError(errno.EBADMSG, f"segment {index}: changed, cut, out of its place, or another key's")


# The text of a skcipher


def _encipher(context: Context, source: Source, iv: Buffer | None, padding: bool) -> Iterator[bytes]:
    if iv is None and context.device is None and context.iv_size:
        iv = os.urandom(context.iv_size)
        yield iv
    message = context.message(Operation.ENCRYPT, iv)
    block = context.block_size if padding else 1
    total = 0
    for piece in _cut(source, PART):
        total += len(piece)
        yield message.update(piece)
    count = block - total % block if block > 1 else 0
    yield message.finish(bytes([count]) * count)


def _decipher(context: Context, source: Source, iv: Buffer | None, padding: bool) -> Iterator[bytes]:
    first = context.iv_size if iv is None and context.device is None else 0
    pieces = _cut(source, PART, first)
    if first:
        iv = next(pieces, b"")
        if len(iv) < first:
            raise Refused(errno.EINVAL, f"input of {len(iv)} bytes: it begins with an iv of {first}")
    message = context.message(Operation.DECRYPT, iv)
    keep = context.block_size if padding and context.block_size > 1 else 0
    # the last block is held back: it may be the padding, and only the end shows that
    held = b""
    for piece in pieces:
        held += message.update(piece)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :] if keep else b""
    held += message.finish()
    yield unpad(held, context.block_size) if keep else held
