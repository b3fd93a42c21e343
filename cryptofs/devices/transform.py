"""A context's view of its device's transform.

The view allows the device's operations and takes no key. It puts the daemon's nonce before the ciphertext, so that two
programs with one key cannot use a nonce twice. It chooses the version of the key: the newest makes messages. What is
authenticated opens with every version that is kept, the newest first; a request may name its version.
"""

from ..algorithms import Rows, Type
from ..engines.base import OUT_SLACK, Answer, Around, Message, Operands, Transform
from ..errors import InvalidValue, NotPermitted, TooLarge
from ..records import OPERATIONS, PAYLOAD_MAX, Attr, Buffer, Operation
from .device import Device
from .versions import Version, first_right

ENCRYPT, DECRYPT = int(Operation.ENCRYPT), int(Operation.DECRYPT)
_NOTHING: frozenset[int] = frozenset()
_SHORT_TRIES = 4
"""Versions that a small message is tried with at once. More of them need a plan."""


class DeviceTransform(Transform):
    """A context's view of its device's transform."""

    def __init__(self, device: Device) -> None:
        inner = device.transform
        super().__init__(inner.description, inner.authsize)
        self.device = device
        self.keyed = self.key_set = True
        self.pace = inner.pace
        self.costs = inner.costs
        self._named: Version | None = None
        self._allowed = frozenset(int(each) for each in device.settings.operations)
        self._prefix = device.nonces.size if device.nonces is not None else 0
        self._nonces = device.nonces
        device.attach()

    @property
    def prefix(self) -> int:
        """Bytes of the daemon's nonce before a message."""
        return self._prefix

    @property
    def version(self) -> Version:
        """The version that a message gets: the one that was named, else the newest."""
        return self._named or self.device.versions.newest

    def of_version(self, version: int) -> "DeviceTransform":
        """The view with one version. It counts as no context: the view that it was made of stays open."""
        return self.with_version(self.device.versions.get(version, self.device.settings.name))

    @property
    def has_one_version(self) -> bool:
        """Whether every message gets one version, whatever a reload does."""
        return self._named is not None

    def with_version(self, version: Version) -> "DeviceTransform":
        """`of_version`, with a version that may not be kept any more: of a message that began with it."""
        view = object.__new__(type(self))
        # Faster than copy.copy, because a small message may come here.
        view.__dict__.update(self.__dict__)
        view._named = version
        return view

    @property
    def answers_more(self) -> bool:
        return self.device.versions.named

    @property
    def settings(self) -> Rows:
        rows = super().settings
        return [*rows, ("key-version", self.version.number)] if self.device.versions.named else rows

    def set_key(self, key: Buffer) -> None:
        raise NotPermitted(f"device {self.device.settings.name}: its key cannot be replaced")

    def candidates(self, operation: Operation) -> tuple[Version, ...]:
        """The versions that a message may be of, in the order in which they are tried."""
        if self._named is not None:
            return (self._named,)
        versions = self.device.versions
        authentic = self.description.type is Type.AEAD and operation is Operation.DECRYPT
        return versions.all if authentic or operation is Operation.VERIFY else (versions.newest,)

    def check(self, operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        if operation in OPERATIONS[self.description.type]:
            self.device.allow(operation)
        inner = self.version.transform
        if iv is None and self._prefix:
            # The daemon's own nonce has the requested size.
            inner.check(operation, bytes(self.description.iv_size), assoclen)
            return
        inner.check(operation, iv, assoclen)
        if iv is not None and not self.device.settings.caller_nonce:
            raise InvalidValue(
                f"iv of {len(iv)} bytes: device {self.device.settings.name} makes the nonces and puts them "
                f"before the message ({self._prefix} bytes)"
            )

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        kept = self.device.versions
        if len(kept.all) == 1 and self._named is None:
            # Most devices: every message comes here.
            return self.begin_with(kept.newest, operation, iv, assoclen)
        versions = self.candidates(operation)
        if len(versions) > 1:
            return TriedDecryption(self, versions, iv, assoclen)
        return self.begin_with(versions[0], operation, iv, assoclen)

    def begin_with(self, version: Version, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        """Begin a message with one version of the key."""
        if iv is not None or not self._prefix:
            message = version.transform.begin(operation, iv, assoclen)
        elif operation is not Operation.ENCRYPT:
            message = NoncedDecryption(self, version, assoclen)
        else:
            nonce = self.device.make_nonce(version)
            message = NoncedEncryption(nonce, self.begin_inner(version, operation, nonce, assoclen))
            if self.device.lags:
                message = LaggingEncryption(message, self.description.chunk_size)
        message.holder = version
        if self.device.versions.named:
            message.attributes = version.attributes
        return message

    def begin_inner(self, version: Version, operation: Operation, nonce: bytes, assoclen: int) -> Message:
        """The message itself, with this nonce."""
        nonces, transform = self._nonces, version.transform
        assert nonces is not None
        if not nonces.untagged:
            return transform.begin(operation, nonces.iv(nonce), assoclen)
        message = transform.begin(operation, nonces.iv(nonce), nonces.size + assoclen)
        try:
            message.update(nonce, False, memoryview(bytearray()))
        except BaseException:
            message.close()
            raise
        return message

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        version = self._named
        if version is None:
            versions = self.device.versions
            if versions.named:
                # The answer tells it, which is more than its payload.
                return None
            version = versions.newest
        if operation not in self._allowed or iv is not None:
            return None
        if not self._prefix:
            return version.transform.short(operation, None, data)
        nonces = self._nonces
        assert nonces is not None
        if nonces.untagged:
            return None
        if operation == ENCRYPT:
            nonce = nonces.make()
            output = version.transform.short(operation, nonces.iv(nonce), data)
            if output is None:
                return None
            # Only now, because the general way counts what this way leaves to it. At the bound nothing goes out.
            version.count.take(self.device.settings.name)
            return nonce + output
        if operation == DECRYPT and len(data) >= self._prefix:
            return version.transform.short(operation, nonces.iv(data[: self._prefix]), data[self._prefix :])
        return None

    def short_by_version(self, operation: int, iv: bytes | None, data: bytes) -> tuple[int, bytes] | None:
        versions = self.device.versions
        if not versions.named:
            return None
        opens = operation == DECRYPT and self.description.type is Type.AEAD
        for version in versions.all[: _SHORT_TRIES if opens else 1]:
            try:
                output = self.with_version(version).short(operation, iv, data)
            except Exception:
                # The general way tries it again, and says what is wrong.
                output = None
            if output is not None:
                return version.number, output
        return None

    def operate(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        if operation in OPERATIONS[self.description.type]:
            self.device.allow(operation)
        if operation.row.short:
            return self._whole(operation, operands, data)
        given = {number: value for number, value in operands.items() if number != Attr.KEY_VERSION}
        versions = self.candidates(operation)
        version, (payload, attributes) = first_right(
            versions, lambda version: version.transform.operate(operation, given, data)
        )
        return payload, {**attributes, **version.attributes} if self.device.versions.named else attributes

    def _whole(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        """A whole message whose answer names the version."""
        iv, assoclen = operands.get(Attr.IV), operands.get(Attr.ASSOCLEN, 0)
        assert not isinstance(iv, int | str)
        assert isinstance(assoclen, int)
        out = memoryview(bytearray(self.room(operation, len(data)) + OUT_SLACK))
        message = self.start(operation, iv, assoclen)
        try:
            written = message.update(data, True, out)
        finally:
            message.close()
        return bytes(out[:written]), message.attributes

    def estimate_ns(self, operation: Operation, size: int) -> float:
        if len(self.device.versions.all) == 1:
            return size * self.pace + self.costs.get(operation, 0.0)
        # What no version opens takes the time of all, of which one may be in a slow token.
        return sum(each.transform.estimate_ns(operation, size) for each in self.candidates(operation))

    def shows_pace(self, operation: Operation) -> bool:
        # Not the time of all tries: nobody who sends garbage may slow down what others' requests are planned with.
        return len(self.candidates(operation)) == 1

    def note_pace(self, size: int, nanoseconds: int) -> None:
        # The device's: a fixed pace stays fixed.
        if self.keyed:
            inner = self.version.transform
            inner.note_pace(size, nanoseconds)
            self.pace = inner.pace

    def room(self, operation: Operation, size: int) -> int:
        return self.version.transform.room(operation, size) + self._prefix

    def close(self) -> None:
        if self.keyed:
            self.keyed = False
            self._allowed = _NOTHING
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

    def __init__(self, transform: DeviceTransform, version: Version, assoclen: int) -> None:
        nonces = transform.device.nonces
        assert nonces is not None
        if assoclen + nonces.size > PAYLOAD_MAX:
            raise TooLarge(
                f"assoclen {assoclen}: with a nonce of {nonces.size} bytes a message has more than {PAYLOAD_MAX}"
            )
        self._nonces = nonces
        self._transform = transform
        self._version = version
        self._assoclen = assoclen
        self._head = bytearray()
        self._inner: Message | None = None

    def room(self, size: int, last: bool) -> int:
        if self._inner is None:
            return self._version.transform.room(Operation.DECRYPT, size + len(self._head))
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
        self._inner = self._transform.begin_inner(self._version, Operation.DECRYPT, nonce, self._assoclen)
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


class TriedDecryption(Message):
    """A message of an AEAD whose version is not known: it is gathered, and tried with each version, the newest
    first."""

    gathers = True

    def __init__(
        self, transform: DeviceTransform, versions: tuple[Version, ...], iv: Buffer | None, assoclen: int
    ) -> None:
        self._transform = transform
        self._versions = versions
        self._iv = None if iv is None else bytes(iv)
        self._assoclen = assoclen
        self._gathered = bytearray()

    def room(self, size: int, last: bool) -> int:
        return self._transform.room(Operation.DECRYPT, len(self._gathered) + size) if last else 0

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        total = len(self._gathered) + len(data)
        largest = PAYLOAD_MAX + (0 if self._iv is not None else self._transform.prefix)
        if total > largest:
            raise TooLarge(f"message of {total} bytes: at most {largest}")
        if self._gathered or not last:
            self._gathered += data
            data = self._gathered
        if not last:
            return 0

        def attempt(version: Version) -> int:
            message = self._transform.begin_with(version, Operation.DECRYPT, self._iv, self._assoclen)
            try:
                return message.update(data, True, out)
            finally:
                message.close()

        version, written = first_right(self._versions, attempt)
        self.holder, self.attributes = version, version.attributes
        return written

    @property
    def kept(self) -> int:
        return len(self._gathered)

    def close(self) -> None:
        self._gathered = bytearray()
