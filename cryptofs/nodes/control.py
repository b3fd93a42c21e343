"""`contexts/<id>/ctl`: one write is one control call, a read on the same handle gives its reply."""

from ..contexts import Context
from ..errors import CryptofsError, Gone, InvalidValue
from ..records import (
    HEADER_SIZE,
    Attr,
    Buffer,
    Flag,
    Record,
    build,
    error_response,
    format_tags,
    parse_line,
    parse_requests,
)
from ..wiping import wipe
from .base import Handle


class ControlHandle(Handle):
    """One open of `ctl`. The write fails with the call's errno; the reply has details."""

    seekable = True  # Offsets mean nothing here, but Python's buffered files and `head` seek.

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reply: Buffer = b""

    def write(self, offset: int, data: memoryview) -> int:
        if self._context.closed:
            raise Gone(f"context {self._context.number} was closed")
        binary = len(data) >= HEADER_SIZE and int.from_bytes(data[:4], "little") == len(data)
        self._reply = b""
        size = len(data)
        request: Record | None = None
        try:
            request = self._one_record(data) if binary else parse_line(data)
            attributes = self._context.control(request)
        except CryptofsError as error:
            if request is not None and binary:
                self._reply = build(error_response(request, error.errno, error.message))
            else:
                self._reply = f"error: {error.symbol}\nmessage: {error.message}\n".encode()
            raise
        finally:
            self._context.changed()
            # It may contain a key, valid or not. The key of a line was copied.
            wipe(data)
            key = request.attributes.get(Attr.KEY) if request is not None else None
            if isinstance(key, bytearray):
                wipe(key)
        if binary:
            self._reply = build(Record(request.operation, Flag.RESPONSE, request.id, 0, attributes))
        else:
            self._reply = format_tags(attributes).encode()
        return size

    @staticmethod
    def _one_record(data: memoryview) -> Record:
        records = parse_requests(data)
        if len(records) != 1:
            raise InvalidValue(f"{len(records)} records: one control call a write")
        return records[0]

    def read(self, offset: int, size: int) -> Buffer:
        # The write has moved the offset, so it does not show how much of the reply was read.
        if not self._reply and self._context.closed:
            raise Gone(f"context {self._context.number} was closed")
        piece, self._reply = self._reply[:size], self._reply[size:]
        return piece
