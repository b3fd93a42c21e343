"""Fixtures and rules for all tests: live mounts, and nothing left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# what several files of tests share says as much where an assertion fails as they do
pytest.register_assert_rewrite(
    "faults", "device_mount", "security_mount", "context_bench", "errno_scenarios", "af_alg_bench"
)

IN_GUEST = bool(os.environ.get("CRYPTOFS_GUEST"))


def kernel_has_af_alg() -> bool:
    """Whether an AF_ALG socket can be made here."""
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()
    except OSError:
        return False
    return True


AF_ALG = kernel_has_af_alg()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need AF_ALG are skipped where the kernel has none, except where it must have it."""
    if AF_ALG or IN_GUEST:
        return
    skip = pytest.mark.skip(reason="NOT RUN: this kernel has no AF_ALG; ./scripts/test runs it in the guest")
    for item in items:
        if "af_alg" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not run, and how many vectors passed."""
    from vectors.counts import summary_lines

    for line in summary_lines():
        terminalreporter.write_line(line)
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"NOT RUN here: {skipped} tests", yellow=True, bold=True)


# Nothing may be left behind


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        # the listing's own descriptor, and the event loop's that the interpreter keeps
        if not target.startswith(("/proc/", "anon_inode:[eventpoll]", "anon_inode:[eventfd]")):
            found.add((entry, target))
    return found


def _children() -> set[str]:
    children: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            children |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
        except OSError:
            continue
    return children


def _mounts(below: Path) -> set[str]:
    # only this run's own: another one may be going on beside it
    return {
        line
        for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
        if str(below) in line
    }


def _state(below: Path) -> tuple[set[tuple[str, str]], set[str], set[str]]:
    return _descriptors(), _children(), _mounts(below)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves a descriptor, a process or a mount."""
    below = tmp_path_factory.getbasetemp()
    before = _state(below)
    yield
    deadline = time.monotonic() + 3
    while True:
        left = [sorted(now - then) for now, then in zip(_state(below), before, strict=True)]
        if not any(left):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: descriptors {left[0]}, processes {left[1]}, mounts {left[2]}")
        time.sleep(0.05)


# Mounts


class Daemon:
    """A daemon in a process of its own, serving a mount."""

    def __init__(self, mountpoint: Path, *arguments: str, log: Path) -> None:
        self.mountpoint = mountpoint
        self._log = log
        command = [sys.executable, "-m", "cryptofs", "mount", str(mountpoint), "--verbose", *arguments]
        if "--user" not in arguments:
            # as root the tests serve as root, where they do not say otherwise
            command.append("--allow-root")
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while ": mounted" not in self.log:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"no mount: {self.log}")
            time.sleep(0.02)

    @property
    def log(self) -> str:
        """What the daemon has said so far."""
        return self._log.read_text()

    @property
    def memory(self) -> int:
        """Bytes resident."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    @property
    def descriptors(self) -> list[str]:
        """What the daemon has open."""
        directory = f"/proc/{self.process.pid}/fd"
        return [os.readlink(f"{directory}/{entry}") for entry in os.listdir(directory)]

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL, and clear the mount that it leaves."""
        self.process.kill()
        self.process.wait(30)
        subprocess.run(["fusermount3", "-u", "-z", str(self.mountpoint)], capture_output=True, check=False)


def may_share() -> bool:
    """Whether a mount of this user can be open to all users: root's can, and others' where the system allows it."""
    if os.geteuid() == 0:
        return True
    with contextlib.suppress(OSError):
        return "user_allow_other" in Path("/etc/fuse.conf").read_text().split("\n")
    return False


def _serve(directory: Path, *arguments: str) -> Iterator[Daemon]:
    mountpoint = directory / "mount"
    mountpoint.mkdir()
    daemon = Daemon(mountpoint, *arguments, log=directory / "log")
    try:
        yield daemon
        status = daemon.stop()
        assert status == 0, daemon.log
        assert "Traceback" not in daemon.log, daemon.log
        assert not _mounts(mountpoint)
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that serves a mount for all tests of a module, with every engine there is."""
    shared = ("-o", "allow_other") if may_share() else ()
    yield from _serve(tmp_path_factory.mktemp("cryptofs"), *shared)


@pytest.fixture(scope="module")
def mount(daemon: Daemon) -> Path:
    """The mount point of the module's daemon."""
    return daemon.mountpoint


@pytest.fixture
def own_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon for one test that does something rough to it; the test may end it itself."""
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    daemon = Daemon(mountpoint, log=tmp_path / "log")
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.stop()
        if _mounts(mountpoint):
            daemon.kill()
