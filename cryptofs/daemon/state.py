"""The state directory: what the daemon keeps over a restart. It holds no key."""

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
