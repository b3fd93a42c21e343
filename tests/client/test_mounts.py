"""Which mount a client takes where none is named, with real mounts, and what it says where none will do."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon

from cryptofs.client import ClientError, Context, MountNotFound, find_mount
from cryptofs.client import mounts as looking
from cryptofs.mountinfo import Mount, mounts

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root"),
]

NOBODY = 65534


@pytest.fixture(autouse=True)
def only_these(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is mounted on this machine is none of these tests' business."""
    below = os.fsencode(tmp_path_factory.getbasetemp()) + b"/"
    monkeypatch.setattr(looking, "mounts", lambda: [mount for mount in mounts() if mount.point.startswith(below)])
    monkeypatch.delenv(looking.MOUNT_VARIABLE, raising=False)


def bind(source: Path, target: Path, *options: str) -> None:
    """A second mount of a file system, which is listed behind it."""
    target.mkdir()
    subprocess.run(["mount", "--bind", source, target], check=True, timeout=20)
    if options:
        subprocess.run(["mount", "-o", ",".join(("remount", "bind", *options)), target], check=True, timeout=20)


def unmount(target: Path) -> None:
    """Take it off again."""
    subprocess.run(["umount", "-l", target], check=True, timeout=20)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Path]:
    """Another user's mount, in front of all others, which never answers; its name is no text."""
    point = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9foreign"))
    point.mkdir()
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id={NOBODY},group_id={NOBODY},allow_other"
    subprocess.run(
        [sys.executable, "-c", _MOUNT, os.fsencode(point), options], pass_fds=(descriptor,), check=True, timeout=20
    )
    yield point
    os.close(descriptor)
    unmount(point)


_MOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
point, options = map(os.fsencode, sys.argv[1:])
if libc.mount(b"cryptofs", point, b"fuse.cryptofs", 0, options):
    raise SystemExit(os.strerror(ctypes.get_errno()))
"""


def test_the_first_usable_one(foreign: Path, own_daemon: Daemon, tmp_path: Path) -> None:
    """Another user's is not looked at; a read-only, a covered and a partial one are passed over; the rest is taken."""
    assert find_mount() == own_daemon.mountpoint
    good = tmp_path / "good"
    bind(own_daemon.mountpoint, good)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", own_daemon.mountpoint], check=True, timeout=20)
    bind(good / "contexts", tmp_path / "part")
    try:
        assert find_mount() == good
        with Context("hash", "sha256") as context:
            assert context.directory.parent.parent == good
        subprocess.run(["mount", "-o", "remount,bind,ro", good], check=True, timeout=20)
        with pytest.raises(MountNotFound) as caught:
            find_mount()
    finally:
        unmount(tmp_path / "part")
        unmount(own_daemon.mountpoint)
        unmount(good)
    assert caught.value.errno == errno.ENOENT
    text = str(caught.value)
    assert text.startswith("ENOENT: no cryptofs can be used (")
    for reason in (
        rf"{tmp_path}/\xe9foreign: of uid {NOBODY}, which is neither root, nor cryptofs, nor you",
        f"{own_daemon.mountpoint}: another file system is mounted over it",
        f"{good}: read-only",
        f"{tmp_path}/part: not the whole of one",
        "CRYPTOFS_MOUNT",
    ):
        assert reason in text
    assert "\n" not in text
    assert text.isprintable()


def test_a_silent_one_and_a_dead_one(own_daemon: Daemon, tmp_path: Path) -> None:
    """A stopped daemon costs two seconds and is passed over; one that has ended costs nothing."""
    second = tmp_path / "second"
    second.mkdir()
    other = Daemon(second, log=tmp_path / "log2")
    os.kill(own_daemon.process.pid, signal.SIGSTOP)
    try:
        assert find_mount() == second
    finally:
        os.kill(own_daemon.process.pid, signal.SIGCONT)
    assert find_mount() == own_daemon.mountpoint
    own_daemon.process.kill()
    own_daemon.process.wait(20)
    assert find_mount() == second
    assert other.stop() == 0
    with pytest.raises(MountNotFound, match=r"its daemon has ended; `cryptofs umount` clears it\)"):
        find_mount()
    with pytest.raises(MountNotFound, match="its daemon has ended") as caught:
        find_mount(own_daemon.mountpoint)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_an_empty_variable_is_none(own_daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if it were unset, and not the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTOFS_MOUNT", "")
    assert find_mount() == own_daemon.mountpoint
    monkeypatch.setenv("CRYPTOFS_MOUNT", "mount")
    assert find_mount() == Path("mount")
    monkeypatch.setenv("CRYPTOFS_MOUNT", ".")
    with pytest.raises(MountNotFound, match=r"^ENOENT: \.: no cryptofs is mounted here$"):
        find_mount()


def test_none_at_all(tmp_path: Path) -> None:
    """What there is to do; an error of the client's one base, and a FileNotFoundError."""
    with pytest.raises(MountNotFound, match=r"^ENOENT: no cryptofs is mounted: mount one .*CRYPTOFS_MOUNT") as caught:
        find_mount()
    assert isinstance(caught.value, ClientError | FileNotFoundError)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MountNotFound, match=r"^ENOTDIR: .*/file: no cryptofs is mounted here$"):
        find_mount(tmp_path / "file")
    with pytest.raises(MountNotFound, match=r"^ENOENT: \\xff\\n: no cryptofs is mounted here$"):
        find_mount(os.fsdecode(b"\xff\n"))


def test_whom_a_mount_belongs_to() -> None:
    """Root's, the client's own and the service's are trusted."""
    other = Mount(b"/nosuch", "fuse.cryptofs", b"cryptofs", 0, frozenset(), frozenset({"user_id=7"}))
    assert looking.why_not(other, {0, 8}).startswith("of uid 7")
    assert looking.why_not(other, {7}) == "not the whole of one"
