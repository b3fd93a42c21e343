"""Finding a key on the kernel's keyrings."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..keyctl import THREAD_KEYRING, add_key, keyctl

# include/uapi/linux/keyctl.h
_UNLINK = 9
_SEARCH = 10
_USER_KEYRING = -4


@contextmanager
def held(kind: str, description: str) -> Iterator[int]:
    """The serial number of the user's key of this type and description, which the thread possesses in the block.

    The search continues in the keyrings that are linked to the user's. A service's session keyring does not contain its
    user's keyring. A key that is found there by name could not be read, or used by its number. So the search links it
    to the thread's own keyring. Errors: OSError: ENOKEY, EKEYREVOKED, EKEYEXPIRED, EACCES; ENODEV for a type that the
    kernel does not have.
    """
    serial = keyctl(_SEARCH, _USER_KEYRING, kind.encode(), os.fsencode(description), THREAD_KEYRING)
    try:
        yield serial
    finally:
        try:
            keyctl(_UNLINK, serial, THREAD_KEYRING)
        except OSError as error:
            # Revoked keys may have been collected in the meantime.
            if error.errno not in (errno.ENOKEY, errno.ENOENT, errno.EKEYREVOKED, errno.EKEYEXPIRED):
                raise


def add(kind: str, description: str, payload: bytearray) -> None:
    """Put a new key on the user's keyring. Errors: OSError; EEXIST if there is a key of this type and description,
    which would be replaced."""
    try:
        with held(kind, description):
            raise OSError(errno.EEXIST, "add_key")
    except OSError as error:
        if error.errno not in (errno.ENOKEY, errno.EKEYREVOKED, errno.EKEYEXPIRED):
            raise
    add_key(kind.encode(), os.fsencode(description), payload, _USER_KEYRING)
