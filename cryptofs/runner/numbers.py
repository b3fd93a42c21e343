"""The numbers of the system calls that matter here, for each architecture. They never change."""

import errno
import platform
import sys
from dataclasses import dataclass

from ..errors import SystemFault

_X86_64 = {
    "read": 0, "write": 1, "open": 2, "readv": 19, "writev": 20, "ioctl": 16, "dup": 32, "dup2": 33, "sendfile": 40,
    "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47,
    "shutdown": 48, "bind": 49, "listen": 50, "getsockname": 51, "getpeername": 52, "socketpair": 53, "setsockopt": 54,
    "getsockopt": 55, "fcntl": 72, "creat": 85, "io_getevents": 208, "io_submit": 209, "openat": 257, "splice": 275,
    "accept4": 288, "dup3": 292, "recvmmsg": 299, "sendmmsg": 307, "seccomp": 317, "preadv2": 327, "pwritev2": 328,
    "io_pgetevents": 333, "io_uring_setup": 425, "openat2": 437, "pidfd_getfd": 438,
}  # fmt: skip
# It has neither open nor creat nor dup2.
_AARCH64 = {
    "io_submit": 2, "io_getevents": 4, "dup": 23, "dup3": 24, "fcntl": 25, "ioctl": 29, "openat": 56, "read": 63,
    "write": 64, "readv": 65, "writev": 66, "sendfile": 71, "splice": 76, "socket": 198, "socketpair": 199, "bind": 200,
    "listen": 201, "accept": 202, "connect": 203, "getsockname": 204, "getpeername": 205, "sendto": 206,
    "recvfrom": 207, "setsockopt": 208, "getsockopt": 209, "shutdown": 210, "sendmsg": 211, "recvmsg": 212,
    "accept4": 242, "recvmmsg": 243, "sendmmsg": 269, "seccomp": 277, "preadv2": 286, "pwritev2": 287,
    "io_pgetevents": 292, "io_uring_setup": 425, "openat2": 437, "pidfd_getfd": 438,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """One architecture. audit: its number in a seccomp filter; numbers: of its system calls by name; others: what else
    the kernel may run beside it, as the number in a filter and that of socket(2)."""

    name: str
    audit: int
    numbers: dict[str, int]
    others: tuple[tuple[int, int], ...]


X32 = 0x40000000
"""What the numbers of the x32 calls have in common, whose architecture is x86_64."""
_X86_64_AUDIT, _I386_AUDIT, _AARCH64_AUDIT, _ARM_AUDIT = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
MACHINES = {
    each.name: each
    for each in (
        Machine("x86_64", _X86_64_AUDIT, _X86_64, ((_I386_AUDIT, 359), (_X86_64_AUDIT, X32 | _X86_64["socket"]))),
        Machine("aarch64", _AARCH64_AUDIT, _AARCH64, ((_ARM_AUDIT, 281),)),
    )
}


def machine(name: str | None = None) -> Machine:
    """This machine, or the one of this name. Errors: SystemFault (ENOSYS) for one that has no table here."""
    name = name or platform.machine()
    if sys.maxsize < 1 << 32:
        raise SystemFault("a 32-bit Python: `cryptofs run` needs a 64-bit one", errno.ENOSYS)
    if name not in MACHINES:
        raise SystemFault(
            f"machine {name}: `cryptofs run` knows the system calls of {', '.join(MACHINES)}", errno.ENOSYS
        )
    return MACHINES[name]
