"""All published vectors through the engines: as they are, the other way round, and some of them in parts."""

import itertools
from collections.abc import Iterator

import pytest
from vectors import FAMILIES, Case, MonteCarlo, load, monte_carlo
from vectors.counts import record

from cryptofs.algorithms import Type
from cryptofs.engines.base import Engine, Transform
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.errors import BadTag, CryptofsError
from cryptofs.records import Operation

SLACK = 16
EVERY = 7
"""Each of how many cases is run in parts too."""
SHOWN = 5
"""How many failures are told."""

ENGINES = ["openssl", pytest.param("af_alg", marks=pytest.mark.af_alg)]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "openssl":
        return OpensslEngine()
    from cryptofs.engines.af_alg import AfAlgEngine

    return AfAlgEngine()


class Runner:
    """Cases on one engine; transforms are opened anew only for another name or tag size."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transforms: dict[tuple[str, int], Transform | None] = {}
        self._keys: dict[tuple[str, int], bytes] = {}

    def transform(self, case: Case) -> Transform | None:
        """With the case's key set; None where the engine does not offer the name."""
        slot = (case.name, case.authsize)
        if slot not in self._transforms:
            description = self._engine.describe(case.type, case.name)
            self._transforms[slot] = description and self._engine.open(description, case.authsize or None)
        transform = self._transforms[slot]
        # a key is not set twice in a row, so that what an engine keeps from message to message is tested
        if transform is not None and case.key is not None and self._keys.get(slot) != case.key:
            transform.set_key(case.key)
            self._keys[slot] = case.key
        return transform

    def close(self) -> None:
        for transform in self._transforms.values():
            if transform is not None:
                transform.close()


def whole(transform: Transform, case: Case) -> bytes:
    """The output of a case in one call."""
    data = memoryview(case.assoc + case.data)
    out = memoryview(bytearray(transform.room(case.operation, len(data)) + SLACK))
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


def verdict(case: Case, transform: Transform, run: object = whole) -> str:
    """What is wrong with the outcome, or nothing."""
    try:
        given = in_parts(transform, case) if run is in_parts else whole(transform, case)
    except BadTag:
        return "" if not case.valid else f"{case.where}: tag refused"
    except CryptofsError as error:
        return f"{case.where}: {error}"
    if not case.valid:
        return f"{case.where}: wrong tag accepted"
    if case.operation is Operation.DIGEST:
        given = given[: len(case.expected)]
    if given != case.expected:
        return f"{case.where}: {given[:32].hex()} instead of {case.expected[:32].hex()}"
    return ""


@pytest.mark.parametrize("family", FAMILIES)
def test_family(engine: Engine, family: str) -> None:
    cases, skips = load(family)
    counts = record(engine.name, family)
    counts.skipped += skips.by_reason()
    runner = Runner(engine)
    failures = []
    for number, case in enumerate(cases):
        transform = runner.transform(case)
        if transform is None:
            counts.skipped[f"{case.name}: not offered by {engine.name} here"] += 1
            continue
        counts.cases += 1
        counts.rejected += not case.valid
        found = [verdict(case, transform)]
        inverse = case.inverse()
        if inverse is not None:
            counts.inverse += 1
            found.append(verdict(inverse, transform))
        if number % EVERY == 0:
            counts.parts += 1
            found.append(verdict(case, transform, in_parts))
        failures += [f for f in found if f]
    runner.close()
    counts.failed = len(failures)
    assert not failures, "\n".join(failures[:SHOWN])
    if engine.name != "openssl" and not counts.cases:
        pytest.skip(f"{engine.name} offers nothing of {family} here")
    assert counts.cases, f"no vectors of {family} were found"


@pytest.mark.parametrize("chain", list(monte_carlo()), ids=lambda chain: chain.name)
def test_monte_carlo(engine: Engine, chain: MonteCarlo) -> None:
    description = engine.describe(Type.HASH, chain.name)
    if description is None:
        pytest.skip(f"{engine.name} does not offer {chain.name} here")
    transform = engine.open(description, None)
    counts = record(engine.name, f"{chain.name} chain")
    for number, (expected, given) in enumerate(zip(chain.checkpoints, links(transform, chain), strict=False)):
        counts.cases += 1
        assert given == expected, f"{chain.file} #{number}: {given.hex()} instead of {expected.hex()}"
    transform.close()
    assert counts.cases == len(chain.checkpoints)


def links(transform: Transform, chain: MonteCarlo) -> Iterator[bytes]:
    """The checkpoints of a chain: every 1000th digest, without end."""
    size = transform.description.digest_size
    out = memoryview(bytearray(size + SLACK))
    seed = chain.seed
    while True:
        window = [seed] * chain.window
        for _ in range(1000):
            transform.once(Operation.DIGEST, None, 0, memoryview(b"".join(window)), out)
            window = [*window[1:], bytes(out[:size])]
        seed = window[-1]
        yield seed
