"""Reading the kernel's list of mounts: paths are bytes, and nothing that is mounted is asked."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon

from cryptofs.client.mounts import mounted
from cryptofs.mountinfo import location, mounts, mounts_on

pytestmark = pytest.mark.mount
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root")

NAMES = [
    b"plain",
    b"\xe9",
    b"a b",
    b"tab\tnewline\nend",
    b"return\rend",
    b"back\\slash\\040",
    b"#hash",
    "café".encode(),
]


@pytest.fixture
def odd_mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[bytes]:
    """A tmpfs on a directory of this name."""
    path = os.fsencode(tmp_path) + b"/" + request.param
    os.mkdir(path)
    subprocess.run([b"mount", b"-t", b"tmpfs", b"-o", b"size=4k,nosuid", b"it's me", path], check=True, timeout=20)
    yield path
    subprocess.run([b"umount", path], check=True, timeout=20)


@as_root
@pytest.mark.parametrize("odd_mount", NAMES, indirect=True, ids=repr)
def test_a_path_is_bytes(odd_mount: bytes) -> None:
    """Every name that a directory may have: found with its type, source and device, and clients are not disturbed."""
    (found,) = mounts_on(odd_mount)
    assert (found.kind, found.source, found.is_cryptofs, found.owner) == ("tmpfs", b"it's me", False, None)
    assert found.device == os.stat(odd_mount).st_dev
    assert "nosuid" in found.options
    assert "size=4k" in found.shared
    assert os.fsdecode(odd_mount) not in map(str, mounted())


def test_every_mount_is_read() -> None:
    """As many as the kernel lists lines, root among them."""
    listed, found = -1, 0
    # tests beside this one mount and unmount
    while listed != (listed := Path("/proc/self/mountinfo").read_bytes().count(b"\n")):
        found = len(mounts())
    assert found == listed
    assert mounts_on("/")


def test_location_names_what_the_kernel_lists(
    own_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symlinks, relative paths and dots; also while the daemon is stopped, when every look at the mount would wait."""
    point = os.fsencode(own_daemon.mountpoint)
    (tmp_path / "link").symlink_to("mount")
    (tmp_path / "again").symlink_to(tmp_path / "link")
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    os.kill(own_daemon.process.pid, signal.SIGSTOP)
    try:
        for spelled in (
            "mount",
            "./mount/",
            "link",
            "again",
            "here/link",
            "here/../" + tmp_path.name + "/mount",
            point,
        ):
            assert location(spelled) == point
    finally:
        os.kill(own_daemon.process.pid, signal.SIGCONT)
    assert location("nosuch") == os.fsencode(tmp_path / "nosuch")
    assert location("loop") == os.fsencode(tmp_path / "loop")
    assert location("mount/..") == os.fsencode(tmp_path)
    assert location("/") == b"/"
    (found,) = mounts_on(point)
    assert found.is_cryptofs
    assert found.owner == os.geteuid()
