"""Containers of runc and crun whose calls the agent answers, and the shim in one that refuses AF_ALG."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Bundle:
    """A bundle with nothing but a static program, and the runtime that runs it."""

    directory: Path
    runtime: str

    def configure(self, seccomp: dict[str, Any], *program: str, mounts: tuple[str, ...] = ()) -> None:
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
        (self.directory / "config.json").write_text(json.dumps(configuration))

    def run(self, name: str) -> "subprocess.CompletedProcess[str]":
        """Run the container to its end."""
        options = ["--cgroup-manager=disabled"] if self.runtime == "crun" else []
        line = [self.runtime, *options, "run", "-b", str(self.directory), f"cryptofs-{os.getpid()}-{name}"]
        return subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60 * PATIENCE
        )


@pytest.fixture(scope="module", params=["runc", "crun"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Skips the tests where the runtime runs no container."""
    made = Bundle(tmp_path_factory.mktemp(request.param), request.param)
    make_rootfs(made.directory)
    if not shutil.which(made.runtime):
        pytest.skip(f"NOT RUN: no {made.runtime} (apt-get install {made.runtime})")
    made.configure({"defaultAction": "SCMP_ACT_ALLOW"}, "/alg", "hash")
    done = made.run("try")
    if not done.stdout:
        pytest.skip(f"NOT RUN: {made.runtime} runs no containers here: {done.stderr[-300:]}")
    return made


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent. Not every runtime knows the flag that makes calls uninterruptible."""
    with agent(tmp_path / "socket", tmp_path / "log", "--interruptible"):
        yield tmp_path / "socket"


def test_the_agent(bundle: Bundle, served: Path) -> None:
    """A static program: the bytes and errnos of a kernel. Runtimes hand over no write(2)."""
    for section, expected in SECTIONS.items():
        # the storm of signals needs the flag
        if section not in ("storm", "many"):
            bundle.configure(profile(str(served), None, killable=False), "/alg", section)
            done = bundle.run(section)
            assert (done.stdout, done.returncode) == (expected, 0), (section, done.stderr)


def test_the_flag(bundle: Bundle, tmp_path: Path) -> None:
    """With it no signal makes the kernel repeat a call."""
    with agent(tmp_path / "socket", tmp_path / "log"):
        bundle.configure(profile(str(tmp_path / "socket"), None, killable=True), "/alg", "storm")
        done = bundle.run("storm")
        if done.stdout == "":
            pytest.skip(f"NOT RUN: this {bundle.runtime} does not know the flag: {done.stderr[-300:]}")
    assert (done.stdout, done.returncode) == (SECTIONS["storm"], 0), done.stderr


def test_an_agent_that_demands_the_flag(bundle: Bundle, tmp_path: Path) -> None:
    """It does not serve a filter without it: an errno, no bytes."""
    with agent(tmp_path / "socket", tmp_path / "log"):
        bundle.configure(profile(str(tmp_path / "socket"), None, killable=False), "/alg", "hash")
        done = bundle.run("flag")
    assert (done.stdout, done.returncode) == ("sha256: ENOSYS\n", 1)
    assert "WAIT_KILLABLE_RECV" in (tmp_path / "log").read_text()


def test_the_shim(bundle: Bundle) -> None:
    """Where AF_ALG is refused, without capabilities: it catches a dynamic program; a static one gets EPERM."""
    text = "import socket\nwith socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as s: s.bind(('hash', 'sha256'))"
    mounts = interpreter()
    line = [sys.executable, "-m", "cryptofs", "run", "--engines", "openssl", "--shim", "--"]
    bundle.configure(REFUSING, *line, sys.executable, "-c", text + "\nprint('bound')", mounts=mounts)
    done = bundle.run("shim")
    assert (done.stdout, done.returncode) == ("bound\n", 0), done.stderr
    bundle.configure(REFUSING, *line, "/alg", "hash", mounts=mounts)
    done = bundle.run("static")
    assert done.returncode
    assert "EPERM" in done.stdout + done.stderr
