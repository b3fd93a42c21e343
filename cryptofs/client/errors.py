"""The client's errors: all are OSErrors with an errno, and with a sentence for the user in `message` and `strerror`.

An argument of a wrong type is a TypeError, as everywhere in Python.
"""

import copy
import errno
from typing import Self

from ..errors import CryptofsError, symbol


class ClientError(OSError):
    """Base of every error that the client itself raises."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return f"{symbol(self.errno)}: {self.message}"

    def again(self) -> Self:
        """The same error without its traceback, because its frames would keep a request's data."""
        return copy.copy(self)


class RequestError(ClientError):
    """A request failed. errno: the number from the daemon or the mount; message: the reason."""


class Refused(RequestError):
    """The client refused a call, and sent nothing: a record cannot carry the value."""

    @classmethod
    def of(cls, error: CryptofsError) -> Self:
        """Turn an error of the record layer into a refusal. Without an error, the `except` costs nothing."""
        return cls(error.errno, error.message)


class ClosedError(Refused):
    """The context, pipeline or hash is closed (EBADF)."""

    @classmethod
    def what(cls, name: str) -> Self:
        """The error of a call on `name`."""
        return cls(errno.EBADF, f"the {name} is closed")


class ForkedError(Refused):
    """The object was made before a fork, and belongs to the parent process (ECHILD)."""

    @classmethod
    def what(cls, name: str) -> Self:
        """The error of a call on `name`."""
        return cls(errno.ECHILD, f"the {name} was opened before a fork: open a new one in this process")


class MountNotFound(ClientError, FileNotFoundError):
    """No usable cryptofs is mounted, or none at the place that the caller named."""
