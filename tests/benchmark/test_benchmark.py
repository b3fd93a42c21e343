"""The benchmark measures what it says, on real mounts; how fast it is, is not a test's business."""

import hashlib
import hmac
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.waiting import wait_until

from cryptofs.benchmark import calls, capacity, machine, mounts, peers, turns
from cryptofs.benchmark.clients import Clients
from cryptofs.benchmark.goals import SIGNING_KEY, Goals, pkcs8
from cryptofs.benchmark.legacy import Legacy, client
from cryptofs.benchmark.mounts import CannotMeasure, Mount
from cryptofs.benchmark.passes import PASSES_LEAST, PASSES_MOST, Stage, in_passes
from cryptofs.benchmark.placement import Placement, placed, placements
from cryptofs.benchmark.results import Result, at_most, told
from cryptofs.records import Attr, Operation, Record, build

pytestmark = pytest.mark.mount

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def empty() -> Iterator[Mount]:
    """The empty pyfuse3 file system."""
    with mounts.empty_mount() as mount:
        yield mount


@pytest.fixture(scope="module")
def bare() -> Iterator[Mount]:
    """The empty file system of a bare loop."""
    with mounts.bare_mount() as mount:
        yield mount


@pytest.fixture(scope="module")
def cryptofs() -> Iterator[Mount]:
    """A cryptofs."""
    with mounts.cryptofs_mount("openssl") as mount:
        yield mount


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command as a user runs it."""
    command = [sys.executable, "-m", "cryptofs", "benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


# The command


def test_a_table_with_json_and_plot(tmp_path: Path) -> None:
    """Every row is there with figures that can be true, in the table, in JSON and in the plot."""
    files = ["--json", str(tmp_path / "run.json"), "--svg", str(tmp_path / "run.svg")]
    parts = [word for part in ("1024 B", "batches of 8", "8 in flight", "2 clients") for word in ("--only", part)]
    done = run("--seconds", "0.005", "-n", "sha256", *parts, *files)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run.json").read_text())
    rows = report["rows"]
    floors = {"empty file system, pyfuse3", "empty file system, bare loop", "cipher called directly"}
    assert floors | {"openssl engine"} <= {row["what"] for row in rows}
    assert {row["size"] for row in rows} == {1024, calls.MIB}
    assert {row["batch"] for row in rows} == {1, 8}
    assert {row["in_flight"] for row in rows} == {1, 8}
    assert {row["clients"] for row in rows} == {1, 2}
    for row in rows:
        assert row["seconds"] > 0
        assert row["ratio"] > 0 or row["clients"] > 1
        assert math.isclose(row["throughput"], row["rate"] * row["size"] * row["batch"] * row["in_flight"])
    assert "<svg" in (tmp_path / "run.svg").read_text()
    assert "sha256" in done.stdout
    state = report["machine"]
    assert state["kept busy"] is False
    assert {"state", "load", "at work, %"} <= set(state["before"]) & set(state["after"])
    for when in ("beginning", "end"):
        wake_ups = state[f"two wake-ups at the {when}, us"]
        assert len(wake_ups) == 2 * len(placements())
        assert all(wake_up > 0 for wake_up in wake_ups.values())


def test_goals_on_a_busy_machine(tmp_path: Path) -> None:
    """The chosen goals come with their verdicts and the machine's state; the exit status tells whether all hold."""
    done = run("--goals", "--only", "sha256, 16 B", "--busy", "--seconds", "0.02", "--json", str(tmp_path / "run.json"))
    report = json.loads((tmp_path / "run.json").read_text())
    results = report["goals"]
    assert {result["name"].split(":")[0] for result in results} == {
        f"sha256, 16 B, {place.value}" for place in placements()
    }
    broken = [result for result in results if result["holds"] is False]
    assert done.returncode == (1 if broken else 0), done.stderr
    assert ("NOT MEASURED" in done.stdout) == any(result["figure"] is None for result in results)
    assert report["machine"]["kept busy"] is True
    assert report["machine"]["during"]["at work, %"] > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers"], "--peers and --commit need --goals"),
        (["--commit", "HEAD"], "--peers and --commit need --goals"),
        (["--goals", "-n", "sha256"], "--name and --svg are not for --goals"),
        (["--placement", "apart", "--placement", "free"], "takes only one"),
        (["--only", "nonesuch"], "no part's name contains this"),
    ],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    """Options that do not go together are refused before a long run."""
    done = run(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


# Turn by turn


def test_a_common_change_of_speed_does_not_move_a_ratio() -> None:
    """The machine gets slower and slower for both operations; their ratio stays, and is not noisy."""
    calls_made = itertools.count(100)

    def turn(cost: float) -> turns.Turn:
        return lambda _: cost * next(calls_made)

    comparison = turns.Comparison()
    for _ in range(4):
        turns.alternate(comparison, [turn(3), turn(2)], 0.0)
    assert len(comparison.rounds) == 4 * turns.ROUNDS_LEAST
    ratio = comparison.ratio(0, 1)
    assert ratio.all == pytest.approx(1.5, rel=0.02)
    assert not ratio.noisy
    assert comparison.seconds(0) > 1.1 * 3 * 100


def test_a_ratio_that_moves_is_measured_again_and_marked() -> None:
    """A steady part is measured in two passes; one whose halves differ in more, up to the bound, and stays noisy."""
    drift = itertools.count(1)
    made: list[str] = []

    def stage(name: str, first: turns.Turn) -> Stage[Result]:
        comparison = turns.Comparison()

        def measure() -> Iterator[Result]:
            made.append(name)
            turns.alternate(comparison, [first, lambda _: 1.0], 0.0)
            yield told(name).by_time(comparison, (0, 1))

        return name, measure

    stages = [stage("steady", lambda _: 2.0), stage("drift", lambda _: float(next(drift)))]
    results: dict[str, list[Result]] = {}
    left = [left for _, left in in_passes(stages, results)]
    assert made == ["steady", "drift"] * PASSES_LEAST + ["drift"] * (PASSES_MOST - PASSES_LEAST)
    assert left == [2, 1] * PASSES_LEAST + [1] * (PASSES_MOST - PASSES_LEAST)
    assert [results[name][0].noisy for name in ("steady", "drift")] == [False, True]
    assert results["steady"][0].figure == 2.0


def test_a_ratio_that_settles_is_no_longer_noisy() -> None:
    """One strange pass among many is outvoted, and the measuring ends."""
    strange = iter([5.0] * turns.ROUNDS_LEAST)
    comparison = turns.Comparison()

    def measure() -> Iterator[Result]:
        turns.alternate(comparison, [lambda _: next(strange, 2.0), lambda _: 1.0], 0.0)
        yield told("").by_time(comparison, (0, 1))

    results: dict[str, list[Result]] = {}
    passes = len(list(in_passes([("part", measure)], results)))
    assert PASSES_LEAST < passes < PASSES_MOST
    assert not results["part"][0].noisy
    assert results["part"][0].figure == 2.0


def test_a_part_that_cannot_be_measured_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes a result that says why."""

    def none(*_: object) -> int:
        raise CannotMeasure("no luck")

    monkeypatch.setattr(capacity, "in_flight", none)
    with Goals(0.01, placements(), None, False) as goals:
        stages = dict(goals.stages())
        (failed,) = stages["1,000 requests in flight"]()
    assert (failed.verdict, failed.detail) == ("NOT MEASURED", "no luck")


def test_every_operation_gets_as_many_turns_and_no_fixed_neighbour() -> None:
    """Each round has each operation once, in an order that changes."""
    seen: list[int] = []

    def turn(operation: int) -> turns.Turn:
        def once(seconds: float) -> float:
            seen.append(operation)
            return 1.0

        return once

    comparison = turns.Comparison()
    for _ in range(4):
        turns.alternate(comparison, [turn(0), turn(1), turn(2)], 0.0)
    rounds = [tuple(seen[at : at + 3]) for at in range(0, len(seen), 3)]
    assert all(sorted(order) == [0, 1, 2] for order in rounds)
    assert len(set(rounds)) > 2


def test_the_first_call_of_a_turn_is_not_counted() -> None:
    """A slow first call does not show; at least three others are made however short the turn is."""
    made: list[float] = []

    def call() -> None:
        made.append(time.perf_counter())
        if len(made) == 1:
            time.sleep(0.05)

    assert turns.timed(call)(0.0) < 0.04
    assert len(made) == 4


def test_results_tell_what_holds() -> None:
    """A bound is kept, broken, undecided or not measured; nothing that was not measured counts as kept."""

    def result(figure: float | None, first: float, second: float, *, noisy: bool) -> Result:
        return Result("", 1.1, True, figure, (first, second), noisy, "")

    assert result(1.0, 1.0, 1.05, noisy=False).verdict == "yes"
    assert result(1.2, 1.2, 1.25, noisy=False).verdict == "NO"
    assert result(1.0, 0.9, 1.2, noisy=True).verdict == "undecided noisy"
    assert result(1.0, 0.9, 1.2, noisy=True).holds is None
    assert result(1.5, 1.2, 1.8, noisy=True).verdict == "NO noisy"
    assert at_most("", 1.1).not_measured("why").holds is None
    assert at_most("", 1.1).not_measured("why").verdict == "NOT MEASURED"
    assert told("").by_figure(3, "").holds is None


# The machine


def test_client_and_daemon_are_kept_where_they_belong(cryptofs: Mount) -> None:
    """For the time of a measurement every thread of the daemon and this process have the processor they are given."""
    free = os.sched_getaffinity(0)
    first, *others = sorted(free)
    tasks = [int(task) for task in os.listdir(f"/proc/{cryptofs.pid}/task")]
    for placement in placements():
        with placed(placement, [cryptofs.pid]):
            assert os.sched_getaffinity(0) == {first}
            theirs = {others[0]} if placement is Placement.APART else {first}
            assert all(os.sched_getaffinity(task) == theirs for task in tasks)
        assert os.sched_getaffinity(0) == free
        assert all(os.sched_getaffinity(task) == free for task in tasks)


def test_busy_processes_end_with_the_block() -> None:
    """One for each processor, and each on its own."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    with machine.busy():
        loads = [int(pid) for pid in set(children.read_text().split()) - before]
        each = {frozenset({processor}) for processor in os.sched_getaffinity(0)}
        wait_until(lambda: {frozenset(os.sched_getaffinity(pid)) for pid in loads} == each, 20)
    assert set(children.read_text().split()) == before


# What is compared


def test_the_bare_loop_is_an_empty_file_system(bare: Mount) -> None:
    """It gives back what was written, small and large, and has no other file."""
    with calls.opened(bare.crypto) as descriptor:
        for size in (1, 16, 4096, calls.MIB):
            data = os.urandom(size)
            assert os.pwrite(descriptor, data, 0) == size
            assert os.pread(descriptor, size + 64, 0) == data
        os.pwrite(descriptor, b"0123456789", 0)
        assert os.pread(descriptor, 4, 0) == b"0123"
    assert not (bare.path / "other").exists()
    assert bare.crypto.is_file()


def test_an_error_is_never_measured(cryptofs: Mount) -> None:
    """A request that fails, or is not answered, is no round trip."""
    wrong = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(16)}, bytes(15)))
    with calls.opened(cryptofs.crypto, "cbc(aes)") as descriptor:
        with pytest.raises(CannotMeasure, match="encrypt: EINVAL"):
            calls.round_trip(descriptor, wrong)
        calls.round_trip(descriptor, calls.request("cbc(aes)", 16))()
    part = build(Record(Operation.DIGEST, 1, 1, 0, {}, bytes(64)))
    with calls.opened(cryptofs.crypto, "sha256") as descriptor:
        call = calls.round_trip(descriptor, calls.request("sha256", 64), part)
        call()


def test_no_ioctl(empty: Mount) -> None:
    """A record that no ioctl carries, and a file system without ioctl, are no figures."""
    with calls.opened(empty.crypto) as descriptor:
        with pytest.raises(CannotMeasure, match="at most 16383"):
            calls.ioctl_call(descriptor, calls.request("sha256", 16_384))
        with pytest.raises(CannotMeasure, match="ENOTTY"):
            calls.ioctl_call(descriptor, calls.request("sha256", 16))


def test_clients_work_in_turns(cryptofs: Mount) -> None:
    """All of them make round trips in each turn, and rest between; one that fails is noticed."""
    with Clients(cryptofs.crypto, 2, "sha256", 64) as clients:
        for _ in range(2):
            clients.begin(0.05)
            assert all(rate > 0 for rate in clients.rates())
    with Clients(cryptofs.path / "nonesuch", 1, "sha256", 64) as clients, pytest.raises(CannotMeasure):
        clients.turn(0.01)


def test_counted_goals(cryptofs: Mount) -> None:
    """Requests in flight are counted by their ids, contexts by what they take."""
    assert capacity.in_flight(cryptofs, 100) == 100
    with capacity.contexts(cryptofs, 50) as memory:
        assert memory >= 0
        contexts = (cryptofs.path / "contexts").iterdir()
        assert len(list(contexts)) >= 50


def test_goals_are_measured() -> None:
    """A few of them, quickly: real figures of real round trips, and AF_ALG only where there is one."""
    with Goals(0.05, placements(), None, False) as goals:
        (batches,) = goals.batches()
        assert batches.figure is not None
        assert batches.figure > 0
        small = {result.name.split(": ")[1]: result for result in goals.one_record("sha256", 16, placements()[0])}
        assert set(small) == {"write + read, to pyfuse3", "ioctl, to pyfuse3", "write + read, to the bare loop"}
        for name, result in small.items():
            assert (result.figure or 0) > 0 or (name.startswith("ioctl") and "ENOTTY" in result.detail)
        (kernel,) = goals.one_record_on_af_alg("cbc(aes)", 16, placements()[0])
        assert (kernel.figure is not None) == mounts.has_af_alg()
        unasked = [*goals.one_shot(), *goals.pkcs11_hmac(), *goals.ssh_agent(), *goals.openssl()]
        assert len(unasked) == 7
        assert all(result.verdict == "NOT MEASURED" and result.detail.startswith("give --") for result in unasked)


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="NOT RUN: no git, or no repository here"
)
def test_another_commit() -> None:
    """Its daemon runs from its own tree, and is compared in the same run; an unknown one is refused."""
    with mounts.checkout_of("HEAD") as checkout, mounts.cryptofs_mount("openssl", checkout) as mount:
        # only root may look into a daemon, which is undumpable
        if os.geteuid() == 0:
            assert os.readlink(f"/proc/{mount.pid}/cwd") == str(checkout.root)
            environment = Path(f"/proc/{mount.pid}/environ").read_bytes().split(b"\0")
            assert f"PYTHONPATH={checkout.root}".encode() in environment
        calls.one_shot(mount.crypto, "cbc(aes)", 16)()
    assert not checkout.root.exists()
    with pytest.raises(CannotMeasure, match="nonesuch"), mounts.checkout_of("nonesuch"):
        pass


# Peers


def test_hmac_of_a_device_and_of_p11_kit() -> None:
    """Both give the code that hashlib gives."""
    expected = hmac.digest(calls.MAC_KEY, bytes(1024), hashlib.sha256)
    try:
        with peers.pkcs11_hmac(calls.MAC_KEY, 1024) as peer:
            assert peer.call() == expected
    except CannotMeasure as error:
        pytest.skip(f"NOT RUN: {error}")


def test_signatures_of_a_device_and_of_ssh_agent() -> None:
    """The agent's answer ends with the signature, which the call has verified before it is measured."""
    try:
        with peers.ssh_agent_sign(SIGNING_KEY, 64) as peer:
            assert peer.call()[-64:] == SIGNING_KEY.sign(bytes(64))
    except CannotMeasure as error:
        pytest.skip(f"NOT RUN: {error}")


def test_a_missing_peer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names what it lacks."""
    monkeypatch.setenv("PATH", "/nonesuch")
    with pytest.raises(CannotMeasure, match="no p11-kit"), peers.pkcs11_hmac(calls.MAC_KEY, 16):
        pass
    with pytest.raises(CannotMeasure, match="no ssh-agent"), peers.ssh_agent_sign(SIGNING_KEY, 16):
        pass
    with pytest.raises(CannotMeasure, match="no openssl"):
        calls.openssl_process(16)
    with pytest.raises(CannotMeasure, match="no fusermount3"), mounts.bare_mount():
        pass


def test_devices_for_measuring() -> None:
    """The devices that peers are compared with compute what they should."""
    with mounts.devices_mount(calls.MAC_KEY, pkcs8(SIGNING_KEY)) as mount:
        with calls.opened(mount.path / "devices" / "mac" / "crypto") as descriptor:
            os.pwrite(descriptor, calls.request("sha256", 1024), 0)
            assert os.pread(descriptor, 4096, 0)[-32:] == hmac.digest(calls.MAC_KEY, bytes(1024), hashlib.sha256)
        with calls.opened(mount.path / "devices" / "signer" / "crypto") as descriptor:
            os.pwrite(descriptor, build(Record(Operation.SIGN, 0, 1, 0, {}, bytes(64))), 0)
            assert SIGNING_KEY.sign(bytes(64)) in os.pread(descriptor, 4096, 0)


def test_what_run_costs() -> None:
    """Each part, once: through `cryptofs run`, a call that is not trapped, and the start."""
    with Legacy(0.01) as legacy:
        rows = [
            row for name, measure in legacy.stages() if name in ("sha256", "an untrapped call") for row in measure()
        ]
        rows += legacy.start()
    assert len(rows) == 4
    assert all(row.figure is not None and row.bound is not None for row in rows)
    assert min(row.figure or 0 for row in rows) > 0
    assert run("--legacy", "--goals").returncode == 2


def test_a_client_that_ends() -> None:
    """It is reported with its status."""
    with pytest.raises(CannotMeasure, match="127"), client("stat", ("--engines", "openssl", "--", "cryptofs-none")):
        pass
