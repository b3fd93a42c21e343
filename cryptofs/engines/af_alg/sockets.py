"""AF_ALG sockets: opening and binding, keys, operation sockets, and the meaning of their errors.

A bound socket is the kernel's transform. An operation socket accepted on it is one message at a time. An accept doubles
the cost of a small message, so operation sockets of finished messages are kept for the next one. All of them are
non-blocking, because nothing here may make the daemon wait.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...algorithms import NAME_MAX, Type
from ...errors import (
    BadTag,
    Busy,
    CryptofsError,
    EngineFault,
    InvalidValue,
    KeyMissing,
    KeyUnavailable,
    NotOffered,
    NotSupported,
    OutOfResources,
    Overflow,
    TooLarge,
    symbol,
)
from ...records import PAYLOAD_MAX, Buffer

PIECE = 131_072
"""Largest piece of a message in parts that goes to the kernel at once, bytes."""
WHOLE = PAYLOAD_MAX + 4096
"""Size of the buffers for a message that must go as a whole, bytes: the largest message and its tag."""
OPTMEM_ENOUGH = 131_072
"""The net.core.optmem_max that suffices for every message, bytes."""
KEPT_MAX = 4
"""Operation sockets kept for the next message, for each bound socket."""

_PAGE = 4096
_OPTMEM_MAX = Path("/proc/sys/net/core/optmem_max")
# From include/uapi/asm-generic/socket.h; the socket module does not have them.
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

NOT_OFFERED = frozenset(
    {
        errno.EAFNOSUPPORT,  # no AF_ALG in this kernel
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
        errno.EPERM,  # a container's seccomp filter
        errno.EACCES,
        errno.ENOENT,  # no such type or name
        errno.EINVAL,  # a template that does not accept its argument: gcm(des)
        errno.EEXIST,  # a name whose instance is registered under another one: xts(ecb(aes))
        errno.ELOOP,  # templates nested too deep for the kernel: cbc(cbc(aes))
        errno.ELIBBAD,  # failed its self-test
        errno.ENODEV,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.ENAMETOOLONG,
    }
)
"""Errors of socket and bind that mean: not offered here, ask the next engine."""

_MEANINGS: dict[int, type[CryptofsError]] = {
    errno.EINVAL: InvalidValue,
    errno.ENOKEY: KeyMissing,
    errno.EBADMSG: BadTag,
    errno.EOVERFLOW: Overflow,
    errno.EBUSY: Busy,
    errno.EMFILE: OutOfResources,
    errno.ENFILE: OutOfResources,
    errno.ENOMEM: OutOfResources,
    errno.ENOBUFS: OutOfResources,
}
_SHORTAGES = frozenset(number for number, kind in _MEANINGS.items() if kind is OutOfResources)
_KEY_REFUSED = frozenset({errno.EINVAL, errno.EKEYREJECTED, errno.ENOSYS, errno.ENOPROTOOPT})
# From include/uapi/linux/if_alg.h, since Linux 6.2; the socket module does not have it.
_ALG_SET_KEY_BY_KEY_SERIAL = 7
_KEY_GONE = frozenset({errno.ENOKEY, errno.EKEYREVOKED, errno.EKEYEXPIRED, errno.EACCES})


def system_fault(error: OSError, call: str, name: str) -> CryptofsError:
    """The error for a failure that the request did not cause: OutOfResources for a shortage, else EngineFault."""
    kind = OutOfResources if error.errno in _SHORTAGES else EngineFault
    return kind(f"{name}: {call} fails with {symbol(error.errno)}")


def data_fault(error: OSError, subject: str, name: str) -> CryptofsError:
    """The error for a message that the kernel did not take; subject: the message with its sizes."""
    number = error.errno or 0
    kind = _MEANINGS.get(number, EngineFault)
    return kind(f"{subject}: {name} refuses it with {symbol(error.errno)}")


def open_socket() -> socket.socket:
    """An AF_ALG socket. Errors: OSError."""
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)


def bind(type_: Type, name: str) -> socket.socket | None:
    """A socket bound to a name, or None if the kernel does not offer it. Errors: OutOfResources, EngineFault."""
    if not name.isascii() or not name.isprintable() or not 0 < len(name) <= NAME_MAX:
        return None
    bound = None
    try:
        bound = open_socket()
        bound.bind((type_.value, name))
    except OSError as error:
        if bound is not None:
            bound.close()
        if error.errno in NOT_OFFERED:
            return None
        raise system_fault(error, "bind", name) from None
    return bound


def set_key(bound: socket.socket, key: Buffer, name: str) -> bool:
    """Set the key of a bound socket; False if the kernel refuses it, which leaves the socket without a key.

    Errors: Busy while operation sockets are open, OutOfResources, EngineFault.
    """
    try:
        bound.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, key)
    except OSError as error:
        if error.errno in _KEY_REFUSED:
            return False
        if error.errno == errno.EBUSY:
            raise Busy(f"key of {len(key)} bytes: {name} has messages in flight") from None
        raise system_fault(error, "setsockopt(ALG_SET_KEY)", name) from None
    return True


def set_authsize(bound: socket.socket, authsize: int, name: str) -> bool:
    """Set the tag size of a bound socket; False if the kernel refuses it. Errors: EngineFault."""
    try:
        bound.setsockopt(socket.SOL_ALG, socket.ALG_SET_AEAD_AUTHSIZE, None, authsize)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise system_fault(error, "setsockopt(ALG_SET_AEAD_AUTHSIZE)", name) from None
    return True


def _raise_buffer(operation: socket.socket, option: int, force: int, wanted: int) -> int:
    """Raise one buffer of an operation socket to `wanted` bytes, as far as permitted; returns its new size."""
    size = operation.getsockopt(socket.SOL_SOCKET, option)
    if size >= wanted:
        return size
    # The kernel doubles the given value.
    try:
        operation.setsockopt(socket.SOL_SOCKET, force, (wanted + 1) // 2)
    except PermissionError:
        # Without CAP_NET_ADMIN: up to net.core.wmem_max and rmem_max.
        with suppress(OSError):
            operation.setsockopt(socket.SOL_SOCKET, option, (wanted + 1) // 2)
    return operation.getsockopt(socket.SOL_SOCKET, option)


def raise_buffers(operation: socket.socket, wanted: int) -> int:
    """Make room for messages of `wanted` bytes, as far as permitted; returns the size of the largest message that fits.

    A bound socket's buffers do not count, because each operation socket starts with the default. The receive buffer
    needs a spare page: with less the kernel computes a message in two pieces, and for xts that gives wrong output
    without an error.
    """
    send = _raise_buffer(operation, socket.SO_SNDBUF, _SO_SNDBUFFORCE, wanted)
    receive = _raise_buffer(operation, socket.SO_RCVBUF, _SO_RCVBUFFORCE, wanted + _PAGE)
    return max(min(send - send % _PAGE, receive - receive % _PAGE - _PAGE), _PAGE)


class Bound:
    """A bound socket with its operation sockets.

    Safe for several threads: `kept` is only used by append and pop. limit: the largest message that one operation
    socket takes at once, bytes; known after the first `take`.
    """

    def __init__(self, type_: Type, name: str, wanted: int) -> None:
        """Bind `name`; wanted: the message size to make room for, bytes. Errors: NotOffered, EngineFault…"""
        bound = bind(type_, name)
        if bound is None:
            raise NotOffered(f"{name}: the kernel does not offer it any more")
        self.type = type_
        self.name = name
        self.limit = 0
        self.pristine = True
        self._wanted = wanted
        self._socket = bound
        self._kept: list[socket.socket] = []
        self._closed = False

    def again(self) -> "Bound":
        """Another one of the same name, without a key. Errors: as for the first."""
        return Bound(self.type, self.name, self._wanted)

    def set_key(self, key: Buffer) -> bool:
        """As the function; only before the first `take`."""
        self.pristine = False
        return set_key(self._socket, key, self.name)

    def set_key_serial(self, serial: int) -> bool:
        """Set the key to one of the kernel's keyring, by its number; only before the first `take`. False if its size is
        wrong.

        Errors: NotSupported if the kernel cannot do this, or not for keys of this type; KeyUnavailable if the key has
        gone or the process may not use it; Busy, OutOfResources, EngineFault.
        """
        self.pristine = False
        try:
            self._socket.setsockopt(socket.SOL_ALG, _ALG_SET_KEY_BY_KEY_SERIAL, struct.pack("i", serial))
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                raise NotSupported(f"{self.name}: the kernel takes no such key from its keyring") from None
            if error.errno in _KEY_GONE:
                raise KeyUnavailable(f"{self.name}: the kernel refuses the key with {symbol(error.errno)}") from None
            if error.errno in _KEY_REFUSED:
                return False
            if error.errno == errno.EBUSY:
                raise Busy(f"{self.name} has messages in flight") from None
            raise system_fault(error, "setsockopt(ALG_SET_KEY_BY_KEY_SERIAL)", self.name) from None
        return True

    def set_authsize(self, authsize: int) -> bool:
        """As the function; only before the first `take`."""
        return set_authsize(self._socket, authsize, self.name)

    def take(self) -> socket.socket:
        """An operation socket without a message. Errors: OutOfResources, EngineFault."""
        try:
            return self._kept.pop()
        except IndexError:
            return self._accept(self._socket)

    def clone(self, operation: socket.socket) -> socket.socket:
        """A second operation socket in the state of a hash's first. Errors: OutOfResources, EngineFault."""
        return self._accept(operation)

    def _accept(self, parent: socket.socket) -> socket.socket:
        self.pristine = False
        operation = None
        try:
            operation, _ = parent.accept()
            operation.setblocking(False)
            if self._wanted:
                self.limit = raise_buffers(operation, self._wanted)
        except OSError as error:
            if operation is not None:
                operation.close()
            raise system_fault(error, "accept", self.name) from None
        return operation

    def keep(self, operation: socket.socket) -> None:
        """Return an operation socket whose message is finished."""
        if self._closed or len(self._kept) >= KEPT_MAX:
            operation.close()
            return
        self._kept.append(operation)
        if self._closed:
            # Closed in the meantime, perhaps after `close` read the list.
            self._drop_kept()

    def exchange(
        self,
        data: Buffer,
        parameters: dict[str, Any],
        into: Iterable[bytearray | memoryview],
        subject: Callable[[int, int], str],
    ) -> int:
        """Send a message as a whole and receive its output; returns the number of bytes.

        parameters: those of sendmsg_afalg; subject: the name of the message in errors, by its size and that of its
        associated data. Errors: TooLarge over the limit, and those of `data_fault`.
        """
        operation = self.take()
        size = len(data)
        if size > self.limit:
            self.keep(operation)
            raise TooLarge(
                f"{subject(size, parameters.get('assoclen', 0))}: {self.name} takes it whole, "
                f"at most {self.limit} bytes with this net.core.wmem_max"
            )
        try:
            sent = operation.sendmsg_afalg((data,), **parameters)
            received = operation.recvmsg_into(into)[0] if sent == size else 0
        except OSError as error:
            # A wrong tag has used up the message. After any other error it is still in the socket.
            if error.errno == errno.EBADMSG:
                self.keep(operation)
            else:
                operation.close()
            message = subject(size, parameters.get("assoclen", 0))
            if error.errno in _SHORTAGES and size > PIECE:
                raise self._over_optmem(message) from None
            raise data_fault(error, message, self.name) from None
        except BaseException:
            operation.close()
            raise
        if sent != size:
            # A shortage after the first page appears as a short send.
            operation.close()
            raise self._over_optmem(subject(size, parameters.get("assoclen", 0)))
        self.keep(operation)
        return received

    def short(self, data: bytes, iv: bytes | None, operation: int) -> bytes | None:
        """A small cipher message in the fewest steps, or None if it did not go through; `exchange` then finds the
        reason."""
        taken = self.take()
        try:
            if iv is None:
                taken.sendmsg_afalg((data,), op=operation)
            else:
                taken.sendmsg_afalg((data,), op=operation, iv=iv)
            out = taken.recv(len(data))
        except OSError:
            taken.close()
            return None
        except BaseException:
            taken.close()
            raise
        if len(out) != len(data):
            taken.close()
            return None
        self.keep(taken)
        return out

    def _over_optmem(self, message: str) -> TooLarge:
        # Lists of pages count against it: 20,480 bytes, the default before Linux 6.9, suffice for about half a
        # megabyte.
        try:
            allowed = _OPTMEM_MAX.read_bytes().strip().decode("latin-1")
        except OSError:
            allowed = "unknown"
        return TooLarge(
            f"{message}: {self.name} takes it whole, and net.core.optmem_max ({allowed}) has no room for it; "
            f"{OPTMEM_ENOUGH} has"
        )

    def close(self) -> None:
        """Close all sockets except operation sockets in use; you may call it twice."""
        self._closed = True
        self._socket.close()
        self._drop_kept()

    def _drop_kept(self) -> None:
        with suppress(IndexError):
            while True:
                self._kept.pop().close()
