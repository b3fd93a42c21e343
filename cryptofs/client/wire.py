"""Sending and receiving records: checks what a client sends, and parses what it reads."""

import errno
import os
from abc import ABC, abstractmethod

from ..errors import CryptofsError
from ..records import (
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Buffer,
    Octets,
    Operation,
    Record,
    build_head,
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


def integer(response: Record, attribute: Attr) -> int:
    """An attribute of a response, 0 if it has none."""
    value = response.attributes.get(attribute, 0)
    assert isinstance(value, int)
    return value


def write_record(descriptor: int, head: bytes, payload: Octets) -> None:
    """Write a head and its payload as one record. A small payload is not copied for that."""
    if not len(payload):
        os.pwrite(descriptor, head, 0)
    elif len(payload) <= SEGMENT_MAX:
        os.pwritev(descriptor, [head, payload], 0)
    else:
        os.pwrite(descriptor, b"".join((head, payload)), 0)


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
