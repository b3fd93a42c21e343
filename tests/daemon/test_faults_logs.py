"""Logs that cannot be written: a full device, a full disk, a pipe that nobody reads."""

import contextlib
import errno
import functools
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.daemons import Daemon, serving
from helpers.fake_engine import CANARY
from helpers.faults import ABC, ROOT, at_start
from helpers.machine import mounts_below
from helpers.raw import Raw, digest
from helpers.waiting import wait_until

from cryptofs.client import Context


class Unlogged(Daemon):
    """A daemon whose log cannot be read back: it is up when the mount answers."""

    @property
    def log(self) -> str:
        if not mounts_below(self.mountpoint):
            return ""
        with contextlib.suppress(OSError):
            if (self.mountpoint / "version").read_text().startswith("cryptofs"):
                return ": mounted"
        return ""


NOISE = 3000
"""Lines that a test makes the daemon log: more than a pipe holds."""


def provoke(fuses_directory: Path, mount: Path, count: int) -> None:
    """Have the daemon log `count` tracebacks, a kilobyte each."""
    point = fuses_directory / "digest"
    point.write_text("RuntimeError")
    try:
        with Raw(mount).configure("hash", "toysum") as raw:
            for first in range(0, count, 100):
                raw.write(*[digest(first + each) for each in range(100)])
                answers = raw.answers(100)
                assert {answer.status for answer in answers} == {errno.EIO}
    finally:
        point.unlink()


class BoundedCall:
    """A call in a process of its own, because a mount that hangs would hang the test: True if it has ended well."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._child = os.fork()
        if not self._child:
            status = 1
            with contextlib.suppress(BaseException):
                call()
                status = 0
            os._exit(status)

    def ended_well(self, seconds: float, free: Callable[[], object] = lambda: None) -> bool:
        """Wait for it; if it does not end, kill it and call `free` until it is gone: who waits for a withheld reply
        cannot even be killed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(0.02)
        os.kill(self._child, signal.SIGKILL)
        while not os.waitpid(self._child, os.WNOHANG)[0]:
            free()
            time.sleep(0.02)
        return False


def serves_through_noise(daemon: Daemon, fuses_directory: Path, free: Callable[[], object] = lambda: None) -> bool:
    """Whether the daemon goes on serving while it has much to log."""

    def all_of_it() -> None:
        with Context("hash", "toysum", mount=daemon.mountpoint) as good:
            assert good.digest(b"abc") == ABC
            provoke(fuses_directory, daemon.mountpoint, NOISE)
            assert good.digest(b"abc") == ABC

    return BoundedCall(all_of_it).ended_well(30, free)


@pytest.fixture
def fuse_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fuses for a daemon that the test starts itself."""
    directory = tmp_path / "fuses"
    directory.mkdir()
    at_start(tmp_path, monkeypatch, f"inject({str(directory)!r})")
    return directory


@pytest.mark.mount
def test_a_log_on_a_full_device(tmp_path: Path, fuse_directory: Path) -> None:
    """Standard error on /dev/full, from the first byte on."""
    with serving(tmp_path / "mount", "--engines", "fake", kind=Unlogged, log=Path("/dev/full"), rough=True) as daemon:
        assert serves_through_noise(daemon, fuse_directory)


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: a small file system needs root")
def test_a_disk_that_fills_up(tmp_path: Path, fuse_directory: Path) -> None:
    """A log on a small tmpfs that is full after some lines."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        with serving(tmp_path / "mount", "--engines", "fake", log=disk / "log", rough=True) as daemon:
            assert serves_through_noise(daemon, fuse_directory)
            wait_until(lambda: os.statvfs(disk).f_bfree == 0)
            assert CANARY in daemon.log
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.mount
def test_a_log_that_nobody_reads(tmp_path: Path, fuse_directory: Path) -> None:
    """Standard error is a pipe that is full: the daemon serves on, and ends when it is told to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        with serving(tmp_path / "mount", "--engines", "fake", kind=Unlogged, log=pipe, rough=True) as daemon:
            try:
                assert serves_through_noise(daemon, fuse_directory, functools.partial(drain, reader))
            except AssertionError:
                # a daemon that hangs in the pipe would hang its end, too
                drain(reader)
                raise
            assert len(select.select([], [reader], [], 0)[1]) == 0, "the pipe is not full: nothing was tried"
    finally:
        os.close(reader)


def drain(reader: int) -> None:
    """Read everything until nothing more comes for a tenth of a second."""
    while select.select([reader], [], [], 0.1)[0]:
        os.read(reader, 1 << 20)
