"""Containers of podman: the agent and the shim, with profiles of podman and docker."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.rootfs import interpreter, make_rootfs
from helpers.running import ABC, DIGEST, SECTIONS
from helpers.runtime import agent
from helpers.waiting import PATIENCE

from cryptofs.runner.profile import profile

pytestmark = pytest.mark.legacy

PODMANS_PROFILE = Path("/usr/share/containers/seccomp.json")
_RUN = (sys.executable, "-m", "cryptofs", "run", "--engines", "openssl", "--shim", "--")
SHIM = (*_RUN, "/usr/bin/python3", "-c", DIGEST)
# a supervisor may not raise them in a container
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000")
# the last one: not every machine's control groups have the controllers that podman asks for
RUNTIMES = (["crun"], ["runc"], ["crun", "--cgroups", "disabled"])

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a container to its end: options of podman, and as `program` its command line."""
    if not shutil.which("podman"):
        pytest.skip("NOT RUN: no podman (apt-get install podman)")
    directory = tmp_path_factory.mktemp("podman")
    root = make_rootfs(directory)
    stores = ["--root", directory / "store", "--runroot", directory / "run", "--cgroup-manager", "cgroupfs"]

    def run(*options: object, program: tuple[str, ...], runtime: list[str]) -> "subprocess.CompletedProcess[str]":
        name, *more = runtime
        line = ["podman", *stores, "--runtime", name, "run", "--rm", "--network", "none", *LIMITS, *more]
        return subprocess.run(
            [*map(str, line), *map(str, options), "--rootfs", str(root), *program],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60 * PATIENCE,
        )  # fmt: skip

    said = ""
    for runtime in RUNTIMES:
        done = run("--security-opt", "seccomp=unconfined", program=("/alg", "hash"), runtime=runtime)
        if done.returncode in (0, 1, 2) and not done.stderr.startswith("Error"):
            return lambda *options, program: run(*options, program=program, runtime=runtime)
        said += done.stderr[-200:]
    pytest.skip(f"NOT RUN: podman runs no containers here: {said}")


@pytest.mark.parametrize("base", [None, PODMANS_PROFILE], ids=["plain", "podman's own"])
def test_the_agent(podman: Run, tmp_path: Path, base: Path | None) -> None:
    """A static program, with nothing of ours in the container: the bytes and errnos of a kernel."""
    path, file = tmp_path / "socket", tmp_path / "profile.json"
    given = None if base is None else json.loads(base.read_text())
    file.write_text(json.dumps(profile(str(path), given, killable=False)))
    with agent(path, tmp_path / "log", "--interruptible"):
        for section in ("hash", "aead", "processes"):
            done = podman("--security-opt", f"seccomp={file}", program=("/alg", section))
            assert (done.stdout, done.returncode) == (SECTIONS[section], 0), (section, done.stderr)


def test_podmans_profile(podman: Run) -> None:
    """It refuses nothing that is needed."""
    mounts = [f"--volume={each}:{each}:ro" for each in interpreter()]
    done = podman(*mounts, program=SHIM)
    assert (done.stdout, done.returncode) == (ABC + "\n", 0), done.stderr


def test_dockers_profile(podman: Run) -> None:
    """Docker's default profile as it is, and no capability beyond the usual ones: the shim suffices."""
    if "CRYPTOFS_DOCKER_PROFILE" not in os.environ:
        pytest.skip("NOT RUN: docker's default profile: name its file (default.json) by CRYPTOFS_DOCKER_PROFILE")
    mounts = [f"--volume={each}:{each}:ro" for each in interpreter()]
    given = ("--security-opt", f"seccomp={os.environ['CRYPTOFS_DOCKER_PROFILE']}", *mounts)
    done = podman(*given, program=SHIM)
    assert (done.stdout, done.returncode) == (ABC + "\n", 0), done.stderr
    refused = podman(*given, program=("/alg", "hash"))
    assert (refused.stdout, refused.returncode) == ("sha256: EPERM\n", 1)
