"""Root's small steps, and that nothing of root is left after them."""

import contextlib
import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.machine import mount_lines
from helpers.waiting import wait_until

from cryptofs.cli.mount import who_serves
from cryptofs.client import Context
from cryptofs.daemon.privileges import (
    Account,
    PrivilegeError,
    find_account,
    mount_fuse,
    privileges_left,
    protect_mountpoint,
    take_away,
)
from cryptofs.mountinfo import mounts_on

pytestmark = pytest.mark.mount
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root")

NOBODY = Account("nobody", 65534, 65534)
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def status_of(pid: int) -> str:
    """/proc/<pid>/status."""
    return Path(f"/proc/{pid}/status").read_text()


def is_closed(path: Path) -> bool:
    """Whether nothing is mounted here and nobody but root can do anything."""
    if mounts_on(path):
        return False
    found = path.stat()
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0)


@pytest.fixture
def unprivileged(reachable: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that root started and that serves as nobody."""
    daemon = Daemon(reachable, "--user", "nobody", log=tmp_path / "log")
    yield daemon
    if daemon.process.poll() is None:
        daemon.stop()


# The daemon


@as_root
def test_the_daemon_has_nothing_of_root(unprivileged: Daemon) -> None:
    """Ids, groups, every capability set, no_new_privs; what it has open; it cannot be looked into by its own user."""
    pid = unprivileged.process.pid
    assert privileges_left(status_of(pid), NOBODY) == []
    assert any(target == "/dev/fuse" for target in unprivileged.descriptors)
    # what is undumpable belongs to root
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    as_itself = ["setpriv", "--reuid", "nobody", "--clear-groups", "cat", f"/proc/{pid}/environ"]
    assert b"Permission denied" in subprocess.run(as_itself, capture_output=True, check=False).stderr
    assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())


@as_root
@pytest.mark.parametrize("uid", [0, 65534, 4321])
def test_it_serves_every_user(unprivileged: Daemon, uid: int) -> None:
    """allow_other holds, and default_permissions with it: a user's own context is not another's."""
    mount = unprivileged.mountpoint
    options = next(line.split()[3] for line in mount_lines() if f" {mount} " in line)
    assert {"allow_other", "default_permissions", "nosuid", "nodev"} <= set(options.split(","))
    asked = subprocess.run(
        ["setpriv", "--reuid", str(uid), "--clear-groups", "sh", "-c", f"cat {mount}/version; cat <{mount}/crypto"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.startswith("cryptofs ")
    with Context("hash", "sha256", mount=mount) as context:
        assert context.digest(b"").hex() == EMPTY
        other = ["setpriv", "--reuid", "1234", "--clear-groups", "cat", str(context.directory / "status")]
        assert b"No such file" in subprocess.run(other, capture_output=True, check=False).stderr


@as_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_the_mount_point_is_closed(unprivileged: Daemon, number: signal.Signals) -> None:
    """Unmounted, root's own, mode 0000: an unprivileged program writes nothing there; the client gets an error."""
    context = Context("hash", "sha256", mount=unprivileged.mountpoint)
    try:
        unprivileged.process.send_signal(number)
        status = unprivileged.process.wait(10)
        assert status == (-9 if number == signal.SIGKILL else 0), unprivileged.log
        began = time.monotonic()
        with pytest.raises(OSError) as caught:
            context.digest(b"")
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        assert time.monotonic() - began < 1
    finally:
        context.close()
    wait_until(lambda: is_closed(unprivileged.mountpoint), 2)
    writing = [
        "setpriv",
        "--reuid",
        "nobody",
        "--clear-groups",
        "sh",
        "-c",
        f"echo x > {unprivileged.mountpoint}/encrypt",
    ]
    assert b"Permission denied" in subprocess.run(writing, capture_output=True, check=False).stderr
    assert os.listdir(unprivileged.mountpoint) == []


@as_root
def test_umount_from_outside_ends_it(unprivileged: Daemon) -> None:
    """umount(8) by root: the daemon ends with 0, the mount point is closed."""
    subprocess.run(["umount", str(unprivileged.mountpoint)], check=True)
    assert unprivileged.process.wait(10) == 0
    wait_until(lambda: is_closed(unprivileged.mountpoint), 2)


@as_root
def test_it_refuses_to_serve_as_root(tmp_path: Path) -> None:
    """Unless told to; the error names both ways."""
    with contextlib.suppress(PrivilegeError):
        find_account("cryptofs")
        pytest.skip("NOT RUN: the user cryptofs exists here")
    command = [sys.executable, "-m", "cryptofs", "mount", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--user NAME" in done.stderr
    assert "--allow-root" in done.stderr
    assert not mounts_on(tmp_path)


@as_root
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--user", "nosuchuser"), 2, "user 'nosuchuser': no such user"),
        (("--user", "root"), 1, "user 'root' is root"),
        (("--user", "nobody", "--allow-root"), 2, "give only one"),
        (("--user", "nobody", "-o", "allow_root"), 1, "allow_root"),
        (("--service",), 1, "no mount was handed over"),
        (("--service", "--user", "nobody"), 2, "--service takes no"),
    ],
)
def test_bad_combinations(tmp_path: Path, arguments: tuple[str, ...], status: int, says: str) -> None:
    """One line that names what is wrong, and nothing is mounted."""
    more = () if "--user" in arguments else ("--allow-root",)
    command = [sys.executable, "-m", "cryptofs", "mount", str(tmp_path), *arguments, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not mounts_on(tmp_path)


def test_only_root_can_serve_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """--user as an ordinary user is an error; without it nothing changes for that user."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert who_serves(None, allow_root=False) is None
    assert who_serves(None, allow_root=True) is None
    with pytest.raises(PrivilegeError, match="only root"):
        who_serves("nobody", allow_root=False)


@as_root
def test_a_failing_start_leaves_nothing(reachable: Path) -> None:
    """The engines cannot be opened after the children were made: all of them end, nothing is mounted."""
    script = (
        "import cryptofs.daemon.serve as d, sys; from pathlib import Path\n"
        "from cryptofs.daemon.privileges import find_account\n"
        "def broken(*a): raise d.MountError('the assembly broke')\n"
        "d.Assembly = broken\n"
        "d.serve(d.Settings(Path(sys.argv[1]), ('openssl',), account=find_account('nobody')), lambda: None)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(reachable)], capture_output=True, text=True, check=False)
    assert "the assembly broke" in done.stderr
    wait_until(lambda: is_closed(reachable), 2)


# The steps


@as_root
def test_dropping_is_for_good() -> None:
    """In a process of its own: no way back to root, no file of root's, no mount, and it cannot be dropped further."""
    script = """
import os, subprocess, sys
from cryptofs.daemon.privileges import *
drop_privileges(find_account("nobody"))
tried = {
    "setuid": lambda: os.setuid(0), "setgroups": lambda: os.setgroups([0]),
    "shadow": lambda: open("/etc/shadow"), "chown": lambda: os.chown("/tmp", 0, 0),
    "mount": lambda: mount_fuse("/mnt", find_account("nobody")),
    "again": lambda: drop_privileges(find_account("daemon")),
}
for name, call in tried.items():
    try:
        call()
        print(name, "DONE")
    except (OSError, PrivilegeError) as error:
        print(name, type(error).__name__)
# a program that is root's by its mode gains nothing
print(os.popen("su -c id 2>&1 </dev/null; grep NoNewPrivs /proc/self/status").read())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines()[:6])
    assert lines == {
        "setuid": "PermissionError",
        "setgroups": "PermissionError",
        "shadow": "PermissionError",
        "chown": "PermissionError",
        "mount": "PrivilegeError",
        "again": "PrivilegeError",
    }
    assert "uid=0" not in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout


_CLEAN = """Name:\tx
Uid:\t65534\t65534\t65534\t65534
Gid:\t65534\t65534\t65534\t65534
Groups:\t
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
"""


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("Uid:\t65534\t65534\t65534", "Uid:\t65534\t65534\t0", "Uid 65534 65534 0 65534"),
        ("Gid:\t65534", "Gid:\t0", "Gid 0 65534 65534 65534"),
        ("Groups:\t", "Groups:\t0 4", "Groups 0 4"),
        ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001", "CapBnd 0000000000000001"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000200000", "CapEff 0000000000200000"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs 0"),
        ("CapAmb:\t0000000000000000\n", "", "CapAmb unknown"),
    ],
)
def test_what_is_left_is_found(old: str, new: str, left: str) -> None:
    """The check after dropping finds each single thing that is left."""
    assert privileges_left(_CLEAN, NOBODY) == []
    assert old in _CLEAN
    assert privileges_left(_CLEAN.replace(old, new), NOBODY) == [left]


@as_root
def test_taking_away_ends_those_who_wait(tmp_path: Path) -> None:
    """A mount that nobody serves, with its descriptor still open: its clients get an error, both layers go."""
    mountpoint = tmp_path / "a path with\ttabs"
    mountpoint.mkdir()
    descriptors = [mount_fuse(mountpoint, NOBODY), mount_fuse(mountpoint, NOBODY, ["ro", "noexec"])]
    try:
        assert len(mounts_on(mountpoint)) == 2
        with subprocess.Popen(["ls", str(mountpoint)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
            time.sleep(0.3)
            assert client.poll() is None
            assert take_away(mountpoint)
            assert client.wait(2) != 0
        assert len(mounts_on(mountpoint)) == 0
        assert not take_away(mountpoint)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@as_root
def test_a_mount_point_is_not_reached_through_a_link(tmp_path: Path) -> None:
    """Root changes owner and mode of the directory that was named, or of nothing."""
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(PrivilegeError, match="link"):
        protect_mountpoint(link)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    protect_mountpoint(target)
    assert is_closed(target)
    with pytest.raises(PrivilegeError, match="No such file"):
        protect_mountpoint(tmp_path / "missing")


def test_what_is_mounted_over_cryptofs_stays(tmp_path: Path) -> None:
    """take-back removes cryptofs' own mounts and refuses where another file system lies on them."""
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: only root mounts")
    point = tmp_path / "mount"
    point.mkdir()
    daemon = Daemon(point, log=tmp_path / "log")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], check=True)
        (point / "precious").write_text("here")
        with pytest.raises(PrivilegeError, match="tmpfs is mounted over cryptofs"):
            take_away(point)
        assert (point / "precious").read_text() == "here"
        subprocess.run(["umount", str(point)], check=True)
        assert take_away(point)
        assert daemon.process.wait(30) == 0
    finally:
        subprocess.run(["umount", str(point)], capture_output=True, check=False)
        if daemon.process.poll() is None:
            daemon.kill()
