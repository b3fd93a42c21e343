"""What this machine has and shows: AF_ALG, mounts, sockets."""

import os
import socket
from pathlib import Path

TESTS = Path(__file__).parents[1]
"""What is in the path of every test: programs that are started for one may need it, too."""

IN_GUEST = bool(os.environ.get("CRYPTOFS_GUEST"))


def kernel_has_af_alg() -> bool:
    """Whether an AF_ALG socket can be made here."""
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()
    except OSError:
        return False
    return True


AF_ALG = kernel_has_af_alg()


def mount_lines() -> list[str]:
    """The lines of this namespace's mounts, whose names need not be text: tests beside this one mount such."""
    return Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()


def mounts_below(below: Path) -> set[str]:
    """The lines of this namespace's mounts at or below a directory."""
    # only this run's own: another one may be going on beside it
    return {line for line in mount_lines() if str(below) in line}


def af_alg_sockets(pid: int) -> int:
    """How many of a process's descriptors are AF_ALG sockets, asked of the sockets themselves."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    count = 0
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not os.readlink(f"/proc/{pid}/fd/{entry}").startswith("socket:"):
                    continue
            except OSError:
                continue
            copy = libc.syscall(438, pidfd, int(entry), 0)  # pidfd_getfd
            if copy >= 0:
                # the family is given so that Python does not ask for the name, which AF_ALG has none of
                with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0, copy) as twin:
                    count += twin.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_ALG
    finally:
        os.close(pidfd)
    return count
