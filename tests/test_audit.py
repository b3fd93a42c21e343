"""Audit events and the logging behind them: what is recorded, and that no log can stop the daemon."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Daemon

from cryptofs import audit as audit_module
from cryptofs.audit import audit, audit_refusal
from cryptofs.client import Context, RequestError
from cryptofs.errors import NotPermitted
from cryptofs.logs import LINES_MAX


@pytest.fixture
def trail(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The audit trail, turned on."""
    logger = logging.getLogger("cryptofs.audit")
    before = logger.level
    caplog.set_level(logging.INFO, "cryptofs.audit")
    audit_module._refusals.clear()
    yield caplog
    logger.setLevel(before)


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


def test_refusals_are_not_repeated(trail: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks a thousand times is recorded once a second, with how many were left out."""
    now = [10.0]
    monkeypatch.setattr(audit_module.time, "monotonic", lambda: now[0])
    for _ in range(1000):
        audit_refusal("open", 1000, 7, NotPermitted("no"))
    audit_refusal("open", 1001, 8, NotPermitted("no"))
    assert len(trail.messages) == 2
    now[0] += 1.5
    audit_refusal("open", 1000, 7, NotPermitted("no"))
    assert trail.messages[2] == "open uid=1000 pid=7 refused=EACCES reason=no unrecorded=999"
    for uid in range(5000):
        audit_refusal("open", uid, 7, NotPermitted("no"))
    assert len(audit_module._refusals) <= 1025


# A process of its own: logging is the whole process's
LOGS = """
import logging, os, sys, time
from cryptofs.logs import Logs
logs = Logs()
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
    try:
        _, _, dropped = run_logs(writer, 500, JOURNAL_STREAM="1:2")
    finally:
        os.close(writer)
        thread.join()
    assert dropped == 0
    assert [line.split()[1] for line in lines] == [str(number).encode() for number in range(500)]
    assert all(line.startswith(b"<6>line ") for line in lines)


def test_dropped_lines_are_told(tmp_path: Path) -> None:
    """The first line that is written again says how many were not."""
    body = LOGS.replace("logs.stop()", "time.sleep(1); log.info('again'); time.sleep(0.5); logs.stop()")
    reader, writer = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", body, str(2 * LINES_MAX)], stdout=subprocess.DEVNULL, stderr=writer
        ) as process:
            os.close(writer)
            writer = -1
            time.sleep(0.8)
            with open(reader, "rb", closefd=False) as pipe:
                text = pipe.read().decode()
            assert process.wait(30) == 0
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    assert "log lines were dropped: they came faster than they could be written" in text


@pytest.mark.mount
def test_trail_of_a_daemon(tmp_path: Path) -> None:
    """Opens, configurations, refusals and quota hits, with uid, pid, type and name; no key."""
    config = tmp_path / "cryptofs.toml"
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    config.write_text(
        '[policy]\nprofile = "standard"\ncontexts = 2\n'
        f'[devices.mac]\ntype = "hash"\nname = "hmac(sha256)"\nkey.file = "{key}"\n'
    )
    config.chmod(0o600)
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    daemon = Daemon(mountpoint, "--config", str(config), log=tmp_path / "log")
    try:
        canary = os.urandom(16)
        with Context("skcipher", "cbc(aes)", canary, mount=mountpoint), pytest.raises(RequestError, match="policy"):
            Context("hash", "md5", mount=mountpoint)
        with Context.of_device("mac", mount=mountpoint) as device:
            device.digest(b"")
            with Context("hash", "sha256", mount=mountpoint), pytest.raises(OSError, match="quota"):
                Context("hash", "sha256", mount=mountpoint)
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
    me = f"uid={os.getuid()} pid={os.getpid()}"
    for expected in (
        f"open {me} context=1\n",
        f"configure {me} context=1 type=skcipher name=cbc(aes) engine=",
        f"configure {me} refused=EACCES reason=\"hash 'md5': the policy does not allow you this name\" context=2",
        f"open {me} context=3 device=mac\n",
        f"open {me} refused=EDQUOT reason='uid {os.getuid()} has 2 contexts open: at most 2'",
    ):
        assert f"cryptofs: {expected}" in daemon.log, daemon.log
    for secret in (canary, key.read_bytes()):
        assert secret.hex() not in daemon.log
        assert repr(secret)[2:-1] not in daemon.log
