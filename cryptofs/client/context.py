"""A crypto context: one request at a time, from any thread."""

import contextlib
import errno
import itertools
import operator
import os
import threading
import warnings
from pathlib import Path
from typing import Self

from ..algorithms import Type
from ..records import PAYLOAD_MAX, Attr, Buffer, Flag, Octets, Operation, Record, Value, octets
from . import process
from .calling import Caller, fits_a_call
from .errors import ClosedError, Refused, RequestError
from .flight import Flight, FlightEnded
from .message import SLACK, PartedMessage
from .mounts import find_mount
from .public import PublicKeyCalls
from .wire import Reader, answer_size, decode, encode, integer, owned, write_record

# Incompressible input grows in every format, but its answer never exceeds one record.
_MORE = int(Flag.MORE)
"""A plain integer, because operators of flags take a microsecond."""
_SURE_TO_FIT = PAYLOAD_MAX - PAYLOAD_MAX // 64


class Context(process.Unshared, PublicKeyCalls):
    """One open context: `with Context("hash", "sha256") as context: context.digest(data)`.

    type, name: the algorithm, in the kernel's terms. key: bytes-like. authsize: bytes of the tag (AEAD). engine,
    driver: required to serve, if given. level: of a compression. mount: the mount point, else $CRYPTOFS_MOUNT, else the
    first usable one.

    Threads may share a context: it handles one request at a time, and the other threads wait (a `Pipeline` has many in
    flight). In the child of a fork every call but `close` is ForkedError.

    Errors: RequestError (an OSError with the daemon's errno and message; Refused if the client itself refuses a value),
    MountNotFound, OSError of open(2), TypeError for an argument that is not bytes-like.
    """

    _fd = -1
    warns = True
    """Whether the context warns (ResourceWarning) if it is dropped without a close, as an open file does."""

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
        attributes: dict[int, Value] = {Attr.TYPE: _text("type", type), Attr.NAME: _text("name", name)}
        if key is not None:
            attributes[Attr.KEY] = octets(key, "key")
        for number, text in ((Attr.ENGINE, engine), (Attr.DRIVER, driver)):
            if text is not None:
                attributes[number] = _text(number.name.lower(), text)
        for number, value in ((Attr.AUTHSIZE, authsize), (Attr.LEVEL, level)):
            if value is not None:
                attributes[number] = operator.index(value)
        self._begin(mount, "crypto", Operation.CONFIGURE, attributes)

    @classmethod
    def of_device(cls, device: str, *, mount: str | os.PathLike[str] | None = None) -> Self:
        """A context of a device: already configured, with a key that stays in the daemon.

        Ciphertext begins with the daemon's nonce, and decrypt expects it there.

        Errors: FileNotFoundError if no device has this name, PermissionError, RequestError, MountNotFound.
        """
        if _text("device", device) in ("", ".", "..") or "/" in device or "\0" in device:
            raise Refused(errno.EINVAL, f"device {device!r}: the name of one directory under devices/")
        context = cls.__new__(cls)
        context._begin(mount, f"devices/{device}/crypto", Operation.INFO, {})
        context.device = device
        return context

    def _begin(
        self, mount: str | os.PathLike[str] | None, file: str, operation: Operation, attributes: dict[int, Value]
    ) -> None:
        self._process = process.current()
        self._lock = threading.RLock()
        self._in_parts: set[int] = set()
        """Ids of messages whose last part has not been sent."""
        self._calls = True
        """Whether the daemon takes records by ioctl."""
        self._exchanging = False
        self._flight: Flight | None = None
        """The open pipeline of this context, which then sends every request."""
        self._ids = itertools.count(1)
        self._reader = Reader()
        self._caller = Caller()
        self.device: str | None = None
        """The device's name, if this is a device's context."""
        self._mount: Path = find_mount(mount)
        self._fd = os.open(self._mount / file, os.O_RDWR | os.O_CLOEXEC)
        try:
            reply = self._call(operation, attributes)
        except BaseException:
            self.close()
            raise
        self.number = integer(reply, Attr.CONTEXT)
        """The context's number: the name of its directory under contexts/."""
        self.type = str(reply.attributes[Attr.TYPE])
        self.name = str(reply.attributes[Attr.NAME])
        self.engine = str(reply.attributes[Attr.ENGINE])
        self.driver = str(reply.attributes[Attr.DRIVER])
        self.block_size = integer(reply, Attr.BLOCK_SIZE)
        self.iv_size = integer(reply, Attr.IV_SIZE)
        self.digest_size = integer(reply, Attr.DIGEST_SIZE)
        self.authsize = integer(reply, Attr.AUTHSIZE)

    def __del__(self) -> None:
        if self._fd < 0:
            return
        try:
            if self.warns and process.is_current(self._process):
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            # After a failed mount, every close reports an error.
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        if not hasattr(self, "driver"):
            return "<Context that is not open>"
        return f"<Context {self.number} on {self._mount}: {self.driver} by {self.engine}>"

    def fileno(self) -> int:
        """The descriptor of the open context, for poll and for passing on; -1 after close."""
        return self._fd

    def close(self) -> None:
        """Close the context; you may call it twice. It waits for a request of another thread.

        In the child of a fork this closes the child's descriptor and does not affect the parent's context.
        """
        if not process.is_current(self._process):
            # No lock: a thread that does not exist in the child may hold it.
            self._close()
            return
        while (flight := self._flight) is not None:
            flight.close()
        with self._lock:
            self._close()

    def _close(self) -> None:
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def directory(self) -> Path:
        """The context's directory, with its ctl, status and stream files."""
        return self._mount / "contexts" / str(self.number)

    def status(self) -> dict[str, str]:
        """The tags of the status file."""
        lines = (self.directory / "status").read_text().splitlines()
        return dict(line.split(": ", 1) for line in lines)

    # Whole messages

    def digest(self, data: Buffer, *, key_version: int | None = None) -> bytes:
        """The digest of `data`, of any length. key_version: of a device's key; None: the newest."""
        return self._message(Operation.DIGEST, None, b"", data, key_version)

    def encrypt(
        self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"", *, key_version: int | None = None
    ) -> bytes:
        """Ciphertext; for an AEAD the tag follows it. The output does not contain the associated data.

        key_version: of a device's key; None: the newest.

        Errors: EMSGSIZE for an AEAD, xts or cts message of more than PAYLOAD_MAX bytes.
        """
        return self._message(Operation.ENCRYPT, iv, assoc, data, key_version)

    def decrypt(
        self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"", *, key_version: int | None = None
    ) -> bytes:
        """Plaintext; for an AEAD `data` ends with the tag.

        key_version: of a device's key. None: an AEAD tries all versions, a skcipher takes the newest. Errors: EBADMSG
        if the tag is wrong, ENOKEY if the version is not kept.
        """
        return self._message(Operation.DECRYPT, iv, assoc, data, key_version)

    def generate(self, length: int) -> bytes:
        """`length` random bytes, for any length."""
        length = operator.index(length)
        if length < 0:
            raise Refused(errno.EINVAL, f"length {length}: must be 0 or more")
        pieces: list[bytes] = []
        while length > 0 or not pieces:
            piece = min(length, PAYLOAD_MAX)
            reply = self._call(Operation.GENERATE, {Attr.LENGTH: piece}, expected=piece)
            pieces.append(bytes(reply.payload))
            length -= piece
        return b"".join(pieces)

    def compress(self, data: Buffer) -> bytes:
        """`data` compressed, of any length unless the format is a single block.

        Errors: EMSGSIZE if a block would have more than PAYLOAD_MAX bytes.
        """
        view = octets(data)
        if len(view) > _SURE_TO_FIT:
            return self.message(Operation.COMPRESS).finish_in_parts(view)
        return self.message(Operation.COMPRESS).finish(view)

    def decompress(self, data: Buffer, length: int | None = None) -> bytes:
        """Decompressed `data`. length: the maximum size of the result; a small one saves memory in the daemon.

        Errors: EINVAL for input that is damaged, truncated, or has bytes after its end; EMSGSIZE if the result has more
        than `length` bytes, or a block more than PAYLOAD_MAX.
        """
        view = octets(data)
        if length is None and len(view) > PAYLOAD_MAX:
            return self.message(Operation.DECOMPRESS).finish_in_parts(view)
        try:
            return self.message(Operation.DECOMPRESS, length=length).finish(view)
        except RequestError as error:
            if length is not None or error.errno != errno.EMSGSIZE:
                raise
        return self.message(Operation.DECOMPRESS).finish_in_parts(view)

    def _message(
        self, operation: Operation, iv: Buffer | None, assoc: Buffer, data: Buffer, key_version: int | None
    ) -> bytes:
        assoc = octets(assoc, "assoc")
        if not len(assoc):
            # Most requests are short and have no associated data. A single record for them costs less than a message in
            # parts.
            data = octets(data)
            if len(data) <= PAYLOAD_MAX:
                attributes: dict[int, Value] = {} if iv is None else {Attr.IV: octets(iv, "iv")}
                if key_version is not None:
                    attributes[Attr.KEY_VERSION] = key_version
                record = Record(operation, 0, self.new_id(), 0, attributes, data)
                return bytes(self.request(record, len(data) + SLACK).payload)
        return self.message(operation, iv, assoc, key_version=key_version).finish(data)

    # Messages in parts

    def message(
        self,
        operation: Operation,
        iv: Buffer | None = None,
        assoc: Buffer = b"",
        length: int | None = None,
        key_version: int | None = None,
    ) -> PartedMessage:
        """Begin a message in parts: `update` gives a part, `finish` the last one.

        length: of a decompression in one record, the maximum size of the result. key_version: of a device's key.
        """
        return PartedMessage(self, operation, self.new_id(), iv, assoc, length, key_version)

    # Control

    def set_key(self, key: Buffer) -> None:
        """Replace the key. Errors: EBUSY while a message is open."""
        self._call(Operation.SET_KEY, {Attr.KEY: octets(key, "key")})

    def reset(self) -> None:
        """Drop unfinished messages."""
        self._call(Operation.RESET, {})
        self._in_parts.clear()

    def new_id(self) -> int:
        """An id that no other request of this context has, for records that you give to `request`."""
        return next(self._ids)

    def check(self) -> None:
        """Errors: ForkedError in the child of a fork."""
        process.check(self._process, "context")

    def _call(self, operation: Operation, attributes: dict[int, Value], expected: int = 0) -> Record:
        return self.request(Record(operation, 0, self.new_id(), 0, attributes), expected)

    def request(self, record: Record, expected: int = 0) -> Record:
        """Send one record and wait for its response. expected: bytes of payload that the response may have.

        The id must differ from those of all unfinished requests and messages of this context (`new_id`).

        Errors: RequestError, Refused, ClosedError, ForkedError.
        """
        head, payload = encode(record)
        by_call = self._may_be_called(record) and fits_a_call(record.operation, len(head) + len(payload), expected)
        while True:
            if self._process is not process.Process.current:
                self.check()
            with self._lock:
                flight = self._flight
                if flight is None:
                    response = self._exchange(record, head, payload, expected, by_call and self._calls)
                    break
            try:
                response = flight.submit(record.id, head, payload, expected).wait()
                break
            except FlightEnded:
                # The pipeline is closing. After that the context sends its own requests again.
                flight.close()
        if not record.flags & _MORE and record.operation is not Operation.CLONE:
            # The part is answered. A refusal would leave the message open, waiting for its last part.
            self._in_parts.discard(record.id)
        if response.status:
            raise RequestError(response.status, str(response.attributes.get(Attr.MESSAGE, "")))
        return response

    def _may_be_called(self, record: Record) -> bool:
        """Whether a record may go by ioctl.

        Parts of a message are always written, because ids of ioctl messages are separate from ids of written ones.
        """
        if record.flags & _MORE or record.operation is Operation.CLONE:
            self._in_parts.add(record.id)
            return False
        return record.id not in self._in_parts

    def _exchange(self, record: Record, head: bytes, payload: Octets, expected: int, by_call: bool) -> Record:
        """Send one request and read its answer, without a pipeline. The caller holds the lock."""
        if self._fd < 0:
            raise ClosedError.what("context")
        if self._exchanging:
            raise RequestError(
                errno.EDEADLK, "this thread already waits for an answer: do not use the context in a signal handler"
            )
        self._exchanging = True
        try:
            if by_call:
                try:
                    return self._caller.call(self._fd, head, payload, expected)
                except OSError as error:
                    # EMSGSIZE: the answer is larger than expected, so read it. ENOTTY: an older daemon without the
                    # ioctl. EINTR: a written request continues however often signals come.
                    if error.errno not in (errno.EMSGSIZE, errno.ENOTTY, errno.EINTR):
                        raise
                    self._calls = error.errno != errno.ENOTTY
            write_record(self._fd, head, payload)
            size = answer_size(record.operation, expected)
            while data := self._reader.read(self._fd, size):
                # Answers that were abandoned may come before this one.
                for response in decode(data):
                    if response.id == record.id:
                        return owned(response)
        except RequestError:
            raise
        except OSError as error:
            raise self._failure(error) from None
        finally:
            self._exchanging = False
        raise RequestError(
            errno.EIO, f"request {record.id} got no answer: another program reads this context's answers"
        )

    def _failure(self, error: OSError) -> RequestError:
        """The error for a refused write or a failed read of `crypto`. The daemon's status has the reason for a refused
        write."""
        number = error.errno or errno.EIO
        reason = ""
        if number not in (errno.ENOTCONN, errno.ECONNABORTED, errno.EBADF):
            with contextlib.suppress(OSError, AttributeError):
                # The line begins with the errno's name, and this error shows it anyway.
                reason = self.status().get("last-error", "").partition(": ")[2]
        if number in (errno.ENOTCONN, errno.ECONNABORTED):
            reason = "the daemon has gone: open a new context when it is back"
        return RequestError(number, reason or f"the mount refused the request: {os.strerror(number)}")

    # For Pipeline

    def attach(self, flight: Flight | None) -> None:
        """For Pipeline: from now on `flight` sends the context's requests; None: the context itself does.

        Errors: EBUSY if another pipeline has the context, ClosedError, ForkedError.
        """
        self.check()
        with self._lock:
            if flight is not None and self._flight is not None:
                raise RequestError(errno.EBUSY, "another pipeline has the context: close it first")
            if flight is not None and self._fd < 0:
                raise ClosedError.what("context")
            self._flight = flight


def _text(word: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{word}: a str, not {type(value).__name__}")
    return str(value)
