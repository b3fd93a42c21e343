"""The fast way: small requests that are whole messages, answered before their write returns.

It does what the general way does, with as few steps as possible: a small request costs a tenth of its round trip in the
daemon, so each extra Python call is measurable. Whatever is not plainly such a request is left to the general way,
which answers the same or finds out what is wrong; a test compares the two.
"""

from collections.abc import Callable
from time import perf_counter_ns

from ..engines.base import OUT_SLACK, Transform
from ..records import (
    ATTRIBUTE_HEADER_SIZE,
    HEADER_SIZE,
    SHORT_OPERATIONS,
    VERSION,
    Attr,
    Buffer,
    Flag,
    Record,
    build_header,
    pack_header,
    unpack_header,
)
from .buffers import buffers
from .context import Context
from .requests import answer_declined
from .tally import SAMPLED

SHORT_MAX = 32_768
"""Largest record of the fast way, bytes."""
COPY_MAX = 4096
"""Record size, bytes, up to which copies cost less than the views that would save them."""
BATCH_MAX = 262_144
"""Largest write of the fast way, bytes."""
RECORDS_MAX = 256
"""Records in such a write: it is done in one go, and others wait as long."""
SLOW_PACE = 10_000
"""Nanoseconds a byte from which a transform is not for the event loop: a token waits for hardware."""

_RESPONSE = int(Flag.RESPONSE)
_VALUE_AT = HEADER_SIZE + ATTRIBUTE_HEADER_SIZE
# how an iv attribute begins, by the size of the iv; shared, because contexts are many
_VERSION_HEAD = Attr.KEY_VERSION.to_bytes(2, "little") + Attr.KEY_VERSION.largest.to_bytes(2, "little")
_VERSION_SIZE = ATTRIBUTE_HEADER_SIZE + Attr.KEY_VERSION.largest
_ANY_ROOM = 1 << 30
_IV_HEADS = {size: Attr.IV.to_bytes(2, "little") + size.to_bytes(2, "little") for size in range(4, 68, 4)}


class FastWay:
    """The fast way of one context. It is closed until the context is configured."""

    __slots__ = ("_context", "_iv_end", "_iv_head", "_latencies", "_scheduler", "_short", "_transform")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._scheduler = context.shared.scheduler
        self._latencies = context.shared.latencies
        self._transform: Transform | None = None
        self._short: Callable[[int, bytes | None, bytes], bytes | None] | None = None
        self._iv_head = b""
        self._iv_end = 0

    def _open(self) -> bool:
        """Answer with the context's transform, if it has one by now. A closed transform refuses everything."""
        transform = self._context.transform
        # of a slow one every message is work for a worker
        if transform is None or transform.pace >= SLOW_PACE:
            return False
        self._transform = transform
        self._short = transform.short
        iv_size = transform.description.iv_size
        # an iv without padding is the only attribute that most requests have
        self._iv_head = _IV_HEADS.get(iv_size, b"")
        self._iv_end = ATTRIBUTE_HEADER_SIZE + iv_size if self._iv_head else 0
        return True

    def answer(self, data: memoryview) -> int:
        """Answer the requests of a write and return its size, or return 0: nothing has happened then."""
        size = len(data)
        context = self._context
        exchange = context.exchange
        if exchange.lanes or context.blocked or not HEADER_SIZE <= size <= BATCH_MAX:
            # what came before on this context is not done
            return 0
        if self._short is None and not self._open():
            return 0
        began = 0 if self._scheduler.short % SAMPLED else perf_counter_ns()
        header = unpack_header(data)
        if header[0] != size:
            return self._answer_batch(data)
        cost = 2 * (size - header[6])
        if not exchange.has_room(1, cost):
            return 0
        response = self._respond(data, header, _ANY_ROOM)
        if response is None:
            return 0
        # from here on it is answered: the general way must not run it as well
        exchange.answer_at_once(response, cost)
        self._scheduler.short += 1
        context.changed()
        if began:
            self._latencies.note(perf_counter_ns() - began, SAMPLED)
        return size

    def call(self, data: memoryview, room: int) -> Buffer | None:
        """The answer to a request that came by ioctl, or None: nothing has happened then. room: bytes it may have."""
        size = len(data)
        context = self._context
        exchange = context.exchange
        if exchange.lanes or context.blocked or not HEADER_SIZE <= size <= SHORT_MAX:
            return None
        if self._short is None and not self._open():
            return None
        began = 0 if self._scheduler.short % SAMPLED else perf_counter_ns()
        header = unpack_header(data)
        cost = 2 * (size - header[6])
        if header[0] != size or not exchange.has_room(1, cost) or not self._fits(header, room):
            return None
        response = self._respond(data, header, room)
        if response is not None:
            exchange.answer_call(response, cost)
            self._scheduler.short += 1
            if began:
                self._latencies.note(perf_counter_ns() - began, SAMPLED)
            if isinstance(response, memoryview):
                buffers.lend(response)
        return response

    def _fits(self, header: tuple[int, ...], room: int) -> bool:
        """Whether the answer to a request surely fits into `room` bytes."""
        operation = SHORT_OPERATIONS.get(header[2])
        if operation is None or self._transform is None:
            return False
        return HEADER_SIZE + self._transform.room(operation, header[0] - HEADER_SIZE - header[6]) <= room

    def _respond(self, data: memoryview, header: tuple[int, ...], room: int) -> Buffer | None:
        """The answer to one request, or None where the general way has to find it. room: as in `call`."""
        size, version, number, flags, identity, status, attributes_size = header
        # keys come with other operations: what is copied here is data
        if size > SHORT_MAX or version != VERSION or flags or status or number not in SHORT_OPERATIONS:
            return None
        iv = None
        payload_at = HEADER_SIZE + attributes_size
        if attributes_size:
            if attributes_size != self._iv_end or data[HEADER_SIZE:_VALUE_AT] != self._iv_head:
                return None
            iv = bytes(data[_VALUE_AT:payload_at])
        try:
            if size > COPY_MAX:
                return self._respond_larger(data, number, identity, iv, payload_at)
            assert self._short is not None
            payload = bytes(data[payload_at:])
            output = self._short(number, iv, payload)
            if output is None:
                return self._respond_with_version(number, identity, iv, payload, room)
        except Exception:
            return None
        return build_header(HEADER_SIZE + len(output), VERSION, number, _RESPONSE, identity, 0, 0) + output

    def _respond_with_version(
        self, number: int, identity: int, iv: bytes | None, payload: bytes, room: int
    ) -> Buffer | None:
        assert self._transform is not None
        found = self._transform.short_by_version(number, iv, payload)
        if found is None:
            return None
        version, output = found
        size = HEADER_SIZE + _VERSION_SIZE + len(output)
        if size > room:
            return None
        # The version is no data.
        self._context.exchange.tally.sent -= _VERSION_SIZE
        head = build_header(size, VERSION, number, _RESPONSE, identity, 0, _VERSION_SIZE)
        return head + _VERSION_HEAD + version.to_bytes(Attr.KEY_VERSION.largest, "little") + output

    def _respond_larger(
        self, data: memoryview, number: int, identity: int, iv: bytes | None, payload_at: int
    ) -> Buffer | None:
        assert self._transform is not None
        if self._transform.answers_more:
            return None
        operation = SHORT_OPERATIONS[number]
        payload = data[payload_at:]
        room = self._transform.room(operation, len(payload))
        out = buffers.take(HEADER_SIZE + room + OUT_SLACK)
        total = HEADER_SIZE + self._transform.once(operation, iv, 0, payload, out[HEADER_SIZE:])
        pack_header(out, 0, total, VERSION, number, _RESPONSE, identity, 0, 0)
        return out[:total]

    def _answer_batch(self, data: memoryview) -> int:
        began = perf_counter_ns()
        exchange, short, transform = self._context.exchange, self._short, self._transform
        assert short is not None
        assert transform is not None
        # Of a device with versions, each may have to be tried with all of them: that needs a plan.
        plan = None if transform.answers_more else self._plan(data)
        if plan is None:
            return 0
        # what the attributes take is counted, too: a bound need not be exact
        if not exchange.has_room(len(plan), 2 * len(data)):
            return 0
        answers: list[tuple[Buffer, int]] = []
        for number, identity, iv, payload in plan:
            try:
                output = short(number, iv, payload)
            except Exception:
                output = None
            cost = 2 * (HEADER_SIZE + len(payload))
            if output is None:
                exchange.answer_many(answers)
                answers = []
                attributes = {} if iv is None else {int(Attr.IV): iv}
                answer_declined(self._context, Record(SHORT_OPERATIONS[number], 0, identity, 0, attributes, payload))
                continue
            head = build_header(HEADER_SIZE + len(output), VERSION, number, _RESPONSE, identity, 0, 0)
            answers.append((head + output, cost))
        exchange.answer_many(answers)
        self._scheduler.short += 1
        self._context.changed()
        self._latencies.note(perf_counter_ns() - began, len(plan))
        return len(data)

    def _plan(self, data: memoryview) -> list[tuple[int, int, bytes | None, bytes]] | None:
        """Every record of a write, if all are of the kind: all or none of them must be accepted."""
        plan: list[tuple[int, int, bytes | None, bytes]] = []
        position, size = 0, len(data)
        iv_head, iv_end = self._iv_head, self._iv_end
        while position < size:
            if size - position < HEADER_SIZE:
                return None
            total, version, number, flags, identity, status, attributes_size = unpack_header(data, position)
            at = position + HEADER_SIZE + attributes_size
            end = position + total
            if version != VERSION or flags or status or not at <= end <= size or total > SHORT_MAX:
                return None
            if number not in SHORT_OPERATIONS:
                return None
            iv = None
            if attributes_size:
                value_at = position + _VALUE_AT
                if attributes_size != iv_end or data[position + HEADER_SIZE : value_at] != iv_head:
                    return None
                iv = bytes(data[value_at:at])
            if len(plan) == RECORDS_MAX:
                return None
            plan.append((number, identity, iv, bytes(data[at:end])))
            position = end
        return plan
