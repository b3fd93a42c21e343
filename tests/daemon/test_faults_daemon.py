"""A daemon that is killed, stopped or unmounted under load."""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.faults import ROOT, number_of
from helpers.machine import mounts_below
from helpers.raw import encryption, slow
from helpers.waiting import PATIENCE, wait_until
from stress import kills, server

from cryptofs.client import Context
from cryptofs.records import RECORD_MAX

DEAD = {errno.ENOTCONN, errno.ECONNABORTED}


@pytest.mark.mount
def test_sigkill_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client has its error, and the mount comes back; five rounds here. `scripts/stress` says how fast."""
    monkeypatch.setattr(kills, "NOTICED_MAX", 10 * PATIENCE)
    monkeypatch.setattr(kills, "BACK_MAX", 20 * PATIENCE)
    with server.directory() as path:
        found = kills.run(5, 1, path)
    assert found.wrong == []
    assert found.rounds == 5
    assert len(found.noticed) == 5 * len(kills.LOADS)
    assert set(found.errors) <= {"ENOTCONN", "ECONNABORTED", "ENOENT"}


class Load:
    """Threads that digest and check every answer until they are told to stop or an error comes."""

    def __init__(self, mount: Path, count: int = 4) -> None:
        self.done = [0] * count
        self.errors: list[int | None] = [None] * count
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._contexts = [Context("hash", "sha256", mount=mount) for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in range(count)]

    def _run(self, index: int) -> None:
        try:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                data = b"%d-%d" % (index, number)
                if self._contexts[index].digest(data) != hashlib.sha256(data).digest():
                    self.wrong.append(f"{index}: {number}")
                self.done[index] += 1
        except OSError as error:
            self.errors[index] = error.errno

    def goes_on(self, more: int = 1) -> None:
        """Each of them must have so many more answers within ten seconds."""
        before = list(self.done)
        wait_until(lambda: all(now >= then + more for now, then in zip(self.done, before, strict=True)), 10)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        wait_until(lambda: all(self.done))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        for context in self._contexts:
            with contextlib.suppress(OSError):
                context.close()
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self.wrong


@pytest.mark.mount
def test_a_stopped_daemon_makes_clients_wait(own_daemon: Daemon) -> None:
    """SIGSTOP, SIGCONT, under load, again and again: nothing fails, nothing is mixed up."""
    with Load(own_daemon.mountpoint) as load, slow(own_daemon.mountpoint) as raw:
        for round_ in range(5):
            raw.write(encryption(100 + round_, 800_000))
            own_daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            before = list(load.done)
            time.sleep(0.3)
            # what was answered before the stop may still be counted, and then no more
            assert all(now - then <= 1 for now, then in zip(load.done, before, strict=True))
            own_daemon.process.send_signal(signal.SIGCONT)
            load.goes_on(2)
            (answer,) = raw.answers(1)
            assert (answer.id, answer.status) == (100 + round_, 0)
    assert load.errors == [None] * 4


LAZY = {"fusermount3 -u -z": ("fusermount3", "-u", "-z"), "umount -l": ("umount", "-l")}


@pytest.mark.mount
@pytest.mark.parametrize("how", LAZY)
def test_a_lazy_unmount_under_load(own_daemon: Daemon, how: str) -> None:
    """The kernel takes the name away and leaves open files to their programs: they are served until they close, and
    then the daemon ends by itself, with 0."""
    mountpoint = own_daemon.mountpoint
    with Load(mountpoint) as load:
        subprocess.run([*LAZY[how], str(mountpoint)], check=True, capture_output=True)
        assert not mounts_below(mountpoint)
        assert number_of(lambda: os.open(mountpoint / "crypto", os.O_RDWR)) == errno.ENOENT
        load.goes_on()
        assert own_daemon.process.poll() is None
    assert load.errors == [None] * 4
    assert own_daemon.process.wait(15) == 0
    assert "Traceback" not in own_daemon.log


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: umount -f needs root")
def test_a_forced_unmount_under_load(own_daemon: Daemon) -> None:
    """umount -f: every client has its error at once, waiting ones too, and the daemon ends with 0."""
    mountpoint = own_daemon.mountpoint
    with Load(mountpoint) as load, slow(mountpoint) as raw:
        for number in range(4):
            raw.write(encryption(100 + number, 1_000_000))
        subprocess.run(["umount", "-f", "-l", str(mountpoint)], check=True, capture_output=True)
        wait_until(lambda: all(load.errors), 5)
        assert number_of(functools.partial(os.pread, raw.fd, RECORD_MAX, 0)) in DEAD
        assert set(load.errors) <= DEAD
        assert own_daemon.process.wait(15) == 0
    assert not mounts_below(mountpoint)
    assert "Traceback" not in own_daemon.log


@pytest.mark.mount
def test_an_unmount_that_is_not_lazy_is_refused_under_load(own_daemon: Daemon) -> None:
    """EBUSY, and nobody notices."""
    with Load(own_daemon.mountpoint) as load:
        done = subprocess.run(
            ["fusermount3", "-u", str(own_daemon.mountpoint)], check=False, capture_output=True, text=True
        )
        assert done.returncode
        load.goes_on()
    assert load.errors == [None] * 4
