"""Operations of a hash."""

from ...records import Buffer, Operation
from ..backend import RunHash
from ..endpoint import MSG_MORE, MSG_TRUNC, Endpoint, Received
from .bound import Bound
from .operation import Accepted


class HashOperation(Accepted):
    """A hash: sends add to it, and the receive after the last one gives the digest."""

    takes_parts = True

    def __init__(self, bound: Bound, running: RunHash | None = None) -> None:
        super().__init__(bound)
        self._running = running
        """The message that is not whole yet."""
        self._result: bytes | bytearray | None = None

    def close(self) -> None:
        if self._running is not None:
            self._running.close()
        super().close()

    def send(self, data: Buffer, control: bytes, flags: int, tid: int) -> int:
        self.check_key()
        more = flags & MSG_MORE
        if self._running is None:
            self._result = None
            if not data:
                # It begins no message, not even with MSG_MORE.
                return 0
            if not more:
                self._result = self.transform.once(Operation.DIGEST, None, 0, data)
                return len(data)
            self._running = self.transform.hash()
        if more:
            self._running.update(data)
        else:
            self._result = self._finish(data)
        return len(data)

    def receive(self, size: int, flags: int) -> Received:
        self.check_key()
        result, self._result = self._result, None
        if self._running is not None:
            result = self._finish(b"")
        elif result is None:
            result = self.transform.once(Operation.DIGEST, None, 0, b"")
        return Received(result[:size], MSG_TRUNC if size < len(result) else 0)

    def _finish(self, data: Buffer) -> bytes:
        running, self._running = self._running, None
        assert running is not None
        return running.finish(data)

    def accept(self) -> Endpoint:
        """A second operation in the same state."""
        self.check_key()
        return HashOperation(self.bound, None if self._running is None else self._running.clone())
