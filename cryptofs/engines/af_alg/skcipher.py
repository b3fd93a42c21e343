"""Symmetric ciphers: those that chain from part to part, and those that take whole messages."""

import socket
from typing import Any

from ...errors import EngineFault, InvalidValue
from ...records import Buffer, Operation
from ..kinds import CipherTransform, RunningCipher, WholeTransform
from .sockets import PIECE, Bound, data_fault
from .transform import KernelTransform

_ENCRYPT = int(socket.ALG_OP_ENCRYPT)
_DECRYPT = int(socket.ALG_OP_DECRYPT)


_NUMBERS = {int(Operation.ENCRYPT): _ENCRYPT, int(Operation.DECRYPT): _DECRYPT}


def number(operation: Operation) -> int:
    """The kernel's number of an operation."""
    return _ENCRYPT if operation is Operation.ENCRYPT else _DECRYPT


def subject(size: int, assoclen: int) -> str:
    """The name of a message in errors."""
    return f"message of {size} bytes"


def parameters(operation: Operation, iv: Buffer | None) -> dict[str, Any]:
    """The parameters of a cipher message for sendmsg_afalg, which takes no None for an IV."""
    if iv is None:
        return {"op": number(operation)}
    return {"op": number(operation), "iv": iv}


class KernelCipher:
    """A cipher message on its own operation socket, in pieces that each go in and out at once.

    A send beyond the socket's buffer would wait for a receive, so every piece is received before the next is sent. The
    kernel keeps the chain, because each piece except the last is sent with MSG_MORE.
    """

    def __init__(self, bound: Bound, operation: Operation, iv: Buffer | None, block_size: int) -> None:
        self._bound = bound
        self._parameters: dict[str, Any] | None = parameters(operation, iv)
        self._block_size = block_size
        self._operation: socket.socket | None = None
        self._ended = False

    def _send(self, operation: socket.socket, piece: memoryview, flags: int) -> int:
        parameters, self._parameters = self._parameters, None
        if parameters is None:
            return operation.send(piece, flags)
        return operation.sendmsg_afalg((piece,), flags=flags, **parameters)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view)
        if self._ended:
            # A new operation socket would continue with the IV of the previous message.
            raise EngineFault(f"{self._bound.name}: the message has ended")
        if size:
            if self._operation is None:
                self._operation = self._bound.take()
            try:
                self._pass(self._operation, view, last, out)
            except OSError as error:
                self.close()
                raise data_fault(
                    error, f"message of {size} bytes in blocks of {self._block_size}", self._bound.name
                ) from None
            except BaseException:
                self.close()
                raise
            if last:
                self._bound.keep(self._operation)
                self._operation = None
                self._ended = True
        elif last:
            # The kernel still expects more data on it.
            self.close()
        return size

    def _pass(self, operation: socket.socket, view: memoryview, last: bool, out: memoryview) -> None:
        size = len(view)
        step = min(PIECE, self._bound.limit)
        for begin in range(0, size, step):
            end = min(begin + step, size)
            flags = 0 if last and end == size else socket.MSG_MORE
            piece = view[begin:end]
            sent = self._send(operation, piece, flags)
            received = operation.recv_into(out[begin:end]) if sent == len(piece) else 0
            if received != len(piece):
                raise _short(self._bound.name, len(piece), sent, received)

    def close(self) -> None:
        self._ended = True
        if self._operation is not None:
            self._operation.close()
            self._operation = None


_CHACHA_BLOCK = 64


class ChachaCipher(KernelCipher):
    """A ChaCha message: every piece is a whole message to the kernel, with the counter moved on in its IV.

    The kernel's ChaCha does not chain: after a part sent with MSG_MORE it starts again at the IV, and so uses the same
    key stream twice, without an error.
    """

    def __init__(self, bound: Bound, operation: Operation, iv: bytes, counter_at: int) -> None:
        super().__init__(bound, operation, iv, 1)
        self._number = number(operation)
        self._iv = bytearray(iv)
        self._counter = slice(counter_at, counter_at + 4)

    def _send(self, operation: socket.socket, piece: memoryview, flags: int) -> int:
        sent = operation.sendmsg_afalg((piece,), op=self._number, iv=self._iv)
        blocks = int.from_bytes(self._iv[self._counter], "little") + len(piece) // _CHACHA_BLOCK
        self._iv[self._counter] = (blocks & 0xFFFF_FFFF).to_bytes(4, "little")
        return sent


def _short(name: str, size: int, sent: int, received: int) -> EngineFault:
    return EngineFault(f"{name}: of {size} bytes {sent} went in and {received} came out")


class AfAlgStreamCipher(KernelTransform, CipherTransform):
    """A cipher of the kernel that chains from part to part: ecb, cbc, ctr, chacha20."""

    def begin_cipher(self, operation: Operation, iv: Buffer | None) -> RunningCipher:
        # A copy, because the message may continue after the request with its IV.
        held = None if iv is None else bytes(iv)
        counter_at = self.description.counter_at
        if held is not None and counter_at is not None:
            return ChachaCipher(self._bound, operation, held, counter_at)
        return KernelCipher(self._bound, operation, held, self.description.block_size)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        size = len(data)
        if not 0 < size <= PIECE or size > self._bound.limit:
            # No piece or many pieces, or the limit is not known yet.
            return super().once(operation, iv, assoclen, data, out)
        self.check(operation, iv, assoclen)
        block_size = self.description.block_size
        if size % block_size:
            raise InvalidValue(f"message of {size} bytes: a multiple of {block_size}")
        received = self._bound.exchange(data, parameters(operation, iv), (out[:size],), subject)
        if received != size:
            raise _short(self.description.name, size, size, received)
        return size

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        size = len(data)
        description = self.description
        bound = self._bound
        if not 0 < size <= bound.limit or size % description.block_size or not self.keyed:
            return None
        if (len(iv) if iv is not None else 0) != description.iv_size or operation not in _NUMBERS:
            return None
        return bound.short(data, iv, _NUMBERS[operation])


class AfAlgWholeCipher(KernelTransform, WholeTransform):
    """A cipher of the kernel that takes whole messages: xts, cts, adiantum, and any that is not known to chain."""

    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        size = len(data)
        # Receiving into an empty buffer would not compute: xts and similar modes refuse a message of less than a block.
        into = out[:size] if size else bytearray(1)
        received = self._bound.exchange(data, parameters(operation, iv), (into,), self._subject)
        if received != size:
            raise _short(self.description.name, size, size, received)
        return size

    def _subject(self, size: int, assoclen: int) -> str:
        return f"message of {size} bytes in blocks of {self.description.block_size}"
