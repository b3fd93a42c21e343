"""Daemons in processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.machine import mounts_below


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


def serve(directory: Path, *arguments: str) -> Iterator[Daemon]:
    """A daemon until the test or module is done; it must end well."""
    mountpoint = directory / "mount"
    mountpoint.mkdir()
    daemon = Daemon(mountpoint, *arguments, log=directory / "log")
    try:
        yield daemon
        status = daemon.stop()
        assert status == 0, daemon.log
        assert "Traceback" not in daemon.log, daemon.log
        assert not mounts_below(mountpoint)
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
