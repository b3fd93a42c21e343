"""The optional services as they are installed, under a real systemd; see scripts/test-systemd."""

import contextlib
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.compiling import compiled
from helpers.other_user import AS_NOBODY
from helpers.running import ABC, DIGEST
from helpers.runtime import bundle, contained, started
from helpers.waiting import wait_until

from cryptofs.runner.profile import KILLABLE

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not os.environ.get("CRYPTOFS_SYSTEMD"),
        reason="NOT RUN: needs systemd as the first process; ./scripts/test-systemd runs it in the guest",
    ),
]

NODE = Path("/dev/crypto")
SOCKET = Path("/run/cryptofs-agent/socket")


def systemctl(*arguments: str) -> str:
    """What systemctl prints. It must succeed."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    unit = arguments[-1]
    log = subprocess.run(
        ["journalctl", "-u", unit, "--no-pager", "-n", "30"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + log.stdout
    return done.stdout


@contextlib.contextmanager
def running(unit: str) -> Iterator[int]:
    """A service for a while; gives its main process."""
    subprocess.run(["systemd-sysusers", "/usr/local/lib/sysusers.d/cryptofs.conf"], check=True, timeout=30)
    systemctl("daemon-reload")
    systemctl("start", unit)
    try:
        yield int(systemctl("show", "-P", "MainPID", unit))
    finally:
        systemctl("stop", unit)
        assert systemctl("show", "-P", "Result", unit).strip() == "success"


def effective(pid: int) -> tuple[str, str]:
    """The uid and the effective capabilities of a process."""
    rows = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return rows["Uid"].split("\t")[1], rows["CapEff"].strip()


def test_the_device_node(tmp_path: Path) -> None:
    """Root's alone, served by a user without capabilities; it computes, and goes with the service."""
    client = compiled("devcrypto", tmp_path, options=("-static",))
    with running("cryptofs-cuse.service") as pid:
        status = NODE.stat()
        assert stat.S_ISCHR(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, 0, 0)
        uid, capabilities = effective(pid)
        assert uid != "0"
        assert int(capabilities, 16) == 0
        done = subprocess.run([client, NODE, "hash", "16"], capture_output=True, text=True, timeout=60, check=False)
        data = b"\7" * 16
        digests = [hashlib.sha256(data).hexdigest(), hashlib.sha256(data * 2).hexdigest()]
        assert done.stdout.split() == digests, done.stderr
        refused = subprocess.run([*AS_NOBODY, "cat", NODE], capture_output=True, text=True, timeout=60, check=False)
        assert "Permission denied" in refused.stderr
    assert not NODE.exists()


def test_the_agent(tmp_path: Path) -> None:
    """A container's calls are answered as soon as the service is started; its socket is root's, and goes with it."""
    with running("cryptofs-agent.service"):
        assert stat.S_IMODE(SOCKET.stat().st_mode) == 0o600
        line = contained(SOCKET, bundle(tmp_path / "one", KILLABLE), "one", sys.executable, "-c", DIGEST)
        with started(*line) as process:
            output, errors = process.communicate(timeout=60)
        assert (output, process.returncode) == (ABC + "\n", 0), errors
    wait_until(lambda: not SOCKET.exists(), 10)
