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

from ..algorithms import Facts, Type, complete
from ..errors import BadTag, InvalidValue
from ..formats import sealed
from ..formats.padding import padding as pad
from ..formats.padding import unpadded
from ..records import Attr, Buffer, Octets, Operation, Record, octets
from .context import Context
from .errors import Refused, RequestError
from .pipeline import Pending, Pipeline

PART = 512 * 1024
"""Bytes of one request of a cipher."""
IN_FLIGHT = 32
"""Segments in flight at a time."""


class Readable(Protocol):
    """A file object that is open for reading bytes."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; none at the end."""


class Writable(Protocol):
    """A file object that is open for writing bytes."""

    def write(self, data: bytes, /) -> int | None:
        """The number of bytes written. An unbuffered file may write fewer than `data` has."""


Source = Readable | Iterable[Buffer]
"""A file object, or pieces of any size."""


def encrypt_file(
    context: Context, source: Source, sink: Writable, *, iv: Buffer | None = None, padding: bool = True
) -> int:
    """Encrypt all of `source` into `sink`; returns the number of bytes written.

    context: of type skcipher or aead. iv: of a skcipher; use it only once. Without it, a random one is written in
    front. padding: whether a mode of whole blocks is padded. Errors: RequestError, OSError of the two files.
    """
    return _write(encrypt_pieces(context, source, iv=iv, padding=padding), sink)


def decrypt_file(
    context: Context,
    source: Source,
    sink: Writable,
    *,
    iv: Buffer | None = None,
    padding: bool = True,
    key_version: int | None = None,
) -> int:
    """Decrypt all of `source`, which `encrypt_file` made; returns the number of bytes written.

    key_version: the version of the device's key for the text of a skcipher, which does not name it; None: the newest.
    Errors: EBADMSG if a segment of an aead was changed, truncated, moved, or has another key (earlier segments are
    written); EINVAL for wrong padding, which does not authenticate a skcipher's text.
    """
    return _write(decrypt_pieces(context, source, iv=iv, padding=padding, key_version=key_version), sink)


def encrypt_pieces(
    context: Context, source: Source, *, iv: Buffer | None = None, padding: bool = True
) -> Iterator[bytes]:
    """`encrypt_file` as an iterator of the output."""
    if context.type == "aead":
        _check_segments(context, iv)
        return _seal(context, source)
    return _encipher(context, source, iv, padding)


def decrypt_pieces(
    context: Context,
    source: Source,
    *,
    iv: Buffer | None = None,
    padding: bool = True,
    key_version: int | None = None,
) -> Iterator[bytes]:
    """`decrypt_file` as an iterator of the output."""
    if context.type == "aead":
        _check_segments(context, iv)
        if key_version is not None:
            raise Refused(errno.EINVAL, "key-version: not with an aead, whose files name it or show it")
        return _unseal(context, source)
    return _decipher(context, source, iv, padding, key_version)


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
            raise BlockingIOError(errno.EAGAIN, "source: a non-blocking file without data; give a blocking one")
        if not len(data):
            return
        yield octets(data, "what source.read gave")


def _cut(source: Source, size: int, first: Iterable[int] = ()) -> Iterator[bytes]:
    """Pieces of exactly `size` bytes; the last one may be shorter. The first pieces have the sizes that `first` gives,
    which is asked when each is due: one may depend on the pieces before it."""
    held = bytearray()
    sizes = iter(first)
    wanted = next(sizes, size)
    for piece in _pieces(source, size):
        if not held and len(piece) == wanted:
            yield bytes(piece)
            wanted = next(sizes, size)
            continue
        held += piece
        at = 0
        while len(held) - at >= wanted:
            yield bytes(held[at : at + wanted])
            at += wanted
            wanted = next(sizes, size)
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
                raise BlockingIOError(errno.EAGAIN, "sink: a non-blocking file that is full; give a blocking one")
            written += count
            view = view[count:]
    return written


# Segments of an aead


def _check_segments(context: Context, iv: Buffer | None) -> None:
    if iv is not None:
        raise Refused(errno.EINVAL, "iv: not with an aead, whose segments have their own nonces")
    if context.block_size > 1:
        raise Refused(
            errno.EINVAL,
            f"{context.name} takes whole blocks of {context.block_size} bytes: use gcm, ccm or rfc7539",
        )
    if context.device is None and context.iv_size != 12:
        raise Refused(
            errno.EINVAL,
            f"{context.name} has an iv of {context.iv_size} bytes: with your own key use gcm or rfc7539",
        )


def newest_version(context: Context) -> int | None:
    """The version of the device's key that encrypts now; None if the device names no versions: that is version 1."""
    version = context.request(Record(Operation.INFO, 0, context.new_id())).attributes.get(Attr.KEY_VERSION)
    assert version is None or isinstance(version, int)
    return version


def nonce_size(context: Context) -> int:
    """Bytes of the nonce that a device puts before each message."""
    return complete(Type.AEAD, context.name, Facts(iv_size=context.iv_size)).nonce.size


def _marked(pieces: Iterator[bytes], size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Each piece with its index, and whether it is the last: the first piece that is not full, even an empty one."""
    index = -1
    for index, piece in enumerate(pieces):
        yield index, len(piece) < size, piece
        if len(piece) < size:
            return
    yield index + 1, True, b""


def _seal(context: Context, source: Source) -> Iterator[bytes]:
    version = newest_version(context) if context.device is not None else None
    head = sealed.Head.new(version)
    yield bytes(head)
    # All segments need one version, even if a reload brings another one meanwhile.
    named = version or 1 if context.device is not None else None
    waiting: deque[tuple[bytes, Pending]] = deque()
    with Pipeline(context) as pipeline:
        for index, last, piece in _marked(_cut(source, sealed.SEGMENT), sealed.SEGMENT):
            associated = head.associated(index, last)
            # A device puts its own nonce before the segment.
            nonce = b"" if context.device is not None else os.urandom(context.iv_size)
            waiting.append((nonce, pipeline.encrypt(piece, nonce or None, associated, key_version=named)))
            if len(waiting) >= IN_FLIGHT:
                nonce, pending = waiting.popleft()
                yield nonce + pending.result()
        for nonce, pending in waiting:
            yield nonce + pending.result()


def _unseal(context: Context, source: Source) -> Iterator[bytes]:
    nonce_bytes = nonce_size(context)
    size = nonce_bytes + sealed.SEGMENT + context.authsize
    pieces, head = _head_of(source, size)
    # A head that names no version leaves it to the first answer.
    version = head.version if context.device is not None else None
    waiting: deque[tuple[int, Pending]] = deque()
    with Pipeline(context) as pipeline:
        for index, last, piece in _marked(pieces, size):
            associated = head.associated(index, last)
            if context.device is not None:
                waiting.append((index, pipeline.decrypt(piece, None, associated, key_version=version)))
            elif len(piece) < nonce_bytes + context.authsize:
                # The complete segments before the truncation are given out first, as in every other case.
                yield from (_opened(*each) for each in waiting)
                raise _changed(index)
            else:
                waiting.append((index, pipeline.decrypt(piece[nonce_bytes:], piece[:nonce_bytes], associated)))
            if len(waiting) >= IN_FLIGHT:
                number, pending = waiting.popleft()
                yield _opened(number, pending)
                version = version or pending.key_version
        for each in waiting:
            yield _opened(*each)


def _head_of(source: Source, size: int) -> tuple[Iterator[bytes], sealed.Head]:
    """The segments of a file, of `size` bytes each, and its head. Errors: RequestError for what is no such file."""
    sizes = deque([sealed.START])
    pieces = _cut(source, size, first=_popped(sizes))
    try:
        start = next(pieces, b"")
        sizes.append(sealed.head_size(start) - len(start))
        return pieces, sealed.parse_head(start + next(pieces, b""))
    except BadTag as error:
        raise RequestError(error.errno, error.message) from None


def _popped(sizes: deque[int]) -> Iterator[int]:
    while sizes:
        yield sizes.popleft()


def _opened(index: int, pending: Pending) -> bytes:
    try:
        return pending.result()
    except RequestError as error:
        if error.errno in (errno.EBADMSG, errno.EINVAL):
            raise _changed(index) from None
        raise


def _changed(index: int) -> RequestError:
    error = sealed.changed(index)
    return RequestError(error.errno, error.message)


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
    yield message.finish(pad(total, block) if block > 1 else b"")


def _decipher(
    context: Context, source: Source, iv: Buffer | None, padding: bool, key_version: int | None
) -> Iterator[bytes]:
    first = context.iv_size if iv is None and context.device is None else 0
    pieces = _cut(source, PART, [first] if first else ())
    if first:
        iv = next(pieces, b"")
        if len(iv) < first:
            raise Refused(errno.EINVAL, f"input of {len(iv)} bytes: it begins with an iv of {first}")
    message = context.message(Operation.DECRYPT, iv, key_version=key_version)
    keep = context.block_size if padding and context.block_size > 1 else 0
    # Hold the last block back: it may be the padding, and only the end of the file shows that.
    held = b""
    for piece in pieces:
        held += message.update(piece)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :] if keep else b""
    held += message.finish()
    try:
        yield unpadded(held, context.block_size) if keep else held
    except InvalidValue as error:
        raise Refused.of(error) from None
