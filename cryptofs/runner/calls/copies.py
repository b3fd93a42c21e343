"""Calls that copy a descriptor."""

import errno
import fcntl

from ...errors import SystemFault
from ..desk import Desk, Handler
from ..notify import Call, PassOn
from ..rules import BASE


def duplicate(desk: Desk, call: Call) -> int:
    """dup(2)."""
    return copy(desk, call, close_on_exec=False)


def duplicate_above(desk: Desk, call: Call) -> int:
    """fcntl(2) with F_DUPFD or F_DUPFD_CLOEXEC, which ask for no more than a smallest number."""
    command = call.arguments[1] & 0xFFFFFFFF
    if not desk.descriptors.smallest or command not in (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC):
        raise PassOn
    return copy(desk, call, close_on_exec=command == fcntl.F_DUPFD_CLOEXEC)


def copy(desk: Desk, call: Call, close_on_exec: bool) -> int:
    """A copy of the call's first argument; returns its number. Errors: PassOn, SystemFault."""
    number = call.arguments[0] & 0xFFFFFFFF
    return desk.descriptors.copy(call, number, desk.descriptors.find(call, number), close_on_exec)


def duplicate_to(desk: Desk, call: Call) -> int:
    """dup2(2) and dup3(2). Below BASE the filter would not see the copy: no copy is better than wrong answers."""
    desk.descriptors.find(call, call.arguments[0])
    number = call.arguments[1] & 0xFFFFFFFF
    if number < desk.descriptors.smallest:
        raise SystemFault(f"a copy below {BASE}: only with --wide", errno.EBUSY)
    desk.descriptors.expect(number)
    raise PassOn


HANDLERS: dict[str, Handler] = {
    "dup": duplicate,
    "fcntl": duplicate_above,
    "dup2": duplicate_to,
    "dup3": duplicate_to,
}
