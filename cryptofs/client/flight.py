"""Requests in flight: the thread that writes the requests of one context and reads their answers.

It handles descriptors and records, and does not know how callers wait. Each request is an `Entry` with a future, for
which threads, asyncio and trio can all wait.
"""

import concurrent.futures
import errno
import os
import select
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..records import RECORD_MAX, Attr, Buffer, Octets, Operation, Record, build, frozen
from . import process
from .errors import ClosedError, Refused, RequestError
from .wire import BIG, Reader, answer_size, decode, owned, write_record

_TOO_MUCH = (errno.EDQUOT, errno.EAGAIN)
_ILL_FORMED = (errno.EINVAL, errno.EBADMSG, errno.EMSGSIZE)
IN_FLIGHT = 1024
"""Requests that are sent before answers are read."""
IN_FLIGHT_BYTES = 6 * 1024 * 1024
"""Bytes of requests that are sent before answers are read: with their answers they fit into the daemon's queue."""

T = TypeVar("T")


class FlightEnded(ClosedError):
    """The request came too late: the pipeline is closing."""


class AnswerFuture(concurrent.futures.Future[T]):
    """A future for a request: waits end with an error if no answer can come, and cancel reaches the daemon.

    It refers to its request only by the id. A reference cycle would keep every answer until the garbage collector runs.
    """

    def __init__(self, flight: "Flight", identity: int) -> None:
        super().__init__()
        self._flight = flight
        self._identity = identity

    def result(self, timeout: float | None = None) -> T:
        """The answer. Errors: RequestError, TimeoutError; ForkedError in a child; EDEADLK in a callback."""
        self._check_wait()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None. Errors: as `result`."""
        self._check_wait()
        return super().exception(timeout)

    def cancel(self) -> bool:
        """Stop waiting, and cancel the request."""
        self._flight.check()
        cancelled = super().cancel()
        if cancelled:
            self._flight.cancel(self._identity)
        return cancelled

    def _check_wait(self) -> None:
        self._flight.check()
        if self._flight.is_own_thread() and not self.done():
            raise RequestError(errno.EDEADLK, "a callback of the pipeline cannot wait for another of its answers")


class Entry(Generic[T]):
    """A request that was submitted."""

    def __init__(self, flight: "Flight", identity: int) -> None:
        self._flight = flight
        self.identity = identity
        """The request's id in its context."""
        self.future: AnswerFuture[T] = AnswerFuture(flight, identity)
        """What an event loop can wait for; cancelling it cancels the request."""

    @abstractmethod
    def take(self, response: Record) -> T:
        """The caller's part of the response. Errors: RequestError."""

    def finish(self, outcome: Record | RequestError) -> None:
        """For the flight: set the request's result, if somebody still waits for it."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            if isinstance(outcome, RequestError):
                raise outcome
            self.future.set_result(self.take(outcome))
        except RequestError as error:
            # The traceback would hold this entry, and the entry the error.
            self.future.set_exception(error.with_traceback(None))

    def cancel(self) -> None:
        """Cancel the request. Its answer is then ECANCELED, unless it has already finished."""
        self._flight.cancel(self.identity)


class Waiter(Entry[Record]):
    """A request whose caller waits in this call."""

    def take(self, response: Record) -> Record:
        """The response as it is, even if it is an error."""
        return response

    def wait(self) -> Record:
        """The response. If the wait is interrupted, the request is cancelled. Errors: RequestError."""
        try:
            return self.future.result()
        except RequestError:
            raise
        except BaseException:
            self.cancel()
            raise


_Queued = tuple[Entry[Any] | None, int, bytes, Octets, int]
"""An entry (None: a cancel call), its id, the record's head and payload, and the bytes that it counts for."""


class Flight:
    """The requests of one context. descriptor: returns the open context's; new_id: returns an unused id; landed: called
    in the thread when it ends."""

    def __init__(self, descriptor: int, new_id: Callable[[], int], landed: Callable[[], None]) -> None:
        self._process = process.current()
        self._descriptor = descriptor
        self._new_id = new_id
        self._landed = landed
        self._reader = Reader()
        self._lock = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._sent: dict[int, Entry[Any]] = {}
        self._sent_bytes: dict[int, int] = {}
        self._calls: set[int] = set()
        """Ids of cancel calls without an answer."""
        self._closing = False
        self._window = IN_FLIGHT
        """Requests that may be in flight: fewer if the daemon's policy allows the user fewer."""
        self._singly = 0
        """Queued requests that go out one by one, because the daemon refused a write with an ill-formed request in
        it."""
        self._stalled = False
        """Whether queued requests must wait for answers."""
        self._polling = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="cryptofs-pipeline", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check(self) -> None:
        """Errors: ForkedError in the child of a fork, which has no thread to answer."""
        process.check(self._process, "pipeline")

    def is_own_thread(self) -> bool:
        """Whether the caller is a callback of this flight."""
        return threading.current_thread() is self._thread

    def submit(self, identity: int, head: bytes, payload: Octets, expected: int) -> Waiter:
        """Send a request whose caller waits for it. Errors: FlightEnded, ForkedError, Refused."""
        waiter = Waiter(self, identity)
        self.add(waiter, head, payload, expected)
        return waiter

    def add(self, entry: Entry[Any], head: bytes, payload: Octets, expected: int) -> None:
        """Send a request; expected: bytes of its answer. The payload must not change until it is sent.

        Errors: FlightEnded, ForkedError; Refused (EINVAL) if its id is in flight.
        """
        self.check()
        payload = frozen(payload)
        cost = len(head) + max(len(payload), expected)
        with self._lock:
            if self._closing:
                raise FlightEnded.what("pipeline")
            if entry.identity in self._sent:
                raise Refused(errno.EINVAL, f"id {entry.identity}: a request with it is in flight")
            self._queue.append((entry, entry.identity, head, payload, cost))
            self._notify()

    def cancel(self, identity: int) -> None:
        """Cancel a request. One that is not sent yet fails at once; for a sent one the daemon is asked."""
        self.check()
        with self._lock:
            for index, (entry, queued, *_) in enumerate(self._queue):
                if queued == identity and entry is not None:
                    del self._queue[index]
                    break
            else:
                if identity in self._sent:
                    number = self._new_id()
                    call = build(Record(Operation.CANCEL, 0, number, 0, {Attr.TARGET: identity}))
                    self._queue.appendleft((None, number, call, b"", len(call)))
                    self._notify()
                return
        entry.finish(RequestError(errno.ECANCELED, "cancelled before it was sent"))

    def end(self) -> None:
        """Accept no more requests. The thread ends when all submitted ones are answered."""
        with self._lock:
            self._closing = True
            self._notify()

    def close(self) -> None:
        """`end`, and wait for the thread. Errors: RequestError (EDEADLK) in a callback, ForkedError in a child."""
        self.check()
        if self.is_own_thread():
            raise RequestError(errno.EDEADLK, "a callback of the pipeline cannot wait for its end")
        self.end()
        self._thread.join()

    def abandon(self) -> None:
        """In the child of a fork: close the child's descriptors, which it does not use."""
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)

    # The thread

    def _run(self) -> None:
        try:
            while self._wait():
                self._write_batch()
                self._read_answers()
        except Exception as error:
            self._fail(error)
        finally:
            with self._lock:
                self._closing = True
                self.abandon()
            self._landed()

    def _fail(self, error: Exception) -> None:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        with self._lock:
            self._closing = True
            left = [*self._sent.values(), *(queued[0] for queued in self._queue if queued[0] is not None)]
            self._sent.clear()
            self._queue.clear()
        for entry in left:
            # One exception each: if several threads raised the same one, their tracebacks would mix.
            entry.finish(RequestError(number, f"the mount failed: {os.strerror(number)}"))

    def _wait(self) -> bool:
        with self._lock:
            while not (self._queue or self._sent or self._calls or self._closing):
                self._lock.wait()
            return bool(self._queue or self._sent or self._calls)

    def _write_batch(self) -> None:
        batch: list[Octets] = []
        taken: list[_Queued] = []
        size = 0
        with self._lock:
            in_flight = sum(self._sent_bytes.values())
            while self._queue:
                entry, identity, head, payload, cost = self._queue[0]
                length = len(head) + len(payload)
                full = len(self._sent) >= self._window or in_flight + cost > IN_FLIGHT_BYTES
                if size + length > RECORD_MAX or (full and entry is not None and self._sent):
                    break
                taken.append(self._queue.popleft())
                batch += (head, payload)
                size += length
                if entry is None:
                    self._calls.add(identity)
                else:
                    in_flight += cost
                    self._sent[identity] = entry
                    self._sent_bytes[identity] = cost
                if self._singly:
                    self._singly -= 1
                    break
            self._stalled = bool(self._queue) and bool(self._sent)
        if not batch:
            return
        try:
            if len(batch) == 2:
                write_record(self._descriptor, bytes(batch[0]), batch[1])
            else:
                # The kernel would cut many segments into several writes.
                os.pwrite(self._descriptor, b"".join(batch), 0)
        except OSError as error:
            if error.errno not in _TOO_MUCH + _ILL_FORMED:
                raise
            self._take_back(taken, error)

    def _take_back(self, refused: list[_Queued], error: OSError) -> None:
        """The daemon took nothing of a write.

        If the user has too much in flight, try again with less. If a request is ill-formed, find out which one: only
        that one fails, and the others of the write are sent again.
        """
        alone: Entry[Any] | None = None
        with self._lock:
            for _, identity, *_ in refused:
                self._calls.discard(identity)
                self._sent.pop(identity, None)
                self._sent_bytes.pop(identity, None)
            if error.errno in _ILL_FORMED:
                if len(refused) == 1:
                    alone = refused.pop()[0]
                else:
                    self._singly = len(refused)
            elif not self._sent and len(refused) == 1:
                # Less than this is nothing.
                alone = refused.pop()[0]
            else:
                self._window = max(1, (len(self._sent) or len(refused)) // 2)
            self._queue.extendleft(reversed(refused))
            self._stalled = bool(self._sent)
        if alone is not None:
            alone.finish(RequestError(error.errno or errno.EIO, f"the daemon refused it: {error.strerror}"))

    def _wait_for_answer(self) -> bool:
        """Wait until an answer is ready; False if a request was submitted or cancelled in the meantime.

        Small requests skip it, because it would cost more than it saves: their answers come before the poll returns.
        """
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
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
        return self._descriptor in ready

    def _notify(self) -> None:
        # Called with the lock held: the thread waits for work or for answers.
        self._lock.notify()
        if self._polling:
            self._polling = False
            os.eventfd_write(self._wake, 1)

    def _read_answers(self) -> None:
        if not (self._sent or self._calls):
            return
        largest = answer_size(Operation.SIGN, max(self._sent_bytes.values(), default=0))
        small = largest < BIG
        if not small and not self._wait_for_answer():
            return
        data: Buffer = self._reader.read(self._descriptor, BIG - 1 if small else RECORD_MAX)
        for response in decode(data):
            with self._lock:
                entry = self._sent.pop(response.id, None)
                self._sent_bytes.pop(response.id, None)
                if entry is None:
                    self._calls.discard(response.id)
                    continue
            entry.finish(owned(response))
