"""Programs in a container whose seccomp filter refuses AF_ALG, as Docker's has done since May 2026, and other calls.

refusing.py CALL,… PROGRAM ARGUMENTS…
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence

from cryptofs.runner.filter import Argument, Rule, assemble
from cryptofs.runner.numbers import machine

AF_ALG, AF_VSOCK = 38, 40
_NO_NEW_PRIVS, _SET_MODE_FILTER = 38, 1


def refuse(rules: Sequence[Rule]) -> None:
    """Put a filter on this process. It has no listener: it gives errnos."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = assemble(machine(), rules, None)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer)))
    assert libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.syscall(machine().numbers["seccomp"], _SET_MODE_FILTER, 0, head) == 0


KILLABLE = "killable"
"""Stands for seccomp(2) with WAIT_KILLABLE_RECV, which kernels before 5.19 refuse."""
_FLAG = 32


def _rule(refused: str) -> Rule:
    if refused == KILLABLE:
        return Rule("seccomp", (Argument(1, _FLAG, mask=_FLAG),), errno.EINVAL)
    name, _, family = refused.partition(":")
    return Rule(name, (Argument(0, int(family)),) if family else (), errno=errno.EPERM)


def inside(line: Sequence[str], *refused: str) -> list[str]:
    """The command line that runs another one in such a container. refused: further system calls, KILLABLE, or
    `socket:NUMBER` for a family."""
    return [sys.executable, __file__, ",".join(refused), *line]


if __name__ == "__main__":
    families = [Rule("socket", (Argument(0, family),), errno.EPERM) for family in (AF_ALG, AF_VSOCK)]
    refuse([*families, *(_rule(name) for name in sys.argv[1].split(",") if name)])
    os.execvp(sys.argv[2], sys.argv[2:])
