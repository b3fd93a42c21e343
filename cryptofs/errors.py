"""What can go wrong, one class for each meaning; every class knows its errno.

Messages name the value and the bound it broke. They never hold a key or data: what a client sent as a
secret is described by its length alone.
"""

import errno
import os
from typing import Self


class CryptofsError(Exception):
    """Base of all errors that a client may see.

    errno: the number the client gets. message: one short sentence for people, at most 200 characters of
    what the client named itself.
    """

    errno: int = errno.EIO

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def symbol(self) -> str:
        """The errno's name, as in errno(3)."""
        # Python knows this number by its other name
        return "EOPNOTSUPP" if self.errno == errno.EOPNOTSUPP else errno.errorcode.get(self.errno, str(self.errno))

    def again(self) -> Self:
        """The same error anew: without the traceback, whose frames would keep a request's data."""
        return type(self)(self.message)

    def __str__(self) -> str:
        return f"{self.symbol}: {self.message or os.strerror(self.errno)}"


class MalformedRecord(CryptofsError):
    """The bytes are not whole records."""

    errno = errno.EBADMSG


class InvalidValue(CryptofsError):
    """A value is outside what the format, the operation or the algorithm takes."""

    errno = errno.EINVAL


class TooLarge(CryptofsError):
    """Something is over a published limit, or a read buffer is smaller than the next response."""

    errno = errno.EMSGSIZE


class StreamTooLong(CryptofsError):
    """A device's stream holds as much output as it may, and the one program that could read it writes."""

    errno = errno.EFBIG


class NotOffered(CryptofsError):
    """No engine offers the name."""

    errno = errno.ENOENT


class NoSuchTarget(CryptofsError):
    """The request or context that a request names does not exist."""

    errno = errno.ENOENT


class KeyMissing(CryptofsError):
    """The transform needs a key and has none."""

    errno = errno.ENOKEY


class KeyRejected(CryptofsError):
    """A signature is not that of this message under this key."""

    errno = errno.EKEYREJECTED


class KeyUnavailable(CryptofsError):
    """The source of a device's key does not give it; the message names the source, never the key."""

    errno = errno.ENOKEY


class NotConfigured(CryptofsError):
    """Used before configure."""

    errno = errno.EBADFD


class Busy(CryptofsError):
    """A second configure, or a key change while something is in flight."""

    errno = errno.EBUSY


class BadTag(CryptofsError):
    """Authentication failed; nothing of the message is given out."""

    errno = errno.EBADMSG


class Overflow(CryptofsError):
    """A message is longer than its nonce can count (CCM)."""

    errno = errno.EOVERFLOW


class Cancelled(CryptofsError):
    """The request was cancelled before it finished."""

    errno = errno.ECANCELED


class WouldBlock(CryptofsError):
    """Nothing ready or no room, on a context that must not wait or after the bounded wait."""

    errno = errno.EAGAIN


class Interrupted(CryptofsError):
    """The bounded wait ended, or a signal waits for the caller: try again."""

    errno = errno.EINTR


class OverQuota(CryptofsError):
    """More contexts, messages or bytes than one client may hold."""

    errno = errno.EDQUOT


class NotPermitted(CryptofsError):
    """Not allowed to this caller."""

    errno = errno.EACCES


class Gone(CryptofsError):
    """The context was closed while this handle was open."""

    errno = errno.ENODEV


class EngineFault(CryptofsError):
    """An engine failed in a way that is no fault of the request."""

    errno = errno.EIO


class NotSupported(CryptofsError):
    """The algorithm or engine has no such operation."""

    errno = errno.EOPNOTSUPP


class OutOfResources(CryptofsError):
    """The daemon has no descriptors or memory left for another socket or message."""

    errno = errno.ENFILE
