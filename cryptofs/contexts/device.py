"""Devices: transforms with a key that programs use but cannot read, shared by all contexts that they open.

Each context gets its own view of the device's transform. The view allows the device's operations and takes no key. It
puts a nonce of the daemon before the ciphertext, so that two programs with one key cannot use a nonce twice.
"""

from dataclasses import dataclass

from ..algorithms import Type
from ..engines.base import OPERATIONS, Answer, Message, Operands, Transform
from ..errors import InvalidValue, NotPermitted, OverQuota, TooLarge
from ..records import PAYLOAD_MAX, Buffer, Operation
from .nonces import MESSAGES_MAX, SHORT_NONCE, Nonces

_CIPHERS = (Type.SKCIPHER, Type.AEAD)
ENCRYPT, DECRYPT = int(Operation.ENCRYPT), int(Operation.DECRYPT)


@dataclass(frozen=True)
class DeviceSettings:
    """A device as it is declared. operations: those that are allowed; caller_nonce: whether a program may give its own
    nonce; uid, gid, mode: who may open its files."""

    name: str
    type: Type
    algorithm: str
    operations: frozenset[Operation]
    uid: int = 0
    gid: int = 0
    mode: int = 0o600
    caller_nonce: bool = False
    authsize: int | None = None
    key: str = ""
    """Where the key comes from, in words."""


def device_operations(type_: Type) -> frozenset[Operation]:
    """What devices of a type can do: all but making a key, for they have one."""
    return OPERATIONS[type_] - {Operation.GENERATE_KEY}


class Device:
    """One device: its settings and its keyed transform, which is closed when the device is retired and unused."""

    def __init__(self, settings: DeviceSettings, transform: Transform) -> None:
        """Errors: InvalidValue for operations that the type does not have, and for nonces that cannot be made."""
        allowable = device_operations(settings.type)
        if settings.operations - allowable or not settings.operations:
            known = ", ".join(sorted(each.word for each in allowable))
            raise InvalidValue(f"operations of a device of type {settings.type}: of {known}")
        self.settings = settings
        self.transform = transform
        description = transform.description
        takes_nonce = bool(description.iv_size)
        try:
            self.nonces = Nonces(description) if takes_nonce else None
        except InvalidValue:
            if not settings.caller_nonce:
                raise
            self.nonces = None
        if settings.type in _CIPHERS and settings.operations != allowable:
            self._check_one_way(takes_nonce)
        self.lags = self._is_blind and description.chains
        """Whether a block of output is withheld until the next one is fixed."""
        self.messages = 0
        """Messages encrypted with nonces of the daemon's."""
        self._users = 0
        self._retired = False

    def _check_one_way(self, takes_nonce: bool) -> None:
        """Errors: InvalidValue if the one allowed operation could do the other one's work."""
        name, type_ = self.transform.description.name, self.settings.type
        if self.transform.description.block_size != 1:
            return
        if Operation.ENCRYPT in self.settings.operations and (self.settings.caller_nonce or not takes_nonce):
            raise InvalidValue(
                f"{name} with nonces of the caller's undoes its own encryption under the same nonce: "
                "such a device allows both operations"
            )
        # the nonce of what is decrypted is the caller's always; an AEAD wants a tag with it
        if Operation.DECRYPT in self.settings.operations and type_ is Type.SKCIPHER:
            raise InvalidValue(
                f"{name} encrypts what it is given to decrypt: such a device allows both operations, or only encrypt"
            )

    @property
    def _is_blind(self) -> bool:
        """Whether programs can only encrypt by it, under nonces that they do not know beforehand.

        Only then the order of output and next input matters: without it, the caller chooses the input of the block
        cipher in full anyway.
        """
        settings = self.settings
        return (
            settings.type is Type.SKCIPHER
            and settings.operations == {Operation.ENCRYPT}
            and self.nonces is not None
            and not settings.caller_nonce
        )

    @property
    def has_streams(self) -> bool:
        """Whether it has stream files: their segments have any length, and nonces of the daemon's."""
        description = self.transform.description
        if description.type is Type.AEAD and description.block_size > 1:
            return False
        return self.nonces is not None or not description.iv_size

    def allow(self, operation: Operation) -> None:
        """Errors: NotPermitted."""
        if operation not in self.settings.operations:
            raise NotPermitted(f"device {self.settings.name}: {operation.word} is not allowed")

    def make_nonce(self) -> bytes:
        """A nonce for one message. Errors: OverQuota when the key has served as many as it safely can."""
        assert self.nonces is not None
        if self.messages >= MESSAGES_MAX and self.nonces.size <= SHORT_NONCE:
            raise OverQuota(
                f"device {self.settings.name}: {self.messages} messages under one key: at most {MESSAGES_MAX}"
            )
        self.messages += 1
        return self.nonces.make()

    def attach(self) -> None:
        """One context more uses it."""
        self._users += 1

    def detach(self) -> None:
        """One context less."""
        self._users -= 1
        self._close_unused()

    def retire(self) -> None:
        """The declaration has gone or changed: the device is not opened again, its last context releases the key."""
        self._retired = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and not self._users:
            self.transform.close()

    def status(self) -> str:
        """`tag: value` lines; never a key."""
        description = self.transform.description
        rows: list[tuple[str, object]] = [
            ("device", self.settings.name),
            ("type", description.type.value),
            ("name", description.name),
            ("engine", description.engine),
            ("driver", description.driver),
            ("operations", " ".join(sorted(each.word for each in self.settings.operations))),
            ("key", "(hidden)"),
        ]
        if description.type is Type.AEAD:
            rows.append(("authsize", self.transform.authsize))
        if description.iv_size:
            made = self.nonces.size if self.nonces is not None else 0
            rows.append(("nonce-size", made))
            rows.append(
                ("nonce", "caller or daemon" if made and self.settings.caller_nonce else "daemon" if made else "caller")
            )
            rows.append(("messages", self.messages))
        rows.append(("contexts", self._users))
        return "".join(f"{tag}: {value}\n" for tag, value in rows)


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

    replace_key = set_key

    def check(self, operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        if operation in OPERATIONS[self.description.type]:
            self.device.allow(operation)
        if iv is None and self._prefix:
            # the daemon's own nonce has the size that is asked for
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
        if operation is Operation.ENCRYPT:
            return self._begin_nonced(operation, assoclen)
        return NoncedDecryption(self, assoclen)

    def _begin_nonced(self, operation: Operation, assoclen: int) -> Message:
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
        # the device's: one whose pace is fixed stays what it is
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


class NoncedEncryption(Message):
    """A message whose first output is its nonce."""

    def __init__(self, nonce: bytes, inner: Message) -> None:
        self._nonce = nonce
        self._inner = inner

    def room(self, size: int, last: bool) -> int:
        return len(self._nonce) + self._inner.room(size, last)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        written = self._inner.update(data, last, out[len(self._nonce) :])
        if not self._nonce:
            return written
        if not written and not last:
            # it comes with the first output, so that a message that fails gives none
            return 0
        written += len(self._nonce)
        out[: len(self._nonce)] = self._nonce
        self._nonce = b""
        return written

    @property
    def kept(self) -> int:
        return self._inner.kept

    def close(self) -> None:
        self._inner.close()


class LaggingEncryption(Message):
    """A message of a mode that chains. It withholds the last block until the next one is made, or the message ends.

    A client that sees a block before it chooses the next one influences the input of the block cipher, and can confirm
    guesses about others' messages. One block later it cannot: "delayed CBC", Fouque, Martinet and Poupard, 2003.
    """

    def __init__(self, inner: Message, block: int) -> None:
        self._inner = inner
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

    @property
    def kept(self) -> int:
        return self._inner.kept

    def close(self) -> None:
        self._inner.close()


class NoncedDecryption(Message):
    """A message that begins, behind its associated data, with its nonce."""

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
