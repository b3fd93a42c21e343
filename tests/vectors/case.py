"""What a test vector is, whichever file it comes from."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cryptofs.algorithms import Type
from cryptofs.records import Operation


@dataclass(frozen=True)
class Case:
    """One vector as a call on a transform.

    data: what goes in after `assoc`; to decrypt an AEAD message, ciphertext and tag. expected: all that comes out, but
    for a hash perhaps only the beginning of it. authsize: bytes of tag, 0 where there is none. number: the vector's own
    number in its file. valid: False where the tag is wrong and nothing may come out.
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
    valid: bool = True

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.file} #{self.number} {self.operation.word} {self.name}"

    def inverse(self) -> "Case | None":
        """The same vector the other way round, where there is one."""
        if not self.valid or self.operation not in _INVERSE:
            return None
        return replace(self, operation=_INVERSE[self.operation], data=self.expected, expected=self.data)


_INVERSE = {Operation.ENCRYPT: Operation.DECRYPT, Operation.DECRYPT: Operation.ENCRYPT}


@dataclass(frozen=True)
class MonteCarlo:
    """A chain of digests: every checkpoint is 1000 digests after the one before it.

    window: how many of the last digests, joined, are the next message (3 for SHA-1 and SHA-2, 1 for SHA-3).
    """

    name: str
    seed: bytes
    window: int
    checkpoints: tuple[bytes, ...]
    file: str


@dataclass
class Skips:
    """How many vectors of which file were left out, and why."""

    by_file: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, file: str, reason: str, count: int = 1) -> None:
        self.by_file[file, reason] += count

    def by_reason(self) -> Counter[str]:
        """The same over all files."""
        total: Counter[str] = Counter()
        for (_, reason), count in self.by_file.items():
            total[reason] += count
        return total

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        for (file, reason), count in sorted(self.by_file.items()):
            yield file, reason, count
