"""Keys in files: those of an administrator, and the credentials that systemd gives to a service."""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CryptofsError, KeyUnavailable, printable
from ..keyfiles import GROUP_AND_OTHERS, list_versions, open_key_file, why_not, why_unopened
from ..wiping import wipe
from .base import ByteSource, KeyForbidden
from .protected import OVERHEAD, unprotect
from .secret import KEY_MAX, PROTECTED, from_hexadecimal, read_whole, without_newline

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""The environment variable in which systemd names the directory of a service's credentials."""

# systemd gives the service's user access by an access list, whose mask appears as the group's bits.
_ALL_BUT_GROUP_READ = 0o037
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class _FileSource(ByteSource):
    """A secret in a file that only root and the process's user can access."""

    hexadecimal: bool
    passphrase: ByteSource | None

    def _read_path(self, path: Path, forbidden: int) -> bytearray:
        """The secret in a file whose mode has none of the `forbidden` bits."""
        try:
            descriptor = open_key_file(path)
        except OSError as error:
            raise self._failed(error) from None
        try:
            return self._read_opened(descriptor, forbidden)
        finally:
            os.close(descriptor)

    def _read_opened(self, descriptor: int, forbidden: int | None) -> bytearray:
        """The secret in an open file; forbidden None: its opener has checked owner and mode."""
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self.unavailable("not a regular file")
            why = "" if forbidden is None else why_not(status, {os.geteuid(), *self._owners()}, forbidden)
            if why:
                raise self.unavailable(why)
            protection = 0 if self.passphrase is None else OVERHEAD
            largest = 2 * KEY_MAX + 1 if self.hexadecimal else KEY_MAX + protection
            secret = read_whole(descriptor, largest, self.describe())
        except OSError as error:
            raise self._failed(error) from None
        return self._opened(secret)

    def _opened(self, secret: bytearray) -> bytearray:
        """The key that a file's content is; the content is wiped, if it is not the key itself."""
        if self.hexadecimal:
            return from_hexadecimal(secret, self.describe())
        if self.passphrase is None and not secret.startswith(PROTECTED):
            return secret
        try:
            if self.passphrase is None:
                raise self.unavailable("a passphrase protects it: declare key.passphrase-file or passphrase-credential")
            return self._unprotected(secret, self.passphrase)
        finally:
            wipe(secret)

    def _unprotected(self, secret: bytearray, source: ByteSource) -> bytearray:
        passphrase = without_newline(source.read())
        try:
            return unprotect(secret, passphrase)
        except CryptofsError as error:
            raise type(error)(f"{self.describe()}: {error.message}") from None
        finally:
            wipe(passphrase)

    def _owners(self) -> set[int]:
        """Uids that may own the file, besides root and the process's own."""
        return set()

    def _failed(self, error: OSError) -> CryptofsError:
        why = why_unopened(error)
        if error.errno in _GONE:
            return self.gone(why)
        if error.errno in (errno.EACCES, errno.EPERM):
            return KeyForbidden(f"{self.describe()}: {why}")
        return self.unavailable(why)

    def unchecked(self) -> str:
        wipe(self.read())
        return ""


@dataclass(frozen=True)
class FileKey(_FileSource):
    """A key in a file, raw or in hexadecimal digits.

    descriptor: the file, opened by a starter with more rights; it stays open and is read from its start each time.
    serving: the uid of the account that will serve, which may also own the file while root still reads it. keeper: an
    object that keeps the descriptor open as long as it exists. passphrase: what protects the key, None for a plain one.
    """

    path: Path
    hexadecimal: bool = False
    descriptor: int | None = None
    serving: int | None = None
    keeper: object = field(default=None, compare=False, repr=False)
    passphrase: ByteSource | None = None

    def describe(self) -> str:
        return f"file {printable(self.path)}"

    def read(self) -> bytearray:
        if self.descriptor is not None:
            return self._read_opened(self.descriptor, None)
        return self._read_path(self.path, GROUP_AND_OTHERS)

    def _owners(self) -> set[int]:
        return set() if self.serving is None else {self.serving}

    def written_at(self) -> float | None:
        try:
            status = os.stat(self.path) if self.descriptor is None else os.fstat(self.descriptor)
        except OSError:
            return None
        return status.st_mtime

    def was_replaced(self) -> bool | None:
        """Whether the path now has another file than the one that was passed; None if the path is hidden."""
        if self.descriptor is None:
            return False
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            return True if error.errno in _GONE else None
        here = os.fstat(self.descriptor)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


@dataclass(frozen=True)
class CredentialKey(_FileSource):
    """A key in a credential of systemd (LoadCredential=, LoadCredentialEncrypted=, SetCredentialEncrypted=)."""

    name: str
    hexadecimal: bool = False
    passphrase: ByteSource | None = None

    def describe(self) -> str:
        return f"credential {self.name!r}"

    def unchecked(self) -> str:
        if not os.environ.get(CREDENTIALS):
            return f"${CREDENTIALS} is not set here: systemd sets it for the service"
        return super().unchecked()

    def read(self) -> bytearray:
        if not _is_file_name(self.name):
            raise self.unavailable("a credential's name is one file name, without a slash, of at most 255 bytes")
        directory = os.environ.get(CREDENTIALS)
        if not directory:
            raise self.gone(
                f"${CREDENTIALS} is not set: the service has no LoadCredential= or was not started by systemd"
            )
        if not directory.startswith("/"):
            raise self.unavailable(f"${CREDENTIALS} is not an absolute path")
        return self._read_path(Path(directory, self.name), _ALL_BUT_GROUP_READ)


def _is_file_name(name: str) -> bool:
    return 0 < len(os.fsencode(name)) <= 255 and name.isprintable() and "/" not in name and name not in (".", "..")


def versions_in(directory: Path, serving: int | None) -> dict[int, Path]:
    """The files of a key set, by version. serving: the uid of the account that will serve, which may own them, too.

    Errors: KeyUnavailable with the directory and the reason; KeyForbidden; InvalidValue.
    """
    try:
        return list_versions(directory, {os.geteuid(), *([] if serving is None else [serving])})
    except OSError as error:
        why = f"directory {printable(directory)}: {why_unopened(error)}"
        if error.errno in _GONE:
            raise KeyUnavailable(f"key source gone: {why}") from None
        forbidden = error.errno in (errno.EACCES, errno.EPERM)
        raise KeyForbidden(why) if forbidden else KeyUnavailable(why) from None
