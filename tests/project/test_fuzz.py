"""The fuzz target and the stress program: they run, they find nothing, and they do find what is planted for them."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers.faults import at_start
from helpers.machine import TESTS
from helpers.waiting import PATIENCE
from stress import beside, declared, device_files, hostile, kinds, oracle, parser, talk

from cryptofs.algorithms import Type
from cryptofs.config import load
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.errors import CryptofsError
from cryptofs.records import ATTRIBUTES, Attr, Operation, build, codec, parse_requests

TARGET = TESTS / "fuzz" / "fuzz_records.py"
# made here: the first one opens a descriptor that multiprocessing keeps
DONE = multiprocessing.get_context("fork").Value("Q")
PLANTED = ("answer-twice", "lose-answer", "loose-padding", "untyped")


def fuzz(tmp_path: Path, runs: int, planted: str = "") -> subprocess.CompletedProcess[str]:
    """Run the target for so many inputs, with a bug in what it looks at."""
    return subprocess.run(
        [sys.executable, str(TARGET), f"-runs={runs}", "-seed=1"],
        env={**os.environ, "TMPDIR": str(tmp_path), "CRYPTOFS_FUZZ_BREAK": planted},
        capture_output=True,
        text=True,
        timeout=280 * PATIENCE,
        check=False,
    )


# the runs bound it; the time only ends what hangs
@pytest.mark.timeout(300 * PATIENCE)
def test_the_target_finds_nothing(tmp_path: Path) -> None:
    """20,000 inputs, guided by what code they reach; nothing is left behind."""
    done = fuzz(tmp_path, 20_000)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "#20000" in done.stderr
    reached = [int(line.split("cov: ")[1].split()[0]) for line in done.stderr.splitlines() if "cov: " in line]
    assert reached[-1] > reached[0] > 0, "coverage does not guide it"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(300 * PATIENCE)
@pytest.mark.parametrize("planted", PLANTED)
def test_the_target_finds_a_planted_bug(tmp_path: Path, planted: str) -> None:
    """A codec or exchange that is broken on purpose: an answer too many, one too few, padding that is not looked at, an
    exception that is not typed."""
    done = fuzz(tmp_path, 200_000, planted)
    assert done.returncode == 1
    assert "Uncaught Python exception" in done.stdout
    assert "Finding: " in done.stdout, done.stdout[-3000:]
    assert "the input that was found is in" in done.stdout


# The stress program's parser part


def attack(inputs: int = 20_000) -> parser.ParserResult:
    """A small run."""
    return parser.attack_parser("test", inputs, DONE)


def test_the_parser_stands() -> None:
    """Nothing is wrong, every verdict occurs, and a part of it was compared with the definition."""
    found = attack()
    assert found.wrong == []
    assert found.inputs == 20_000
    assert found.compared == 20_000 // parser.ASK_EVERY
    assert all(found.verdicts[each] > 10 for each in ("accepted", "EINVAL", "EBADMSG", "EMSGSIZE")), found.verdicts


def _loose_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "any", lambda view: False, raising=False)


def _unknown_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    inner: Callable[..., Any] = codec._parse_value
    known = {**ATTRIBUTES, 99: ATTRIBUTES[3]}
    monkeypatch.setattr(codec, "ATTRIBUTES", known)
    monkeypatch.setattr(codec, "_parse_value", lambda number, value: inner(3 if number == 99 else number, value))


def _status_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_check_request", lambda request: None)


def _untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(dict[int, Operation]):
        def get(self, key: int, default: object = None) -> Operation:  # type: ignore[override]
            return self[key]

    monkeypatch.setattr(codec, "OPERATION_NUMBERS", Strict(codec.OPERATION_NUMBERS))


@pytest.mark.parametrize("plant", [_loose_padding, _unknown_is_dropped, _status_is_allowed, _untyped])
def test_the_parser_part_finds_a_planted_bug(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """As for the fuzz target."""
    plant(monkeypatch)
    assert attack().wrong


def test_the_same_seed_makes_the_same_bytes() -> None:
    """And another one others."""

    def made(seed: int) -> list[bytes]:
        rng = Random(seed)
        pool = hostile.pool(rng, kinds.KINDS["gcm"], 50)
        return [hostile.hostile(rng, rng.choice(pool))[1] for _ in range(500)] + [hostile.line(rng) for _ in range(50)]

    assert made(1) == made(1)
    assert made(1) != made(2)


@pytest.mark.parametrize("kind", [kind for kind in kinds.ALL_KINDS if kind not in kinds.NAMED])
def test_valid_records_are_valid(kind: str) -> None:
    """What the hostile bytes are made from is accepted by codec and definition: else nothing would get far."""
    rng = Random(kind)
    for _ in range(200):
        data = build(hostile.valid(rng, kinds.ALL_KINDS[kind], (1, 2)))
        assert oracle.acceptable(data)
        assert len(parse_requests(data)) == 1


def test_kinds_of_names_fit() -> None:
    """A message of each name that OpenSSL serves succeeds with what its kind says: hostile ones get far, too."""
    engine = OpensslEngine()
    tried = 0
    for kind in kinds.NAMED.values():
        configuration, operation = kind.configuration, kind.operations[0]
        description = engine.describe(Type(configuration[Attr.TYPE]), str(configuration[Attr.NAME]))
        if description is None:
            continue
        transform = engine.open(description, None)
        if Attr.KEY in configuration:
            key = configuration[Attr.KEY]
            assert not isinstance(key, int | str)
            transform.set_key(key)
        data = kind.payloads[operation][0] if operation in kind.payloads else bytes(48)
        iv = b"\1" * kind.iv_size or None
        transform.once(operation, iv, kind.assoclen, data, memoryview(bytearray(len(data) + 1024)))
        transform.close()
        tried += 1
    assert tried > 100


@pytest.mark.parametrize("name", [*hostile.MUTATIONS, *hostile.RARE])
def test_each_mutation_is_refused_at_times(name: str) -> None:
    """None of them is idle, and the refusal is typed."""
    rng = Random(name)
    change = {**hostile.MUTATIONS, **hostile.RARE}[name]
    refused = 0
    for record in hostile.pool(rng, kinds.KINDS["cbc"], 60):
        try:
            parse_requests(bytes(change(rng, bytearray(record))))
        except CryptofsError:
            refused += 1
    assert refused


def test_the_devices_are_declared(tmp_path: Path) -> None:
    """The configuration is one that a daemon takes, with keys of the right sizes; its secrets are found anywhere."""
    keys = declared.Keys.drawn(Random("keys"))
    assert keys == declared.Keys.drawn(Random("keys")) != declared.Keys.drawn(Random("others"))
    for several_users in (False, True):
        loaded = load(declared.write(tmp_path, keys, several_users))
        assert set(loaded.devices) == set(declared.DEVICES)
        assert len(loaded.policy.users) == (len(declared.RULES) if several_users else 0)
    secrets = declared.Secrets(keys)
    assert secrets.shown(b"nothing" * 100) is None
    for key in (keys.drop, keys.signer, keys.authenc_mac):
        assert secrets.shown(b"x" + key + b"y")
        assert secrets.shown(b"before " + key.hex().encode()[:32])
        assert secrets.shown(key.hex().upper().encode()[-33:])
    assert secrets.shown(kinds.CANARY) == "a hostile client's own"


def test_sealed_files_are_tampered_with() -> None:
    """Each way changes a file of three segments, the same with the same seed; a reordering may give the original."""
    sealed = Random(1).randbytes(32 + 2 * (12 + device_files.SEGMENT + 16) + 100)
    assert [len(each) for each in device_files.segments(sealed)] == [65_564, 65_564, 100]
    for tamper in device_files.TAMPERINGS:
        made = [tamper(Random(seed), sealed) for seed in range(20)]
        assert made == [tamper(Random(seed), sealed) for seed in range(20)]
        assert sum(each != sealed for each in made) > 10, tamper.__name__


def test_a_failed_message_goes_on_failing() -> None:
    """The status of a part that failed is that of all later parts of its message, and of no other."""
    target = talk.Target.__new__(talk.Target)
    target.failed = {}
    more = hostile.MORE
    assert not target.goes_on_failing(Operation.ENCRYPT, more, 7, 126)
    assert target.goes_on_failing(Operation.GENERATE_KEY, more, 7, 126)
    assert not target.goes_on_failing(Operation.GENERATE_KEY, more, 8, 126)
    assert not target.goes_on_failing(Operation.INFO, 0, 7, 126)
    assert target.goes_on_failing(Operation.SIGN, 0, 7, 126)
    assert not target.goes_on_failing(Operation.SIGN, 0, 7, 126)


def test_the_tables_of_errnos_are_read() -> None:
    """Spot checks, so that a table that is not found is noticed."""
    import errno

    errnos = oracle.Errnos()
    assert errnos.refused == {errno.EBADMSG, errno.EINVAL, errno.EMSGSIZE, errno.EDQUOT, errno.EAGAIN}
    assert {errno.EBUSY, errno.ENOENT} <= errnos.by_operation[Operation.CONFIGURE]
    assert errno.EBADMSG in errnos.by_operation[Operation.DECRYPT]
    assert errno.EBADMSG not in errnos.by_operation[Operation.ENCRYPT]
    assert errno.EBADFD not in errnos.by_operation[Operation.INFO]
    assert errnos.device_open == {errno.EDQUOT, errno.EACCES, errno.EINVAL, errno.ENOENT, errno.EPERM}
    assert errnos.operation("digest") == errnos.by_operation[Operation.DIGEST]
    assert not any(errno.EIO in numbers for numbers in errnos.by_operation.values())


# The stress program's mount part


def rush(records: int = 6000, rounds: int = 4, seed: int = 1) -> beside.BesideResult:
    """A small run on a real mount."""
    return beside.run(records, seed, rounds, DONE)


@pytest.mark.mount
def test_hostile_clients_beside_a_good_one() -> None:
    """Nothing is wrong; something was done."""
    found = rush(9000, 12)
    assert found.wrong == []
    assert found.attack.records >= 6000
    assert found.attack.answers > 1000
    assert found.good.requests > 50
    assert len(found.samples) == 12
    # a share of it on devices, which sealed, were tampered with, and made nonces
    assert found.attack.device_records > 600
    assert found.attack.tampered > 3
    assert found.attack.files > 2 * found.attack.tampered
    assert found.attack.received > 300_000
    assert len(found.nonces) > 50


FAULTS = {
    "answers twice": (
        "from cryptofs.contexts.exchange import Exchange as E\n"
        "inner = E.answer\n"
        "def answer(self, response, cost, failed=False, call=None):\n"
        "    inner(self, response, cost, failed, call)\n"
        "    if failed and len(response) % 64 == 0:\n"
        "        self._ready.append((response, 0))\n"
        "E.answer = answer\n",
        "nothing waits for",
    ),
    "an undocumented errno": (
        "from cryptofs import errors\nerrors.NotConfigured.errno = 71\n",
        "answered EPROTO",
    ),
    "a wrong byte in 100": (
        "from cryptofs.engines.openssl import hash as h\n"
        "from cryptofs.engines.openssl import OpensslEngine as O\n"
        "inner = O.open\n"
        "count = [0]\n"
        "def open(self, description, authsize):\n"
        "    transform = inner(self, description, authsize)\n"
        "    once, transform.short = transform.once, lambda *a: None\n"
        "    def wrong(operation, iv, assoclen, data, out):\n"
        "        size = once(operation, iv, assoclen, data, out)\n"
        "        count[0] += 1\n"
        "        if size and count[0] % 100 == 0:\n"
        "            out[0] ^= 1\n"
        "        return size\n"
        "    transform.once = wrong\n"
        "    return transform\n"
        "O.open = open\n",
        "good client",
    ),
    "a leak of descriptors": (
        "import os\nfrom cryptofs.contexts import ContextTable as T\n"
        "inner = T.open\n"
        "count = [0]\n"
        "def open(self, *arguments, **named):\n"
        "    count[0] += 1\n"
        "    if count[0] % 100 == 0:\n"
        "        os.dup(2)\n"
        "    return inner(self, *arguments, **named)\n"
        "T.open = open\n",
        "descriptors grew",
    ),
    "a leak of memory": (
        "from cryptofs.contexts import requests as r\n"
        "inner = r.begin\n"
        "kept = []\n"
        "def begin(*arguments):\n"
        "    kept.append(bytearray(b'x') * 80000)\n"
        "    return inner(*arguments)\n"
        "r.begin = begin\n",
        "memory grew",
    ),
    "a device that shows its key": (
        "from cryptofs.devices.transform import DeviceTransform as D\n"
        "from cryptofs.errors import NotPermitted\n"
        "from cryptofs.keys import files as f\n"
        "inner = f.read_whole\n"
        "keys = []\n"
        "def read_whole(*arguments):\n"
        "    key = inner(*arguments)\n"
        "    keys.append(bytes(key).hex())\n"
        "    return key\n"
        "def set_key(self, key):\n"
        "    raise NotPermitted('the key is ' + keys[0])\n"
        "f.read_whole, D.set_key = read_whole, set_key\n",
        "shows the device's gcm key",
    ),
    "a nonce that comes again": (
        "from cryptofs.devices.nonces import Nonces as N\n"
        "inner = N.make\n"
        "count = [0]\n"
        "def make(self):\n"
        "    count[0] += 1\n"
        "    return inner(self) if count[0] % 30 else bytes(self.size)\n"
        "N.make = make\n",
        "a nonce came twice",
    ),
    "a device that does what it must not": (
        "from cryptofs.devices.device import Device as D\nD.allow = lambda self, operation: None\n",
        "drop does decrypt",
    ),
    "a sealed file without its head that opens": (
        "from cryptofs.devices.streams import OpenMessage as O\n"
        "from cryptofs.errors import BadTag\n"
        "inner = O.update\n"
        "def update(self, data, last, out):\n"
        "    try:\n"
        "        return inner(self, data, last, out)\n"
        "    except BadTag:\n"
        "        if last and self._head is None:\n"
        "            return 0\n"
        "        raise\n"
        "O.update = update\n",
        "a changed file of",
    ),
    "a quota that is not kept": (
        "from cryptofs.policy.ledger import MeteredQueue as A\nA._lacking = lambda self, count, size: None\n",
        "the policy never bounded requests",
    ),
}


@pytest.mark.mount
@pytest.mark.parametrize("fault", FAULTS)
def test_the_mount_part_finds_a_planted_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A daemon that is broken on purpose, on a real mount."""
    source, says = FAULTS[fault]
    at_start(tmp_path, monkeypatch, "CANARY")
    site = tmp_path / "site" / "sitecustomize.py"
    site.write_text(source)
    found = rush()
    assert any(says in each for each in found.wrong), (found.wrong, found.growth, found.attack.records)


@pytest.mark.mount
def test_the_command(tmp_path: Path) -> None:
    """All parts, small: status 0, a table, and the figures as JSON; the seed is shown."""
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "stress", "--short", "--seed", "7", "--records", "2000", "--parser", "2000",
         "--kills", "1", "--no-attacks", "--json", str(output)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 7" in done.stdout
    figures = json.loads(output.read_text())
    assert figures["seed"] == 7
    assert figures["mount"]["records"] >= 1800
    assert figures["parser"]["inputs"] == 2000
    assert figures["kills"]["rounds"] == 1
