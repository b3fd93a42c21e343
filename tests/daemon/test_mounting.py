"""Mounting and unmounting as administrators do it: what is unmounted, fstab, descriptors that are closed or kept."""

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.administration import DETACHED, ROOT, as_root, daemon_of, ends_with_one_line, in_shell, kinds_on, run
from helpers.daemons import Daemon
from helpers.waiting import wait_until

from cryptofs.daemon.mounting import MountError, MountOptions, check_options
from cryptofs.mountinfo import mounts_on

pytestmark = pytest.mark.mount

AS_NOBODY = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--")


@contextlib.contextmanager
def mounted(kind: str, path: bytes | Path, *options: str) -> Iterator[None]:
    """A file system that is not cryptofs."""
    subprocess.run(["mount", "-t", kind, *options, "other", path], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True, timeout=20)


# Unmounting


@as_root
@pytest.mark.parametrize(("name", "lazy"), [(b"plain", False), (b"a b\n\xe9", False), (b"\xe9", True)])
def test_nothing_but_cryptofs_is_unmounted(tmp_path: Path, name: bytes, lazy: bool) -> None:
    """A tmpfs stays, however its path is spelled, and cryptofs beneath it stays too."""
    path = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(path)
    (tmp_path / "link").symlink_to(os.fsdecode(path))
    options = ["--lazy"] if lazy else []
    with mounted("tmpfs", path):
        for spelled in (path, str(tmp_path / "link")):
            ends_with_one_line(run("umount", *options, spelled), "EINVAL", "tmpfs is mounted here, not cryptofs")
        ends_with_one_line(
            run("mount", "--allow-root", path), "EBUSY", "tmpfs is mounted here", "choose an empty directory"
        )
        assert kinds_on(path) == ["tmpfs"]
    ends_with_one_line(run("umount", *options, path), "EINVAL", "nothing is mounted here")
    ends_with_one_line(run("umount", *options, path + b"/no"), "ENOENT", "no such directory")


@as_root
def test_cryptofs_under_something_else_stays(own_daemon: Daemon) -> None:
    """A tmpfs over the mount: neither umount nor the daemon's own end takes it away."""
    point = own_daemon.mountpoint
    with mounted("tmpfs", point):
        (point / "file").touch()
        ends_with_one_line(run("umount", str(point)), "EINVAL", "tmpfs is mounted over cryptofs here")
        assert kinds_on(point) == ["fuse.cryptofs", "tmpfs"]
        assert own_daemon.stop() == 0
        assert kinds_on(point)[-1] == "tmpfs"
        assert (point / "file").exists()
        assert "something else is mounted over it" in own_daemon.log
    assert run("umount", str(point)).returncode == 0
    assert kinds_on(point) == []


@as_root
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_mount_with_any_name_is_unmounted(tmp_path: Path, locale: str) -> None:
    """By relative path, by symlink and by a name that is not UTF-8, in any locale."""
    point = os.fsencode(tmp_path) + b"/m\xe9 \n"
    os.mkdir(point)
    (tmp_path / "link").symlink_to(os.fsdecode(point))
    for spelled in (point, b"/" + os.path.relpath(point, b"/") + b"/", os.fsencode(tmp_path / "link")):
        started = run(
            "mount", "--allow-root", "--daemon", "--engines", "openssl", spelled, LC_ALL=locale, PYTHONUTF8="0"
        )
        assert started.returncode == 0, started.stderr
        assert kinds_on(point) == ["fuse.cryptofs"]
        ended = run("umount", spelled, LC_ALL=locale, PYTHONUTF8="0")
        assert ended.returncode == 0, ended.stderr
        assert kinds_on(point) == []


def test_a_busy_mount_says_what_to_do(own_daemon: Daemon) -> None:
    """EBUSY while a file is open; --lazy takes it away."""
    with (own_daemon.mountpoint / "crypto").open("rb", buffering=0):
        ends_with_one_line(run("umount", str(own_daemon.mountpoint)), "EBUSY", "close the files", "--lazy")
        assert kinds_on(own_daemon.mountpoint) == ["fuse.cryptofs"]
        again = run("mount", "--allow-root", str(own_daemon.mountpoint))
        ends_with_one_line(again, "EBUSY", "cryptofs is already mounted here")
        assert run("umount", "--lazy", str(own_daemon.mountpoint)).returncode == 0
        assert kinds_on(own_daemon.mountpoint) == []


def test_a_stale_mount_goes_even_while_it_is_in_use(own_daemon: Daemon) -> None:
    """A file is open in it, and its daemon was killed."""
    with contextlib.suppress(OSError), (own_daemon.mountpoint / "crypto").open("rb", buffering=0):
        own_daemon.process.kill()
        own_daemon.process.wait(20)
        assert kinds_on(own_daemon.mountpoint) == ["fuse.cryptofs"]
        assert run("umount", str(own_daemon.mountpoint)).returncode == 0
        assert kinds_on(own_daemon.mountpoint) == []


@as_root
def test_a_stopped_daemons_mount_can_be_unmounted(own_daemon: Daemon) -> None:
    """Nothing looks at the mount before it is taken away: that would wait for the daemon."""
    os.kill(own_daemon.process.pid, signal.SIGSTOP)
    try:
        assert run("umount", str(own_daemon.mountpoint)).returncode == 0
    finally:
        os.kill(own_daemon.process.pid, signal.SIGCONT)
    assert own_daemon.process.wait(20) == 0


@as_root
def test_another_users_mount_is_not_an_ordinary_users_to_unmount(own_daemon: Daemon) -> None:
    """EPERM, and whose it is."""
    done = in_shell('"${@:2}" $C umount "$1"', str(own_daemon.mountpoint), *AS_NOBODY, private=True)
    ends_with_one_line(done, "EPERM", "uid 0 serves this mount")
    assert kinds_on(own_daemon.mountpoint) == ["fuse.cryptofs"]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path: None, "ENOENT"),
        (lambda path: path.touch(), "ENOTDIR"),
        (lambda path: (path.mkdir(), (path / "file").touch()), "ENOTEMPTY"),
        (lambda path: path.symlink_to(path), "ELOOP"),
    ],
    ids=["missing", "file", "occupied", "loop"],
)
def test_a_refusal_has_the_right_errno(tmp_path: Path, make: object, name: str) -> None:
    """Its name stands first; and nothing advises to unmount what is not ours."""
    assert callable(make)
    make(tmp_path / "m")
    done = run("mount", "--allow-root", str(tmp_path / "m"))
    ends_with_one_line(done, f"cryptofs: {name}: {tmp_path}/m: ")
    assert "umount" not in done.stderr


@as_root
def test_a_user_that_is_not_there(tmp_path: Path) -> None:
    """ENOENT: it is no matter of permission. The command line is wrong: status 2."""
    done = run("mount", str(tmp_path), "--user", "nosuchuser")
    ends_with_one_line(done, "ENOENT: user 'nosuchuser': no such user", status=2)


# Options

ALL_FLAGS = "ro,noexec,nosuid,nodev,noatime,nodiratime,nosymfollow"


@pytest.mark.parametrize(
    ("given", "flags", "source", "own"),
    [
        ("", "", "cryptofs", ""),
        (ALL_FLAGS, ALL_FLAGS, "cryptofs", ""),
        ("ro,rw,noexec,exec,noatime,atime,nodiratime,diratime,nosymfollow,symfollow", "", "cryptofs", ""),
        ("rw,ro", "ro", "cryptofs", ""),
        ("defaults,sync,async,dirsync,iversion,noiversion,mand,nomand,silent,loud", "", "cryptofs", ""),
        ("lazytime,nolazytime", "", "cryptofs", ""),
        ("relatime,norelatime,strictatime,nostrictatime,suid,dev,default_permissions", "", "cryptofs", ""),
        ("auto,noauto,nofail,_netdev,user,nouser,users,owner,group", "", "cryptofs", ""),
        ("user=me,comment=x,x-a=b,X-mount.mkdir", "", "cryptofs", ""),
        ("fsname=a,fsname=my,subtype=cryptofs", "", "my", ""),
        ("allow_other,auto_unmount,debug", "", "cryptofs", "allow_other,auto_unmount,debug"),
    ],
)  # fmt: skip
def test_options(given: str, flags: str, source: str, own: str) -> None:
    """Those that mean something, those that change nothing; of two that contradict each other the later."""
    checked = check_options(filter(None, given.split(",")))
    assert checked == MountOptions(
        frozenset(filter(None, flags.split(","))), source, frozenset(filter(None, own.split(",")))
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("remount", "unmount it and mount it again"),
        ("subtype=mine", "by its type"),
        ("context=system_u:object_r:x:s0", "labels"),
        ("uid=3", "user and group in the configuration"),
        ("umask=077", "mode in the configuration"),
        ("nonempty", "empty directories"),
        ("bind", "one of allow_other"),
        ("fsname=", "one of allow_other"),
        ("Ro", "one of allow_other"),
        ("allow_other,allow_root", "give only one"),
    ],
)
def test_an_option_that_is_refused_is_named(given: str, says: str) -> None:
    """EINVAL, the option, and why or what instead."""
    with pytest.raises(MountError, match=says) as caught:
        check_options(given.split(","))
    assert caught.value.errno == errno.EINVAL
    assert given.partition(",")[0] in caught.value.message


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; what is mounted there at the end is taken away."""
    directory = tmp_path / "mount"
    directory.mkdir()
    yield directory
    while kinds_on(directory):
        subprocess.run(["fusermount3", "-u", "-z", str(directory)], check=True, timeout=20)


def test_a_source_of_ones_own(point: Path) -> None:
    """`fsname` is what the list of mounts shows, and the type stays what clients look for."""
    options = "fsname=my,nodiratime,sync,nosymfollow,iversion,noexec"
    assert run("mount", str(point), *DETACHED, "-o", options).returncode == 0
    (mount,) = mounts_on(point)
    assert (mount.source, mount.kind) == (b"my", "fuse.cryptofs")
    assert "noexec" in mount.options
    assert run("umount", str(point)).returncode == 0


AUTO_UNMOUNT = """
# an ordinary user needs a /dev/fuse that is open to all, as it is on most machines
M=/mnt/m
mount -t tmpfs none /mnt; chmod 755 /mnt; mkdir $M /mnt/dev; chown nobody $M
mknod -m 666 /mnt/dev/fuse c 10 229; mount --bind /mnt/dev/fuse /dev/fuse
"$@" $C mount $M --daemon --engines openssl -o auto_unmount OPTIONS >&2
grep -c " $M fuse.cryptofs " /proc/self/mounts
"$@" bash -c 'exec sleep 20 <$0/crypto' $M & reader=$!
kill -KILL $(pgrep -o -f -- "mount $M --daemon")
for i in {1..100}; do grep -q " $M " /proc/self/mounts || { echo gone; break; }; sleep 0.1; done
kill $reader
"""


@as_root
@pytest.mark.parametrize("who", [(), AS_NOBODY], ids=["root", "nobody"])
def test_auto_unmount_does_what_it_says(who: tuple[str, ...]) -> None:
    """The daemon is killed while a file is open: the mount is taken away, root's and an ordinary user's."""
    options = "" if who else "--allow-root"
    script = AUTO_UNMOUNT.replace("OPTIONS", options)
    done = in_shell(script, *who, private=True)
    assert done.stdout == "1\ngone\n", done.stderr


# Descriptors


CLOSED = ["<&-", "2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_descriptors(point: Path, closed: str) -> None:
    """`mount --daemon` and `umount` do their work with any standard descriptor closed, and write into no other file."""
    done = in_shell(f'$C mount "$1" --daemon --allow-root --engines openssl {closed}', str(point))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = daemon_of(point)
    assert [os.readlink(f"/proc/{pid}/fd/{standard}") for standard in (0, 1, 2)] == ["/dev/null"] * 3
    assert (point / "version").read_text().startswith("cryptofs ")
    refused = in_shell(f'$C mount "$1" --allow-root {closed}', str(point))
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    done = in_shell(f'$C umount "$1" {closed}', str(point))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert kinds_on(point) == []


@as_root
@pytest.mark.parametrize(("step", "status"), [("hand-over --user nobody", 1), ("take-back", 0)])
def test_closed_descriptors_of_a_step(point: Path, step: str, status: int) -> None:
    """A step of the service with all closed: what it opens is not written into, and nothing stays mounted."""
    done = in_shell(f'unset NOTIFY_SOCKET; $C {step} "$1" <&- >&- 2>&-', str(point))
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert kinds_on(point) == []


def test_the_daemon_keeps_nothing_of_its_caller(point: Path, tmp_path: Path) -> None:
    """No descriptor, so that a lock is free again; its own session, the directory `/`, and a umask of its own."""
    done = in_shell(
        """
        exec 40> >(cat) 9>"$2/lock" 12<"$2"
        readlink /proc/$$/fd/40
        flock 9
        umask 000
        cd "$2"
        trap '' CHLD HUP TERM
        export PYTHONPATH=$OLDPWD
        $C mount mount --daemon --allow-root --engines openssl -o "fsname=$2"
        """,
        str(point),
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    subprocess.run(["flock", "--nonblock", str(tmp_path / "lock"), "true"], check=True, timeout=20)
    pid = daemon_of(f"fsname={tmp_path}")
    opened = {os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")}
    assert not [target for target in opened if target.startswith((str(tmp_path), done.stdout.strip()))]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Umask"].strip() == "0077"
    assert int(status["SigBlk"], 16) == 0
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not kinds_on(point), 20)


# fstab


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with mount.cryptofs as it is installed, for this interpreter."""
    directory = tmp_path_factory.mktemp("helper")
    (directory / "bin").mkdir()
    program = directory / "bin" / "cryptofs"
    program.write_text('#!/bin/sh\ncd /opt/code && exec /opt/python/bin/python -m cryptofs "$@"\n')
    program.chmod(0o755)
    (directory / "sbin").mkdir()
    text = (ROOT / "scripts/system/mount.cryptofs").read_text()
    (directory / "sbin" / "mount.cryptofs").write_text(text.replace("@PREFIX@", str(directory)))
    (directory / "sbin" / "mount.cryptofs").chmod(0o755)
    return directory


def with_fstab(helper: Path, line: str, script: str) -> subprocess.CompletedProcess[str]:
    """A script in a mount namespace where mount(8) finds the helper. `$T` is a table with this line, `$M` is /mnt/m."""
    table = helper / "fstab"
    table.write_text(f"{line}\n")
    begin = f"""
    mount -t overlay none -o lowerdir={helper}/sbin:/usr/sbin /usr/sbin
    mount -t tmpfs none /mnt; chmod 755 /mnt; mkdir /mnt/m; M=/mnt/m T={table}
    """
    end = '\nwhile grep -q " $M " /proc/self/mounts; do umount "$M"; done\n'
    return in_shell(begin + script + end, private=True)


GENERIC = (
    "rw,nosuid,nodev,noexec,async,sync,dirsync,noatime,nodiratime,relatime,strictatime,lazytime,iversion,mand,silent,"
    "nosymfollow,_netdev,nofail,auto,user,exec,owner,group,comment=x,x-test=a,X-mount.mkdir,allow_other"
)


@as_root
@pytest.mark.parametrize("source", ["none", "cryptofs", "my-name"])
def test_mount_all_can_be_repeated(helper: Path, source: str) -> None:
    """The second `mount -a` sees that the line is mounted, whatever its source; a second `mount` of it is refused."""
    line = f"{source} /mnt/m cryptofs allow_root_daemon,engines=openssl,{GENERIC} 0 0"
    done = with_fstab(
        helper,
        line,
        """
        mount -a -v -T "$T"; mount -a -v -T "$T"
        grep -c " $M fuse.cryptofs " /proc/self/mounts; cut -c-8 "$M/version"
        mount -T "$T" "$M" || echo refused: $?
        """,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace(" ", "").splitlines()
    assert said == [
        "/mnt/m:successfullymounted",
        "/mnt/m:alreadymounted",
        "1",
        "cryptofs",
        "refused:32",
    ]
    assert "cryptofs is already mounted here" in done.stderr


@as_root
def test_fstab_of_an_unprivileged_daemon(helper: Path) -> None:
    """setuid=: the flags that mean something are those of the mount, and the source is the line's."""
    line = f"none /mnt/m cryptofs setuid=nobody,engines=openssl,{GENERIC.replace('allow_other', 'ro')} 0 0"
    done = with_fstab(helper, line, 'mount -a -T "$T"; grep " $M " /proc/self/mountinfo')
    assert done.returncode == 0, done.stderr
    front, _, back = done.stdout.partition(" - ")
    flags = set(front.split()[5].split(","))
    assert {"ro", "nosuid", "nodev", "nodiratime", "nosymfollow"} <= flags
    assert back.split()[:2] == ["fuse.cryptofs", "none"]
    assert "user_id=65534" in back


@as_root
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("speed=high", "mount option 'speed=high': one of"),
        ("subtype=mine", "mount option 'subtype=mine'"),
        ("setuid=nosuchuser", "ENOENT: user 'nosuchuser'"),
        ("log-file=/nonexistent/log", "ENOENT: log file /nonexistent/log"),
    ],
)
def test_fstab_refusals(helper: Path, option: str, says: str) -> None:
    """Status 32 as mount(8) wants it, and the reason."""
    if option.startswith("setuid"):
        line = f"none /mnt/m cryptofs {option} 0 0"
    else:
        line = f"none /mnt/m cryptofs allow_root_daemon,engines=openssl,{option} 0 0"
    done = with_fstab(helper, line, 'mount -T "$T" "$M" || echo "refused: $?"')
    assert done.stdout == "refused: 32\n", done.stderr
    assert says in done.stderr


@as_root
def test_mount_in_another_namespace(helper: Path) -> None:
    """`mount -N`: it is the helper that has to enter the namespace."""
    script = """
    unshare --mount --propagation private sleep 20 & other=$!
    while [ "$(readlink /proc/$other/ns/mnt)" = "$(readlink /proc/self/ns/mnt)" ]; do sleep 0.1; done
    mount -N /proc/$other/ns/mnt -t cryptofs -o allow_root_daemon,engines=openssl none "$M"
    grep -c " $M fuse.cryptofs " /proc/$other/mounts
    grep -c " $M " /proc/self/mounts || true
    nsenter --mount=/proc/$other/ns/mnt umount "$M"
    kill $other
    """
    done = with_fstab(helper, "", script)
    assert done.stdout.split() == ["1", "0"], done.stderr


# The path is looked up


@as_root
@pytest.mark.parametrize(
    ("how", "says"),
    [
        (("umount", "-l", "{top}/m"), "the mount was removed from its path"),
        (("mount", "-t", "tmpfs", "none", "{top}/m"), "tmpfs is mounted over the mount"),
        (("mount", "-t", "tmpfs", "none", "{top}"), "the mount point is gone"),
    ],
    ids=["taken", "covered", "parent"],
)
def test_a_watched_daemon_ends_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[str, ...], says: str
) -> None:
    """While a client keeps the connection alive: status 1 and the reason, so that its manager makes a new mount."""
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    top = tmp_path / "top"
    (top / "m").mkdir(parents=True)
    daemon = Daemon(top / "m", "--engines", "openssl", log=tmp_path / "log")
    try:
        with contextlib.suppress(OSError), (top / "m" / "crypto").open("rb", buffering=0):
            time.sleep(1)
            assert daemon.process.poll() is None
            subprocess.run([word.format(top=top) for word in how], check=True, timeout=20)
            assert daemon.process.wait(20) == 1
        assert f"cryptofs: EIO: {top}/m: {says}" in daemon.log
        assert "Traceback" not in daemon.log
    finally:
        while kinds_on(top)[-1:] == ["tmpfs"]:
            subprocess.run(["umount", str(top)], check=True, timeout=20)
        while kinds_on(top / "m"):
            subprocess.run(["umount", "-l", str(top / "m")], check=True, timeout=20)
        if daemon.process.poll() is None:
            daemon.kill()


# Containers; docs/containers.md


CONTAINER = """
mount -t tmpfs none /mnt; mount --make-shared /mnt; mkdir -p /mnt/crypto/fs; F=/mnt/crypto/fs
serve() { $C mount $F --daemon --allow-root --engines openssl; }
serve
# what a runtime does for volumes: a mount namespace of its own, and binds with the propagation that was asked for
unshare --mount --propagation slave bash -euc '
    mount -t tmpfs none /srv; mkdir /srv/rslave /srv/rprivate /srv/mount
    mount --rbind /mnt/crypto /srv/rslave; mount --make-rslave /srv/rslave
    mount --rbind /mnt/crypto /srv/rprivate; mount --make-rprivate /srv/rprivate
    mount --bind /mnt/crypto/fs /srv/mount
    touch /mnt/started; until [ -e /mnt/again ]; do sleep 0.05; done
    for each in rslave/fs rprivate/fs mount; do head -c 8 /srv/$each/version 2>&1 && echo; done
' & container=$!
until [ -e /mnt/started ]; do sleep 0.05; done
kill -KILL $(pgrep -o -f -- "mount $F --daemon")
while head -c 1 $F/version >&2; do sleep 0.05; done
serve; touch /mnt/again; wait $container
umount /mnt/crypto/fs
"""


@as_root
def test_a_container_keeps_the_mount_over_a_restart() -> None:
    """Bound with rslave, the parent has the new mount; bound privately, or only the mount bound, the dead one stays."""
    done = in_shell(CONTAINER, private=True)
    first, *others = done.stdout.splitlines() or [done.stderr]
    assert first == "cryptofs", done.stdout + done.stderr
    assert len(others) == 2
    assert all("Transport endpoint is not connected" in line for line in others), others
