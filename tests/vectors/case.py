"""What a test vector is, whichever file it comes from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from errno import EBADMSG
from pathlib import Path

from cryptofs.algorithms import Type
from cryptofs.records import Operation


@dataclass(frozen=True)
class Case:
    """One vector as a call on a transform.

    data: what goes in after `assoc`; to decrypt an AEAD message, ciphertext and tag. expected: all that comes out from
    the byte `offset` on, for a hash perhaps only its beginning. authsize: bytes of tag; 0 where there is
    none, or where it is one that no transform could be asked for. number: the vector's own number in its file.

    errno: what the call must be refused with, 0 where it must succeed. differs: `expected` is a wrong tag of a MAC,
    which must not come out. acceptable: `expected` and a refusal with EINVAL or EBADMSG are both right. beyond: why
    what the file calls valid is more than the kernel takes; the refusal is tested, and the case counts as skipped.
    """

    type: Type
    name: str
    operation: Operation
    key: bytes | None
    iv: bytes | None
    assoc: bytes
    data: bytes
    expected: bytes
    authsize: int
    file: str
    number: int
    errno: int = 0
    differs: bool = False
    acceptable: bool = False
    offset: int = 0
    beyond: str = ""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.file} #{self.number} {self.operation.word} {self.name}"

    @property
    def valid(self) -> bool:
        """Whether the call must succeed with what is expected."""
        return not (self.errno or self.differs)

    @property
    def tag_is_wrong(self) -> bool:
        """Whether it must be refused for its tag."""
        return self.errno == EBADMSG

    def inverse(self) -> "Case | None":
        """The same vector the other way round, where there is one."""
        if not self.valid or self.acceptable or self.offset or self.operation not in _INVERSE:
            return None
        return replace(self, operation=_INVERSE[self.operation], data=self.expected, expected=self.data)


_INVERSE = {Operation.ENCRYPT: Operation.DECRYPT, Operation.DECRYPT: Operation.ENCRYPT}


@dataclass(frozen=True)
class Chain:
    """Computations that each take what came out before: Monte Carlo tests and the like.

    checkpoints: what has to come out on the way. links: given a way to make a transform with a key, computes them one
    after the other, perhaps without end.
    """

    type: Type
    name: str
    file: str
    checkpoints: tuple[bytes, ...]
    links: "Callable[[Chain, Opener], Iterator[bytes]]"
    key: bytes | None = None
    seed: bytes = b""
    iv: bytes = b""
    window: int = 1
    operation: Operation = Operation.DIGEST


class Opener:
    """What a chain computes with: whole messages and messages in parts under the key set last."""

    def set_key(self, key: bytes) -> None:
        """Replace the key."""
        raise NotImplementedError

    def digest(self, message: bytes) -> bytes:
        """A whole digest."""
        raise NotImplementedError

    def stream(self, operation: Operation, iv: bytes) -> "Stream":
        """A message in parts."""
        raise NotImplementedError


class Stream:
    """A message whose parts are whole blocks."""

    def part(self, block: bytes) -> bytes:
        """The output of a part that is not the last."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the message up."""
        raise NotImplementedError


@dataclass(frozen=True)
class Skip:
    """Vectors of a file that are not run, and why."""

    reason: str
    count: int = 1


Item = Case | Chain | Skip
Loader = Callable[[Path], Iterator[Item]]
"""The vectors of one file."""
