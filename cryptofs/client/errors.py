"""What a client's calls raise: OSErrors all, with an errno, and a sentence for people in `message` and `strerror`."""

from typing import Self

from ..errors import CryptofsError, symbol


class ClientError(OSError):
    """Base of every error that the client itself raises."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return f"{symbol(self.errno)}: {self.message}"


class RequestError(ClientError):
    """The daemon answered with an error. errno: its number; strerror: the daemon's message."""


class Refused(ClientError):
    """The client refused a call by itself, and nothing was sent: a value is outside of what a record can carry."""

    @classmethod
    def of(cls, error: CryptofsError) -> Self:
        """What the record layer refused. An `except` around it costs nothing where all is well."""
        return cls(error.errno, error.message)


class MountNotFound(ClientError, FileNotFoundError):
    """No usable cryptofs is mounted, or not where the caller says."""
