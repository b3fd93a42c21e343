"""A context's view of its device's transform.

The view allows the device's operations and takes no key. It puts the daemon's nonce before the ciphertext, so that two
programs with one key cannot use a nonce twice.
"""

from ..engines.base import Answer, Around, Message, Operands, Transform
from ..errors import InvalidValue, NotPermitted, TooLarge
from ..records import OPERATIONS, PAYLOAD_MAX, Buffer, Operation
from .device import Device
from .nonces import MESSAGES_MAX

ENCRYPT, DECRYPT = int(Operation.ENCRYPT), int(Operation.DECRYPT)


class DeviceTransform(Transform):
    """A context's view of its device's transform."""

    def __init__(self, device: Device) -> None:
        inner = device.transform
        super().__init__(inner.description, inner.authsize)
        self.device = device
        self.keyed = self.key_set = True
        self.pace = inner.pace
        self.costs = inner.costs
        self._inner: Transform | None = inner
        self._allowed = frozenset(int(each) for each in device.settings.operations)
        self._prefix = device.nonces.size if device.nonces is not None else 0
        device.attach()

    @property
    def inner(self) -> Transform:
        assert self._inner is not None
        return self._inner

    def set_key(self, key: Buffer) -> None:
        raise NotPermitted(f"device {self.device.settings.name}: its key cannot be replaced")

    def check(self, operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        if operation in OPERATIONS[self.description.type]:
            self.device.allow(operation)
        if iv is None and self._prefix:
            # The daemon's own nonce has the requested size.
            self.inner.check(operation, bytes(self.description.iv_size), assoclen)
            return
        self.inner.check(operation, iv, assoclen)
        if iv is not None and not self.device.settings.caller_nonce:
            raise InvalidValue(
                f"iv of {len(iv)} bytes: device {self.device.settings.name} makes the nonces and puts them "
                f"before the message ({self._prefix} bytes)"
            )

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        if iv is not None or not self._prefix:
            return self.inner.begin(operation, iv, assoclen)
        if operation is not Operation.ENCRYPT:
            return NoncedDecryption(self, assoclen)
        nonce = self.device.make_nonce()
        message = NoncedEncryption(nonce, self.begin_inner(operation, nonce, assoclen))
        return LaggingEncryption(message, self.description.chunk_size) if self.device.lags else message

    def begin_inner(self, operation: Operation, nonce: bytes, assoclen: int) -> Message:
        """The message itself, with this nonce."""
        nonces = self.device.nonces
        assert nonces is not None
        if not nonces.untagged:
            return self.inner.begin(operation, nonces.iv(nonce), assoclen)
        message = self.inner.begin(operation, nonces.iv(nonce), nonces.size + assoclen)
        try:
            message.update(nonce, False, memoryview(bytearray()))
        except BaseException:
            message.close()
            raise
        return message

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        if operation not in self._allowed or iv is not None:
            return None
        inner = self.inner
        if not self._prefix:
            return inner.short(operation, None, data)
        nonces = self.device.nonces
        assert nonces is not None
        if nonces.untagged:
            return None
        if operation == ENCRYPT:
            if self.device.messages >= MESSAGES_MAX:
                return None
            nonce = self.device.make_nonce()
            output = inner.short(operation, nonces.iv(nonce), data)
            return None if output is None else nonce + output
        if operation == DECRYPT and len(data) >= self._prefix:
            return inner.short(operation, nonces.iv(data[: self._prefix]), data[self._prefix :])
        return None

    def operate(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        if operation in OPERATIONS[self.description.type]:
            self.device.allow(operation)
        return self.inner.operate(operation, operands, data)

    def note_pace(self, size: int, nanoseconds: int) -> None:
        # The device's: a fixed pace stays fixed.
        inner = self._inner
        if inner is not None:
            inner.note_pace(size, nanoseconds)
            self.pace = inner.pace

    def room(self, operation: Operation, size: int) -> int:
        return self.inner.room(operation, size) + self._prefix

    def close(self) -> None:
        if self._inner is not None:
            self._inner = None
            self.keyed = False
            self.device.detach()


class NoncedEncryption(Around):
    """A message whose first output is its nonce."""

    def __init__(self, nonce: bytes, inner: Message) -> None:
        super().__init__(inner)
        self._nonce = nonce

    def room(self, size: int, last: bool) -> int:
        return len(self._nonce) + self._inner.room(size, last)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        written = self._inner.update(data, last, out[len(self._nonce) :])
        if not self._nonce:
            return written
        if not written and not last:
            # It comes with the first output, so that a failing message gives none.
            return 0
        written += len(self._nonce)
        out[: len(self._nonce)] = self._nonce
        self._nonce = b""
        return written


class LaggingEncryption(Around):
    """A message of a mode that chains. It withholds the last block until the next one is made, or the message ends.

    A client that sees a block before it chooses the next one influences the input of the block cipher, and can confirm
    guesses about others' messages. One block later it cannot: "delayed CBC", Fouque, Martinet and Poupard, 2003.
    """

    def __init__(self, inner: Message, block: int) -> None:
        super().__init__(inner)
        self._block = block
        self._last = b""

    def room(self, size: int, last: bool) -> int:
        return len(self._last) + self._inner.room(size, last)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        before = len(self._last)
        written = before + self._inner.update(data, last, out[before:])
        out[:before] = self._last
        ready = written if last else max(0, written - self._block)
        self._last = bytes(out[ready:written])
        return ready


class NoncedDecryption(Message):
    """A message with its nonce after the associated data."""

    def __init__(self, transform: DeviceTransform, assoclen: int) -> None:
        nonces = transform.device.nonces
        assert nonces is not None
        if assoclen + nonces.size > PAYLOAD_MAX:
            raise TooLarge(
                f"assoclen {assoclen}: with a nonce of {nonces.size} bytes a message has more than {PAYLOAD_MAX}"
            )
        self._nonces = nonces
        self._transform = transform
        self._assoclen = assoclen
        self._head = bytearray()
        self._inner: Message | None = None

    def room(self, size: int, last: bool) -> int:
        if self._inner is None:
            return self._transform.inner.room(Operation.DECRYPT, size + len(self._head))
        return self._inner.room(size, last)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        if self._inner is not None:
            return self._inner.update(data, last, out)
        needed = self._assoclen + self._nonces.size
        view = memoryview(data)
        missing = needed - len(self._head)
        self._head += view[:missing]
        if len(self._head) < needed:
            if last:
                raise InvalidValue(
                    f"message of {len(self._head)} bytes: it begins with {self._assoclen} bytes of associated data "
                    f"and a nonce of {self._nonces.size}"
                )
            return 0
        nonce = bytes(self._head[self._assoclen :])
        self._inner = self._transform.begin_inner(Operation.DECRYPT, nonce, self._assoclen)
        written = 0
        if self._assoclen:
            written = self._inner.update(self._head[: self._assoclen], False, out)
        self._head.clear()
        return written + self._inner.update(view[missing:], last, out[written:])

    @property
    def kept(self) -> int:
        return len(self._head) + (self._inner.kept if self._inner is not None else 0)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
