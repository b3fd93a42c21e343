"""Audit events and the logging behind them: what is recorded, and that no log can stop the daemon."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers.configs import declare
from helpers.daemons import serving_config

from cryptofs.client import Context, RequestError
from cryptofs.daemon.logs import LINES_MAX
from cryptofs.errors import NotPermitted, OverQuota
from cryptofs.policy import audit as audit_module
from cryptofs.policy.audit import BURST, LINES, audit, audit_refusal, tell_held_back


@pytest.fixture
def trail(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """The audit trail, turned on."""
    logger = logging.getLogger("cryptofs.audit")
    before = logger.level
    caplog.set_level(logging.INFO, "cryptofs.audit")
    monkeypatch.setattr(audit_module, "trail", audit_module.Trail())
    yield caplog
    logger.setLevel(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The trail's clock, seconds; it stands still."""
    now = [10.0]
    monkeypatch.setattr(audit_module.time, "monotonic", lambda: now[0])
    return now


def told(trail: pytest.LogCaptureFixture) -> int:
    """Refusals that the trail has told of, in a line of their own or as a number."""
    counts = [int(line.split("unrecorded=")[1].split()[0]) for line in trail.messages if "unrecorded=" in line]
    # a line with a number and a reason stands for itself, too; one without a reason only tells the number
    return sum(counts) + sum("reason=no" in line for line in trail.messages)


def test_line(trail: pytest.LogCaptureFixture) -> None:
    """Words and values; what a client named cannot pass for another value or another line."""
    audit("configure", 1000, 7, context=5, type="hash", name="x y\nopen uid=0", empty="")
    line = trail.messages[0]
    assert line == "configure uid=1000 pid=7 context=5 type=hash name='x y\\nopen uid=0' empty=''"
    audit("configure", 1, 2, name="n" * 300)
    assert trail.messages[1] == f"configure uid=1 pid=2 name={'n' * 200}"


def test_off_by_default() -> None:
    """Nothing is recorded where nobody has asked for it."""
    assert not logging.getLogger("cryptofs.audit").isEnabledFor(logging.INFO)


def test_refusals_are_not_repeated(trail: pytest.LogCaptureFixture, clock: list[float]) -> None:
    """A client that asks a thousand times is recorded once a second, with how many were left out."""
    for _ in range(1000):
        audit_refusal("open", 1000, 7, NotPermitted("no"))
    audit_refusal("open", 1001, 8, NotPermitted("no"))
    assert len(trail.messages) == 2
    clock[0] += 1.5
    audit_refusal("open", 1000, 7, NotPermitted("no"))
    assert trail.messages[2] == "open uid=1000 pid=7 refused=EACCES reason=no unrecorded=999"


def test_different_refusals_are_all_recorded(trail: pytest.LogCaptureFixture, clock: list[float]) -> None:
    """Another name, type, device, process, event or errno is another refusal; another context is not."""
    base: dict[str, Any] = {"event": "configure", "uid": 7, "pid": 1, "error": NotPermitted("no"), "name": "md5"}
    variants: list[dict[str, Any]] = [
        {},
        {"name": "sha1"},
        {"type": "hash"},
        {"device": "mac"},
        {"pid": 2},
        {"event": "write"},
        {"error": OverQuota("no")},
        {"uid": 8},
    ]
    for _ in range(3):
        for variant in variants:
            audit_refusal(**(base | variant))
    assert len(trail.messages) == len(variants)
    audit_refusal(**base, context=5)
    assert len(trail.messages) == len(variants)
    assert {record.levelno for record in trail.records} == {logging.WARNING}


def test_a_number_is_told_with_its_own_refusal(trail: pytest.LogCaptureFixture, clock: list[float]) -> None:
    """Not with whichever comes next; and it is told when none comes, as long as it goes on."""
    for name, times in (("md5", 5), ("sha1", 3)):
        for _ in range(times):
            audit_refusal("configure", 7, 1, NotPermitted(f"no {name}"), context=9, type="hash", name=name)
    clock[0] += 1.5
    audit_refusal("configure", 7, 1, NotPermitted("no md4"), type="hash", name="md4")
    assert "unrecorded" not in trail.messages[-1]
    audit_module.trail.tell()
    assert trail.messages[3:] == [
        "configure uid=7 pid=1 refused=EACCES type=hash name=md5 unrecorded=4",
        "configure uid=7 pid=1 refused=EACCES type=hash name=sha1 unrecorded=2",
    ]
    audit_refusal("configure", 7, 1, NotPermitted("no md5"), type="hash", name="md5")
    audit_module.trail.tell()
    assert len(trail.messages) == 5
    clock[0] += 1.5
    audit_module.trail.tell()
    assert trail.messages[5:] == ["configure uid=7 pid=1 refused=EACCES type=hash name=md5 unrecorded=1"]
    clock[0] += 60
    audit_module.trail.tell()
    assert len(trail.messages) == 6
    assert not audit_module.trail.refusals
    assert not audit_module.trail.users


def test_varied_refusals_fill_no_log(trail: pytest.LogCaptureFixture, clock: list[float]) -> None:
    """One user has so many lines a second and no more, another one's come through, and none is lost without number."""
    asked = 0
    for second in range(10):
        for _ in range(10):
            for _ in range(200):
                for _ in range(2):
                    asked += 1
                    audit_refusal("configure", 7, asked, NotPermitted("no"), name=f"name{asked // 2}")
                    asked += 1
                    audit_refusal("configure", 7, 1, NotPermitted("no"), name="md5")
            clock[0] += 0.1
        audit_refusal("configure", 8, 1, NotPermitted("no"), name=f"name{second}")
        audit_module.trail.tell()
    lines = [line for line in trail.messages if "uid=7 " in line]
    assert len(lines) <= BURST + 10 * (LINES + 1)
    assert sum("uid=8" in line for line in trail.messages) == 10
    assert f"reason='more than {LINES} refusals a second'" in "".join(lines)
    assert len(audit_module.trail.refusals) <= BURST + 10 * LINES
    tell_held_back()
    assert told(trail) == asked + 10


def test_memory_of_the_trail_is_bounded(
    trail: pytest.LogCaptureFixture, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many users and names there are: what is forgotten is told first."""
    monkeypatch.setattr(audit_module, "REFUSALS_MAX", 50)
    monkeypatch.setattr(audit_module, "USERS_MAX", 30)
    for uid in range(500):
        for name in ("md5", "md5", "x" * 300 + str(uid)):
            audit_refusal("configure", uid, 1, NotPermitted("no"), name=name)
        assert len(audit_module.trail.refusals) <= 50
        assert len(audit_module.trail.users) <= 30
    assert all(len(str(value)) <= 200 for each in audit_module.trail.refusals for _, value in each)
    tell_held_back()
    assert told(trail) == 1500
    assert not audit_module.trail.refusals
    assert not audit_module.trail.users


def test_numbers_are_told_though_nothing_follows(trail: pytest.LogCaptureFixture) -> None:
    """By a task of the event loop, within seconds; it ends when there is nothing more to tell."""

    async def main() -> None:
        for _ in range(5):
            audit_refusal("configure", 7, 1, NotPermitted("no"), name="md5")
        assert len(trail.messages) == 1
        with trio.fail_after(10):
            while len(trail.messages) < 2:
                await trio.sleep(0.05)
            while audit_module.trail.watched:
                await trio.sleep(0.05)

    began = time.monotonic()
    trio.run(main)
    assert trail.messages[1] == "configure uid=7 pid=1 refused=EACCES name=md5 unrecorded=4"
    assert time.monotonic() - began < 8


# A process of its own: logging is the whole process's
LOGS = """
import logging, os, sys, time
from cryptofs.daemon.logs import Logs, Standard
logs = Logs(Standard())
logs.start(logging.INFO, True)
log = logging.getLogger("cryptofs")
began = time.monotonic()
for number in range(int(sys.argv[1])):
    log.info("line %d %s", number, "x" * 100)
took = time.monotonic() - began
logs.stop()
print(f"{took:.3f} {time.monotonic() - began:.3f} {logs.dropped}", file=sys.stdout)
"""


def run_logs(stderr: int, lines: int, **environment: str) -> tuple[float, float, int]:
    """Seconds that logging and stopping took, and lines that were dropped."""
    done = subprocess.run(
        [sys.executable, "-c", LOGS, str(lines)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **environment},
        timeout=60,
        check=True,
    )
    took, whole, dropped = done.stdout.split()
    return float(took), float(whole), int(dropped)


def test_a_pipe_that_nobody_reads() -> None:
    """Costs the lines, not the process."""
    reader, writer = os.pipe()
    try:
        _, whole, dropped = run_logs(writer, 2 * LINES_MAX)
    finally:
        os.close(reader)
        os.close(writer)
    assert dropped > LINES_MAX / 2
    assert whole < 20


def test_a_full_disk() -> None:
    """Likewise."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        _, _, dropped = run_logs(full, 100)
    finally:
        os.close(full)
    assert dropped == 100


def test_lines_arrive_in_order() -> None:
    """All of them, with their priority where a journal reads them."""
    reader, writer = os.pipe()
    lines: list[bytes] = []

    def read() -> None:
        with open(reader, "rb") as pipe:
            lines.extend(pipe)

    thread = threading.Thread(target=read)
    thread.start()
    status = os.fstat(writer)
    try:
        _, _, dropped = run_logs(writer, 500, JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}")
    finally:
        os.close(writer)
        thread.join()
    assert dropped == 0
    assert [line.split()[1] for line in lines] == [str(number).encode() for number in range(500)]
    assert all(line.startswith(b"<6>line ") for line in lines)


def test_dropped_lines_are_told(tmp_path: Path) -> None:
    """The first line that is written again says how many were not."""
    later = "print('logged', flush=True); time.sleep(1); log.info('again'); time.sleep(0.5); logs.stop()"
    body = LOGS.replace("logs.stop()", later)
    reader, writer = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", body, str(2 * LINES_MAX)], stdout=subprocess.PIPE, stderr=writer
        ) as process:
            os.close(writer)
            writer = -1
            assert process.stdout is not None
            # nobody has read a line until all were logged
            assert process.stdout.readline() == b"logged\n"
            with open(reader, "rb", closefd=False) as pipe:
                text = pipe.read().decode()
            assert process.wait(30) == 0
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    assert "log lines were dropped: the writer was too slow" in text


@pytest.mark.mount
def test_trail_of_a_daemon(tmp_path: Path) -> None:
    """Opens, configurations, refusals and quota hits, with uid, pid, type and name; no key."""
    canary, key = os.urandom(16), os.urandom(32)
    config = '[policy]\nprofile = "standard"\ncontexts = 2\n' + declare("mac", "hash", "hmac(sha256)", "{key}")
    with serving_config(tmp_path, config, key=key) as daemon:
        mount = daemon.mountpoint
        with Context("skcipher", "cbc(aes)", canary, mount=mount), pytest.raises(RequestError, match="policy"):
            Context("hash", "md5", mount=mount)
        with Context.of_device("mac", mount=mount) as device:
            device.digest(b"")
            with Context("hash", "sha256", mount=mount), pytest.raises(OSError, match="quota"):
                Context("hash", "sha256", mount=mount)
    me = f"uid={os.getuid()} pid={os.getpid()}"
    # the first context was opened by the process that asks the mount
    for expected in (
        f"open {me} context=2\n",
        f"configure {me} context=2 type=skcipher name=cbc(aes) engine=",
        f"configure {me} refused=EACCES reason=\"hash 'md5': the policy does not allow you this name\" context=3",
        f"open {me} context=4 device=mac\n",
        f"open {me} refused=EDQUOT reason='uid {os.getuid()} has 2 contexts: at most 2'",
    ):
        assert f"cryptofs: {expected}" in daemon.log, daemon.log
    for secret in (canary, key):
        assert secret.hex() not in daemon.log
        assert repr(secret)[2:-1] not in daemon.log


@pytest.mark.mount
def test_every_refusal_of_a_daemon(tmp_path: Path) -> None:
    """Different ones within a second, quota hits on records and streams, with type and name; what was held back is told
    while the daemon runs, and at its end.
    """
    only_seals = declare("vault", "aead", "gcm(aes)", "{key}", 'operations = ["encrypt"]')
    config = '[policy]\nprofile = "standard"\nqueue-bytes = 100_000\n' + only_seals
    mountpoint = tmp_path / "mount"
    names = (("hash", "md5"), ("hash", "sha1"), ("hash", "md4"), ("skcipher", "ecb(aes)"))

    def refuse(type_: str, name: str) -> None:
        with pytest.raises(RequestError, match="policy"):
            Context(type_, name, mount=mountpoint)

    me = f"uid={os.getuid()} pid={os.getpid()}"
    with serving_config(tmp_path, config, "--engines", "openssl", key=os.urandom(16)) as daemon:
        for _ in range(3):
            for type_, name in names:
                refuse(type_, name)
        beyond = "EDQUOT: uid .* at most 100000"
        with Context("hash", "sha256", mount=mountpoint) as context, pytest.raises(OSError, match=beyond):
            context.digest(bytes(60_000))
        with Context("skcipher", "ctr(aes)", bytes(16), mount=mountpoint) as context:
            directory = mountpoint / "contexts" / str(context.number)
            (directory / "ctl").write_text(f"reset iv=hex:{bytes(16).hex()}")
            stream = os.open(directory / "stream", os.O_WRONLY)
            try:
                assert os.write(stream, bytes(60_000)) == 60_000
                with pytest.raises(OSError, match="quota"):
                    os.write(stream, bytes(60_000))
            finally:
                os.close(stream)
        with pytest.raises(PermissionError):
            os.open(mountpoint / "devices" / "vault" / "decrypt", os.O_RDWR)
        with Context.of_device("vault", mount=mountpoint) as context, pytest.raises(RequestError, match="not allowed"):
            context.decrypt(bytes(40))
        deadline = time.monotonic() + 10
        while daemon.log.count(" unrecorded=2\n") < len(names) and time.monotonic() < deadline:
            time.sleep(0.05)
        quota = f"write {me} refused=EDQUOT reason='uid {os.getuid()}: "
        for type_, name in names:
            assert daemon.log.count(f"configure {me} refused=EACCES reason=\"{type_} '{name}': the policy") == 1
            assert f" context={2 + names.index((type_, name))} type={type_} name={name}\n" in daemon.log
        for held, where in (
            ("0 bytes are queued and 120048 more", "context=14 type=hash name=sha256"),
            # 4096: the state of the message itself
            ("64096 bytes are queued and 60000 more", "context=15 type=skcipher name=ctr(aes)"),
        ):
            assert daemon.log.count(f"{quota}{held} are asked: at most 100000' {where}\n") == 1
        device = "device=vault type=aead name=gcm(aes)\n"
        refused = f"{me} refused=EACCES reason='device vault: decrypt is not allowed'"
        assert daemon.log.count(f"open {refused} {device}") == 1
        assert daemon.log.count(f"decrypt {refused} context=16 {device}") == 1
        for type_, name in names:
            assert f"configure {me} refused=EACCES type={type_} name={name} unrecorded=2\n" in daemon.log
        time.sleep(2.5)
        refuse("hash", "md5")
        refuse("hash", "md5")
        assert daemon.stop() == 0
        assert f"configure {me} refused=EACCES type=hash name=md5 unrecorded=1\n" in daemon.log
