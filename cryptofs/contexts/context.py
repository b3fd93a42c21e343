"""One crypto context: a transform, the protocol state in front of it, and the work in between."""

import logging
from collections.abc import Callable
from typing import Any

from ..algorithms import Type
from ..engines.base import OUT_SLACK, Engine, Transform
from ..errors import (
    Cancelled,
    CryptofsError,
    EngineFault,
    InvalidValue,
    NotConfigured,
)
from ..exchange import MORE, Exchange, Job, Lane, cost_of
from ..records import (
    CONTROL_OPERATIONS,
    HEADER_SIZE,
    PAYLOAD_MAX,
    VERSION,
    Attr,
    Buffer,
    Flag,
    Operation,
    Record,
    Value,
    build,
    error_response,
    pack_header,
    parse_requests,
)
from .control import CONTROLS
from .stream import Stream

log = logging.getLogger("cryptofs")

_RESPONSE = int(Flag.RESPONSE)
_DATA_ATTRIBUTES = frozenset({Attr.IV, Attr.ASSOCLEN, Attr.LENGTH})
_GENERATE = Operation.GENERATE


class Context:
    """What one open of `crypto` makes; it lives as long as that open file description.

    number: its name under contexts/. uid, gid, pid: of the opener. nonblocking: reads and writes that would
    wait fail with EAGAIN instead.
    """

    __slots__ = (
        "_stream",
        "_watchers",
        "closed",
        "engines",
        "exchange",
        "gid",
        "nonblocking",
        "number",
        "peers",
        "pid",
        "transform",
        "uid",
    )

    def __init__(
        self,
        number: int,
        caller: tuple[int, int, int],
        engines: tuple[Engine, ...],
        peers: Callable[[int], "Context | None"],
        nonblocking: bool,
    ) -> None:
        self.number = number
        self.uid, self.gid, self.pid = caller
        self.engines = engines
        self.peers = peers
        self.nonblocking = nonblocking
        self.transform: Transform | None = None
        self.exchange = Exchange()
        self.closed = False
        self._stream: Stream | None = None
        self._watchers: list[Callable[[], None]] = []

    # Requests

    def submit(self, buffer: Buffer) -> None:
        """Accept what one write carries, all or nothing, and run it.

        Errors: those of `parse_requests`, TooLarge and WouldBlock of `Exchange.admit`; what is wrong inside a
        request is told in its answer.
        """
        self.accept(parse_requests(buffer))

    def accept(self, records: list[Record]) -> None:
        """Accept parsed requests, all or none, and run them."""
        exchange = self.exchange
        exchange.admit(records)
        for record in records:
            if record.operation in CONTROL_OPERATIONS:
                self._answer_control(record)
            else:
                job: Job | None = exchange.enqueue(record)
                if job is not None and job.lane.jobs[0] is job:
                    while job is not None:
                        job = self._run(job)
        self.changed()

    def _answer_control(self, record: Record) -> None:
        try:
            reply = Record(record.operation, _RESPONSE, record.id, 0, self.control(record))
        except CryptofsError as error:
            reply = error_response(record, error.errno, error.message)
        self.exchange.answer(build(reply), cost_of(record), reply.status != 0)

    def control(self, record: Record) -> dict[int, Value]:
        """Do a control call; returns the reply's attributes. Errors: the call's."""
        if self.closed:
            raise NotConfigured(f"context {self.number} is closed")
        if len(record.payload):
            raise InvalidValue(f"payload of {len(record.payload)} bytes: {record.operation.word} takes none")
        if record.flags:
            raise InvalidValue(f"flags {record.flags:#06x}: {record.operation.word} takes none")
        call = CONTROLS.get(record.operation)
        if call is None:
            raise InvalidValue(f"{record.operation.word}: not a control call; write it to crypto")
        call.check(record)
        return call.run(self, record)

    # Jobs

    def _run(self, job: Job) -> Job | None:
        """Run a lane's first job, answer it, and return the lane's next."""
        record = job.record
        failed = False
        try:
            response: Buffer = self._perform(job.lane, record, job)
        except CryptofsError as error:
            failed = True
            self.exchange.fail(job.lane, error, last=not record.flags & MORE)
            response = build(error_response(record, error.errno, error.message))
        except Exception:
            failed = True
            log.exception("context %d: %s failed in the engine", self.number, record.operation.word)
            fault = EngineFault(f"{record.operation.word}: the engine failed; the daemon's log says more")
            self.exchange.fail(job.lane, fault, last=not record.flags & MORE)
            response = build(error_response(record, fault.errno, fault.message))
        return self.exchange.finish(job, response, failed)

    def _perform(self, lane: Lane, record: Record, job: Job) -> Buffer:
        if job.cancelled:
            raise Cancelled(f"request {record.id} was cancelled")
        if lane.failure is not None:
            raise lane.failure
        transform = self.require_transform()
        attributes = record.attributes
        if attributes and not attributes.keys() <= _DATA_ATTRIBUTES:
            raise InvalidValue(f"{record.operation.word} takes no attributes but iv, assoclen and length")
        operation = record.operation
        last = not record.flags & MORE
        if lane.message is None and last:
            return self._whole(transform, record)
        if lane.message is None:
            self.exchange.open_lane()
            iv: Any = attributes.get(Attr.IV)
            lane.message = transform.start(operation, iv, _assoclen(record))
            lane.operation = operation
        elif attributes:
            raise InvalidValue("attributes belong to the first part of a message")
        elif lane.operation is not operation:
            raise InvalidValue(f"{operation.word}: the message under id {record.id} is another operation's")
        if operation is _GENERATE:
            raise InvalidValue("generate takes no parts")
        message = lane.message
        out = bytearray(HEADER_SIZE + message.room(len(record.payload), last) + OUT_SLACK)
        size = message.update(record.payload, last, memoryview(out)[HEADER_SIZE:])
        if last:
            lane.message = None
            lane.operation = None
            message.close()
        return _response(out, size, record)

    def _whole(self, transform: Transform, record: Record) -> Buffer:
        operation = record.operation
        payload = record.payload
        attributes = record.attributes
        if operation is _GENERATE:
            length = _length(record)
            if length > PAYLOAD_MAX:
                raise InvalidValue(f"length {length}: at most {PAYLOAD_MAX}")
            out = bytearray(HEADER_SIZE + length)
            size = transform.once(operation, None, 0, payload, memoryview(out)[HEADER_SIZE:])
            return _response(out, size, record)
        iv: Any = attributes.get(Attr.IV) if attributes else None
        assoclen = _assoclen(record) if attributes else 0
        out = bytearray(HEADER_SIZE + transform.room(operation, len(payload)) + OUT_SLACK)
        size = transform.once(operation, iv, assoclen, payload, memoryview(out)[HEADER_SIZE:])
        return _response(out, size, record)

    # State

    def require_transform(self) -> Transform:
        """The transform. Errors: NotConfigured."""
        if self.transform is None:
            raise NotConfigured(f"context {self.number} is not configured")
        return self.transform

    @property
    def stream(self) -> Stream:
        """The raw stream of this context. Errors: NotConfigured."""
        if self._stream is None:
            self._stream = Stream(self.require_transform(), self.changed)
        return self._stream

    @property
    def has_stream(self) -> bool:
        return self._stream is not None

    @property
    def busy(self) -> str | None:
        """What is in flight, in words, or None: a key must not change under it."""
        if self.exchange.lanes:
            return f"{len(self.exchange.lanes)} messages are in flight"
        if self._stream is not None and self._stream.busy:
            return "a stream is in flight"
        return None

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, once, when something has changed; returns what takes the call back."""
        self._watchers.append(callback)

        def forget() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return forget

    def changed(self) -> None:
        """Something that a waiting reader, writer or poll may want has happened."""
        if self._watchers:
            watchers, self._watchers = self._watchers, []
            for callback in watchers:
                callback()

    def status(self) -> str:
        """`tag: value` lines for people and scripts; never a key."""
        exchange = self.exchange
        rows: list[tuple[str, object]] = [("context", self.number), ("uid", self.uid), ("pid", self.pid)]
        if self.transform is None:
            rows.append(("state", "unconfigured"))
        else:
            description = self.transform.description
            rows += [
                ("state", "configured"),
                ("type", description.type.value),
                ("name", description.name),
                ("engine", description.engine),
                ("driver", description.driver),
                ("key", "(hidden)" if self.transform.keyed and description.key_sizes.takes_key else "(none)"),
            ]
            if description.type is Type.AEAD:
                rows.append(("authsize", self.transform.authsize))
        rows += [
            ("nonblocking", int(self.nonblocking)),
            ("in-flight", exchange.in_flight),
            ("unread", exchange.outstanding - exchange.in_flight),
            ("queue-bytes", exchange.bytes),
            ("open-messages", sum(lane.is_open for lane in exchange.lanes.values())),
            ("completed", exchange.completed),
            ("failed", exchange.failed),
        ]
        if self._stream is not None:
            rows += self._stream.status()
        return "".join(f"{tag}: {value}\n" for tag, value in rows)

    def close(self) -> None:
        """Free everything: pending work is dropped, the key is wiped with its transform."""
        if self.closed:
            return
        self.closed = True
        self.exchange.close()
        if self._stream is not None:
            self._stream.close()
        if self.transform is not None:
            self.transform.close()
            self.transform = None
        self.changed()


def _length(record: Record) -> int:
    length = record.attributes.get(Attr.LENGTH, 0)
    assert isinstance(length, int)
    return length


def _assoclen(record: Record) -> int:
    assoclen = record.attributes.get(Attr.ASSOCLEN, 0)
    assert isinstance(assoclen, int)
    return assoclen


def _response(out: bytearray, size: int, record: Record) -> Buffer:
    """Turn an output buffer with HEADER_SIZE bytes of room in front into the answer to `record`."""
    total = HEADER_SIZE + size
    pack_header(out, 0, total, VERSION, record.operation, _RESPONSE | record.flags, record.id, 0, 0)
    del out[total:]
    return out
