"""Measures that keep keys in the daemon: no core, no ptrace by processes of the same user, no swap."""

import contextlib
import ctypes
import logging
import os
import resource

log = logging.getLogger("cryptofs")

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden(stays_root: bool = True) -> None:
    """Make the process undumpable, forbid core files, and lock its memory if that is allowed.

    stays_root: whether a process that is root now stays root.

    Undumpable also means that only root may read its /proc/<pid>/mem or attach to it. The log says what failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("not undumpable: %s", os.strerror(ctypes.get_errno()))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not _may_lock(stays_root):
        log.info("memory is not locked: RLIMIT_MEMLOCK is too small, so keys may be swapped out")
    elif libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        log.warning("memory is not locked: %s", os.strerror(ctypes.get_errno()))


def _may_lock(stays_root: bool) -> bool:
    # With a limit that is reached later, allocations would fail. Root has no limit.
    if os.geteuid() == 0:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if stays_root:
            return True
    return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
