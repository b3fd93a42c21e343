"""Keys in files: those of an administrator, and the credentials that systemd hands to a service."""

import errno
import os
import stat
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ..errors import CryptofsError, symbol
from .base import ByteSource
from .secret import KEY_MAX, from_hexadecimal, read_whole

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The environment variable in which systemd names the directory of a service's credentials."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # non-blocking: a fifo must not hold the start up
_GROUP_AND_OTHERS = 0o077
# systemd gives its credentials to the service's user by an access list, whose mask shows as the group's bits
_ALL_BUT_GROUP_READ = 0o037
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})
_WHY = {
    errno.ELOOP: "a symbolic link, which is not followed",
    errno.ENXIO: "not a regular file",
    errno.ESPIPE: "not a regular file",
}


class _FileSource(ByteSource):
    """A secret in a file that nobody but root and the process's user may reach."""

    hexadecimal: bool

    @abstractmethod
    def read(self) -> bytearray: ...

    def _read_path(self, path: Path, forbidden: int) -> bytearray:
        """The secret in a file whose mode has none of the `forbidden` bits."""
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno in _GONE:
                raise self.gone(f"no such file ({symbol(error.errno)})") from None
            raise self._failed(error) from None
        try:
            return self._read_opened(descriptor, forbidden)
        finally:
            os.close(descriptor)

    def _read_opened(self, descriptor: int, forbidden: int | None) -> bytearray:
        """The secret in an open file; forbidden None: whoever opened it answers for owner and mode."""
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self.unavailable("not a regular file")
            if forbidden is not None:
                self._check_access(status, forbidden)
            largest = 2 * KEY_MAX + 1 if self.hexadecimal else KEY_MAX
            secret = read_whole(descriptor, largest, self.describe())
        except OSError as error:
            raise self._failed(error) from None
        return from_hexadecimal(secret, self.describe()) if self.hexadecimal else secret

    def _check_access(self, status: os.stat_result, forbidden: int) -> None:
        mode = stat.S_IMODE(status.st_mode)
        if mode & forbidden:
            raise self.unavailable(f"mode {mode:04o}: it may have none of the bits {forbidden:04o}")
        user = os.geteuid()
        if status.st_uid not in (0, user):
            raise self.unavailable(f"owned by uid {status.st_uid}: root or uid {user} must own it")

    def _failed(self, error: OSError) -> CryptofsError:
        why = _WHY.get(error.errno or 0)
        return self.unavailable(
            f"{why} ({symbol(error.errno)})" if why else f"it cannot be read ({symbol(error.errno)})"
        )


@dataclass(frozen=True)
class FileKey(_FileSource):
    """A key in a file, raw or in hexadecimal digits.

    descriptor: the file, opened by a starter with more rights; it stays open and is read from its start each time.
    """

    path: Path
    hexadecimal: bool = False
    descriptor: int | None = None

    def describe(self) -> str:
        return f"file {self.path}"

    def read(self) -> bytearray:
        if self.descriptor is not None:
            return self._read_opened(self.descriptor, None)
        return self._read_path(self.path, _GROUP_AND_OTHERS)


@dataclass(frozen=True)
class CredentialKey(_FileSource):
    """A key in a credential of systemd (LoadCredential=, LoadCredentialEncrypted=, SetCredentialEncrypted=)."""

    name: str
    hexadecimal: bool = False

    def describe(self) -> str:
        return f"credential {self.name!r}"

    def read(self) -> bytearray:
        if not _is_file_name(self.name):
            raise self.unavailable("a credential's name is one file name, without a slash, of at most 255 bytes")
        directory = os.environ.get(CREDENTIALS)
        if not directory:
            raise self.gone(
                f"${CREDENTIALS} is not set: the service has no LoadCredential= or was not started by systemd"
            )
        if not directory.startswith("/"):
            raise self.unavailable(f"${CREDENTIALS} is no absolute path")
        return self._read_path(Path(directory, self.name), _ALL_BUT_GROUP_READ)


def _is_file_name(name: str) -> bool:
    return 0 < len(os.fsencode(name)) <= 255 and name.isprintable() and "/" not in name and name not in (".", "..")
