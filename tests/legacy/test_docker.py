"""Containers of docker and containerd: the shim, the agent, and the mount, with Debian's own dockerd."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.dockerd import IMAGE, Docker
from helpers.machine import TESTS
from helpers.rootfs import interpreter, make_rootfs
from helpers.running import ABC, DIGEST, SECTIONS
from helpers.runtime import agent
from helpers.sources import Packages, unpacked
from helpers.waiting import PATIENCE

from cryptofs.runner.profile import profile

pytestmark = pytest.mark.legacy

_CRYPTOFS = (sys.executable, "-m", "cryptofs")
SHIM = (*_CRYPTOFS, "run", "--engines", "openssl", "--shim", "--", "/usr/bin/python3", "-c", DIGEST)
# This project and not an installed one: nothing else is added to what `docker run` gives.
OURS = (f"--env=PYTHONPATH={TESTS.parent}", *(f"--volume={each}:{each}:ro" for each in interpreter()))
HARDENED = ("--cap-drop=ALL", "--read-only", "--security-opt=no-new-privileges")
MAY_2026 = (("LT", 38), ("EQ", 39), ("GT", 40))
LISTED = (("LT", 12), *(("EQ", each) for each in range(13, 46) if each not in (19, 20, 23, 25, 34, 37, 38, 40)))
"""The families that default profiles allow: docker's of May 2026, and a later one in its sources."""


@pytest.fixture(scope="module")
def docker(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A dockerd for these tests."""
    if os.geteuid():
        pytest.skip("NOT RUN: dockerd needs root")
    made = Docker(tmp_path_factory.mktemp("docker"), packages, make_rootfs(tmp_path_factory.mktemp("image")))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def default(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Docker's default profile, from the sources of this docker."""
    source = unpacked("docker.io", tmp_path_factory.mktemp("source"))
    (file,) = source.glob("**/profiles/seccomp/default.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def allowing(base: dict[str, Any], families: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    """A profile like another one, with these families of sockets and no other."""
    rules = [{**rule, "names": [name for name in rule["names"] if name != "socket"]} for rule in base["syscalls"]]
    for comparison, family in families:
        condition = {"index": 0, "value": family, "op": f"SCMP_CMP_{comparison}"}
        rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [condition]})
    return {**base, "syscalls": [rule for rule in rules if rule["names"]]}


def written(file: Path, seccomp: dict[str, Any]) -> Path:
    """The file, with this profile."""
    file.write_text(json.dumps(seccomp))
    return file


@pytest.mark.parametrize("options", [(), HARDENED], ids=["plain", "hardened"])
def test_the_shim_under_the_default_profile(docker: Docker, options: tuple[str, ...]) -> None:
    """Nothing is changed of what `docker run` does, or less is allowed than usual."""
    done = docker.run(*options, *OURS, program=SHIM)
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)


@pytest.mark.parametrize("families", [MAY_2026, LISTED], ids=["May 2026", "listed"])
def test_the_shim_where_it_is_refused(
    docker: Docker, default: dict[str, Any], tmp_path: Path, families: tuple[tuple[str, int], ...]
) -> None:
    """Default profiles that refuse AF_ALG: a dynamic program gets its bytes, a static one the filter's errno."""
    security = f"--security-opt=seccomp={written(tmp_path / 'profile', allowing(default, families))}"
    done = docker.run(security, *OURS, program=SHIM)
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)
    refused = docker.run(security, program=("/alg", "hash"))
    assert (refused.stdout, refused.returncode) == ("sha256: EPERM\n", 1)


def test_a_named_default_profile(docker: Docker) -> None:
    """Docker's file as it is published: the shim suffices, and AF_ALG itself is refused."""
    if "CRYPTOFS_DOCKER_PROFILE" not in os.environ:
        pytest.skip("NOT RUN: a published default profile of docker: name its file by CRYPTOFS_DOCKER_PROFILE")
    security = f"--security-opt=seccomp={os.environ['CRYPTOFS_DOCKER_PROFILE']}"
    done = docker.run(security, *OURS, program=SHIM)
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)
    assert docker.run(security, program=("/alg", "hash")).stdout == "sha256: EPERM\n"


@contextlib.contextmanager
def sleeping(docker: Docker, *options: str) -> Iterator[str]:
    """The name of a container that does nothing, with this machine's programs."""
    done = docker("run", "--detach", "--network", "none", *options, *OURS, IMAGE, "sleep", "600")
    assert not done.returncode, done.stderr
    name = done.stdout.strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def _skip_old(docker: Docker, file: Path) -> None:
    """A docker that drops a profile's `listenerPath` starts no container with it."""
    if docker.major < 23:
        done = docker.run(f"--security-opt=seccomp={file}", program=("/alg", "hash"))
        assert (done.stdout, done.returncode) == ("", 125)
        assert "listenerPath" in done.stderr
        pytest.skip(f"NOT RUN: docker {docker.version} drops a profile's listenerPath, and starts no container with it")


@pytest.mark.parametrize("like", ["plain", "default", "May 2026"])
def test_the_agent(docker: Docker, default: dict[str, Any], tmp_path: Path, like: str) -> None:
    """A static program with runc, and nothing of ours in the container: the bytes and errnos of a kernel.

    So has one that `docker exec` starts.
    """
    bases = {"plain": None, "default": default, "May 2026": allowing(default, MAY_2026)}
    path = tmp_path / "socket"
    file = written(tmp_path / "profile", profile(str(path), bases[like], killable=False))
    _skip_old(docker, file)
    with agent(path, tmp_path / "log", "--interruptible"):
        for section in ("sockets", "hash", "aead", "processes"):
            done = docker.run(f"--security-opt=seccomp={file}", program=("/alg", section))
            assert (done.stdout, done.returncode) == (SECTIONS[section], 0), (section, done.stderr)
        with sleeping(docker, f"--security-opt=seccomp={file}") as name:
            done = docker("exec", name, "/alg", "hash")
            assert (done.stdout, done.returncode) == (SECTIONS["hash"], 0), done.stderr


def test_the_agent_with_the_flag(docker: Docker, tmp_path: Path) -> None:
    """crun takes the flag, and then no signal makes the kernel repeat a call."""
    path = tmp_path / "socket"
    file = written(tmp_path / "profile", profile(str(path), None, killable=True))
    _skip_old(docker, file)
    with agent(path, tmp_path / "log"):
        for section in ("hash", "storm"):
            done = docker.run("--runtime=crun", f"--security-opt=seccomp={file}", program=("/alg", section))
            assert (done.stdout, done.returncode) == (SECTIONS[section], 0), (section, done.stderr)


def test_the_agent_by_containerd(docker: Docker, tmp_path: Path) -> None:
    """Profiles of the OCI's form, which containerd hands on as they are: with runc, and with crun and the flag."""
    path = tmp_path / "socket"
    for name, killable in (("runc", False), ("crun", True)):
        file = written(tmp_path / name, profile(str(path), None, killable))
        options = ["--runc-binary", docker.crun] if killable else []
        with agent(path, tmp_path / "log", *(() if killable else ("--interruptible",))):
            for section in ("sockets", "hash", "storm" if killable else "aead"):
                done = docker.run_by_containerd(
                    f"{name}-{section}", *options, "--seccomp", "--seccomp-profile", file, program=("/alg", section)
                )
                assert (done.stdout, done.returncode) == (SECTIONS[section], 0), (name, section, done.stderr)


def test_the_shim_by_containerd(docker: Docker) -> None:
    """Under containerd's default profile."""
    mounts = [f"--mount=type=bind,src={each},dst={each},options=rbind:ro" for each in interpreter()]
    options = ("--seccomp", f"--env=PYTHONPATH={TESTS.parent}", *mounts)
    done = docker.run_by_containerd("shim", *options, program=SHIM)
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)


# The mount; docs/containers.md


def test_a_container_keeps_the_mount_over_a_restart(docker: Docker) -> None:
    """A volume of the parent, rslave: the new mount is there; with docker's default the dead one stays."""
    mountpoint, version = docker.make_mountpoint("crypto"), "/srv/crypto/fs/version"

    def look(container: str) -> str:
        done = docker("exec", container, "head", "-c", "8", version)
        return done.stdout + done.stderr

    volume = f"--volume={mountpoint.parent}:/srv/crypto"
    daemon = docker.serve(mountpoint)
    try:
        with sleeping(docker, f"{volume}:rslave") as slave, sleeping(docker, volume) as private:
            assert look(slave) == look(private) == "cryptofs"
            daemon.kill()
            daemon.wait(60 * PATIENCE)
            assert "not connected" in look(slave)
            daemon = docker.serve(mountpoint)
            assert look(slave) == "cryptofs"
            assert "not connected" in look(private)
    finally:
        daemon.terminate()
        daemon.wait(60 * PATIENCE)
