"""A daemon for the stress program, in a directory that every user may enter."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from helpers import daemons
from helpers.daemons import SHARED, Daemon
from helpers.machine import mounts_below

_SETTLED = 10.0


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A new directory with an empty mount point in it; it is gone afterwards, and what is mounted there, too."""
    path = Path(tempfile.mkdtemp(prefix="cryptofs-stress-"))
    path.chmod(0o755)
    mountpoint = path / "mount"
    mountpoint.mkdir()
    try:
        yield path
    finally:
        if mounts_below(mountpoint):
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], capture_output=True, check=False)
        shutil.rmtree(path)


@contextlib.contextmanager
def serving(path: Path, *arguments: str) -> Iterator[Daemon]:
    """A daemon on `path`/mount; it is asked to stop at the end, or killed."""
    with daemons.serving(path / "mount", *SHARED, *arguments, rough=True) as daemon:
        yield daemon


def gauge(mount: Path, name: str) -> float:
    """One number of the mount's stats."""
    for line in (mount / "stats").read_text().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise ValueError(f"{mount}/stats has no {name}")


def wait_until_idle(mount: Path) -> float:
    """Wait until no context is open; returns how many are left after ten seconds."""
    deadline = time.monotonic() + _SETTLED
    while (left := gauge(mount, "cryptofs_contexts_open")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left
