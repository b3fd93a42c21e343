"""What the daemon does so that keys stay in it: no core, no ptrace by equals, no swap."""

import contextlib
import ctypes
import logging
import os
import resource

log = logging.getLogger("cryptofs")

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden(stays_root: bool = True) -> None:
    """Make the process undumpable, allow it no core file, and lock its memory where that is allowed.

    stays_root: whether a process that is root now will be so for good.

    Undumpable also means that only root may read its /proc/<pid>/mem or attach to it. What cannot be done is logged.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("not undumpable: %s", os.strerror(ctypes.get_errno()))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not _may_lock(stays_root):
        log.info("memory is not locked: RLIMIT_MEMLOCK is too small, keys may be swapped out")
    elif libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        log.warning("memory is not locked: %s", os.strerror(ctypes.get_errno()))


def _may_lock(stays_root: bool) -> bool:
    # with a limit that is reached later, allocations would fail then; for root there is none
    if os.geteuid() == 0:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if stays_root:
            return True
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
