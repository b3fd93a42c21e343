"""The state directory: what the daemon keeps over a restart. It holds no key."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from ..errors import SystemFault, printable

VARIABLE = "STATE_DIRECTORY"
"""The environment variable in which systemd names it (StateDirectory=)."""
_OTHERS = 0o077


def state_directory(declared: Path | None, serving: int | None) -> Path | None:
    """The directory that the configuration declares, which is made if it does not exist, else systemd's; None without.

    serving: the uid of the account that will serve; None: this process's. Errors: SystemFault for one that others may
    change, or that is not of that account.
    """
    given = os.environ.get(VARIABLE, "").partition(":")[0]
    path = declared or (Path(given) if given.startswith("/") else None)
    if path is None:
        return None
    owner = os.geteuid() if serving is None else serving
    try:
        if not path.exists():
            path.mkdir(0o700)
            os.chmod(path, 0o700)
            if owner != os.geteuid():
                os.chown(path, owner, -1)
        found = os.stat(path)
    except OSError as error:
        raise SystemFault.of(error, path) from None
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or mode & _OTHERS or found.st_uid != owner:
        raise SystemFault(
            f"{printable(path)}: mode {mode:04o}, owned by uid {found.st_uid}: the state directory must belong to "
            f"uid {owner}, and nobody else may have any right to it (mode 0700)"
        )
    return path


def hold(directory: Path) -> int:
    """Keep other daemons away from a state directory: a descriptor, which holds it until it is closed.

    Two that count there would each write over what the other has counted. Errors: SystemFault.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
    except BlockingIOError:
        raise SystemFault(
            f"{printable(directory)}: another daemon keeps its counts there: give each daemon a state directory of its "
            "own ([daemon] state)",
            errno.EBUSY,
        ) from None
    except OSError as error:
        raise SystemFault.of(error, directory) from None
    return descriptor
