"""hmac in a token.

A session has the state of a MAC in parts, and python-pkcs11 takes all parts in one call, from an iterator. Messages of
up to GATHER bytes are gathered and computed as a whole. A longer one gets a separate thread, whose iterator waits for
the parts.
"""

import queue
import threading
from collections.abc import Iterator

import pkcs11
from pkcs11 import Mechanism

from ...algorithms import Description
from ...errors import EngineFault, NotSupported, OutOfResources
from ...records import Buffer, Operation
from ..base import Message
from ..kinds import HashMessage, HashTransform, RunningHash
from .token import TokenKey, fault
from .transform import TokenTransform

GATHER = 65_536
"""Bytes of a message that are gathered before it gets a separate session."""
SESSIONS_MAX = 16
"""Messages of a transform that may have a separate session at a time."""


class _GivenUp(Exception):
    """The message was closed before its end."""


class _Feeder:
    """A MAC in parts, with its own session and thread. Call it from one thread at a time."""

    def __init__(self, key: TokenKey, mechanism: Mechanism) -> None:
        self._key = key
        self._mechanism = mechanism
        self._parts: queue.SimpleQueue[bytes | _GivenUp | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._ended = False
        threading.Thread(target=self._run, name="cryptofs-token", daemon=True).start()
        self._wait()

    def _run(self) -> None:
        answer: bytes | BaseException
        try:
            answer = self._key.sign_parts(self._take(), self._mechanism)
        except BaseException as error:
            answer = error
        self._answers.put(answer)

    def _take(self) -> Iterator[bytes]:
        while True:
            # others compute in the token while this message waits
            self._key.token.lock.release()
            try:
                self._answers.put(None)
                part = self._parts.get()
            finally:
                self._key.token.lock.acquire()
            if part is None:
                return
            if isinstance(part, _GivenUp):
                raise part
            yield part

    def _wait(self) -> bytes | None:
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            self._ended = True
            raise answer
        return answer

    def update(self, data: bytes) -> None:
        """Give a part, and wait until the token has taken it. Errors: pkcs11's."""
        self._parts.put(data)
        self._wait()

    def digest(self) -> bytes:
        """The end. Errors: pkcs11's."""
        self._parts.put(None)
        digest = self._wait()
        self._ended = True
        assert digest is not None
        return digest

    def close(self) -> None:
        """Give up; calling it twice is allowed."""
        if not self._ended:
            self._ended = True
            self._parts.put(_GivenUp())
            self._answers.get()


class TokenMac:
    """A MAC that is being computed."""

    def __init__(self, transform: "TokenHmac", gathered: bytes = b"") -> None:
        self._transform = transform
        self._gathered = bytearray(gathered)
        self._feeder: _Feeder | None = None
        self._size = len(gathered)

    def update(self, data: Buffer) -> None:
        self._size += len(data)
        if self._feeder is None and len(self._gathered) + len(data) <= GATHER:
            self._gathered += data
            return
        try:
            if self._feeder is None:
                self._feeder = self._transform.feeder()
                self._feeder.update(bytes(self._gathered))
                self._gathered = bytearray()
            self._feeder.update(bytes(data))
        except pkcs11.PKCS11Error as error:
            raise self._fault(error) from None

    def digest(self) -> bytes:
        try:
            if self._feeder is not None:
                return self._feeder.digest()
            return self._transform.sign(bytes(self._gathered))
        except pkcs11.PKCS11Error as error:
            raise self._fault(error) from None

    def _fault(self, error: pkcs11.PKCS11Error) -> Exception:
        return fault(error, f"message of {self._size} bytes with {self._transform.description.name}")

    @property
    def gathered(self) -> int:
        """Bytes that are not in the token yet."""
        return len(self._gathered)

    def copy(self) -> "TokenMac":
        if self._feeder is not None:
            raise NotSupported(f"clone: the token keeps the state of a message that is longer than {GATHER} bytes")
        return TokenMac(self._transform, bytes(self._gathered))

    def close(self) -> None:
        if self._feeder is not None:
            self._feeder.close()
            self._transform.feeder_ended(self._feeder)


class TokenMessage(HashMessage):
    """A MAC in parts, some of them gathered."""

    def __init__(self, mac: TokenMac, digest_size: int) -> None:
        super().__init__(mac, digest_size)
        self._mac = mac

    @property
    def kept(self) -> int:
        return self._mac.gathered

    def clone(self) -> Message:
        return TokenMessage(self._mac.copy(), self._digest_size)


class TokenHmac(TokenTransform, HashTransform):
    """An HMAC of a token."""

    def __init__(self, description: Description, key: TokenKey, mechanism: Mechanism) -> None:
        super().__init__(description, key)
        self._mechanism = mechanism
        self._feeders: set[_Feeder] = set()
        self._feeders_lock = threading.Lock()

    def sign(self, data: bytes) -> bytes:
        """The MAC of a whole message. Errors: pkcs11's, EngineFault."""
        digest = self._key.sign(data, self._mechanism)
        if len(digest) != self.description.digest_size:
            raise EngineFault(f"{self.description.name}: {len(digest)} bytes came out of the token")
        return digest

    def feeder(self) -> _Feeder:
        """A session for a long message. Errors: OutOfResources, pkcs11's."""
        with self._feeders_lock:
            if len(self._feeders) >= SESSIONS_MAX:
                raise OutOfResources(
                    f"{self.description.name}: {SESSIONS_MAX} messages of more than {GATHER} bytes are under way"
                )
            feeder = _Feeder(self._key, self._mechanism)
            self._feeders.add(feeder)
        return feeder

    def feeder_ended(self, feeder: _Feeder) -> None:
        """Its session is closed."""
        with self._feeders_lock:
            self._feeders.discard(feeder)

    def begin_hash(self) -> RunningHash:
        return TokenMac(self)

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        return TokenMessage(TokenMac(self), self.description.digest_size)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.check(operation, iv, assoclen)
        try:
            digest = self.sign(bytes(data))
        except pkcs11.PKCS11Error as error:
            raise fault(error, f"message of {len(data)} bytes with {self.description.name}") from None
        out[: len(digest)] = digest
        return len(digest)
