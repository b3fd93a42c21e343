"""What a client's calls raise."""


class RequestError(OSError):
    """The daemon answered with an error. errno: its number; strerror: the daemon's message."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message


class MountNotFound(FileNotFoundError):
    """No cryptofs is mounted, or not where the caller says."""
