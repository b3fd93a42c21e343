"""`encrypt` and `decrypt` with --device: a file of any length through a device's records, many in flight.

The result is what the device's stream files make, so either opens the other's; docs/devices.md has the formats.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ..client import Context, Pending, Pipeline, RequestError
from ..errors import BadTag, InvalidValue
from ..records import Operation
from .pieces import parts, read_full

# as in cryptofs/contexts/sealed.py, which the client end does not import; a test compares the two
MAGIC = b"cryptofs file 1\n"
ID_SIZE = 16
SEGMENT = 65_536
_CCM_NONCE = 12
_IN_FLIGHT = 32


def encrypt(device: str, where: Path | None, source: IO[bytes], sink: IO[bytes]) -> None:
    """Encrypt `source` into `sink`."""
    with Context.of_device(device, mount=where) as context:
        if context.type == "aead":
            _check_free_length(context)
            identity = os.urandom(ID_SIZE)
            sink.write(MAGIC + identity)
            _segments(context, Operation.ENCRYPT, identity, parts(source, SEGMENT, sink=sink), SEGMENT, sink)
        else:
            _cipher(context, Operation.ENCRYPT, source, sink)


def decrypt(device: str, where: Path | None, source: IO[bytes], sink: IO[bytes]) -> None:
    """Decrypt `source` into `sink`; nothing of a segment is written before its tag was found right."""
    with Context.of_device(device, mount=where) as context:
        if context.type == "aead":
            _check_free_length(context)
            header = read_full(source, len(MAGIC) + ID_SIZE)
            if len(header) < len(MAGIC) + ID_SIZE or not header.startswith(MAGIC):
                raise BadTag("input: not a file that a device of cryptofs sealed")
            size = _nonce_size(context) + SEGMENT + context.authsize
            _segments(context, Operation.DECRYPT, header[len(MAGIC) :], parts(source, size, sink=sink), size, sink)
        else:
            _cipher(context, Operation.DECRYPT, source, sink)


def _check_free_length(context: Context) -> None:
    if context.block_size > 1:
        raise InvalidValue(f"{context.name} takes whole blocks of {context.block_size} bytes: use gcm, ccm or rfc7539")


def _nonce_size(context: Context) -> int:
    # an iv of ccm is a nonce and what the kernel wants around it
    return _CCM_NONCE if context.name.startswith("ccm(") else context.iv_size


def _marked(pieces: Iterable[bytes], size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Each piece with its index and whether it is the last: the first that is not full, if only an empty one."""
    index = -1
    for index, piece in enumerate(pieces):
        yield index, len(piece) < size, piece
        if len(piece) < size:
            return
    yield index + 1, True, b""


def _segments(
    context: Context, operation: Operation, identity: bytes, pieces: Iterable[bytes], size: int, sink: IO[bytes]
) -> None:
    waiting: deque[tuple[int, Pending]] = deque()

    def write_first() -> None:
        index, pending = waiting.popleft()
        try:
            sink.write(pending.result())
        except RequestError as error:
            if operation is Operation.DECRYPT and error.errno in (BadTag.errno, InvalidValue.errno):
                raise BadTag(f"segment {index}: changed, cut, out of its place, or another key's") from None
            raise

    with Pipeline(context) as pipeline:
        submit = pipeline.encrypt if operation is Operation.ENCRYPT else pipeline.decrypt
        for index, last, piece in _marked(pieces, size):
            associated = identity + index.to_bytes(8, "big") + bytes([last])
            waiting.append((index, submit(piece, assoc=associated)))
            if len(waiting) >= _IN_FLIGHT:
                write_first()
        while waiting:
            write_first()


def _cipher(context: Context, operation: Operation, source: IO[bytes], sink: IO[bytes]) -> None:
    """IV and ciphertext, padded (PKCS #7) where the mode takes whole blocks."""
    message = context.message(operation)
    block = context.block_size
    total = 0
    held = b""
    for piece in parts(source, sink=sink):
        total += len(piece)
        output = held + message.update(piece)
        keep = block if block > 1 and operation is Operation.DECRYPT else 0
        sink.write(output[: len(output) - keep])
        held = output[len(output) - keep :] if keep else b""
    if operation is Operation.ENCRYPT:
        count = block - total % block if block > 1 else 0
        sink.write(message.finish(bytes([count]) * count))
        return
    held += message.finish()
    sink.write(unpad(held, block) if block > 1 else held)


def unpad(text: bytes, size: int) -> bytes:
    """Without its padding. Errors: InvalidValue."""
    count = text[-1] if text else 0
    if not 1 <= count <= size or len(text) < count or text[-count:] != bytes([count]) * count:
        raise InvalidValue("padding: not what encryption with pkcs7 leaves; wrong key, iv or name?")
    return text[:-count]
