"""Many requests in flight on one context, from threads, asyncio or trio.

    with Context("hash", "sha256") as context, Pipeline(context) as pipeline:
        pending = [pipeline.digest(data) for data in pieces]
        digests = [each.result() for each in pending]        # in a thread
        digests = [await each for each in pending]           # in asyncio or trio

The pipeline's own thread writes and reads. Requests that arrive while it is busy go out in one write, so small
requests batch by themselves.
"""

import contextlib
import errno
import operator
import sys
import warnings
from collections.abc import Callable, Generator
from typing import Any, Self

from ..records import PAYLOAD_MAX, Attr, Buffer, Operation, Record, Value, octets
from . import process
from .context import Context
from .errors import ClosedError, Refused, RequestError
from .flight import Entry, Flight, FlightEnded
from .wire import encode


class Pending(Entry[bytes]):
    """A request that was submitted to a pipeline. `await` it in asyncio or trio, or call `result` in a thread."""

    key_version: int | None = None
    """Once the answer has come: the version of the device's key, if the device's versions are named."""

    @property
    def done(self) -> bool:
        """Whether the answer has come."""
        self._flight.check()
        return self.future.done()

    def result(self, timeout: float | None = None) -> bytes:
        """Wait for the answer, at most `timeout` seconds. Errors: RequestError, TimeoutError."""
        return self.future.result(timeout)

    def __await__(self) -> Generator[Any, Any, bytes]:
        return self.wait_result().__await__()

    async def wait_result(self) -> bytes:
        """Wait in the running event loop, asyncio's or trio's; `await pending` calls this.

        If the waiting task is cancelled, so is the request. Errors: RequestError.
        """
        self._flight.check()
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_task():
            # Only now: programs without an event loop, such as the command line, do not wait for it.
            import asyncio

            return await asyncio.wrap_future(self.future, loop=asyncio.get_running_loop())
        event = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wake(_: object) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(event.set)

        self.future.add_done_callback(wake)
        try:
            await event.wait()
        except trio.Cancelled:
            self.cancel()
            raise
        return self.future.result(0)

    def take(self, response: Record) -> bytes:
        """The payload. Errors: RequestError for a response with an error."""
        if response.status:
            raise RequestError(response.status, str(response.attributes.get(Attr.MESSAGE, "")))
        version = response.attributes.get(Attr.KEY_VERSION)
        if isinstance(version, int):
            self.key_version = version
        return bytes(response.payload)


class Pipeline(process.Unshared):
    """Many requests of a context at a time, from any number of threads.

    Until you close it, the context's own calls go through it too. Mutable data (a bytearray, an array) is copied when
    you submit it. If an argument is refused, only that call fails.

    In the child of a fork every call but `close` is ForkedError, because the thread does not exist there.
    """

    _flight: Flight | None = None

    def __init__(self, context: Context) -> None:
        self._context = context
        flight = Flight(context.fileno(), context.new_id, lambda: context.attach(None))
        try:
            context.attach(flight)
        except BaseException:
            flight.abandon()
            raise
        self._flight = flight
        self._process = process.current()
        self._closed = False
        flight.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        flight = self._flight
        if flight is None or self._closed:
            return
        if not process.is_current(self._process):
            flight.abandon()
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            flight.end()

    def __repr__(self) -> str:
        return f"<Pipeline of {self._context!r}>"

    def digest(self, data: Buffer) -> Pending:
        """Submit a digest of at most PAYLOAD_MAX bytes."""
        return self._submit(Operation.DIGEST, {}, data)

    def encrypt(
        self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"", *, key_version: int | None = None
    ) -> Pending:
        """Submit an encryption of at most PAYLOAD_MAX bytes with its associated data; see `Context.encrypt`."""
        return self._cipher(Operation.ENCRYPT, data, iv, assoc, key_version)

    def decrypt(
        self, data: Buffer, iv: Buffer | None = None, assoc: Buffer = b"", *, key_version: int | None = None
    ) -> Pending:
        """Submit a decryption; for an AEAD `data` ends with the tag; see `Context.decrypt`."""
        return self._cipher(Operation.DECRYPT, data, iv, assoc, key_version)

    def generate(self, length: int) -> Pending:
        """Submit a request for random bytes, at most PAYLOAD_MAX."""
        length = operator.index(length)
        # The daemon would refuse the whole write if one record can never fit its queue.
        if not 0 <= length <= PAYLOAD_MAX:
            raise Refused(errno.EINVAL, f"length {length}: 0 to {PAYLOAD_MAX}")
        return self._submit(Operation.GENERATE, {Attr.LENGTH: length}, b"", length)

    def sign(self, data: Buffer) -> Pending:
        """Submit a digest, or a message of at most PAYLOAD_MAX bytes, to sign."""
        return self._submit(Operation.SIGN, {}, data)

    def _cipher(
        self, operation: Operation, data: Buffer, iv: Buffer | None, assoc: Buffer, key_version: int | None
    ) -> Pending:
        attributes: dict[int, Value] = {} if iv is None else {Attr.IV: octets(iv, "iv")}
        if key_version is not None:
            attributes[Attr.KEY_VERSION] = key_version
        data, assoc = octets(data), octets(assoc, "assoc")
        if len(assoc):
            attributes[Attr.ASSOCLEN] = len(assoc)
            data = b"".join((assoc, data))
        return self._submit(operation, attributes, data)

    def _submit(self, operation: Operation, attributes: dict[int, Value], data: Buffer, expected: int = 0) -> Pending:
        assert self._flight is not None
        self._flight.check()
        pending = Pending(self._flight, self._context.new_id())
        head, payload = encode(Record(operation, 0, pending.identity, 0, attributes, octets(data)))
        try:
            self._flight.add(pending, head, payload, expected)
        except FlightEnded as error:
            raise ClosedError(error.errno or errno.EBADF, error.message) from None
        return pending

    def cancel(self, pending: Pending) -> None:
        """Cancel a request. One that is not sent yet fails at once; for a sent one the daemon is asked."""
        pending.cancel()

    def close(self) -> None:
        """Wait for all submitted requests, and end the thread. The context stays open. You may call it twice.

        In the child of a fork this waits for nothing and does not affect the parent's pipeline.
        """
        assert self._flight is not None
        if process.is_current(self._process):
            self._flight.close()
        else:
            self._flight.abandon()
        self._closed = True

    async def aclose(self) -> None:
        """`close` for event loops: other tasks run in the meantime. Errors: RequestError."""
        trio = sys.modules.get("trio")
        close: Callable[[], None] = self.close
        if trio is not None and trio.lowlevel.in_trio_task():
            await trio.to_thread.run_sync(close)
        else:
            import asyncio

            await asyncio.to_thread(close)
