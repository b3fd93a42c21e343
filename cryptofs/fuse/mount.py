"""Making the mount without libfuse: we need the descriptor of `/dev/fuse`, and libfuse does not return it."""

import contextlib
import errno
import os
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..errors import SystemFault, printable

_SECONDS = 30


class FuseMountError(SystemFault):
    """The mount could not be made."""


class OwnMount:
    """A mount that fusermount3 makes and removes for the current user.

    device: the descriptor that serves it; the caller that takes it must close it.
    """

    def __init__(self, path: Path, options: Iterable[str]) -> None:
        """options: of fusermount3, for `-o`. Errors: FuseMountError."""
        self._path = path
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            ours.settimeout(_SECONDS)
            try:
                made = subprocess.run(
                    ["fusermount3", "-o", ",".join(sorted(options)), "--", os.fsencode(path)],
                    env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_SECONDS,
                    check=False,
                )
            except OSError as error:
                reason = f"fusermount3: {os.strerror(error.errno or errno.EIO)}; install the package fuse3"
                raise FuseMountError(reason, error.errno) from None
            except subprocess.TimeoutExpired:
                raise FuseMountError(f"fusermount3 did not end within {_SECONDS} seconds", errno.ETIMEDOUT) from None
            theirs.close()
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            said = made.stderr.decode(errors="backslashreplace").strip() or "fusermount3 gave no descriptor"
            raise FuseMountError(f"{printable(path)}: {said}", errno.EIO)
        (self.device,) = descriptors
        os.set_inheritable(self.device, False)

    def take_away(self) -> None:
        """Unmount even if the mount is in use. Serving has ended, so nothing here may touch the mount."""
        command: list[str | bytes] = ["fusermount3", "-u", "-q", "-z", "--", os.fsencode(self._path)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
