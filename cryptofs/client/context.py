"""A crypto context of one's own, one request at a time."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ..algorithms import Type
from ..records import (
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Buffer,
    Flag,
    Operation,
    Record,
    Value,
    build_head,
    parse_responses,
)
from .errors import RequestError
from .mounts import find_mount
from .public import PublicKeyCalls
from .writing import write_record

# beside its payload a response has a header, a tag or digest, a held-back block, or attributes
_RESPONSE_EXTRA = HEADER_SIZE + 2048
# a part is a multiple of every block and chunk size, so that each gives its whole output
_PART_SIZE = PAYLOAD_MAX
_BIG = 65_536
# no format makes more of input that cannot be compressed than an answer holds
_SURE_TO_FIT = PAYLOAD_MAX - PAYLOAD_MAX // 64


class Context(PublicKeyCalls):
    """One open context: `with Context("hash", "sha256") as context: context.digest(data)`.

    type, name: the algorithm, in the kernel's terms. key: bytes-like; authsize: the tag's bytes (AEAD);
    engine, driver: demanded if given. level: of a compression. mount: the mount point, else $CRYPTOFS_MOUNT, else the
    first found.
    Errors: RequestError (an OSError with the daemon's errno and message), MountNotFound.
    """

    def __init__(
        self,
        type: Type | str,
        name: str,
        key: Buffer | None = None,
        *,
        authsize: int | None = None,
        engine: str | None = None,
        driver: str | None = None,
        level: int | None = None,
        mount: str | os.PathLike[str] | None = None,
    ) -> None:
        attributes: dict[int, Value] = {Attr.TYPE: str(type), Attr.NAME: name}
        optional: dict[int, Value | None] = {
            Attr.KEY: key,
            Attr.AUTHSIZE: authsize,
            Attr.ENGINE: engine,
            Attr.DRIVER: driver,
            Attr.LEVEL: level,
        }
        attributes.update({number: value for number, value in optional.items() if value is not None})
        self._begin(mount, "crypto", Operation.CONFIGURE, attributes)

    @classmethod
    def of_device(cls, device: str, *, mount: str | os.PathLike[str] | None = None) -> Self:
        """A context of a device: configured already, with a key that stays in the daemon.

        What is encrypted comes with a nonce of the daemon's in front, and decrypt takes it from there.
        Errors: FileNotFoundError for a device that there is not, PermissionError, RequestError, MountNotFound.
        """
        context = cls.__new__(cls)
        context._begin(mount, f"devices/{device}/crypto", Operation.INFO, {})
        return context

    def _begin(
        self, mount: str | os.PathLike[str] | None, file: str, operation: Operation, attributes: dict[int, Value]
    ) -> None:
        self._id = 0
        self._buffer: bytearray | None = None
        self._mount: Path = find_mount(mount)
        self._fd = os.open(self._mount / file, os.O_RDWR | os.O_CLOEXEC)
        try:
            reply = self._call(operation, attributes)
        except BaseException:
            os.close(self._fd)
            raise
        self.number = _integer(reply, Attr.CONTEXT)
        """The context's number: the name of its directory under contexts/."""
        self.type = str(reply.attributes[Attr.TYPE])
        self.name = str(reply.attributes[Attr.NAME])
        self.engine = str(reply.attributes[Attr.ENGINE])
        self.driver = str(reply.attributes[Attr.DRIVER])
        self.block_size = _integer(reply, Attr.BLOCK_SIZE)
        self.iv_size = _integer(reply, Attr.IV_SIZE)
        self.digest_size = _integer(reply, Attr.DIGEST_SIZE)
        self.authsize = _integer(reply, Attr.AUTHSIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Context {self.number} on {self._mount}: {self.driver} by {self.engine}>"

    def fileno(self) -> int:
        """The descriptor of the open context, for poll and for passing on."""
        return self._fd

    def close(self) -> None:
        """Close the context; calling it twice is allowed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def directory(self) -> Path:
        """The context's directory, with its ctl, status and stream files."""
        return self._mount / "contexts" / str(self.number)

    def status(self) -> dict[str, str]:
        """The tags of the status file."""
        lines = (self.directory / "status").read_text().splitlines()
        return dict(line.split(": ", 1) for line in lines)

    # Whole messages

    def digest(self, data: Buffer) -> bytes:
        """The digest of `data`, of any length."""
        return self._message(Operation.DIGEST, None, b"", data)

    def encrypt(self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"") -> bytes:
        """Ciphertext, and for an AEAD the tag behind it. Associated data is not repeated in the output.

        Errors: EMSGSIZE for an AEAD, xts or cts message of more than PAYLOAD_MAX bytes.
        """
        return self._message(Operation.ENCRYPT, iv, assoc, data)

    def decrypt(self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"") -> bytes:
        """Plaintext; for an AEAD `data` ends with the tag. Errors: EBADMSG if the tag is wrong."""
        return self._message(Operation.DECRYPT, iv, assoc, data)

    def generate(self, length: int) -> bytes:
        """Random bytes."""
        pieces: list[bytes] = []
        while length > 0 or not pieces:
            piece = min(length, PAYLOAD_MAX)
            reply = self._call(Operation.GENERATE, {Attr.LENGTH: piece}, expected=piece)
            pieces.append(bytes(reply.payload))
            length -= piece
        return b"".join(pieces)

    def compress(self, data: Buffer) -> bytes:
        """`data` compressed, of any length where the format is not a single block.

        Errors: EMSGSIZE where a block would have more than PAYLOAD_MAX bytes.
        """
        if len(data) > _SURE_TO_FIT:
            return self.message(Operation.COMPRESS).finish_in_parts(data)
        return self.message(Operation.COMPRESS).finish(data)

    def decompress(self, data: Buffer, length: int | None = None) -> bytes:
        """What was compressed. length: the most bytes that it may have; a small one costs the daemon less memory.

        Errors: EINVAL for input that is damaged, cut short or followed by something; EMSGSIZE for more than `length`
        bytes, and for a block of more than PAYLOAD_MAX.
        """
        if length is None and len(data) > PAYLOAD_MAX:
            return self.message(Operation.DECOMPRESS).finish_in_parts(data)
        try:
            return self.message(Operation.DECOMPRESS, length=length).finish(data)
        except RequestError as error:
            if length is not None or error.errno != errno.EMSGSIZE:
                raise
        return self.message(Operation.DECOMPRESS).finish_in_parts(data)

    def _message(self, operation: Operation, iv: Buffer | None, assoc: Buffer, data: Buffer) -> bytes:
        message = self.message(operation, iv, assoc)
        view = memoryview(data)
        if len(view) + len(assoc) <= PAYLOAD_MAX:
            return message.finish(view)
        pieces = [message.update(view[at : at + _PART_SIZE]) for at in range(0, len(view), _PART_SIZE)]
        return b"".join([*pieces, message.finish()])

    # Messages in parts

    def message(
        self, operation: Operation, iv: Buffer | None = None, assoc: Buffer = b"", length: int | None = None
    ) -> "PartedMessage":
        """Begin a message that is given in parts: `update` for each, `finish` for the last.

        length: of a decompression that is not in parts, the most bytes that it may give.
        """
        self._id += 1
        return PartedMessage(self, operation, self._id, iv, assoc, length)

    # Control

    def set_key(self, key: Buffer) -> None:
        """Replace the key. Errors: EBUSY while a message is open."""
        self._call(Operation.SET_KEY, {Attr.KEY: key})

    def reset(self) -> None:
        """Drop unfinished messages."""
        self._call(Operation.RESET, {})

    def _call(self, operation: Operation, attributes: dict[int, Value], expected: int = 0) -> Record:
        self._id += 1
        return self.request(Record(operation, 0, self._id, 0, attributes), expected)

    def request(self, record: Record, expected: int = 0) -> Record:
        """Send one record and wait for its response; expected: payload bytes that the response may have.

        The response's payload is a view of the buffer that was read, good until the next request. Errors: RequestError.
        """
        payload = memoryview(record.payload)
        write_record(self._fd, build_head(record, len(payload)), payload)
        while True:
            data = self._read(expected + _RESPONSE_EXTRA)
            for response in parse_responses(data) if data else ():
                if response.id == record.id:
                    if response.status:
                        raise RequestError(response.status, str(response.attributes.get(Attr.MESSAGE, "")))
                    return response
            if not data:
                raise RequestError(5, f"request {record.id} got no answer")

    def _read(self, size: int) -> Buffer:
        if size < _BIG:
            return os.pread(self._fd, size, 0)
        # fresh memory for a megabyte costs as much as copying it: this buffer is used again
        if self._buffer is None:
            self._buffer = bytearray(RECORD_MAX)
        view = memoryview(self._buffer)[:size]
        return view[: os.preadv(self._fd, [view], 0)]


class PartedMessage:
    """One message given in parts. Parts of up to PAYLOAD_MAX bytes; the output comes as the mode allows."""

    def __init__(
        self,
        context: Context,
        operation: Operation,
        identity: int,
        iv: Buffer | None,
        assoc: Buffer,
        length: int | None = None,
    ) -> None:
        self._context = context
        self._swells = operation in (Operation.COMPRESS, Operation.DECOMPRESS)
        self._operation = operation
        self._identity = identity
        self._attributes: dict[int, Value] = {}
        if iv is not None:
            self._attributes[Attr.IV] = iv
        if len(assoc):
            self._attributes[Attr.ASSOCLEN] = len(assoc)
        if length is not None:
            self._attributes[Attr.LENGTH] = length
        self._length = PAYLOAD_MAX if length is None else min(length, PAYLOAD_MAX)
        self._assoc = assoc
        self._given = 0
        self._failure: tuple[int, str] | None = None

    @property
    def identity(self) -> int:
        """The message's id in its context."""
        return self._identity

    def update(self, data: Buffer) -> bytes:
        """Give a part that is not the last; returns the output that is ready."""
        return b"".join(map(bytes, self._parts(memoryview(data), last=False)))

    def finish(self, data: Buffer = b"") -> bytes:
        """Give the last part; returns the rest of the output."""
        if self._swells and self._given and len(data):
            return self.finish_in_parts(data)
        return b"".join(map(bytes, self._parts(memoryview(data), last=True)))

    def finish_in_parts(self, data: Buffer) -> bytes:
        """Give the rest as a part, so that there may be any amount of output, and end the message behind it."""
        return self.update(data) + self.finish()

    def _parts(self, data: memoryview, last: bool) -> Iterator[Buffer]:
        if len(self._assoc):
            data = memoryview(bytes(self._assoc) + bytes(data))
            self._assoc = b""
        while len(data) > PAYLOAD_MAX:
            yield from self._parts(data[:PAYLOAD_MAX], last=False)
            data = data[PAYLOAD_MAX:]
        answer = self._send(data, 0 if last else Flag.MORE)
        yield answer
        # a full answer may be followed by more output
        while self._swells and not last and len(answer) == PAYLOAD_MAX:
            answer = self._send(b"", Flag.MORE)
            yield answer

    def _send(self, data: Buffer, flags: int) -> Buffer:
        attributes, self._attributes = self._attributes, {}
        record = Record(self._operation, flags, self._identity, 0, attributes, data)
        self._given += len(data)
        # with the last part comes what earlier ones gathered
        expected = len(data) + 128 if flags else min(self._given, PAYLOAD_MAX) + 128
        if self._swells:
            expected = self._length + 128
        if self._failure is not None:
            raise RequestError(*self._failure)
        try:
            return self._context.request(record, expected).payload
        except RequestError as error:
            self._failure = (error.errno or errno.EIO, error.message)
            if flags:
                self._end()
            raise

    def _end(self) -> None:
        # a message that has failed lasts until its last part: without one it would stay open for the context's life
        with contextlib.suppress(RequestError):
            self._context.request(Record(self._operation, 0, self._identity))


def _integer(record: Record, attribute: Attr) -> int:
    value = record.attributes.get(attribute, 0)
    assert isinstance(value, int)
    return value
