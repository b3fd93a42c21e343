"""A write of many records, taken in slices: others have their turn in between.

It is still accepted all or none. Its bytes are copied first, because the buffer that it came in is wanted for others;
then its records are parsed, admitted together, and begun one after the other. The write returns when they are admitted.
"""

import time

from ..errors import CryptofsError, Gone
from ..records import Attr, Record, iterate_requests
from ..wiping import wipe
from . import requests
from .context import Context
from .scheduler import SLICE

MANY = 256
"""Records from which a write is taken in slices: parsing and beginning so many takes about a millisecond."""


class Batch:
    """One such write, and what it has for its caller."""

    def __init__(self, context: Context, data: memoryview) -> None:
        """data: the whole write; nothing of it is left there, because it may hold keys."""
        self._context = context
        self._data = bytearray(data)
        wipe(data)
        self._parsing = iterate_requests(self._data)
        self._records: list[Record] = []
        self._begun = 0
        self._outcome: int | CryptofsError | None = None
        self._parse()

    # What the caller sees

    @property
    def is_done(self) -> bool:
        """Whether it was accepted or refused."""
        return self._outcome is not None

    def take(self) -> int | None:
        """Its size, or None while it is not accepted. Errors: those of its records and of `Exchange.admit`."""
        if isinstance(self._outcome, CryptofsError):
            raise self._outcome
        if self._outcome is None and self._context.closed:
            raise Gone(f"context {self._context.number} was closed")
        return self._outcome

    def give_up(self) -> None:
        """The caller was interrupted: nothing of it is done, unless it was accepted already."""
        if self._outcome is None:
            self._end(Gone("the write was interrupted"))

    # What is done in slices

    def _parse(self) -> None:
        ends = time.perf_counter() + SLICE
        context = self._context
        if self._outcome is not None:
            return
        if context.closed:
            wipe(self._data)
            return
        try:
            for record in self._parsing:
                self._records.append(record)
                if time.perf_counter() > ends:
                    context.shared.scheduler.slice(self._parse, (context.uid, context.number))
                    return
            context.exchange.admit(self._records)
        except CryptofsError as error:
            self._end(error.again())
            return
        self._outcome = len(self._data)
        context.changed()
        if context.blocked:
            context.let_wait(self._begin)
        else:
            self._begin()

    def _end(self, error: CryptofsError) -> None:
        self._outcome = error
        # what was not understood may hold a key anywhere
        self._records.clear()
        self._parsing = iter(())
        wipe(self._data)
        requests.refused_write(self._context, "write", error)
        self._context.changed()

    def _begin(self) -> None:
        context, records = self._context, self._records
        ends = time.perf_counter() + SLICE
        planned = 0.0
        while self._begun < len(records) and not context.closed:
            record = records[self._begun]
            self._begun += 1
            key = record.attributes.get(Attr.KEY)
            planned = requests.begin(context, record, None, planned)
            if isinstance(key, memoryview):
                # its transform, or the worker that checks it, has a copy of its own
                wipe(key)
            if context.blocked or time.perf_counter() > ends:
                # ahead of what has come since
                context.let_wait_first(self._begin)
                if not context.blocked:
                    context.go_on_later()
                return
        if context.closed:
            wipe(self._data)
        context.changed()
