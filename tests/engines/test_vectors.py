"""All published vectors through the engines, and the manifest that says which of them those are."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from vectors import ALL_FAMILIES, Case, items, manifest
from vectors.case import Chain
from vectors.counts import Counts, record
from vectors.packages import all_files
from vectors.run import Runner, Tally, run_chain, run_family, verdict
from vectors.table import ROWS, files_of, sorted_out

from cryptofs.engines.base import Engine
from cryptofs.engines.openssl import OpensslEngine

SHOWN = 5
"""How many failures are told."""

ENGINES = ["openssl", pytest.param("af_alg", marks=pytest.mark.af_alg)]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "openssl":
        return OpensslEngine()
    from cryptofs.engines.af_alg import AfAlgEngine

    found = AfAlgEngine()
    found.warm_up()
    return found


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_family(engine: Engine, family: str) -> None:
    """Every file of a family: nothing fails, and what passes and is skipped is what the manifest says."""
    counts = record(engine.name, family)
    tallies, failures = run_family(engine, family, counts)
    assert not failures, "\n".join(failures[:SHOWN])
    assert tallies.keys() == files_of(family).keys()
    written = manifest.read()
    column = manifest.column_of(engine.name)
    for file, tally in tallies.items():
        assert tally.passed + sum(tally.skipped.values()) == written.cases[file], file
        if column in written.columns and manifest.NOT_RUN not in written.tallies[column][file].skipped:
            assert tally == written.tallies[column][file], f"{file} on {column}"


# The manifest


def test_every_file_is_in_the_manifest() -> None:
    """Files that are run, files that are not, and files without cases: none is missing, and none is there twice."""
    written, fresh = manifest.read(), manifest.static()
    run = {file for family in ALL_FAMILIES for file in files_of(family)}
    assert written.cases.keys() == run | fresh.cases.keys()
    assert {file: written.cases[file] for file in fresh.cases} == fresh.cases
    assert written.bare == fresh.bare
    assert len(written.cases) + sum(written.bare.values()) == len(all_files())
    for column in written.columns:
        assert written.tallies[column].keys() == written.cases.keys()
        for file, cases in written.cases.items():
            tally = written.tallies[column][file]
            assert tally.passed + sum(tally.skipped.values()) == cases, f"{file} on {column}"
            if column == "openssl":
                assert manifest.NOT_RUN not in tally.skipped, file
            if file in fresh.cases:
                assert tally == manifest.left_out(sorted_out()[file], cases), f"{file} on {column}"


def test_the_manifest_is_as_it_would_be_written() -> None:
    written = manifest.read()
    assert "".join(f"{line}\n" for line in written.lines()) == manifest.PATH.read_text()
    assert "openssl" in written.columns
    assert any(column.startswith("af_alg-") for column in written.columns)


def test_the_document_has_the_sums_of_the_manifest() -> None:
    text = (Path(__file__).parents[2] / "docs" / "vectors.md").read_text()
    for line in manifest.summary(manifest.read()):
        assert line in text, line


def test_every_row_of_the_table_is_used() -> None:
    """A row that no file falls into would hide that a package has changed."""
    used = {row.pattern for row in sorted_out().values()}
    assert [row.pattern for row in ROWS if row.pattern not in used] == []


# The checks themselves: each must fail when the answer is wrong


@pytest.mark.parametrize("family", ["aes-cbc", "aes-gcm", "chacha20-poly1305", "cmac", "sha2", "aes-ccm"])
def test_a_wrong_vector_is_noticed(family: str) -> None:
    """Any case turned into its contrary fails."""
    runner = Runner(OpensslEngine())
    kinds: Counter[tuple[bool, bool, bool]] = Counter()
    for _, item in islice(items(family), 4000):
        if not isinstance(item, Case) or not runner.offers(item.type, item.name):
            continue
        kind = (item.valid, item.differs, bool(item.beyond))
        kinds[kind] += 1
        if kinds[kind] > 40 or not (item.expected or item.errno):
            continue
        assert verdict(item, runner) == ""
        for contrary in contraries(item):
            assert verdict(contrary, runner), contrary.where
    runner.close()
    assert kinds[True, False, False] > 0


def contraries(case: Case) -> list[Case]:
    """Cases that are wrong if this one is right."""
    if case.errno:
        return [replace(case, errno=0), replace(case, errno=1)]
    if case.differs:
        return [replace(case, differs=False)]
    spoilt = bytes([case.expected[0] ^ 1]) + case.expected[1:]
    return [replace(case, expected=spoilt), replace(case, errno=22), replace(case, differs=True)]


@pytest.mark.parametrize("family", ["aes-cbc-chain", "sha256-chain", "blake2-chain"])
def test_a_wrong_chain_is_noticed(family: str) -> None:
    """A wrong bit in the first checkpoint fails."""
    runner = Runner(OpensslEngine())
    chain = next(item for _, item in items(family) if isinstance(item, Chain))
    first = chain.checkpoints[0]
    assert run_chain(replace(chain, checkpoints=(first,)), runner) == []
    spoilt = first[:-1] + bytes([first[-1] ^ 1])
    assert run_chain(replace(chain, checkpoints=(spoilt,)), runner)
    runner.close()


def test_a_failure_is_not_counted_as_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is neither among those that pass nor among the skipped, so that the manifest does not fit any more."""
    found = [(name, item) for name, item in items("md5") if isinstance(item, Case)]
    spoilt = [(name, replace(item, expected=bytes(16))) for name, item in found[:1]]
    monkeypatch.setattr("vectors.run.items", lambda family: iter(spoilt + found[1:]))
    counts = Counts("openssl", "md5")
    tallies, failures = run_family(OpensslEngine(), "md5", counts)
    assert failures
    assert all("#1 " in failure for failure in failures)
    assert counts.failed == len(failures)
    assert tallies == {found[0][0]: Tally(len(found) - 1)}
