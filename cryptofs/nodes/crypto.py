"""`crypto`: each open makes a context; records in by write, records out by read."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ..contexts import Context, ContextTable
from ..errors import CryptofsError, Gone, OverQuota, WouldBlock
from ..records import Buffer, Operation, Record, parse_requests
from .base import Caller, File, Handle
from .control import wipe_key
from .waiting import wait_for

_BRING_KEYS = (Operation.CONFIGURE, Operation.SET_KEY)


class CryptoHandle(Handle):
    """The open file that a context lives as long as."""

    seekable = True  # so that threads can use pread and pwrite, which never wait for each other

    def __init__(self, table: ContextTable, context: Context) -> None:
        self._table = table
        self.context = context
        self._forget: Callable[[], None] | None = None
        # without a frame of their own: these two are what every small request goes through
        self.write_nowait = context.short.answer  # type: ignore[method-assign]
        self.read_nowait = context.take  # type: ignore[method-assign]

    async def write(self, offset: int, data: bytes) -> int:
        # never a wait: the kernel lets one write in at a time to this inode, which is everybody's
        records: list[Record] = []
        try:
            records = parse_requests(data)
            self.context.accept(records)
        except CryptofsError as error:
            self.context.last_error = error.again()
            if isinstance(error, OverQuota):
                self.context.refused("write", error)
            raise
        finally:
            for record in records:
                if record.operation in _BRING_KEYS:
                    wipe_key(record)
        return len(data)

    async def read(self, offset: int, size: int) -> Buffer:
        context = self.context
        response = context.take(size)
        if response is not None:
            return response
        if context.exchange.in_flight:
            return await self._wait_for_response(size)
        if context.transform is None:
            return f"{context.number}\n".encode()[offset : offset + size]
        return b""

    async def _wait_for_response(self, size: int) -> Buffer:
        context = self.context
        if context.nonblocking:
            raise WouldBlock(f"{context.exchange.in_flight} requests are in flight, no answer is ready")

        def attempt() -> Buffer | None:
            self._check_open()
            response = context.take(size)
            return b"" if response is None and not context.exchange.in_flight else response

        return await wait_for(attempt, context.watch, context.pid)

    def _check_open(self) -> None:
        if self.context.closed:
            raise Gone(f"context {self.context.number} was closed")

    def ready(self) -> tuple[bool, bool]:
        return self.context.exchange.readable, self.context.exchange.writable

    def watch(self, callback: Callable[[], None]) -> None:
        if self._forget is not None:
            self._forget()
        self._forget = self.context.watch(callback)

    def close(self) -> None:
        self._table.close(self.context)


@dataclass(frozen=True)
class CryptoFile(File):
    """The device file itself."""

    table: ContextTable = field(default_factory=lambda: ContextTable(()))

    def open(self, flags: int, caller: Caller) -> CryptoHandle:
        context = self.table.open(caller.uid, caller.gid, caller.pid, bool(flags & os.O_NONBLOCK))
        return CryptoHandle(self.table, context)
