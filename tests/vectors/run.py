"""Running vectors on an engine: as they are, the other way round, and some of them in parts."""

import errno
import itertools
from collections import Counter
from dataclasses import dataclass, field

from cryptofs.algorithms import Type
from cryptofs.engines.base import Engine, Transform
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation

from . import items
from .case import Case, Chain, Opener, Skip, Stream
from .counts import Counts

SLACK = 16
EVERY = 7
"""Each of how many cases is run in parts too."""

_Slot = tuple[Type, str, int, bool]


class Runner:
    """Cases on one engine; a new transform is opened only for another name or tag size."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transforms: dict[_Slot, Transform] = {}
        self._keys: dict[_Slot, bytes] = {}

    def offers(self, type_: Type, name: str) -> bool:
        """Whether the engine has the name; it remembers the answer itself."""
        return self._engine.describe(type_, name) is not None

    def transform(
        self, type_: Type, name: str, authsize: int, key: bytes | None, any_key: bool = False
    ) -> Transform:  # fmt: skip
        """With the key set; any_key: the one that was set last will do. Errors: what the engine refuses the tag size
        or the key with."""
        slot = (type_, name, authsize, key is not None)
        if slot not in self._transforms:
            description = self._engine.describe(type_, name)
            assert description is not None
            self._transforms[slot] = self._engine.open(description, authsize if type_ is Type.AEAD else None)
        transform = self._transforms[slot]
        # a key is not set twice in a row, so that what an engine keeps from message to message is tested
        if key is not None and self._keys.get(slot) != key and not (any_key and slot in self._keys):
            self._keys.pop(slot, None)
            transform.set_key(key)
            self._keys[slot] = key
        return transform

    def close(self) -> None:
        for transform in self._transforms.values():
            transform.close()
        self._transforms.clear()


def whole(transform: Transform, case: Case) -> bytes:
    """The output of a case in one call."""
    data = memoryview(case.assoc + case.data)
    out = memoryview(bytearray(max(transform.room(case.operation, len(data)), 0) + SLACK))
    return bytes(out[: transform.once(case.operation, case.iv, len(case.assoc), data, out)])


def in_parts(transform: Transform, case: Case) -> bytes:
    """The output of a case in parts of sizes that depend on its number."""
    message = transform.start(case.operation, case.iv, len(case.assoc))
    data = case.assoc + case.data
    given = b""
    try:
        sizes = itertools.cycle([1 + case.number % 5, 16, 3, 64 + case.number % 33, 1])
        for size in sizes:
            part, data = data[:size], data[size:]
            out = memoryview(bytearray(message.room(len(part), not data) + SLACK))
            given += out[: message.update(memoryview(part), not data, out)]
            if not data:
                return given
    finally:
        message.close()
    return given


def verdict(case: Case, runner: Runner, parts: bool = False) -> str:
    """What is wrong with the outcome, or nothing."""
    try:
        # what is refused for its IV is so under any key; setting one is what takes longest
        transform = runner.transform(case.type, case.name, case.authsize, case.key, bool(case.beyond))
        given = in_parts(transform, case) if parts else whole(transform, case)
    except CryptofsError as error:
        if error.errno == case.errno or (case.acceptable and error.errno in (errno.EINVAL, errno.EBADMSG)):
            return ""
        wanted = errno.errorcode[case.errno] if case.errno else "success"
        return f"{case.where}: {errno.errorcode[error.errno]} instead of {wanted}: {error}"
    if case.errno:
        return f"{case.where}: accepted, {errno.errorcode[case.errno]} expected"
    given = given[case.offset :]
    if case.operation is Operation.DIGEST:
        given = given[: len(case.expected)]
    if (given == case.expected) == case.differs:
        return f"{case.where}: {given[:32].hex()} instead of {case.expected[:32].hex()}"
    return ""


class _Opener(Opener):
    """A transform for a chain."""

    def __init__(self, runner: Runner, chain: Chain) -> None:
        self._transform = runner.transform(chain.type, chain.name, 0, chain.key)
        self._size = self._transform.description.digest_size
        self._out = memoryview(bytearray(self._size + SLACK))

    def set_key(self, key: bytes) -> None:
        self._transform.set_key(key)

    def digest(self, message: bytes) -> bytes:
        self._transform.once(Operation.DIGEST, None, 0, memoryview(message), self._out)
        return bytes(self._out[: self._size])

    def stream(self, operation: Operation, iv: bytes) -> Stream:
        return _Stream(self._transform, operation, iv)


class _Stream(Stream):
    """A message in parts of whole blocks."""

    def __init__(self, transform: Transform, operation: Operation, iv: bytes) -> None:
        self._message = transform.start(operation, iv or None, 0)
        self._out = memoryview(bytearray(64 + SLACK))

    def part(self, block: bytes) -> bytes:
        return bytes(self._out[: self._message.update(block, False, self._out)])

    def close(self) -> None:
        self._message.close()


def run_chain(chain: Chain, runner: Runner) -> list[str]:
    """What is wrong with a chain; it ends with the first checkpoint that is."""
    links = chain.links(chain, _Opener(runner, chain))
    for number, (expected, given) in enumerate(zip(chain.checkpoints, links, strict=False)):
        if given != expected:
            return [f"{chain.file} #{number} {chain.name}: {given.hex()} instead of {expected.hex()}"]
    return []


@dataclass
class Tally:
    """Of one file: how many cases passed, and how many were not run or, as beyond the kernel's bounds, only refused,
    by reason."""

    passed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def run_family(engine: Engine, family: str, counts: Counts) -> tuple[dict[str, Tally], list[str]]:
    """Run all files of a family; returns their tallies and what failed."""
    runner = Runner(engine)
    tallies: dict[str, Tally] = {}
    failures: list[str] = []
    try:
        for number, (file, item) in enumerate(items(family)):
            tally = tallies.setdefault(file, Tally())
            size = len(item.checkpoints) if isinstance(item, Chain) else 1
            if isinstance(item, Skip):
                tally.skipped[item.reason] += item.count
            elif not runner.offers(item.type, item.name):
                tally.skipped[f"{item.name} is not offered"] += size
            else:
                found = run_chain(item, runner) if isinstance(item, Chain) else _run_case(item, runner, number, counts)
                failures += found
                counts.cases += size
                if found:
                    continue
                if isinstance(item, Case) and item.beyond:
                    counts.cases -= size
                    tally.skipped[item.beyond] += size
                else:
                    tally.passed += size
    finally:
        runner.close()
    for tally in tallies.values():
        counts.skipped += tally.skipped
    counts.failed = len(failures)
    return tallies, failures


def _run_case(case: Case, runner: Runner, number: int, counts: Counts) -> list[str]:
    found = [verdict(case, runner)]
    if case.beyond:
        return [text for text in found if text]
    counts.rejected += not case.valid
    inverse = case.inverse()
    if inverse is not None:
        counts.inverse += 1
        found.append(verdict(inverse, runner))
    if number % EVERY == 0:
        counts.parts += 1
        found.append(verdict(case, runner, parts=True))
    return [text for text in found if text]
