"""Both engines get the same random requests and must give the same bytes and errnos, except for known differences.

CRYPTOFS_CASES: how many, instead of 10,000. CRYPTOFS_SEED: which; the seed is printed. CRYPTOFS_SCENARIO: only the
one of this number, to look into a failure. CRYPTOFS_NAMES: only these, separated by blanks.
"""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from differential import KNOWN, Campaign, Duel, run

from cryptofs.algorithms import Description, Type
from cryptofs.contexts import ContextTable
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.engines.base import Engine, Transform
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.errors import BadTag, InvalidValue
from cryptofs.records import Attr, Buffer, Flag, Operation, Record

CASES = int(os.environ.get("CRYPTOFS_CASES", "10000"))
SEED = int(os.environ.get("CRYPTOFS_SEED", "20261101"))
ONLY = int(os.environ["CRYPTOFS_SCENARIO"]) if "CRYPTOFS_SCENARIO" in os.environ else None
NAMES = os.environ.get("CRYPTOFS_NAMES", "").split()
FEW = 1500
"""Cases where the point is the comparison itself."""


def report(done: Campaign) -> str:
    """What was compared, in a line or two."""
    statuses = " ".join(f"{errno.errorcode.get(n, 'ok')}={count}" for n, count in done.statuses.most_common())
    lines = [
        f"seed {done.seed}: {done.cases} cases in {done.scenarios} scenarios, {len(done.names)} names, "
        f"{len(done.failures)} unexplained differences",
        f"  cases by type: {dict(done.types)}",
        f"  answers: {statuses}",
    ]
    lines += [f"  known difference {name}: {count}" for name, count in done.known.items()]
    return "\n".join(lines)


@pytest.mark.af_alg
@pytest.mark.timeout(max(300, CASES // 20))
def test_engines_agree(capfd: pytest.CaptureFixture[str]) -> None:
    kernel = AfAlgEngine()
    if not kernel.available:
        pytest.skip("NO AF_ALG IN THIS KERNEL: run it by scripts/guest")
    kernel.warm_up()
    done = run((kernel, OpensslEngine()), CASES, SEED, ONLY, NAMES)
    with capfd.disabled():
        print(f"\n{report(done)}")
    assert not done.failures, "\n".join(done.failures)
    if ONLY is None and not NAMES and CASES >= 10_000:
        assert done.cases >= CASES
        # it is no agreement if nothing goes well, or nothing wrong
        assert done.statuses[0] > done.cases / 2
        for number in (errno.EINVAL, errno.EBADMSG, errno.EOPNOTSUPP, errno.ENOKEY, errno.EMSGSIZE, errno.EBUSY):
            assert done.statuses[number], errno.errorcode[number]
        assert min(done.types.values()) > 100


# The table of differences, and what the engines make equal


def test_the_document_has_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    section = text.partition("<!-- differences:begin -->")[2].partition("<!-- differences:end -->")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.strip().splitlines()[2:]]
    assert rows == [(each.name, each.condition, each.af_alg, each.openssl, each.reason) for each in KNOWN]


KEY = bytes(range(16))
ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
MORE = int(Flag.MORE)

# what the kernel does in its own way, or not the same from release to release: name, what is asked, the errno on both
EVENED = [
    (Type.HASH, "blake2b-512", [Record(Operation.SET_KEY, 0, 2, 0, {Attr.KEY: b""})], errno.EINVAL),
    (
        *(Type.AEAD, "ccm(aes)"),
        [
            Record(Operation.SET_KEY, 0, 2, 0, {Attr.KEY: KEY}),
            Record(ENCRYPT, 0, 3, 0, {Attr.IV: b"\1" + bytes(15)}, bytes(65_536)),
        ],
        errno.EOVERFLOW,
    ),
    (
        *(Type.SKCIPHER, "cbc(aes)"),
        [
            Record(Operation.SET_KEY, 0, 2, 0, {Attr.KEY: KEY}),
            # AF_ALG would go on with the chain of the message before
            Record(ENCRYPT, 0, 3, 0, {Attr.IV: KEY}, bytes(32)),
            Record(ENCRYPT, 0, 4, 0, {}, bytes(32)),
        ],
        errno.EINVAL,
    ),
    (
        *(Type.SKCIPHER, "chacha20"),
        [
            Record(Operation.SET_KEY, 0, 2, 0, {Attr.KEY: KEY * 2}),
            # AF_ALG would restart the key stream with each part
            Record(ENCRYPT, MORE, 3, 0, {Attr.IV: KEY}, bytes(64)),
            Record(ENCRYPT, 0, 3, 0, {}, bytes(64)),
        ],
        0,
    ),
    (
        *(Type.SKCIPHER, "xts(aes)"),
        [
            Record(Operation.SET_KEY, 0, 2, 0, {Attr.KEY: bytes(range(48))}),
        ],
        errno.EINVAL,
    ),
]


@pytest.mark.af_alg
@pytest.mark.parametrize(("type_", "name", "requests", "number"), EVENED, ids=[row[1] for row in EVENED])
def test_what_the_engines_make_equal(type_: Type, name: str, requests: list[Record], number: int) -> None:
    duel = Duel([ContextTable((AfAlgEngine(),)), ContextTable((OpensslEngine(),))], random=False)
    try:
        duel.write([Record(Operation.CONFIGURE, 0, 1, 0, {Attr.TYPE: type_.value, Attr.NAME: name})])
        for request in requests:
            answers, pair = duel.write([request])
            assert pair is None, pair
        assert answers[-1].status == number
    finally:
        duel.close()


# That differences are seen: one engine against itself, spoilt in one way


class Spoilt(OpensslEngine):
    """OpenSSL's engine with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def open(self, description: Description, authsize: int | None) -> Transform:
        transform = super().open(description, authsize)
        if self.fault == "authsize" and description.max_authsize and authsize is None:
            return super().open(description, description.max_authsize - 1)
        whole, start = transform.once, transform.start

        def once(*arguments: Any) -> int:
            try:
                written: int = whole(*arguments)
            except BadTag as error:
                if self.fault == "errno":
                    raise InvalidValue(error.message) from None
                raise
            if self.fault == "bit" and written == 33:
                arguments[-1][32] ^= 1
            return written - 1 if self.fault == "length" and written == 48 else written

        def parts(operation: Operation, iv: Buffer | None, *rest: Any) -> object:
            if self.fault == "parts" and iv:
                iv = bytes(iv[:-1]) + bytes([iv[-1] ^ 1])
            return start(operation, iv, *rest)

        transform.once = once  # type: ignore[method-assign]
        transform.start = parts  # type: ignore[method-assign,assignment]
        transform.short = lambda *arguments: None  # type: ignore[method-assign]
        return transform


def both(fault: str = "") -> tuple[Engine, Engine]:
    return OpensslEngine(), Spoilt(fault)


def test_an_engine_agrees_with_itself() -> None:
    done = run(both(), FEW, SEED)
    assert not done.failures, "\n".join(done.failures)
    assert not done.known
    assert done.cases >= FEW


@pytest.mark.parametrize("fault", ["bit", "errno", "length", "parts", "authsize"])
def test_faults_are_found(fault: str) -> None:
    done = run(both(fault), FEW * 4, SEED)
    assert done.failures, f"{fault}: {report(done)}"


def test_a_seed_gives_the_same_cases_again() -> None:
    first, second, other = (run(both(), 300, seed) for seed in (SEED, SEED, SEED + 1))
    assert (first.statuses, first.names, first.cases) == (second.statuses, second.names, second.cases)
    assert first.statuses != other.statuses
