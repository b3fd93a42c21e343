"""`contexts/<id>/stream`: raw bytes for programs that know no records."""

import os
from collections.abc import Callable

from ..contexts import Context, Stream
from ..errors import Gone, NotPermitted, OverQuota, WouldBlock
from ..records import Buffer
from .base import Handle, access_mode

PIECE = 131_072
"""What a stream computes before others have their turn, bytes."""


class StreamHandle(Handle):
    """One open of `stream`."""

    def __init__(self, context: Context, stream: Stream, flags: int) -> None:
        self._context = context
        self._stream = stream
        self._user = stream.attach(*access_mode(flags))
        self._nonblocking = bool(flags & os.O_NONBLOCK)

    def _check_open(self) -> None:
        if self._context.closed:
            raise Gone(f"context {self._context.number} was closed")

    def write(self, offset: int, data: memoryview) -> int:
        """Take a piece of `data`, so that other clients have their turn before the next one.

        Errors: those of any piece, because what was taken before is lost with the message.
        """
        self._check_open()
        if self._context.blocked:
            # its key is being set
            return 0
        piece = data[:PIECE]
        try:
            self._stream.feed_nowait(self._user, piece)
        except WouldBlock:
            self._check_reader()
            if self._nonblocking:
                raise
            return 0
        except (NotPermitted, OverQuota) as error:
            # otherwise the bytes before would be taken for the whole message
            self._stream.give_up(error)
            self._context.refused("write", error)
            raise
        return len(piece)

    def _check_reader(self) -> None:
        """Called before a writer waits. Errors: if no reader can exist."""

    def read(self, offset: int, size: int) -> Buffer | None:
        self._check_open()
        if self._context.blocked:
            return None
        try:
            data = self._stream.drain_nowait(self._user, size)
        except (NotPermitted, OverQuota) as error:
            # the end of a message is computed when it is read
            self._context.refused("read", error)
            raise
        if data is None and self._nonblocking:
            raise WouldBlock("no output is ready")
        return data

    def ready(self) -> tuple[bool, bool]:
        if self._context.closed:
            # a read or write then reports that at once
            return True, True
        return self._stream.readable_by(self._user), self._stream.writable_by(self._user)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._context.watch(callback)

    def close(self) -> None:
        self._stream.detach(self._user)
