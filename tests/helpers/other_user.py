"""Other users: what runs as one, and how one reaches mounts and programs.

They cannot read the clone: most lie in a home directory of mode 0700.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = os.geteuid() == 0
NOBODY = 65534
OWNER, MEMBER, STRANGER, GROUP = 70_001, 70_002, 70_003, 70_100
needs_root = pytest.mark.skipif(not ROOT, reason="NOT RUN: only root can be several users")
AS_NOBODY = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--")
_HERE = Path(__file__).parent


@contextlib.contextmanager
def readable(*names: str) -> Iterator[Path]:
    """A directory that every user may enter, with copies of these helper programs of the tests that all may read."""
    with tempfile.TemporaryDirectory(prefix="cryptofs-test.") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for each in names:
            copy = shutil.copyfile(_HERE / each, directory / each)
            copy.chmod(0o644)
        yield directory


def let_in(mountpoint: Path) -> Path:
    """Let other users reach a mount below the tests' own directory."""
    for parent in (mountpoint.parent, mountpoint.parent.parent, mountpoint.parent.parent.parent):
        parent.chmod(0o755)
    return mountpoint


def become(uid: int = NOBODY, gid: int | None = None, groups: Iterable[int] = ()) -> None:
    """Be another user for good, in a forked child. What the child still imports must be loaded before."""
    os.setgroups(list(groups))
    gid = uid if gid is None else gid
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


class AsUser:
    """A program that runs as somebody else, in a fork: the interpreter's own file may be out of his reach."""

    def __init__(self, uid: int, gid: int, groups: list[int], code: str, *arguments: str | Path) -> None:
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(writer)
            self._reader = reader
            return
        status = 1
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
            become(uid, gid, groups)
            sys.argv = ["-c", *map(str, arguments)]
            exec(compile(code, "-c", "exec"), {})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def lines(self) -> list[str]:
        """What it printed, once it has ended."""
        with open(self._reader) as pipe:
            text = pipe.read()
        assert os.waitpid(self._pid, 0)[1] == 0, text
        return text.splitlines()


def as_user(uid: int, gid: int, groups: list[int], code: str, *arguments: str | Path) -> list[str]:
    """What a program prints that runs as somebody else."""
    return AsUser(uid, gid, groups, code, *arguments).lines()
