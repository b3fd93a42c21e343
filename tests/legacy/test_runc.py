"""Containers of runc whose calls the agent answers, and the shim in one that refuses AF_ALG."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rootfs import interpreter, make_rootfs
from helpers.running import SECTIONS
from helpers.runtime import agent
from helpers.waiting import PATIENCE

from cryptofs.runner.profile import profile

pytestmark = pytest.mark.legacy

REFUSING = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]},
        {"names": ["pidfd_getfd"], "action": "SCMP_ACT_ERRNO"},
    ],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with nothing but a static program. Skips the tests where runc runs no container."""
    directory = tmp_path_factory.mktemp("runc")
    make_rootfs(directory)
    if not shutil.which("runc"):
        pytest.skip("NOT RUN: no runc (apt-get install runc)")
    configure(directory, {"defaultAction": "SCMP_ACT_ALLOW"}, "/alg", "none")
    done = run(directory, "try")
    if done.returncode not in (0, 1, 2) or "runc run failed" in done.stderr:
        pytest.skip(f"NOT RUN: runc runs no containers here: {done.stderr[-300:]}")
    return directory


def configure(bundle: Path, seccomp: dict[str, Any], *program: str, mounts: tuple[str, ...] = ()) -> None:
    """Write the container's configuration. mounts: directories of this machine."""
    made = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    made += [{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}]
    bound = [{"destination": each, "type": "bind", "source": each, "options": ["rbind", "ro"]} for each in mounts]
    configuration = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": program, "env": ["PATH=/usr/bin:/bin"], "cwd": "/",
            "noNewPrivileges": True, "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096}],
            "capabilities": {},
        },
        "root": {"path": "rootfs"},
        "mounts": [*made, *bound],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}], "seccomp": seccomp},
    }  # fmt: skip
    (bundle / "config.json").write_text(json.dumps(configuration))


def run(bundle: Path, name: str) -> "subprocess.CompletedProcess[str]":
    """Run the container to its end."""
    line = ["runc", "run", "-b", str(bundle), f"cryptofs-{os.getpid()}-{name}"]
    return subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60 * PATIENCE
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent. Debian's runc does not know the flag that makes calls uninterruptible."""
    with agent(tmp_path / "socket", tmp_path / "log", "--interruptible"):
        yield tmp_path / "socket"


def test_the_agent(bundle: Path, served: Path) -> None:
    """A static program: the bytes and errnos of a kernel. runc hands over no write(2)."""
    for section, expected in SECTIONS.items():
        # the storm of signals needs the flag
        if section not in ("storm", "many"):
            configure(bundle, profile(str(served), None, killable=False), "/alg", section)
            done = run(bundle, section)
            assert (done.stdout, done.returncode) == (expected, 0), (section, done.stderr)


def test_an_agent_that_demands_the_flag(bundle: Path, tmp_path: Path) -> None:
    """It does not serve a filter without it: an errno, no bytes."""
    with agent(tmp_path / "socket", tmp_path / "log"):
        configure(bundle, profile(str(tmp_path / "socket"), None, killable=False), "/alg", "hash")
        done = run(bundle, "flag")
    assert (done.stdout, done.returncode) == ("sha256: ENOSYS\n", 1)
    assert "WAIT_KILLABLE_RECV" in (tmp_path / "log").read_text()


def test_the_shim(bundle: Path) -> None:
    """Where AF_ALG is refused, without capabilities: it catches a dynamic program; a static one gets EPERM."""
    text = "import socket\nwith socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as s: s.bind(('hash', 'sha256'))"
    mounts = interpreter()
    line = [sys.executable, "-m", "cryptofs", "run", "--engines", "openssl", "--shim", "--"]
    configure(bundle, REFUSING, *line, sys.executable, "-c", text + "\nprint('bound')", mounts=mounts)
    done = run(bundle, "shim")
    assert (done.stdout, done.returncode) == ("bound\n", 0), done.stderr
    configure(bundle, REFUSING, *line, "/alg", "hash", mounts=mounts)
    done = run(bundle, "static")
    assert done.returncode
    assert "EPERM" in done.stdout + done.stderr
