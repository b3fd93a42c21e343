"""The daemon's life on a real mount: start, stop, detach, death, faults."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.machine import mount_lines

from cryptofs.client import Context, RequestError
from cryptofs.records import Attr, Operation, Record, build

pytestmark = pytest.mark.mount

CRYPTOFS = (sys.executable, "-m", "cryptofs")


def is_mounted(path: Path) -> bool:
    """Whether a cryptofs is mounted here."""
    return any(f" {path} fuse.cryptofs " in line for line in mount_lines())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run([*CRYPTOFS, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unmount_cleanly(own_daemon: Daemon, number: signal.Signals) -> None:
    """Status 0, no mount left, with a context and a reader still open."""
    context = Context("hash", "sha256", mount=own_daemon.mountpoint)
    try:
        own_daemon.process.send_signal(number)
        assert own_daemon.process.wait(15) == 0
        assert not is_mounted(own_daemon.mountpoint)
        assert "Traceback" not in own_daemon.log
        with pytest.raises(OSError):
            context.digest(b"abc")
    finally:
        context.close()


def test_umount_ends_the_daemon(own_daemon: Daemon) -> None:
    """`cryptofs umount` takes the mount away and the daemon with it."""
    assert run("umount", str(own_daemon.mountpoint)).returncode == 0
    assert own_daemon.process.wait(15) == 0
    assert not is_mounted(own_daemon.mountpoint)


def test_a_stale_mount_is_cleared_at_start(own_daemon: Daemon, tmp_path: Path) -> None:
    """After SIGKILL the mount is dead; the next start clears it and serves."""
    own_daemon.process.kill()
    own_daemon.process.wait(10)
    with pytest.raises(OSError):
        os.listdir(own_daemon.mountpoint)
    again = Daemon(own_daemon.mountpoint, log=tmp_path / "again.log")
    try:
        with Context("hash", "sha256", mount=own_daemon.mountpoint) as context:
            assert len(context.digest(b"")) == 32
    finally:
        assert again.stop() == 0
    assert not is_mounted(own_daemon.mountpoint)


def test_detach_returns_when_the_mount_answers(tmp_path: Path) -> None:
    """--daemon: the command ends with 0 and the mount is there at once."""
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    done = run("mount", str(mountpoint), "--daemon", "--allow-root")
    assert done.returncode == 0, done.stderr
    try:
        assert (mountpoint / "version").read_text().startswith("cryptofs")
    finally:
        assert run("umount", str(mountpoint)).returncode == 0
    assert not is_mounted(mountpoint)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mount", "/nonexistent/mount"), "no such directory"),
        (("mount", "/proc"), "proc"),
        (("mount", "{tmp}", "--engines", "quantum"), "engine 'quantum': one of af_alg, openssl"),
        (("mount", "{tmp}", "-o", "speed=high"), "mount option 'speed=high'"),
        (("mount", "{tmp}/file"), "not a directory"),
        (("mount", "{tmp}"), "not empty"),
        (("umount", "{tmp}"), "{tmp}"),
    ],
)
def test_bad_arguments_get_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """Exit status 1, one line on standard error that names the value, no traceback."""
    (tmp_path / "file").touch()
    done = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert says.format(tmp=tmp_path) in done.stderr


def test_the_daemon_is_hardened(own_daemon: Daemon) -> None:
    """No core, undumpable, and its memory locked where it runs as root."""
    pid = own_daemon.process.pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    # a process of its own, because only a process itself is told whether it is dumpable
    script = (
        "import ctypes; from cryptofs.daemon.hardening import harden; harden(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "0\n"
    if os.geteuid() == 0:
        locked = re.search(r"VmLck:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert locked is not None
        assert int(locked[1]) > 0


_FAULTY = """
import cryptofs.engines.opening, cryptofs.engines.openssl as real, sys
from cryptofs.cli import main

class Faulty(real.OpensslEngine):
    name = "faulty"
    warm = False
    def warm_up(self):
        super().warm_up()
        self.warm = True
    def describe(self, type_, name):
        if name == "md5" and self.warm:
            raise ZeroDivisionError("describe broke")
        return super().describe(type_, name)
    def open(self, description, authsize):
        transform = super().open(description, authsize)
        def once(*arguments):
            raise ZeroDivisionError("once broke")
        if description.name == "sha1":
            transform.once = transform.short = once
        return transform

cryptofs.engines.opening.ENGINES["faulty"] = Faulty
sys.argv[1:] = ["mount", sys.argv[1], "--engines", "faulty", "-v", "--allow-root"]
main()
"""


def test_a_failing_handler_does_not_end_the_daemon(tmp_path: Path) -> None:
    """An engine that raises: the client gets EIO, the log says why, everybody else is served on."""
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, "-c", _FAULTY, str(mountpoint)], stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while not is_mounted(mountpoint) or "mounted" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            with Context("hash", "sha256", mount=mountpoint) as good:
                # an exception in a lookup, in a configure by record, and in a request
                with pytest.raises(OSError) as caught:
                    os.stat(mountpoint / "algorithms" / "hash" / "md5")
                assert caught.value.errno == errno.EIO
                with pytest.raises(OSError) as caught:
                    Context("hash", "md5", mount=mountpoint)
                assert caught.value.errno == errno.EIO
                with Context("hash", "sha1", mount=mountpoint) as bad:
                    with pytest.raises(RequestError) as failed:
                        bad.digest(b"abc")
                    assert failed.value.errno == errno.EIO
                    assert "broke" not in failed.value.message
                assert good.digest(b"abc").hex().startswith("ba7816bf")
        finally:
            process.terminate()
            status = process.wait(15)
        assert status == 0, log.read_text()
    assert "describe broke" in log.read_text()
    assert "once broke" in log.read_text()


def test_a_stop_does_not_wait_for_what_is_queued(own_daemon: Daemon) -> None:
    """SIGTERM with minutes of work queued: the daemon ends within seconds, and the mount is gone."""
    slow = ("skcipher", "cbc(des3_ede)", bytes(range(24)))
    contexts = [Context(*slow, mount=own_daemon.mountpoint) for _ in range(30)]
    try:
        request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(8)}, bytes(1_000_000)))
        for context in contexts:
            for _ in range(5):
                os.pwrite(context.fileno(), request, 0)
        own_daemon.process.send_signal(signal.SIGTERM)
        assert own_daemon.process.wait(10) == 0
        assert not is_mounted(own_daemon.mountpoint)
    finally:
        for context in contexts:
            context.close()
