"""The four kinds of transforms, so that parts behave the same on every engine.

An engine supplies the arithmetic (`RunningHash`, `RunningCipher`, an AEAD's `crypt`, a generator's `fill`). This module
decides how parts are cut, gathered and bounded.
"""

from abc import abstractmethod
from typing import Protocol

from ..errors import BadTag, InvalidValue, TooLarge
from ..records import PAYLOAD_MAX, Buffer, Operation
from .base import Message, Transform


class RunningHash(Protocol):
    """A running hash."""

    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...

    def copy(self) -> "RunningHash": ...

    def close(self) -> None: ...


class RunningCipher(Protocol):
    """A cipher that chains from part to part."""

    def update(self, data: Buffer, last: bool, out: memoryview, /) -> int:
        """Encrypt or decrypt whole chunks, or, if last, any length at which the mode can end; returns len(data)."""

    def close(self) -> None: ...


class HashMessage(Message):
    """A digest: no output before the last part."""

    def __init__(self, running: RunningHash, digest_size: int) -> None:
        self._running = running
        self._digest_size = digest_size

    def room(self, size: int, last: bool) -> int:
        return self._digest_size if last else 0

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        if len(data):
            self._running.update(data)
        if not last:
            return 0
        out[: self._digest_size] = self._running.digest()
        return self._digest_size

    def clone(self) -> Message:
        return HashMessage(self._running.copy(), self._digest_size)

    def close(self) -> None:
        self._running.close()


class ChunkedMessage(Message):
    """A cipher message whose output comes part by part: whole chunks, and the rest with the last part."""

    def __init__(self, running: RunningCipher, chunk_size: int, block_size: int) -> None:
        self._running = running
        self._chunk_size = chunk_size
        self._block_size = block_size
        self._carry = bytearray()
        self._total = 0

    def room(self, size: int, last: bool) -> int:
        return size + len(self._carry)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        chunk = self._chunk_size
        self._total += len(data)
        if last and self._total % self._block_size:
            raise InvalidValue(f"message of {self._total} bytes: a multiple of {self._block_size}")
        written = 0
        rest = memoryview(data)
        if self._carry:
            missing = chunk - len(self._carry)
            self._carry += rest[:missing]
            rest = rest[missing:]
            ends = last and not rest
            if len(self._carry) == chunk or ends:
                written = self._running.update(self._carry, ends, out)
                self._carry = bytearray()
            if ends:
                return written
        whole = len(rest) if last else len(rest) - len(rest) % chunk
        if whole or last:
            written += self._running.update(rest[:whole], last, out[written:])
        self._carry += rest[whole:]
        return written

    def close(self) -> None:
        self._running.close()


class WholeMessage(Message):
    """A message that must be computed as a whole: its parts are gathered up to PAYLOAD_MAX bytes."""

    gathers = True

    def __init__(self, transform: "WholeTransform", operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        self._transform = transform
        self._operation = operation
        self._iv = None if iv is None else bytes(iv)
        self._assoclen = assoclen
        self._gathered = bytearray()

    def room(self, size: int, last: bool) -> int:
        if not last:
            return 0
        return self._transform.room(self._operation, len(self._gathered) + size)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        total = len(self._gathered) + len(data)
        if total > PAYLOAD_MAX:
            raise TooLarge(
                f"message of {total} bytes: {self._transform.description.name} takes it whole, at most {PAYLOAD_MAX}"
            )
        if not last:
            self._gathered += data
            return 0
        if self._gathered:
            self._gathered += data
            data = self._gathered
        return self._transform.crypt(self._operation, self._iv, self._assoclen, data, out)

    @property
    def kept(self) -> int:
        return len(self._gathered)

    def close(self) -> None:
        self._gathered = bytearray()


class HashTransform(Transform):
    """A hash, keyed or not."""

    @abstractmethod
    def begin_hash(self) -> RunningHash:
        """A hash without data yet."""

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        return HashMessage(self.begin_hash(), self.description.digest_size)


class CipherTransform(Transform):
    """A skcipher whose messages chain from part to part."""

    @abstractmethod
    def begin_cipher(self, operation: Operation, iv: Buffer | None) -> RunningCipher:
        """A cipher at the start of its message."""

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        description = self.description
        running = self.begin_cipher(operation, iv)
        return ChunkedMessage(running, description.chunk_size, description.block_size)


class WholeTransform(Transform):
    """An AEAD, or a skcipher that AF_ALG or the standard takes as a whole (xts, cts)."""

    @abstractmethod
    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        """The whole message at once; the output does not contain the associated data. Returns the number of bytes
        written."""

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        return WholeMessage(self, operation, iv, assoclen)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.check(operation, iv, assoclen)
        return self.crypt(operation, iv, assoclen, data, out)


class AeadTransform(WholeTransform):
    """An AEAD: data is associated data, then text, then, to decrypt, the tag."""

    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        if assoclen > len(data):
            raise InvalidValue(f"assoclen {assoclen}: the message has {len(data)} bytes")
        if assoclen not in self.description.assoclens:
            raise self.description.refuse_assoclen(assoclen)
        if operation is Operation.ENCRYPT:
            return self.seal(iv or b"", assoclen, data, out)
        if len(data) < assoclen + self.authsize:
            raise InvalidValue(
                f"message of {len(data)} bytes: at least assoclen {assoclen} and a tag of {self.authsize}"
            )
        return self.unseal(iv or b"", assoclen, data, out)

    def bad_tag(self) -> BadTag:
        """The error for a tag that is not the message's."""
        return BadTag(f"tag of {self.authsize} bytes: it is not this message's")

    @abstractmethod
    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        """Write ciphertext and tag of the text after `assoclen` bytes; returns the number of bytes written."""

    @abstractmethod
    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        """Write the plaintext if the tag is right; returns the number of bytes written. Errors: BadTag; `out` is then
        untouched or overwritten with zeros."""


class RngTransform(Transform):
    """A random number generator: it takes no input and fills the given buffer."""

    @abstractmethod
    def fill(self, out: memoryview) -> None:
        """Fill `out` with random bytes."""

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        return RngMessage(self)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.check(operation, iv, assoclen)
        return RngMessage(self).update(data, True, out)


class RngMessage(Message):
    """Random bytes: as many as `out` holds."""

    def __init__(self, transform: RngTransform) -> None:
        self._transform = transform

    def room(self, size: int, last: bool) -> int:
        return 0

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        if len(data):
            raise InvalidValue(f"payload of {len(data)} bytes: generate takes none, its length is an attribute")
        self._transform.fill(out)
        return len(out)
