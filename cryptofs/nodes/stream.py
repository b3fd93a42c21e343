"""`contexts/<id>/stream`: raw bytes for programs that know no records."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import trio

from ..contexts import Context, Stream
from ..errors import Gone, Interrupted, NotPermitted, OverQuota, WouldBlock
from ..records import Buffer
from .base import Caller, File, Handle, access_mode
from .waiting import BoundReached, wait_for

PIECE = 131_072
"""What a stream computes before others have their turn, bytes."""


class StreamHandle(Handle):
    """One open of `stream`."""

    def __init__(self, context: Context, stream: Stream, flags: int, caller: Caller) -> None:
        self._context = context
        self._stream = stream
        self._user = stream.attach(*access_mode(flags))
        self._nonblocking = bool(flags & os.O_NONBLOCK)
        self._pid = caller.pid
        self._forget: Callable[[], None] | None = None

    def _check_open(self) -> None:
        if self._context.closed:
            raise Gone(f"context {self._context.number} was closed")

    async def write(self, offset: int, data: bytes) -> int:
        """Feed `data` in pieces, so that other clients have their turn in between; returns how many bytes were taken.

        Errors: those of any piece, because what was taken before is lost with the message; only a later piece that has
        to wait too long makes the write a short one.
        """
        view = memoryview(data)
        taken = await self._write_piece(view[:PIECE])
        while taken < len(data):
            await trio.lowlevel.checkpoint()
            try:
                taken += await self._write_piece(view[taken : taken + PIECE])
            except (Interrupted, WouldBlock):
                break
        return taken

    async def _write_piece(self, piece: memoryview) -> int:
        def attempt() -> int | None:
            self._check_open()
            try:
                self._stream.feed_nowait(self._user, piece)
            except WouldBlock:
                return None
            except (NotPermitted, OverQuota) as error:
                # else what went in before would pass for the whole message
                self._stream.give_up(error)
                self._context.refused("write", error)
                raise
            return len(piece)

        written = attempt()
        if written is not None:
            return written
        self._check_reader()
        if self._nonblocking:
            raise WouldBlock("the output buffer is full")
        try:
            return await wait_for(attempt, self._context.watch, self._pid)
        except BoundReached:
            if self._stream.has_other_reader(self._user):
                raise
            self._stream.give_up()
            raise WouldBlock("the output buffer is full and nobody reads") from None

    def _check_reader(self) -> None:
        """Called before a writer waits. Errors: where it is known that nobody can read."""

    async def read(self, offset: int, size: int) -> Buffer:
        def attempt() -> Buffer | None:
            self._check_open()
            try:
                return self._stream.drain_nowait(self._user, size)
            except (NotPermitted, OverQuota) as error:
                # the end of a message is computed when it is read
                self._context.refused("read", error)
                raise

        data = attempt()
        if data is not None:
            return data
        if self._nonblocking:
            raise WouldBlock("no output is ready")
        return await wait_for(attempt, self._context.watch, self._pid)

    def ready(self) -> tuple[bool, bool]:
        if self._context.closed:
            # a read or write then tells so, at once
            return True, True
        return self._stream.readable_by(self._user), self._stream.writable_by(self._user)

    def watch(self, callback: Callable[[], None]) -> None:
        if self._forget is not None:
            self._forget()
        self._forget = self._context.watch(callback)

    def close(self) -> None:
        self._stream.detach(self._user)


@dataclass(frozen=True)
class StreamFile(File):
    """The stream of one context."""

    context: Context | None = None

    def open(self, flags: int, caller: Caller) -> StreamHandle:
        assert self.context is not None
        return StreamHandle(self.context, self.context.stream, flags, caller)
