"""Sending and receiving records: checks what a client sends, and parses what it reads."""

import errno
import fcntl
import os
from abc import ABC, abstractmethod

from ..errors import CryptofsError
from ..records import (
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    Buffer,
    Octets,
    Operation,
    Record,
    build_head,
    call_command,
    octets,
    parse_responses,
)
from .errors import Refused, RequestError

SEGMENT_MAX = 253 * 4096
"""Bytes of a payload that is written beside its header. The kernel takes at most 256 pages as one write. At any address
the two touch at most these: 254 for the payload, and 2 for the header."""
BIG = 65_536
"""Answers of this size or more are read into a reused buffer: fresh memory for a megabyte costs as much as a copy."""

# An answer has a header beside its payload, and a tag, a digest, a delayed block or attributes.
_BESIDE = HEADER_SIZE + 2048
# The largest are ML-DSA signatures, and an ML-KEM ciphertext beside its secret.
_PUBLIC = 6144


class Requester(ABC):
    """A sender of requests: the context that messages and public key calls use."""

    @abstractmethod
    def check(self) -> None:
        """Errors: ForkedError in the child of a fork. Call it before you take a lock that another thread may have
        held."""

    @abstractmethod
    def new_id(self) -> int:
        """An id that no other request of this context has."""

    @abstractmethod
    def request(self, record: Record, expected: int = 0) -> Record:
        """Send one record and wait for its response."""


def encode(record: Record) -> tuple[bytes, Octets]:
    """The head and the payload of a request. Errors: Refused; TypeError for a payload that is not bytes-like."""
    payload = octets(record.payload)
    if len(payload) > PAYLOAD_MAX:
        raise Refused(errno.EMSGSIZE, f"payload of {len(payload)} bytes: at most {PAYLOAD_MAX}, more in parts")
    try:
        return build_head(record, len(payload)), payload
    except CryptofsError as error:
        raise Refused.of(error) from None


def decode(data: Buffer) -> list[Record]:
    """The responses in the bytes of one read. Errors: RequestError (EPROTO) for anything else."""
    if not data:
        return []
    try:
        return parse_responses(data)
    except CryptofsError as error:
        raise RequestError(errno.EPROTO, f"the answer is not a record of this version: {error.message}") from None


def owned(response: Record) -> Record:
    """The response with its own memory, so that its buffer can be reused."""
    response.payload = bytes(response.payload)
    if response.attributes:
        response.attributes = {
            number: value if isinstance(value, int | str) else bytes(value)
            for number, value in response.attributes.items()
        }
    return response


def answer_size(operation: Operation, expected: int) -> int:
    """Bytes to read for the answer to a request of which the caller expects `expected` bytes of payload.

    A guess that is too small costs only one more read: see `read_answers`.
    """
    return (max(expected, _PUBLIC) if operation.row.operands else expected) + _BESIDE


def fits_a_call(operation: Operation, size: int, expected: int) -> bool:
    """Whether a record of `size` bytes, and its answer with `expected` bytes of payload, fit into an ioctl's buffer.

    The answer of a control call always fits. Key pair operations never go by ioctl: their answer may be large, and if a
    signal ends the call, a key may have been made, so the client could not repeat it.
    """
    return not operation.row.operands and size <= CALL_ROOM and HEADER_SIZE + expected <= CALL_ROOM


def write_record(descriptor: int, head: bytes, payload: Octets) -> None:
    """Write a head and its payload as one record. A small payload is not copied for that."""
    if not len(payload):
        os.pwrite(descriptor, head, 0)
    elif len(payload) <= SEGMENT_MAX:
        os.pwritev(descriptor, [head, payload], 0)
    else:
        os.pwrite(descriptor, b"".join((head, payload)), 0)


CALL_ROOM = 1024
"""Bytes of an ioctl's buffer. For a larger one `fcntl.ioctl` keeps the interpreter's lock until the kernel returns, so
a daemon that does not answer would stop every thread of the program."""


def call(descriptor: int, head: bytes, payload: Octets) -> Record:
    """One record and its answer, of at most CALL_ROOM bytes each, by ioctl. It is one system call instead of two, and
    the answer is this record's, whatever else is unread.

    Errors: OSError. ENOTTY: the daemon knows no ioctl. EMSGSIZE: the answer is larger. EINTR: a signal came and the
    request was cancelled; the signal's handler has run.
    """
    size = len(head) + len(payload)
    buffer = bytearray(CALL_ROOM)
    view = memoryview(buffer)
    view[: len(head)] = head
    view[len(head) : size] = payload
    fcntl.ioctl(descriptor, call_command(CALL_ROOM), buffer)
    (response,) = decode(view[: int.from_bytes(view[:4], "little")])
    return response


class Reader:
    """Reads answers of one descriptor, with a buffer for large ones. For one thread at a time."""

    def __init__(self) -> None:
        self._buffer: bytearray | None = None

    def read(self, descriptor: int, size: int) -> Buffer:
        """The answers that are ready and fit into `size` bytes, at least one; nothing if none is due.

        After EMSGSIZE a larger answer (for example one that a caller has abandoned) stays in the daemon. It is read
        once more, with enough room.
        """
        try:
            return self._read(descriptor, size)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or size >= RECORD_MAX:
                raise
        return self._read(descriptor, RECORD_MAX)

    def _read(self, descriptor: int, size: int) -> Buffer:
        if size < BIG:
            return os.pread(descriptor, size, 0)
        if self._buffer is None:
            self._buffer = bytearray(RECORD_MAX)
        view = memoryview(self._buffer)[:size]
        return view[: os.preadv(descriptor, [view], 0)]
