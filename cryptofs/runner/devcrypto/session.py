"""A session of cryptodev: a cipher, a hash, or both, and what one call leaves for the next one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...algorithms import IvAfter
from ...errors import OverQuota, TooLarge
from ...records import Buffer, Operation
from ..backend import RunHash, RunTransform
from .ciphers import Cipher

SIZE_MAX = 1 << 24
"""Most data of one call, bytes: cryptodev has no bound, but here a call's data is copied."""
_PIECE = 1 << 19
"""Bytes that a cipher takes at once, if it takes a message in pieces: a mount has a bound for one record."""


Piece = tuple[int, int]
"""A piece of the program's memory: address, size."""


@dataclass(frozen=True)
class Plan:
    """A call that has been checked: everything that it will read and write of the program's memory is known.

    So the data can be fetched as a whole before anything is computed, wherever it comes from.

    reads: pieces beside the argument's own structure. writes: pieces, which `run` fills. secret: the reads hold keys.
    run: takes what was read, piece by piece, and returns what is to be written, with the sizes of `writes`; if it
    returns fewer, the other pieces stay as they are.
    """

    reads: Sequence[Piece]
    writes: Sequence[Piece]
    run: Callable[[Sequence[Buffer]], Sequence[Buffer]]
    secret: bool = False

    @property
    def read_size(self) -> int:
        """The bytes of `reads`."""
        return sum(size for _, size in self.reads)

    def split(self, data: Buffer) -> list[Buffer]:
        """What `run` takes, of all that was read."""
        if len(self.reads) == 1:
            return [data]
        view, at = memoryview(data), 0
        pieces: list[Buffer] = []
        for _, size in self.reads:
            pieces.append(view[at : at + size])
            at += size
        return pieces


def check_size(size: int) -> None:
    """Errors: TooLarge for more data than a call may have."""
    if size > SIZE_MAX:
        raise TooLarge(f"{size} bytes of data: a call takes at most {SIZE_MAX}")


class Allowance:
    """How many sessions may be open, over all open files that share it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open = 0

    def take(self) -> None:
        """One more session. Errors: OverQuota."""
        if self._open >= self.most:
            raise OverQuota(f"{self.most} sessions are open, which is all that may be")
        self._open += 1

    def give_back(self) -> None:
        """One session has ended."""
        self._open -= 1


class CipherPart:
    """A session's cipher, which owns its transform. iv: what a call without an IV begins with."""

    def __init__(self, kind: Cipher, transform: RunTransform) -> None:
        self.kind = kind
        self.transform = transform
        self.iv = bytes(transform.description.iv_size)

    def crypt(self, operation: Operation, data: Buffer) -> Buffer:
        """Encrypt or decrypt data of a cipher that is no AEAD, from `iv` on, which goes on with it."""
        if len(data) <= _PIECE or not self.transform.description.chunk_size:
            return self._piece(operation, data)
        view = memoryview(data)
        return b"".join(self._piece(operation, view[at : at + _PIECE]) for at in range(0, len(view), _PIECE))

    def _piece(self, operation: Operation, data: Buffer) -> Buffer:
        size = len(data)
        if not size:
            return b""
        description, iv = self.transform.description, self.iv
        if description.iv_after is IvAfter.MIXED:
            # The rest of the last block is needed, too.
            data = bytes(data).ljust(size + -size % len(iv), b"\0")
        out = self.transform.once(operation, iv or None, 0, data)
        if iv:
            self.iv = description.next_iv(iv, data, out, operation is Operation.ENCRYPT)
        return out[:size] if len(out) > size else out


class HashPart:
    """A session's hash, which owns its transform, and what was hashed since the last digest."""

    def __init__(self, transform: RunTransform) -> None:
        self.transform = transform
        self.digest_size = transform.description.digest_size
        self._running: RunHash | None = None

    def reset(self) -> None:
        """Forget what was hashed since the last digest."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _begun(self) -> RunHash:
        if self._running is None:
            self._running = self.transform.hash()
        return self._running

    def update(self, data: Buffer) -> None:
        """Add data."""
        if len(data):
            self._begun().update(data)

    def digest(self, data: Buffer = b"") -> bytes:
        """Add data, and return the digest. The next data begins another one."""
        running = self._begun()
        self._running = None
        try:
            return running.finish(data)
        finally:
            running.close()

    def copy(self, source: "HashPart") -> None:
        """Continue with what another session has hashed."""
        twin = source._begun().clone()
        self.reset()
        self._running = twin


@dataclass(frozen=True)
class Session:
    """One session: it has a cipher, a hash, or both."""

    cipher: CipherPart | None
    mac: HashPart | None

    @property
    def iv_size(self) -> int:
        """Bytes of the cipher's IV; 0 without a cipher."""
        return len(self.cipher.iv) if self.cipher is not None else 0

    @property
    def digest_size(self) -> int:
        """Bytes of the digest; 0 without a hash."""
        return self.mac.digest_size if self.mac is not None else 0

    def reset_hash(self) -> None:
        """Forget what was hashed since the last digest."""
        if self.mac is not None:
            self.mac.reset()

    def close(self) -> None:
        """Wipe the keys and give up the rest."""
        self.reset_hash()
        for part in (self.cipher, self.mac):
            if part is not None:
                part.transform.close()
