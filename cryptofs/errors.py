"""All errors, one class for each meaning; every class has its errno.

Messages name the value and the bound. They never contain a key or data: for a secret from a client, they give only its
length.
"""

import errno
import os
from typing import Self

_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK", errno.EAGAIN: "EAGAIN"}
"""If a number has two names, Python may know it by the rarer one."""


def symbol(number: int | None) -> str:
    """An errno's name, as in errno(3); its digits if it has none."""
    return _NAMES.get(number or 0, str(number))


def printable(name: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """A file's name in a form that every locale can show in one line. Bytes that are not text, and control characters,
    are escaped (`\xe9`, `\n`). It is only for messages, and cannot be converted back."""
    text = os.fsdecode(name)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        # A byte that os.fsdecode could not decode.
        return f"\\x{ord(character) & 0xFF:02x}"
    return character.encode("unicode_escape").decode("ascii")


class CryptofsError(Exception):
    """Base of all errors that a client may see.

    Not an OSError: the engines turn a system call's OSError into one of these, and an `except OSError` around that must
    not catch them. The client turns them into its own errors, which are OSErrors.

    errno: the client's errno. message: one short sentence for people, with at most 200 characters of names from the
    client.
    """

    errno: int = errno.EIO

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def symbol(self) -> str:
        """The errno's name, as in errno(3)."""
        return symbol(self.errno)

    def again(self) -> Self:
        """The same error without its traceback, because its frames would keep a request's data."""
        return type(self)(self.message)

    def __str__(self) -> str:
        return f"{self.symbol}: {self.message or os.strerror(self.errno)}"


class SystemFault(CryptofsError):
    """A system call failed, or was not made because it would fail: the errno is that call's."""

    def __init__(self, message: str, number: int | None = None) -> None:
        """number: the errno; None: the one of the class."""
        super().__init__(message)
        if number is not None:
            self.errno = number

    @classmethod
    def of(cls, error: OSError, subject: str | os.PathLike[str]) -> Self:
        """The system's error for `subject`, which is a path or describes the attempt."""
        number = error.errno or cls.errno
        return cls(f"{printable(subject)}: {os.strerror(number)}", number)

    def again(self) -> Self:
        return type(self)(self.message, self.errno)


class WrongUsage(CryptofsError):
    """The command line asks for something impossible, such as an unknown user: exit status 2 instead of 1."""

    errno = errno.EINVAL


class MalformedRecord(CryptofsError):
    """The bytes are not whole records."""

    errno = errno.EBADMSG


class InvalidValue(CryptofsError):
    """A value is outside the bounds of the format, the operation or the algorithm."""

    errno = errno.EINVAL


class TooLarge(CryptofsError):
    """Something is over a published limit, or a read buffer is smaller than the next response."""

    errno = errno.EMSGSIZE


class StreamTooLong(CryptofsError):
    """A device's stream holds the maximum of output, and the only program that could read it is writing."""

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
    """A signature does not match this message under this key."""

    errno = errno.EKEYREJECTED


class SignatureMalformed(CryptofsError):
    """A signature is malformed: no message has such a signature under this key."""

    errno = errno.EBADMSG


class KeyVersionMissing(CryptofsError):
    """A device keeps no version of its key with this number."""

    errno = errno.ENOKEY


class KeyUnavailable(CryptofsError):
    """The source of a device's key does not give it; the message names the source, never the key."""

    errno = errno.ENOKEY


class PinRefused(KeyUnavailable):
    """A token refuses the PIN. Each further try may lock it, so the daemon never tries again automatically."""


class NotConfigured(CryptofsError):
    """Used before configure."""

    errno = errno.EBADFD


class Busy(CryptofsError):
    """A second configure, or a key change while something is in flight."""

    errno = errno.EBUSY


class BadTag(CryptofsError):
    """Authentication failed; no part of the message is given out."""

    errno = errno.EBADMSG


class Overflow(CryptofsError):
    """A message is longer than its nonce can count (CCM)."""

    errno = errno.EOVERFLOW


class Cancelled(CryptofsError):
    """The request was cancelled before it finished."""

    errno = errno.ECANCELED


class WouldBlock(CryptofsError):
    """Nothing is ready, or the queue has no room, on a context that must not wait."""

    errno = errno.EAGAIN


class NotADirectory(CryptofsError):
    """A name was looked up in a file."""

    errno = errno.ENOTDIR


class NotACall(CryptofsError):
    """An ioctl that the file does not take."""

    errno = errno.ENOTTY


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
    """An engine failed, and the request is not the reason."""

    errno = errno.EIO


class NotSupported(CryptofsError):
    """The algorithm or engine has no such operation."""

    errno = errno.EOPNOTSUPP


class OutOfResources(CryptofsError):
    """The daemon has no descriptors or memory left for another socket or message."""

    errno = errno.ENFILE
