"""Hashes, keyed or not."""

import socket

from ...errors import EngineFault
from ...records import Buffer, Operation
from ..kinds import HashTransform, RunningHash
from .sockets import Bound, data_fault
from .transform import KernelTransform


class KernelHash:
    """A running hash on its own operation socket."""

    def __init__(self, bound: Bound, operation: socket.socket, digest_size: int) -> None:
        self._bound = bound
        self._operation: socket.socket | None = operation
        self._digest_size = digest_size

    def _running(self) -> socket.socket:
        if self._operation is None:
            raise EngineFault(f"{self._bound.name}: the message has ended")
        return self._operation

    def update(self, data: Buffer) -> None:
        operation = self._running()
        rest = memoryview(data)
        try:
            while rest:
                sent = operation.send(rest, socket.MSG_MORE)
                if not sent:
                    raise EngineFault(f"{self._bound.name}: {len(rest)} bytes are not taken")
                rest = rest[sent:]
        except OSError as error:
            self.close()
            raise data_fault(error, f"part of {len(data)} bytes", self._bound.name) from None

    def digest(self) -> bytes:
        operation = self._running()
        try:
            digest = operation.recv(self._digest_size)
        except OSError as error:
            self.close()
            raise data_fault(error, "end of message", self._bound.name) from None
        if len(digest) != self._digest_size:
            self.close()
            raise _short(self._bound.name, len(digest), self._digest_size)
        self._operation = None
        self._bound.keep(operation)
        return digest

    def copy(self) -> RunningHash:
        return KernelHash(self._bound, self._bound.clone(self._running()), self._digest_size)

    def close(self) -> None:
        if self._operation is not None:
            self._operation.close()
            self._operation = None


def _short(name: str, size: int, digest_size: int) -> EngineFault:
    return EngineFault(f"{name}: digest of {size} bytes instead of {digest_size}")


class AfAlgHash(KernelTransform, HashTransform):
    """A hash of the kernel."""

    def begin_hash(self) -> RunningHash:
        bound = self._bound
        return KernelHash(bound, bound.take(), self.description.digest_size)

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        if operation != Operation.DIGEST or iv is not None or not self.keyed:
            return None
        bound = self._bound
        taken = bound.take()
        try:
            sent = taken.send(data)
            digest = taken.recv(self.description.digest_size)
        except BaseException:
            taken.close()
            raise
        if sent != len(data) or len(digest) != self.description.digest_size:
            taken.close()
            return None
        bound.keep(taken)
        return digest

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.check(operation, iv, assoclen)
        bound = self._bound
        digest_size = self.description.digest_size
        size = len(data)
        taken = bound.take()
        try:
            sent = taken.send(data)
            received = taken.recv_into(out[:digest_size]) if sent == size else 0
        except OSError as error:
            taken.close()
            raise data_fault(error, f"message of {size} bytes", bound.name) from None
        except BaseException:
            taken.close()
            raise
        if received != digest_size:
            taken.close()
            raise _short(bound.name, received, digest_size)
        bound.keep(taken)
        return digest_size
