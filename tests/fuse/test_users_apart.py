"""No user's system call waits for a lock that another user's holds: memory that never answers hangs its owner alone."""

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.daemons import SHARED, Daemon, serving
from helpers.other_user import become
from helpers.waiting import PATIENCE

from cryptofs.records import Attr, Operation, Record, build, parse_responses

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can be two users"),
]

ATTACKER, VICTIM = 64_001, 64_002
SOON = 5.0 * PATIENCE
"""Seconds in which a call that waits for nobody is over, on a busy machine too."""
CONFIGURE = build(Record(Operation.CONFIGURE, id=1, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"}))

# a file system whose one file can be mapped and is never read
SILENT = """
import stat, sys
import pyfuse3, trio

class Silent(pyfuse3.Operations):
    def attributes(self, inode):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink, entry.st_size = inode, 1, 4096
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o666
        entry.attr_timeout = entry.entry_timeout = 1000
        return entry
    async def lookup(self, parent, name, ctx): return self.attributes(2)
    async def getattr(self, inode, ctx): return self.attributes(inode)
    async def open(self, inode, flags, ctx): return pyfuse3.FileInfo(fh=1)
    async def read(self, handle, offset, size): await trio.sleep_forever()

pyfuse3.init(Silent(), sys.argv[1], {"fsname=silent", "allow_other"})
trio.run(pyfuse3.main)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can enter; pytest's own are root's alone."""
    directory = Path(tempfile.mkdtemp(prefix="cryptofs-test-"))
    directory.chmod(0o755)
    yield directory
    for each in directory.iterdir():
        if each.is_dir():
            each.rmdir()
        else:
            each.unlink()
    directory.rmdir()


@pytest.fixture
def silent(place: Path) -> Iterator[Path]:
    """A file of which no page ever comes; all that wait for one are let go at the end."""
    mountpoint = place / "silent"
    mountpoint.mkdir()
    server = subprocess.Popen([sys.executable, "-c", SILENT, str(mountpoint)], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20 * PATIENCE
        while not os.path.ismount(mountpoint):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield mountpoint / "file"
    finally:
        server.kill()
        server.wait(20 * PATIENCE)
        subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False, timeout=20 * PATIENCE)


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    """A daemon for one test, whose mount is everybody's."""
    with serving(place / "mount", *SHARED, rough=True) as daemon:
        yield daemon


@contextlib.contextmanager
def as_user(uid: int, do: Callable[[], None]) -> Iterator[int]:
    """A process of this user that does something; it ends with 0 if that raised nothing, and is killed at the end."""
    child = os.fork()
    if not child:
        status = 1
        try:
            become(uid)
            do()
            status = 0
        finally:
            os._exit(status)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def ended(child: int) -> bool:
    """Whether a process ends well, and soon."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, status
            return True
        time.sleep(0.02)
    return False


def state_of(child: int) -> str:
    return Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()


def hangs(child: int) -> bool:
    """Whether a process has come to wait for its page."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        if state_of(child) in "DS" and b"fault" in Path(f"/proc/{child}/stack").read_bytes():
            return True
        time.sleep(0.02)
    return state_of(child) in "DS"


def write_silently(path: Path, page: Path) -> Callable[[], None]:
    """Write from memory that never comes."""

    def do() -> None:
        with open(page, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
            descriptor = os.open(path, os.O_RDWR)
            os.write(descriptor, memory)

    return do


def list_silently(path: Path, page: Path) -> Callable[[], None]:
    """List a directory into memory that never comes."""

    def do() -> None:
        with open(page, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
            # there has to be something to list
            os.open(path.parent / "crypto", os.O_RDWR)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            ctypes.CDLL(None).getdents64(descriptor, (ctypes.c_char * 4096).from_buffer(memory), 4096)

    return do


def digest(mount: Path) -> Callable[[], None]:
    """What a program does on `crypto`."""

    def do() -> None:
        descriptor = os.open(mount / "crypto", os.O_RDWR)
        os.write(descriptor, CONFIGURE)
        assert parse_responses(os.read(descriptor, 4096))[0].status == 0
        number = os.listdir(mount / "contexts")
        assert len(number) == 1
        os.write(descriptor, build(Record(Operation.DIGEST, id=2, payload=b"abc")))
        assert len(parse_responses(os.read(descriptor, 4096))[0].payload) == 32

    return do


@pytest.mark.parametrize(("name", "silently"), [("crypto", write_silently), ("contexts", list_silently)])
def test_memory_that_never_comes_hangs_its_user_alone(
    daemon: Daemon, silent: Path, name: str, silently: Callable[[Path, Path], Callable[[], None]]
) -> None:
    """Another user's writes, listings and opens go on; so does root's."""
    mount = daemon.mountpoint
    with as_user(ATTACKER, silently(mount / name, silent)) as attacker:
        assert hangs(attacker)
        with as_user(VICTIM, digest(mount)) as victim:
            assert ended(victim)
        descriptor = os.open(mount / "crypto", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        assert os.write(descriptor, CONFIGURE) == len(CONFIGURE)
        assert len(os.listdir(mount / "contexts")) >= 1
        os.close(descriptor)
        assert not os.waitpid(attacker, os.WNOHANG)[0], "it hangs still"


def test_a_watched_daemon_ends_though_its_own_user_hangs(
    place: Path, silent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that asks the mount shares its user's inodes, and so its locks: the daemon's end does not wait."""
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    (place / "mount").mkdir()
    daemon = Daemon(place / "mount", log=place / "log")
    try:
        with as_user(0, write_silently(daemon.mountpoint / "crypto", silent)) as attacker:
            assert hangs(attacker)
            # by now the asking process hangs as well
            time.sleep(1 * PATIENCE)
            began = time.monotonic()
            daemon.stop()
            assert time.monotonic() - began < 3 * SOON
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def test_the_daemon_ends_though_somebody_hangs(daemon: Daemon, silent: Path) -> None:
    """SIGTERM unmounts and ends it."""
    mount = daemon.mountpoint
    with as_user(ATTACKER, write_silently(mount / "crypto", silent)) as attacker:
        assert hangs(attacker)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < SOON
