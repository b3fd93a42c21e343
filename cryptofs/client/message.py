"""Messages in parts."""

import contextlib
import errno
import threading
from collections.abc import Iterator

from ..records import PAYLOAD_MAX, Attr, Buffer, Flag, Octets, Operation, Record, Value, octets
from .errors import Refused, RequestError
from .wire import Requester

SLACK = 128
"""Bytes that an answer may have in addition to the given ones: a tag, a digest, a delayed block."""


class PartedMessage:
    """One message in parts of any size. Output comes as the mode allows.

    Several threads may give parts of one message: the part of each call goes in as a whole, in the order of the calls.
    After an error, and after `finish`, the message has ended: begin a new one.
    """

    def __init__(
        self,
        context: Requester,
        operation: Operation,
        identity: int,
        iv: Buffer | None,
        assoc: Buffer,
        length: int | None = None,
        key_version: int | None = None,
    ) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._swells = operation.row.expands
        self._operation = operation
        self.identity = identity
        """The message's id in its context."""
        self._assoc: Octets = octets(assoc, "assoc")
        self._attributes: dict[int, Value] = {}
        if iv is not None:
            self._attributes[Attr.IV] = octets(iv, "iv")
        if len(self._assoc):
            self._attributes[Attr.ASSOCLEN] = len(self._assoc)
        if length is not None:
            self._attributes[Attr.LENGTH] = length
        if key_version is not None:
            self._attributes[Attr.KEY_VERSION] = key_version
        self._length = PAYLOAD_MAX if length is None else max(0, min(length, PAYLOAD_MAX))
        self._given = 0
        self._begun = False
        self._ended: RequestError | None = None

    def update(self, data: Buffer) -> bytes:
        """Give a part that is not the last; returns the output that is ready. Errors: RequestError."""
        view = octets(data)
        self._context.check()
        with self._lock:
            return b"".join(self._parts(view, last=False))

    def finish(self, data: Buffer = b"") -> bytes:
        """Give the last part; returns the rest of the output. Errors: RequestError."""
        view = octets(data)
        self._context.check()
        with self._lock:
            if self._swells and len(view) and (self._begun or len(view) > PAYLOAD_MAX):
                return b"".join(self._parts(view, last=False)) + b"".join(self._parts(b"", last=True))
            return b"".join(self._parts(view, last=True))

    def finish_in_parts(self, data: Buffer) -> bytes:
        """Give the rest as a part, so that any amount of output fits, and then end the message."""
        view = octets(data)
        self._context.check()
        with self._lock:
            return b"".join(self._parts(view, last=False)) + b"".join(self._parts(b"", last=True))

    def copy(self) -> "PartedMessage":
        """Another message that continues from this one's state, in the same context.

        Errors: RequestError (EOPNOTSUPP for anything except a hash, EDQUOT if 256 messages are open).
        """
        self._context.check()
        with self._lock:
            if self._ended is not None:
                raise self._ended.again()
            twin = PartedMessage(self._context, self._operation, self._context.new_id(), None, b"")
            twin._assoc, twin._attributes = self._assoc, dict(self._attributes)
            twin._given, twin._begun = self._given, self._begun
            if self._begun:
                target: dict[int, Value] = {Attr.TARGET: self.identity}
                self._context.request(Record(Operation.CLONE, 0, twin.identity, 0, target))
            return twin

    def _parts(self, data: Octets, last: bool) -> Iterator[Buffer]:
        if len(self._assoc):
            data = b"".join((self._assoc, data))
            self._assoc = b""
        view = memoryview(data)
        while len(view) > PAYLOAD_MAX:
            yield from self._part(view[:PAYLOAD_MAX], last=False)
            view = view[PAYLOAD_MAX:]
        yield from self._part(view, last)

    def _part(self, data: memoryview, last: bool) -> Iterator[Buffer]:
        answer = self._send(data, 0 if last else Flag.MORE)
        yield answer
        # After a full answer there may be more output.
        while self._swells and not last and len(answer) == PAYLOAD_MAX:
            answer = self._send(b"", Flag.MORE)
            yield answer

    def _send(self, data: Buffer, flags: int) -> Buffer:
        if self._ended is not None:
            raise self._ended.again()
        record = Record(self._operation, flags, self.identity, 0, self._attributes, data)
        self._given += len(data)
        expected = self._length if self._swells else len(data) if flags else min(self._given, PAYLOAD_MAX)
        try:
            answer = self._context.request(record, expected + SLACK).payload
        except Refused as error:
            # Nothing was sent.
            self._ended = error.again()
            if self._begun:
                self._forget()
            raise
        except RequestError as error:
            self._ended = error.again()
            if flags:
                self._forget()
            raise
        except BaseException:
            # The daemon may or may not have the part. A continued message could lack it or repeat it.
            self._ended = RequestError(errno.ECANCELED, "the message was interrupted: begin a new one")
            raise
        self._attributes = {}
        self._begun = True
        if not flags:
            self._ended = Refused(errno.EINVAL, "the message has ended: begin a new one")
        return answer

    def _forget(self) -> None:
        # A failed message lasts until its last part. Without one it would stay open as long as the context.
        with contextlib.suppress(RequestError):
            self._context.request(Record(self._operation, 0, self.identity))
