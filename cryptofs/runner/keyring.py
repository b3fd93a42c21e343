"""Keys that a program names by their serial number in the kernel's keyrings."""

import errno
import os

from ..engines.keyctl.payload import kind_of, read
from ..errors import SystemFault
from .process import ContainersMemory, Memory

_KEY_MAX = 32767
"""Bytes of a key of the type user."""


def read_key(memory: Memory, serial: int) -> bytearray:
    """The payload of a key of the type user, for the caller to wipe.

    memory: of the process that names it. Errors: SystemFault, with the kernel's errno, or ENOPROTOOPT for a type that
    no process can read.
    """
    try:
        # This process reads it, so the program must be of the same user, and not a container.
        if isinstance(memory, ContainersMemory) or os.stat(f"/proc/{memory.tid}").st_uid != os.geteuid():
            raise SystemFault(f"key {serial}: of another user", errno.EACCES)
        # The directory was that of the thread, and not of another one that has got its number.
        memory.check()
        kind = kind_of(serial)
        if kind != "user":
            raise SystemFault(f"key {serial} of type {kind}: only those of type user can be read", errno.ENOPROTOOPT)
        return read(serial, _KEY_MAX)
    except OSError as error:
        raise SystemFault.of(error, f"key {serial}") from None
