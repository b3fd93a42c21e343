"""Output files of every command: complete, or unchanged."""

import errno
import io
import os
import secrets
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import BinaryIO

from ..errors import SystemFault, printable
from .streams import NamedFile, Stream, opened_elsewhere

# All signals that end a process and can be caught, as in sort(1).
_ENDING = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF, signal.SIGPOLL,
)  # fmt: skip
_STANDARD_OUTPUT = 1
_ACL = "system.posix_acl_access"
_NO_ACL = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


@contextmanager
def open_output(stream: Stream) -> Iterator[BinaryIO]:
    """Open a stream for writing, buffered. Leaving the block without an error completes it.

    A regular file, or one that does not exist, gets all its new content when the block ends. After an error or a signal
    it is unchanged. Devices, FIFOs and inherited descriptors are written directly.

    Errors: OSError that names the stream, SystemFault.
    """
    if stream.descriptor == _STANDARD_OUTPUT:
        # Every command reports failures there in the same way.
        with _ending_at_signals(lambda: None):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    if stream.path is None:
        with _ending_at_signals(lambda: None):
            yield from _written(NamedFile(stream.descriptor or 0, "wb", stream.label, closefd=False))
        return
    old = _status(stream.path)
    if (old is not None and not stat.S_ISREG(old.st_mode)) or opened_elsewhere(stream.path):
        with _ending_at_signals(lambda: None):
            yield from _written(NamedFile(stream.path, "wb", stream.label))
        return
    replacement = _Replacement(stream.path, old)
    with _ending_at_signals(replacement.remove):
        try:
            yield from _written(replacement.open())
            replacement.commit()
        finally:
            replacement.remove()


def _written(raw: NamedFile) -> Iterator[BinaryIO]:
    """Always close the file, but write the buffered rest only after success."""
    try:
        buffered = io.BufferedWriter(raw)
        yield buffered
        buffered.flush()
        if isinstance(raw, _Synced):
            raw.sync()
    finally:
        raw.close()


def _status(path: str) -> os.stat_result | None:
    """None if the file does not exist. Follows links by the kernel's rules: in a sticky directory not those of other
    users."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


class _Synced(NamedFile):
    """Write its content to the disk before its name changes."""

    def sync(self) -> None:
        """Errors: OSError, also of a file system that reports late that it is full."""
        try:
            os.fsync(self.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.label) from None


class _Replacement:
    """A temporary file beside a target, which replaces the target."""

    def __init__(self, path: str, old: os.stat_result | None) -> None:
        """old: the status of the existing file. Errors: OSError for a name that cannot be a file's."""
        if old is None and path.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "''")
        self._label = path
        self._old = old
        # A link stays, and its target is replaced.
        self._target = os.path.realpath(path)
        self._temporary: str | None = None

    def open(self) -> NamedFile:
        """Make the temporary file with the rights of the old one. Errors: OSError, SystemFault."""
        directory = os.path.dirname(self._target)
        # For a new file the kernel applies umask and default access list; an old file's own mode is set later.
        mode = 0o666 if self._old is None else 0o600
        with _signals_held():
            while True:
                name = os.path.join(directory, f".cryptofs-{secrets.token_hex(6)}")
                try:
                    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
                except FileExistsError:
                    continue
                except OSError as error:
                    raise self._unwritable(error) from None
                self._temporary = name
                break
        try:
            if self._old is not None:
                self._take_over(descriptor, self._old)
            return _Synced(descriptor, "wb", self._label)
        except BaseException:
            os.close(descriptor)
            raise

    def _unwritable(self, error: OSError) -> Exception:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if not (refused and self._old is not None and self._writable()):
            return OSError(error.errno, error.strerror, self._label)
        return SystemFault(
            f"{printable(self._label)}: cannot create a file for the new content in its directory; "
            "to overwrite the old content, redirect standard output (> FILE)",
            error.errno,
        )

    def _writable(self) -> bool:
        return os.access(self._target, os.W_OK, effective_ids=os.access in os.supports_effective_ids)

    def _take_over(self, descriptor: int, old: os.stat_result) -> None:
        if not self._writable():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self._label)
        made = os.fstat(descriptor)
        try:
            if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
                os.fchown(descriptor, old.st_uid, old.st_gid)
            # Drop set-user-ID, as a write to a file does.
            os.fchmod(descriptor, old.st_mode & 0o777)
            acl = self._acl()
            if acl is not None:
                os.setxattr(descriptor, _ACL, acl)
        except OSError as error:
            raise SystemFault(
                f"{printable(self._label)}: a new file cannot get the owner, group and rights of this one; "
                "to overwrite the old content, redirect standard output (> FILE)",
                error.errno,
            ) from None

    def _acl(self) -> bytes | None:
        try:
            return os.getxattr(self._target, _ACL)
        except OSError as error:
            if error.errno in _NO_ACL:
                return None
            raise

    def commit(self) -> None:
        """Replace the target. Errors: OSError; the target is then unchanged."""
        assert self._temporary is not None
        with _signals_held():
            try:
                os.replace(self._temporary, self._target)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._label) from None
            self._temporary = None

    def remove(self) -> None:
        """Remove the temporary file; does nothing after `commit`."""
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = None


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay signals until the end of the block, so that a file and the note of its existence are made together."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ending_at_signals(clean_up: Callable[[], None]) -> Iterator[None]:
    """On a signal that ends the process, clean up first. The caller sees that the signal ended it."""

    def end(number: int, frame: FrameType | None) -> None:
        clean_up()
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)

    # Signals that the caller ignores, as nohup does, stay ignored.
    before = {number: signal.getsignal(number) for number in _ENDING}
    caught = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
