"""Which system calls of the program the supervisor answers. It needs no engine, so that the program starts at once."""

from .filter import Argument, Rule, is_at_least
from .shim import ALIAS, ALIAS_PROTOCOL

AF_NETLINK, AF_ALG = 16, 38
NETLINK_CRYPTO = 21
PROBE = 0x70726F62
"""A protocol that AF_ALG does not have: a socket of it asks whether the call reaches the supervisor."""
BASE = 512
"""The smallest number of a descriptor that is given out. The filter leaves all below to the kernel, unless --wide."""
_ENOSYS = 38
_DUPLICATES = (0, 1030)
"""F_DUPFD and F_DUPFD_CLOEXEC."""
# The most frequent ones first: each rule before the one that fits costs a few nanoseconds.
BY_DESCRIPTOR = (
    "read", "write", "sendmsg", "recvmsg", "sendto", "recvfrom", "accept4", "accept", "setsockopt", "getsockopt",
    "bind", "getsockname", "getpeername", "connect", "listen", "shutdown", "readv", "writev", "sendmmsg", "recvmmsg",
    "dup", "dup2", "dup3", "preadv2", "pwritev2",
)  # fmt: skip
AT_ALL = ("io_submit", "io_getevents", "io_pgetevents")
OPENING = ("open", "creat", "openat", "openat2")
BEGINNING = ("socket", "socketpair", *OPENING)
"""Calls that may give the program its first descriptor of ours. All others concern one that it has."""


def rules(wide: bool, devices: bool, alias: bool) -> list[Rule]:
    """What the filter hands over. wide: calls on descriptors below BASE as well; devices: opens of files; alias:
    sockets of the shim, which make_socket takes for AF_ALG."""
    smallest = 0 if wide else BASE
    ours = is_at_least(0, smallest)
    found = [Rule(name, (ours,)) for name in BY_DESCRIPTOR]
    found += [Rule("fcntl", (ours, Argument(1, command))) for command in _DUPLICATES]
    found += [Rule("splice", (is_at_least(position, smallest),)) for position in (2, 0)]
    found += [Rule("sendfile", (is_at_least(position, smallest),)) for position in (0, 1)]
    found += [Rule(name) for name in AT_ALL]
    found += [Rule(name, (Argument(0, AF_ALG),)) for name in ("socket", "socketpair")]
    if alias:
        protocols = (Argument(2, ALIAS_PROTOCOL, mask=0xFFFFFFFE), Argument(2, PROBE))
        found += [Rule("socket", (Argument(0, ALIAS), each)) for each in protocols]
    found.append(Rule("socket", (Argument(0, AF_NETLINK), Argument(2, NETLINK_CRYPTO))))
    # Its calls pass by the filter. Programs go on without it.
    found.append(Rule("io_uring_setup", errno=_ENOSYS))
    if devices:
        found.append(Rule("ioctl", (Argument(1, ord("c") << 8, mask=0xFF00), ours)))
        found += [Rule(name) for name in OPENING]
    return found
