"""One crypto context: a transform, the protocol state in front of it, and the work in between."""

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

from ..devices import Device
from ..engines.base import Engine, Transform
from ..errors import CryptofsError, InvalidValue, NotConfigured, NotPermitted, OverQuota
from ..policy import Usage
from ..policy.audit import audit_refusal
from ..records import (
    CONTROL_OPERATIONS,
    Buffer,
    Flag,
    Record,
    Value,
    build,
    error_response,
    parse_requests,
)
from . import work
from .control import CONTROLS, concerned, discard
from .exchange import MORE, Exchange
from .fast import ShortWay, activity
from .lanes import CALLED, Call, Job, cost_of, lane_number
from .scheduler import ALONE_NS, LONG_NS, Workers
from .status import Rows, exchange_rows, transform_rows
from .stream import Stream

_RESPONSE = int(Flag.RESPONSE)
# what one write may compute in the event loop before workers take over, nanoseconds
_INLINE_NS = ALONE_NS


class Context:
    """What one open of `crypto` makes; it lives as long as that open file description.

    number: its name under contexts/. uid, gid, pid: of the opener. nonblocking: reads and writes that would
    wait fail with EAGAIN instead.
    """

    __slots__ = (
        "_running",
        "_stream",
        "_waiting",
        "_watchers",
        "_workers",
        "closed",
        "device",
        "engines",
        "exchange",
        "gid",
        "last_error",
        "nonblocking",
        "number",
        "peers",
        "pid",
        "rule",
        "short",
        "transform",
        "uid",
        "usage",
    )

    def __init__(
        self,
        number: int,
        caller: tuple[int, int, int],
        engines: tuple[Engine, ...],
        peers: Callable[[int], "Context | None"],
        nonblocking: bool,
        workers: Workers | None,
        usage: Usage,
    ) -> None:
        self.number = number
        self.uid, self.gid, self.pid = caller
        self.engines = engines
        self.peers = peers
        self.nonblocking = nonblocking
        self.transform: Transform | None = None
        self.usage = usage
        """What its opener holds."""
        self.rule = usage.rule
        """What its opener may do, as it was when the context was opened."""
        self.exchange = Exchange(usage.queue)
        self.device: Device | None = None
        """The device that it was opened through."""
        self.closed = False
        self.last_error: CryptofsError | None = None
        """Why the last write on `crypto` was refused: such a write has no answer."""
        self._stream: Stream | None = None
        self._watchers: list[Callable[[], None]] = []
        self._workers = workers
        self._running = 0
        self.short = ShortWay(self.exchange, self._watchers, self.changed, self._answer_declined)
        self._waiting: deque[work.Task] | None = None

    # Requests

    def submit(self, buffer: Buffer) -> None:
        """Accept what one write carries, all or nothing. Errors: of `parse_requests`, of `Exchange.admit`."""
        self.accept(parse_requests(buffer))

    def adopt(self, transform: Transform) -> None:
        """Take over what a configure call has opened."""
        self.transform = transform
        self.short.open(transform)

    def _answer_declined(self, record: Record) -> None:
        assert self.transform is not None
        self.exchange.admit_one(record)
        self._answer_whole(self.transform, record)

    def accept(self, records: list[Record]) -> None:
        """Accept parsed requests, all or none. Short ones are done when this returns, long ones by workers."""
        self.exchange.admit(records)
        planned = 0.0
        for record in records:
            planned = self._begin(record, planned)
        if self._watchers:
            self.changed()

    def call(self, record: Record, room: int) -> Buffer | Call:
        """Do what a request that came by ioctl asks: its answer, or the call that has it later.

        room: bytes that the caller's buffer has. Errors: those of `Exchange.admit`; TooLarge where the answer will not
        fit: then nothing was done, where that can be known before.
        """
        if self.transform is not None and record.operation not in CONTROL_OPERATIONS:
            work.check_room(self.transform, record, self.exchange.lanes.get(record.id + CALLED), room)
        call = Call(room)
        self.exchange.admit((record,), call)
        self._begin(record, 0.0, call)
        if self._watchers:
            self.changed()
        response = call.take()
        if response is None:
            return call
        if isinstance(response, memoryview):
            work.buffers.lend(response)
        return response

    def _begin(self, record: Record, planned: float, call: Call | None = None) -> float:
        """Do an admitted request, or have it done.

        planned: nanoseconds that the requests before it in the same write take; returns those with its own.
        """
        if record.operation in CONTROL_OPERATIONS:
            self._answer_control(record, call)
            return planned
        exchange, transform = self.exchange, self.transform
        lane = exchange.lanes.get(lane_number(record, call))
        own = work.estimate_ns(transform, record, lane) if transform is not None else 0.0
        planned += own
        if planned > _INLINE_NS or lane is not None or record.flags or transform is None:
            self._advance(exchange.enqueue(record, call), planned > _INLINE_NS)
        elif planned > LONG_NS and self._is_for_workers(own):
            self._advance(exchange.enqueue(record, call), True)
        else:
            self._answer_whole(transform, record, call)
        return planned

    def _answer_whole(self, transform: Transform, record: Record, call: Call | None = None) -> None:
        failed = False
        try:
            response = work.respond_whole(transform, record)
        except CryptofsError as error:
            failed = True
            response = self._refuse(record, error)
        except Exception:
            failed = True
            response = work.refuse(record, self._engine_fault(record))
        self.exchange.answer(response, cost_of(record), failed, call)

    def _engine_fault(self, record: Record) -> CryptofsError:
        """Log an unexpected exception of an engine; returns the error for the client."""
        work.log.exception("context %d: %s failed in the engine", self.number, record.operation.word)
        return work.engine_fault(record)

    def _answer_control(self, record: Record, call: Call | None) -> None:
        try:
            reply = Record(record.operation, _RESPONSE, record.id, 0, self.control(record))
        except CryptofsError as error:
            reply = error_response(record, error.errno, error.message)
        except Exception:
            fault = self._engine_fault(record)
            reply = error_response(record, fault.errno, fault.message)
        self.exchange.answer(build(reply), cost_of(record), reply.status != 0, call)

    def control(self, record: Record) -> dict[int, Value]:
        """Do a control call; returns the reply's attributes. Errors: the call's."""
        if self.closed:
            raise NotConfigured(f"context {self.number} is closed")
        run = CONTROLS.get(record.operation)
        if run is None:
            raise InvalidValue(f"{record.operation.word}: not a control call; write it to crypto")
        record.operation.check(record.attributes, len(record.payload), record.flags)
        try:
            return run(self, record)
        except (NotPermitted, OverQuota) as error:
            self.refused(record.operation.word, error, record)
            raise

    def refused(self, what: str, error: CryptofsError, asked: Record | None = None) -> None:
        """Record a refusal by policy or quota. asked: the control call that was refused."""
        audit_refusal(what, self.uid, self.pid, error, **concerned(self, asked))

    def take(self, size: int) -> Buffer | None:
        """As many whole answers as fit into `size` bytes, or None if none is ready. Errors: TooLarge."""
        response = self.exchange.take(size)
        if response is not None:
            if isinstance(response, memoryview):
                work.buffers.lend(response)
            if self._watchers:
                self.changed()
        return response

    # Jobs: a lane's first job runs, here or in a worker, and when it is answered the next one does

    def _advance(self, first: Job, long: bool) -> None:
        if first.lane.jobs[0] is not first:
            return
        job: Job | None = first
        planned = 0.0
        while job is not None:
            try:
                task = work.prepare(self.require_transform(), self.exchange, job)
            except CryptofsError as error:
                job = self._fail(job, error)
                continue
            except Exception:
                job = self._fail(job, self._engine_fault(job.record))
                continue
            planned += work.estimate_ns(task.transform, task.record, job.lane)
            long = long or self._is_for_workers(planned)
            if long and self._workers is not None and self._workers.running:
                self._hand_over(task)
                return
            job = self._settle(work.compute(task))

    def _is_for_workers(self, nanoseconds: float) -> bool:
        if nanoseconds <= LONG_NS or self._workers is None:
            return False
        return nanoseconds > ALONE_NS or not self._workers.alone((self.number, activity()))

    def _hand_over(self, task: work.Task) -> None:
        assert self._workers is not None
        # a context with many requests waits in its own queue, not in the workers'
        if self._running >= self._workers.threads:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append(task)
            return
        self._running += 1
        self._workers.submit(functools.partial(work.compute, task), self._handed_back, self.uid)

    def _handed_back(self, task: work.Task) -> None:
        self._running -= 1
        if self.closed:
            self._drop(task)
            if not self._running:
                self._release()
            return
        following = self._settle(task)
        if self._waiting:
            self._hand_over(self._waiting.popleft())
        if following is not None:
            self._advance(following, False)
        self.changed()

    def _offload(self, compute: Callable[[], Any], settle: Callable[[Any], None]) -> bool:
        """Have a worker compute for the stream; returns whether there is one."""
        if self._workers is None or not self._workers.running:
            return False
        self._running += 1
        self._workers.submit(compute, functools.partial(self._stream_handed_back, settle), self.uid)
        return True

    def _stream_handed_back(self, settle: Callable[[Any], None], result: Any) -> None:
        self._running -= 1
        settle(result)
        if self.closed:
            if not self._running:
                self._release()
        elif self._waiting:
            self._hand_over(self._waiting.popleft())

    @staticmethod
    def _drop(task: work.Task) -> None:
        if task.message is not None:
            task.message.close()
        work.buffers.give_back(task.out)

    def _settle(self, task: work.Task) -> Job | None:
        assert task.job is not None
        try:
            response = work.settle(task, self.exchange)
        except CryptofsError as error:
            return self._fail(task.job, error)
        return self.exchange.finish(task.job, response)

    def _fail(self, job: Job, error: CryptofsError) -> Job | None:
        self.exchange.fail(job.lane, error, last=not job.record.flags & MORE)
        return self.exchange.finish(job, self._refuse(job.record, error), True)

    def _refuse(self, record: Record, error: CryptofsError) -> Buffer:
        if isinstance(error, NotPermitted | OverQuota):
            self.refused(record.operation.word, error)
        return work.refuse(record, error)

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
            self._stream = Stream(self.require_transform(), self.changed, self.exchange.queue, self._offload)
        return self._stream

    @property
    def has_stream(self) -> bool:
        return self._stream is not None

    @property
    def busy(self) -> str | None:
        """What is in flight, in words, or None: a key must not change under it."""
        if self.exchange.lanes or self._running:
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
            watchers = self._watchers.copy()
            self._watchers.clear()
            for callback in watchers:
                callback()

    def status(self) -> str:
        """`tag: value` lines for people and scripts; never a key."""
        rows: Rows = [("context", self.number), ("uid", self.uid), ("pid", self.pid)]
        if self.device is not None:
            rows.append(("device", self.device.settings.name))
        rows += transform_rows(self.transform)
        rows.append(("nonblocking", int(self.nonblocking)))
        rows += exchange_rows(self.exchange)
        if self.last_error is not None:
            rows.append(("last-error", str(self.last_error)))
        if self._stream is not None:
            rows += self._stream.status()
        return "".join(f"{tag}: {value}\n" for tag, value in rows)

    def close(self) -> None:
        """Free everything: pending work is dropped, the key is wiped with its transform once no worker uses it."""
        if self.closed:
            return
        self.closed = True
        self.short.close()
        self.exchange.close()
        for task in self._waiting or ():
            self._drop(task)
        self._waiting = None
        if self._stream is not None:
            if (lost := self._stream.lost()) is not None:
                self.refused("close", lost)  # no program can learn of it: close(2) has returned
            self._stream.close()
        if not self._running or self._workers is None or not self._workers.running:
            self._release()
        self.changed()

    def _release(self) -> None:
        self.short.close()
        if self.transform is not None:
            discard(self.usage, self.transform)
            self.transform = None
