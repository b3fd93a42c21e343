"""Many requests in flight on one context, from threads or from trio.

    with Context("hash", "sha256") as context, Pipeline(context) as pipeline:
        pending = [pipeline.digest(data) for data in pieces]
        digests = [each.result() for each in pending]        # in a thread
        digests = [await each.wait_result() for each in pending]   # in trio

A thread of the pipeline's own writes and reads. What was submitted while it was busy goes out in one write, so small
requests batch by themselves.
"""

import concurrent.futures
import errno
import os
import select
import threading
from collections import deque
from types import TracebackType
from typing import Self

from ..records import (
    HEADER_SIZE,
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Buffer,
    Operation,
    Record,
    Value,
    build,
    build_head,
    parse_responses,
)
from .context import Context
from .errors import RequestError
from .writing import write_record

_BIG = 65_536
_TOO_MUCH = (errno.EDQUOT, errno.EAGAIN)
IN_FLIGHT = 1024
"""Requests that the pipeline sends before it reads answers."""
IN_FLIGHT_BYTES = 6 * 1024 * 1024
"""Bytes of requests that it sends before it reads answers: with the answers, less than the daemon's queue takes."""


class Pending:
    """A request that was submitted."""

    def __init__(self, pipeline: "Pipeline", identity: int) -> None:
        self._pipeline = pipeline
        self.identity = identity
        """The request's id in its context."""
        self.future: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        """What a caller of its own event loop can wait for; cancelling it cancels the request."""
        self.future.add_done_callback(self._cancelled_by_future)

    @property
    def done(self) -> bool:
        """Whether the answer has come."""
        return self.future.done()

    def result(self, timeout: float | None = None) -> bytes:
        """Wait for the answer, at most `timeout` seconds. Errors: RequestError, TimeoutError."""
        return self.future.result(timeout)

    async def wait_result(self) -> bytes:
        """Wait for the answer in trio. When this is cancelled, so is the request. Errors: RequestError."""
        import trio

        event = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wake(_: object) -> None:
            try:
                token.run_sync_soon(event.set)
            except trio.RunFinishedError:
                return

        self.future.add_done_callback(wake)
        try:
            await event.wait()
        except trio.Cancelled:
            self.cancel()
            raise
        return self.future.result(0)

    def _cancelled_by_future(self, future: concurrent.futures.Future[bytes]) -> None:
        if future.cancelled():
            self.cancel()

    def finish(self, outcome: bytes | RequestError) -> None:
        """For the pipeline: this is the request's result, unless nobody waits for it any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, RequestError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def cancel(self) -> None:
        """Ask for the request to be cancelled; its answer is then ECANCELED, unless it has finished before."""
        self._pipeline.cancel(self)


_Queued = tuple[Pending | None, bytes, Buffer, int]


class Pipeline:
    """A context's requests, many at a time. The context must be used by nothing else meanwhile."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._sent: dict[int, Pending] = {}
        self._sent_bytes: dict[int, int] = {}
        self._unread_calls = 0
        self._last = 1 << 32
        self._closing = False
        self._window = IN_FLIGHT
        """Requests that may be in flight: fewer where the daemon's policy allows the user fewer."""
        self._stalled = False
        """Whether what is queued has to wait for answers."""
        self._polling = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="cryptofs-pipeline", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def digest(self, data: Buffer) -> Pending:
        """Submit a digest of at most PAYLOAD_MAX bytes."""
        return self._submit(Operation.DIGEST, {}, data)

    def encrypt(self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"") -> Pending:
        """Submit an encryption of at most PAYLOAD_MAX bytes with its associated data."""
        return self._cipher(Operation.ENCRYPT, data, iv, assoc)

    def decrypt(self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"") -> Pending:
        """Submit a decryption; for an AEAD `data` ends with the tag."""
        return self._cipher(Operation.DECRYPT, data, iv, assoc)

    def generate(self, length: int) -> Pending:
        """Submit a request for random bytes, at most PAYLOAD_MAX."""
        # the daemon would refuse the whole write for what its queue can never hold
        if not 0 <= length <= PAYLOAD_MAX:
            raise RequestError(errno.EINVAL, f"length {length}: at most {PAYLOAD_MAX}")
        return self._submit(Operation.GENERATE, {Attr.LENGTH: length}, b"", length)

    def _cipher(self, operation: Operation, data: Buffer, iv: Buffer | None, assoc: Buffer) -> Pending:
        attributes: dict[int, Value] = {} if iv is None else {Attr.IV: iv}
        if len(assoc):
            attributes[Attr.ASSOCLEN] = len(assoc)
            data = bytes(assoc) + bytes(data)
        return self._submit(operation, attributes, data)

    def _submit(
        self, operation: Operation, attributes: dict[int, Value], data: Buffer, answer_size: int = 0
    ) -> Pending:
        if len(data) > PAYLOAD_MAX:
            raise RequestError(errno.EMSGSIZE, f"payload of {len(data)} bytes: at most {PAYLOAD_MAX}")
        with self._lock:
            if self._closing:
                raise RequestError(errno.EBADF, "the pipeline is closed")
            self._last += 1
            pending = Pending(self, self._last)
            head = build_head(Record(operation, 0, self._last, 0, attributes), len(data))
            self._queue.append((pending, head, data, answer_size))
            self._notify()
        return pending

    def cancel(self, pending: Pending) -> None:
        """Cancel a request: one that is not sent yet fails here and now, one that is sent by the daemon."""
        with self._lock:
            for index, (queued, *_) in enumerate(self._queue):
                if queued is pending:
                    del self._queue[index]
                    pending.finish(RequestError(errno.ECANCELED, "cancelled before it was sent"))
                    return
            if pending.identity in self._sent:
                call = build(Record(Operation.CANCEL, 0, 0, 0, {Attr.TARGET: pending.identity}))
                self._queue.appendleft((None, call, b"", 0))
                self._notify()

    def close(self) -> None:
        """Wait for what was submitted, and end the thread. The context stays open."""
        with self._lock:
            self._closing = True
            self._notify()
        self._thread.join()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    # The pipeline's own thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._write_batch()
                self._read_answers()
        except Exception as error:
            number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
            with self._lock:
                self._closing = True
                left = [*self._sent.values(), *(pending for pending, *_ in self._queue if pending is not None)]
                self._sent.clear()
                self._queue.clear()
            for pending in left:
                pending.finish(RequestError(number, f"the mount failed: {error}"))

    def _wait(self) -> bool:
        with self._lock:
            while not (self._queue or self._sent or self._unread_calls or self._closing):
                self._lock.wait()
            return bool(self._queue or self._sent or self._unread_calls)

    def _write_batch(self) -> None:
        batch: list[Buffer] = []
        taken: list[_Queued] = []
        size = 0
        with self._lock:
            in_flight = sum(self._sent_bytes.values())
            while self._queue:
                pending, head, data, answer_size = self._queue[0]
                length = len(head) + len(data)
                cost = length + answer_size
                full = len(self._sent) >= self._window or in_flight + cost > IN_FLIGHT_BYTES
                if size + length > RECORD_MAX or (full and pending is not None and self._sent):
                    break
                taken.append(self._queue.popleft())
                batch += (head, data)
                size += length
                if pending is None:
                    self._unread_calls += 1
                    continue
                in_flight += cost
                self._sent[pending.identity] = pending
                self._sent_bytes[pending.identity] = cost
            self._stalled = bool(self._queue)
        if not batch:
            return
        try:
            if len(batch) == 2:
                write_record(self._context.fileno(), bytes(batch[0]), batch[1])
            else:
                # the kernel would cut many segments into several writes
                os.pwrite(self._context.fileno(), b"".join(batch), 0)
        except OSError as error:
            if error.errno not in _TOO_MUCH:
                raise
            self._take_back(taken, error)

    def _take_back(self, refused: list[_Queued], error: OSError) -> None:
        """The daemon took nothing of a write, because the user has too much in flight: try with less of it."""
        with self._lock:
            for each in refused:
                if each[0] is None:
                    self._unread_calls -= 1
                else:
                    del self._sent[each[0].identity], self._sent_bytes[each[0].identity]
            if not self._sent and len(refused) == 1:
                # less than this is nothing
                alone = refused.pop()[0]
            else:
                alone = None
                self._window = max(1, (len(self._sent) or len(refused)) // 2)
            self._queue.extendleft(reversed(refused))
            self._stalled = bool(self._sent)
        if alone is not None:
            alone.finish(RequestError(error.errno or errno.EIO, f"the daemon refused it: {error.strerror}"))

    def _wait_for_answer(self) -> bool:
        """Wait until an answer is ready, or False when something was submitted or cancelled meanwhile.

        Small requests are not worth it: their answers come sooner than this has asked.
        """
        poller = select.poll()
        poller.register(self._context.fileno(), select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        with self._lock:
            if self._queue and not self._stalled:
                return False
            self._polling = True
        ready = {descriptor for descriptor, _ in poller.poll()}
        with self._lock:
            self._polling = False
        if self._wake in ready:
            os.eventfd_read(self._wake)
        return self._context.fileno() in ready

    def _notify(self) -> None:
        # called with the lock held: the thread waits for work, or for answers
        self._lock.notify()
        if self._polling:
            self._polling = False
            os.eventfd_write(self._wake, 1)

    def _read_answers(self) -> None:
        if not (self._sent or self._unread_calls):
            return
        largest = max(self._sent_bytes.values(), default=0) + HEADER_SIZE + 2048
        small = largest < _BIG
        if not small and not self._wait_for_answer():
            return
        data = os.pread(self._context.fileno(), 65_536 if small else RECORD_MAX, 0)
        for response in parse_responses(data) if data else ():
            with self._lock:
                pending = self._sent.pop(response.id, None)
                self._sent_bytes.pop(response.id, None)
                if pending is None:
                    self._unread_calls -= 1
                    continue
            if response.status:
                message = str(response.attributes.get(Attr.MESSAGE, ""))
                pending.finish(RequestError(response.status, message))
            else:
                pending.finish(bytes(response.payload))
