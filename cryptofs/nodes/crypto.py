"""`crypto`: each open makes a context; records in by write, records out by read, or both by one ioctl."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..contexts import MANY, Batch, Call, Context, ContextTable, FastWay, requests
from ..errors import CryptofsError, Gone, InvalidValue, WouldBlock
from ..records import HEADER_SIZE, Attr, Buffer, Record, holds_many, parse_requests
from ..wiping import wipe
from .base import BIG_PIECES, Caller, File, Handle, Pending


class CryptoHandle(Handle):
    """The open file whose life is that of its context."""

    seekable = True  # So that threads can use pread and pwrite, which never wait for each other.

    def __init__(self, table: ContextTable, context: Context) -> None:
        self._table = table
        self.context = context
        self._fast = FastWay(context)

    def write(self, offset: int, data: memoryview) -> int | Pending:
        # Never wait: the kernel allows one write at a time on this inode.
        size = self._fast.answer(data)
        if size:
            return size
        if self.context.shared.scheduler.running and holds_many(data, MANY):
            batch = Batch(self.context, data)
            return batch if batch.take() is None else len(data)
        with self._requests(data, data, "write") as records:
            requests.accept(self.context, records)
        return len(data)

    def call(self, data: memoryview, room: int) -> Buffer | Call:
        record = data[: int.from_bytes(data[:4], "little")]
        response = self._fast.call(record, room)
        if response is not None:
            return response
        if room < HEADER_SIZE:
            raise InvalidValue(f"buffer of {room} bytes: an answer has at least {HEADER_SIZE}")
        with self._requests(record, data, "ioctl") as (request,):
            return requests.call(self.context, request, room)

    @contextmanager
    def _requests(self, data: memoryview, whole: memoryview, how: str) -> Iterator[list[Record]]:
        """The records in `data`, of a write or of an ioctl. It remembers a refusal, and wipes keys in `whole`, the
        program's complete data."""
        records: list[Record] = []
        keys: list[memoryview] = []
        try:
            records = parse_requests(data)
            for record in records:
                if record.attributes and isinstance(key := record.attributes.get(Attr.KEY), memoryview):
                    # Do it now: a waiting request releases its data, and a key in the wrong place must be wiped before.
                    keys.append(key)
            yield records
        except CryptofsError as error:
            requests.refused_write(self.context, how, error)
            if not records:
                # Invalid data may contain a key anywhere.
                wipe(whole)
            raise
        finally:
            for key in keys:
                # Its transform has its own copy.
                wipe(key)

    def read(self, offset: int, size: int) -> Buffer | None:
        context = self.context
        response = requests.take(context, size)
        if response is not None:
            return response
        if context.closed:
            raise Gone(f"context {context.number} was closed")
        awaited = context.exchange.in_flight - context.exchange.called
        if awaited:
            if context.nonblocking:
                raise WouldBlock(f"{awaited} requests are in flight, no answer is ready")
            return None
        if context.transform is None:
            return f"{context.number}\n".encode()[offset : offset + size]
        return b""

    def ready(self) -> tuple[bool, bool]:
        return self.context.exchange.readable, self.context.exchange.writable

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self.context.watch(callback)

    def close(self) -> None:
        self._table.close(self.context)


@dataclass(frozen=True, kw_only=True)
class CryptoFile(File):
    """The device file itself."""

    table: ContextTable
    mode: int = stat.S_IFREG | 0o666
    block_size: int = BIG_PIECES
    own: bool = True

    def open(self, flags: int, caller: Caller) -> CryptoHandle:
        context = self.table.open(caller.uid, caller.gid, caller.pid, bool(flags & os.O_NONBLOCK))
        return CryptoHandle(self.table, context)
