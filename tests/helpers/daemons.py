"""Daemons in processes of their own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from helpers.configs import configured
from helpers.machine import mounts_below
from helpers.serving import Serving
from helpers.waiting import wait_until


class Daemon(Serving):
    """A daemon in a process of its own, serving a mount."""

    def __init__(self, mountpoint: Path, *arguments: str, log: Path) -> None:
        self.mountpoint = mountpoint
        super().__init__("mount", str(mountpoint), *arguments, ready=": mounted", log=log)

    def wait_for_line(self, *words: str) -> None:
        """Wait until the log has a line with all these words: it may be written a little later."""
        wait_until(
            lambda: any(all(word in line for word in words) for line in self.log.splitlines()), 10, lambda: self.log
        )

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

    def kill(self) -> None:
        """SIGKILL, and clear the mount that it leaves."""
        super().kill()
        subprocess.run(["fusermount3", "-u", "-z", str(self.mountpoint)], capture_output=True, check=False)


def _may_share() -> bool:
    """Whether a mount of this user can be open to all users: root's can, and others' where the system allows it."""
    if os.geteuid() == 0:
        return True
    with contextlib.suppress(OSError):
        return "user_allow_other" in Path("/etc/fuse.conf").read_text().split("\n")
    return False


SHARED = ("-o", "allow_other") if _may_share() else ()
"""What a daemon is given so that its mount is everybody's."""


@contextlib.contextmanager
def serving(
    mountpoint: Path, *arguments: str, kind: type[Daemon] = Daemon, log: Path | None = None, rough: bool = False
) -> Iterator[Daemon]:
    """A daemon of its own, which must end well: with status 0, no traceback in its log, and no mount.

    mountpoint: made where it is missing; the log is beside it. rough: the test does things to it that show in its log,
    or ends it itself.
    """
    mountpoint.mkdir(exist_ok=True)
    daemon = kind(mountpoint, *arguments, log=log or mountpoint.with_name("log"))
    try:
        yield daemon
        if not (rough and daemon.process.poll() is not None):
            # one that the test has killed, or whose mount it has taken away, may not be gone yet
            assert daemon.stop() in ((0, -signal.SIGKILL, -signal.SIGTERM) if rough else (0,)), daemon.log
        assert rough or "Traceback" not in daemon.log, daemon.log
        assert rough or not mounts_below(mountpoint)
    finally:
        if daemon.process.poll() is None or mounts_below(mountpoint):
            daemon.kill()


@contextlib.contextmanager
def serving_config(directory: Path, text: str, *arguments: str, **keys: bytes) -> Iterator[Daemon]:
    """A daemon on `directory`/mount, which is everybody's, with this configuration; see `configured`."""
    with serving(directory / "mount", *SHARED, *configured(directory, text, **keys), *arguments) as daemon:
        yield daemon
