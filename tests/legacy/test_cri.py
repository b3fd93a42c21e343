"""Pods of containerd, asked for as a kubelet asks: what docs/legacy.md and docs/containers.md say of Kubernetes."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cri import BIDIRECTIONAL, HOST_TO_CONTAINER, PRIVATE, Cri, Mount, Pod
from helpers.machine import TESTS
from helpers.rootfs import interpreter, make_rootfs
from helpers.running import ABC, DIGEST, SECTIONS
from helpers.runtime import agent
from helpers.sources import Packages
from helpers.waiting import PATIENCE, wait_until

from cryptofs.runner.profile import profile

pytestmark = pytest.mark.legacy

_CRYPTOFS = (sys.executable, "-m", "cryptofs")
SHIM = (*_CRYPTOFS, "run", "--engines", "openssl", "--shim", "--", "/usr/bin/python3", "-c", DIGEST)
OURS = ("/usr/bin/env", f"PYTHONPATH={TESTS.parent}")
INSIDE = "/srv/crypto"
LOOK = ("/usr/bin/head", "-c", "8", f"{INSIDE}/fs/version")
MACHINE = tuple((each, each, PRIVATE) for each in interpreter())


@pytest.fixture(scope="module")
def cri(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cri]:
    """A containerd for these tests."""
    if os.geteuid():
        pytest.skip("NOT RUN: containerd needs root")
    made = Cri(tmp_path_factory.mktemp("cri"), packages, make_rootfs(tmp_path_factory.mktemp("image")))
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def pod(cri: Cri, name: str, *mounts: Mount, profile: Path | None = None) -> Iterator[Pod]:
    """A pod that runs."""
    made = cri.begin(name, *mounts, profile=profile)
    try:
        yield made
    finally:
        cri.end(made)


def test_the_shim(cri: Cri) -> None:
    """seccompProfile RuntimeDefault: no right is added."""
    with pod(cri, "shim", *MACHINE) as made:
        done = cri.execute(made, *OURS, *SHIM)
    assert done == (ABC + "\n", "", 0)


def test_the_agent(cri: Cri, tmp_path: Path) -> None:
    """seccompProfile Localhost: a static program, with nothing of ours in the container."""
    path, file = tmp_path / "socket", tmp_path / "profile"
    file.write_text(json.dumps(profile(str(path), None, killable=False)))
    with agent(path, tmp_path / "log", "--interruptible"), pod(cri, "agent", profile=file) as made:
        for section in ("sockets", "hash", "aead"):
            assert cri.execute(made, "/alg", section) == (SECTIONS[section], "", 0)


def test_the_mount_over_a_restart(cri: Cri) -> None:
    """mountPropagation HostToContainer: the new mount is there; with the default the dead one stays."""
    mountpoint = cri.make_mountpoint("crypto")
    parent = mountpoint.parent
    daemon = cri.serve(mountpoint)
    try:
        with (
            pod(cri, "slave", *MACHINE, (parent, INSIDE, HOST_TO_CONTAINER)) as slave,
            pod(cri, "private", *MACHINE, (parent, INSIDE, PRIVATE)) as private,
        ):
            assert cri.execute(slave, *LOOK).stdout == cri.execute(private, *LOOK).stdout == "cryptofs"
            daemon.kill()
            daemon.wait(60 * PATIENCE)
            assert "not connected" in cri.execute(slave, *LOOK).stderr
            daemon = cri.serve(mountpoint)
            assert cri.execute(slave, *LOOK).stdout == "cryptofs"
            assert "not connected" in cri.execute(private, *LOOK).stderr
    finally:
        daemon.terminate()
        daemon.wait(60 * PATIENCE)


def test_the_daemon_in_a_pod(cri: Cri) -> None:
    """Privileged and Bidirectional, as the DaemonSet has it: other pods have its mount, and the next one's."""
    parent = cri.make_mountpoint("node").parent
    program = (*OURS, *_CRYPTOFS, "mount", f"{INSIDE}/fs", "--allow-root", "--engines", "openssl")
    volume = (parent, INSIDE, BIDIRECTIONAL)
    with pod(cri, "reader", *MACHINE, (parent, INSIDE, HOST_TO_CONTAINER)) as reader:
        for name in ("first", "second"):
            daemon = cri.begin(name, *MACHINE, volume, privileged=True, program=program)
            try:
                wait_until(lambda: cri.execute(reader, *LOOK).stdout == "cryptofs", 60 * PATIENCE)
            finally:
                cri.end(daemon, 60)
            assert "No such file" in cri.execute(reader, *LOOK).stderr
