"""Programs for tests that become another user, who cannot read the clone: most lie in a home directory of mode 0700."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = os.geteuid() == 0
NOBODY = 65534
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


def become(uid: int = NOBODY) -> None:
    """Be another user for good, in a forked child. What the child still imports must be loaded before."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
