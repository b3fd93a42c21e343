"""The mount point and the descriptor of /dev/fuse: nobody takes them, puts others in their place or shares them."""

import contextlib
import ctypes
import errno
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.machine import mounts_below
from helpers.other_user import MEMBER, STRANGER, as_user, needs_root

from cryptofs.client import MountNotFound, mounts
from cryptofs.daemon.privileges import Account, mount_fuse, take_away
from cryptofs.mountinfo import mounts_on

# The mount point


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """`cryptofs` with arguments."""
    full = [sys.executable, "-m", "cryptofs", *map(str, command)]
    return subprocess.run(full, capture_output=True, text=True, timeout=60, check=False)


@needs_root
@pytest.mark.mount
@pytest.mark.parametrize("command", [("hand-over", "--user", "nobody"), ("take-back",)])
@pytest.mark.parametrize("to", ["directory", "mount", "nothing", "file"])
def test_a_link_in_place_of_the_mount_point(reachable: Path, command: tuple[str, ...], to: str) -> None:
    """The service's privileged steps follow none: what it leads to keeps its owner, mode, contents and mount."""
    target = reachable.parent / "target"
    link = reachable.parent / "link"
    link.symlink_to(target)
    if to == "file":
        target.write_text("kept")
    elif to != "nothing":
        target.mkdir(mode=0o755)
    if to == "mount":
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
        (target / "kept").write_text("kept")
    try:
        before = target.lstat() if to != "nothing" else None
        done = run(command[0], link, *command[1:])
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert str(link) in done.stderr
        assert link.is_symlink()
        if before is None:
            assert not target.exists()
        else:
            after = target.lstat()
            assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
            assert after.st_dev == before.st_dev
        assert len(mounts_below(reachable.parent)) == (to == "mount")
        if to == "mount":
            assert (target / "kept").read_text() == "kept"
    finally:
        if to == "mount":
            subprocess.run(["umount", target], check=True)


@needs_root
@pytest.mark.mount
def test_another_file_system_on_the_mount_point_stays(reachable: Path) -> None:
    """Neither mount, nor take-back, nor umount's step takes a tmpfs away; only cryptofs goes from on top of it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", reachable], check=True)
    try:
        (reachable / "kept").write_text("kept")
        done = run("mount", reachable, "--user", "nobody")
        assert done.returncode == 1
        assert "tmpfs is mounted here" in done.stderr
        assert stat.S_IMODE(reachable.stat().st_mode) == 0o755
        assert not take_away(reachable)
        # take-back closes whatever directory it finds there, and unmounts nothing that is not cryptofs
        assert run("take-back", reachable).returncode == 0
        assert [line.split()[2] for line in mounts_below(reachable)] == ["tmpfs"]
        descriptor = mount_fuse(reachable, Account("nobody", 65534, 65534))
        try:
            assert run("take-back", reachable).returncode == 0
        finally:
            os.close(descriptor)
        assert [line.split()[2] for line in mounts_below(reachable)] == ["tmpfs"]
        assert (reachable / "kept").read_text() == "kept"
    finally:
        subprocess.run(["umount", reachable], check=True)


@needs_root
@pytest.mark.mount
def test_a_false_mount_is_not_taken_unasked(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount of another user's that calls itself cryptofs: found by nobody but him; one of root's is found."""
    monkeypatch.delenv("CRYPTOFS_MOUNT", raising=False)
    others = reachable.parent / "user_id=0,\tx"
    others.mkdir()
    # what a client would find; nobody serves these mounts, so that looking at one would hang
    find = "import sys; from cryptofs.client.mounts import mounted; print(*mounted(), sep='\\n')"
    for path, uid in ((others, STRANGER), (reachable, 0)):
        descriptor = mount_fuse(path, Account("somebody", uid, uid))
        try:
            trusted = uid == 0
            assert (path in mounts.mounted()) is trusted
            assert len(mounts_on(path)) == 1
            for asking, sees in ((MEMBER, trusted), (STRANGER, True)):
                assert (str(path) in as_user(asking, asking, [], find)) is sees, (path, asking)
            monkeypatch.setattr(mounts, "mounts", list)
            with pytest.raises(MountNotFound):
                mounts.find_mount()
            monkeypatch.undo()
        finally:
            take_away(path)
            os.close(descriptor)


# The descriptor of /dev/fuse

_KCMP = {"x86_64": 312, "aarch64": 272}


@pytest.fixture
def compared() -> None:
    """The kernel tells whether two descriptors are one open file."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_KCMP[os.uname().machine], os.getpid(), os.getpid(), 0, 0, 0):
        pytest.skip(f"NOT RUN: kcmp: {os.strerror(ctypes.get_errno())}")


def holders(pid: int, descriptor: int) -> set[tuple[int, int]]:
    """Every process and number under which the very file that a process has open is open, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = _KCMP[os.uname().machine]
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            for other in os.listdir(f"/proc/{name}/fd"):
                if os.readlink(f"/proc/{name}/fd/{other}") != "/dev/fuse":
                    continue
                same = libc.syscall(call, pid, int(name), 0, descriptor, int(other))
                if same == 0:
                    found.add((int(name), int(other)))
                assert same >= 0 or ctypes.get_errno() in (errno.ESRCH, errno.EBADF), ctypes.get_errno()
    return found


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_root
@pytest.mark.mount
@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize("who", [("--user", "nobody"), ()])
def test_nobody_else_has_the_descriptor(
    reachable: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    who: tuple[str, ...],
) -> None:
    """Of all processes the daemon alone has this /dev/fuse open, once and close-on-exec; its helpers live and have not.

    Both ways of mounting: by the daemon itself, and by fusermount3.
    """
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with told:
        notify = reachable.parent / "notify"
        told.bind(str(notify))
        notify.chmod(0o777)
        monkeypatch.setenv("NOTIFY_SOCKET", str(notify))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        daemon = Daemon(reachable, *who, log=tmp_path / "log")
        try:
            pid = daemon.process.pid
            open_ = {int(each): os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")}
            (fuse,) = (number for number, target in open_.items() if target == "/dev/fuse")
            flags = re.search(r"^flags:\s*([0-7]+)$", Path(f"/proc/{pid}/fdinfo/{fuse}").read_text(), re.MULTILINE)
            assert flags is not None
            assert int(flags[1], 8) & os.O_CLOEXEC
            names = {Path(f"/proc/{child}/comm").read_text().strip() for child in children(pid)}
            assert names == ({"cryptofs-pulse", "cryptofs-keeper"} if who else {"cryptofs-pulse"})
            assert holders(pid, fuse) == {(pid, fuse)}
            for child in children(pid):
                targets = [os.readlink(f"/proc/{child}/fd/{each}") for each in os.listdir(f"/proc/{child}/fd")]
                # the pulse keeps its context, and opens `version` for a moment at each beat
                kept = {f"{reachable}/crypto", f"{reachable}/version", "/dev/null"}
                assert all(each in kept or each.startswith("socket:") for each in targets), targets
        finally:
            assert daemon.stop() == 0, daemon.log


@needs_root
@pytest.mark.mount
@pytest.mark.usefixtures("compared")
def test_the_search_for_holders_finds(reachable: Path) -> None:
    """It would see a child that has it."""
    descriptor = mount_fuse(reachable, Account("nobody", 65534, 65534))
    try:
        with subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,)) as other:
            assert holders(os.getpid(), descriptor) == {(os.getpid(), descriptor), (other.pid, descriptor)}
            other.kill()
    finally:
        take_away(reachable)
        os.close(descriptor)
