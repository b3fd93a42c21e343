"""The command line and the system as administrators use them."""

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cryptofs.mountinfo import mounts_on

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root")


ROOT = Path(__file__).parents[2]


CRYPTOFS = (sys.executable, "-m", "cryptofs")


DETACHED = ("--allow-root", "--daemon", "--engines", "openssl")


def run(*arguments: str | bytes, **more: str) -> subprocess.CompletedProcess[str]:
    """The command line with these arguments and further variables of the environment."""
    return subprocess.run(
        [*CRYPTOFS, *arguments],
        env={**os.environ, **more},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=60,
        check=False,
        cwd=ROOT,
    )


# Another user need not be able to read the clone: in the script's mount namespace it lies elsewhere, too.
FOR_ALL = """
mount -t tmpfs none /opt; mkdir /opt/code /opt/python; chmod 755 /opt
mount --bind "$CODE" /opt/code; mount --bind "$PYTHON" /opt/python; cd /opt/code
C="/opt/python/bin/python -m cryptofs"
"""


def in_shell(script: str, *arguments: str, private: bool = False) -> subprocess.CompletedProcess[str]:
    """A script of bash; `$C` is the command. private: in namespaces of its own, where every user can run it, and after
    which no process is left."""
    begin = f"C={shlex.quote(shlex.join(CRYPTOFS))}\n" + (FOR_ALL if private else "")
    command = ["bash", "-euc", begin + script, "bash", *arguments]
    if private:
        command[:0] = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ]
    more = {"CODE": str(ROOT), "PYTHON": sys.prefix, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, env={**os.environ, **more}, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def kinds_on(path: bytes | Path) -> list[str]:
    """The types of the mounts on a path."""
    return [mount.kind for mount in mounts_on(path)]


def ends_with_one_line(done: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """The status, and one line on standard error that has these words."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("cryptofs: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def daemon_of(word: str | Path) -> int:
    """The process id of the daemon that has this word, which no other test has, on its command line."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            # its children are copies of it, and have names of their own
            if os.fsencode(word) in words and not (entry / "comm").read_text().startswith("cryptofs-"):
                return int(entry.name)
    raise AssertionError(f"no daemon with {word}")
