"""Examine an algorithm that the catalogue does not know: which keys it takes, and whether it needs one.

/proc/crypto gives key sizes only for skciphers, and of those only the smallest and the largest.
"""

import errno
import socket

from ...algorithms import ANY_KEY, NO_KEY, KeySizes, Type
from .proc_crypto import Entry
from .sockets import set_key, system_fault

_LARGEST_TRIED = 136
"""The largest key size to try if the kernel names none, bytes: more than the block of every SHA-2."""
_LARGEST_LISTED = 256


def key_sizes(bound: socket.socket, type_: Type, name: str, entry: Entry) -> KeySizes:
    """The key sizes of a bound socket, bytes, by trying them; the socket is left with an arbitrary key.

    Errors: OutOfResources, EngineFault.
    """
    if type_ is Type.SKCIPHER:
        if not entry.max_key:
            return NO_KEY
        tried = range(entry.min_key, min(entry.max_key, _LARGEST_LISTED) + 1)
    else:
        tried = range(_LARGEST_TRIED + 1)
    needs = _needs_key(bound, type_, name)
    if _has_no_setkey(bound):
        return NO_KEY
    # Bytes that count up, because some algorithms refuse a key with equal halves.
    accepted = [size for size in tried if set_key(bound, bytes(range(size)), name)]
    if not accepted:
        # An AEAD's key may be a structure that no plain bytes match.
        return ANY_KEY if needs else NO_KEY
    smallest, largest = accepted[0], accepted[-1]
    required = needs and not (type_ is Type.RNG and smallest == 0)
    if len(accepted) > 1 and accepted == list(range(smallest, largest + 1)):
        if largest == tried[-1]:
            largest = entry.max_key or ANY_KEY.largest
        return KeySizes(smallest=smallest, largest=largest, required=required)
    return KeySizes(tuple(accepted), required=required)


def _has_no_setkey(bound: socket.socket) -> bool:
    """True for a hash without keys, and for poly1305 in old kernels, whose key is the first part of its message."""
    try:
        bound.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, bytes(16))
    except OSError as error:
        return error.errno in (errno.ENOSYS, errno.ENOPROTOOPT)
    return False


def _needs_key(bound: socket.socket, type_: Type, name: str) -> bool:
    """Whether the algorithm computes nothing before a key is set. All except hashes need one, if they take any."""
    if type_ is not Type.HASH:
        return True
    try:
        operation, _ = bound.accept()
        with operation:
            operation.setblocking(False)
            operation.recv(1)
    except OSError as error:
        if error.errno == errno.ENOKEY:
            return True
        raise system_fault(error, "recv", name) from None
    return False
