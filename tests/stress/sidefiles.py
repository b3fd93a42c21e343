"""Hostile acts on the files beside `crypto`: control files, streams, status, the tree, calls that no file here has."""

import contextlib
import errno
import fcntl
import os
import select
from collections.abc import Callable
from pathlib import Path

from cryptofs.records import Operation

from . import hostile
from .result import symbol
from .talk import SMALL_READ, Talker, Target

# what the tree answers to what nobody may do there
TREE_ERRNOS = {errno.ENOENT, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
TREE_ERRNOS |= {errno.EEXIST, errno.ENOTEMPTY}
_STREAM_ERRNOS = {errno.EBADFD, errno.EAGAIN, errno.ECANCELED}
_NAMES = ("..", "x" * 300, "sha256", "((((", "gcm(aes)", "\udcff", "contexts", "gcm", "drop", "crypto")
_PLACES = ("", "contexts", "algorithms", "algorithms/hash", "devices", "devices/gcm")
# what the kernel serves for any file, or asks a privilege for: FIGETBSZ, FIBMAP, FIONREAD, FIONBIO, FIOASYNC, FIFREEZE,
# FITHAW, FICLONE, FICLONERANGE, FIDEDUPERANGE, FS_IOC_GETFLAGS, FS_IOC_FIEMAP, FS_IOC_SETFLAGS
_KNOWN_IOCTLS = (
    *(0x2, 0x1, 0x541B, 0x5421, 0x5452, 0xC0045877, 0xC0045878, 0x40049409, 0x4020940D, 0xC0189436),
    *(0x80086601, 0xC020660B, 0x40086602),
)
_KNOWN_ERRNOS = {errno.ENOTTY, errno.EINVAL, errno.EBADF, errno.EPERM, errno.EOPNOTSUPP, errno.EFAULT, errno.EXDEV}
_KNOWN_ERRNOS |= {errno.ENOMEM}
_KERNEL_TYPES = {0x00, 0x15, 0x54, 0x58, 0x66, 0x94}
"""Type bytes of the ioctl numbers that some kernel serves for any file."""
_SEEK_ERRNOS = {errno.ESPIPE, errno.EINVAL, errno.ENXIO}


class SideFiles:
    """The acts. They need no context of a certain kind."""

    def __init__(self, mount: Path, talk: Talker) -> None:
        self._mount = mount
        self._talk = talk

    def _directory(self, target: Target) -> Path:
        return self._mount / "contexts" / str(target.number)

    def control(self, target: Target) -> None:
        """Junk for `ctl`: a line or a record, right or wrong."""
        rng = self._talk.rng
        if rng.random() < 0.5:
            data = hostile.line(rng)
        else:
            data = hostile.hostile(rng, target.pool[int(rng.random() * len(target.pool))], 0.5)[1]
        self._talk.count(1, target.is_device)
        self.control_with(self._directory(target), data)
        # a reset or cancel by ctl only changes what the answers say, not how many there are

    def control_with(self, directory: Path, data: bytes) -> None:
        """This for `ctl`; its reply is looked at."""
        talk = self._talk
        fd = os.open(directory / "ctl", os.O_RDWR)
        try:
            talk.attempt("ctl", talk.errnos.control, lambda: os.write(fd, data))
            talk.look(os.read(fd, SMALL_READ), "a control reply")
        finally:
            os.close(fd)

    def stream(self, target: Target) -> None:
        """Something on the raw stream."""
        talk, rng = self._talk, self._talk.rng
        talk.count(1, target.is_device)
        allowed = talk.errnos.control | _STREAM_ERRNOS
        path = self._directory(target) / "stream"
        mode = rng.choice((os.O_RDWR, os.O_RDWR, os.O_WRONLY, os.O_RDONLY))
        try:
            fd = os.open(path, mode | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in allowed:
                talk.fault(f"open of a stream: {symbol(error.errno)}")
            return
        try:
            if mode != os.O_RDONLY:
                talk.attempt("stream", allowed, lambda: os.write(fd, rng.randbytes(rng.choice((1, 16, 100, 5000)))))
            if mode != os.O_WRONLY:
                size = rng.choice((1, 4096))
                talk.attempt("stream", allowed, lambda: talk.look(os.read(fd, size), f"a stream of {target.kind}"))
        finally:
            os.close(fd)

    def status(self, target: Target) -> None:
        """Read the context's status; it may not be written."""
        talk = self._talk
        talk.count(1, target.is_device)
        path = self._directory(target) / "status"
        talk.look(path.read_bytes(), "a status")
        talk.attempt("status for writing", {errno.EACCES}, lambda: os.close(os.open(path, os.O_WRONLY)))

    def poll(self, target: Target) -> None:
        """Poll; no error may show."""
        poll = select.poll()
        poll.register(target.fd, select.POLLIN | select.POLLOUT)
        events = dict(poll.poll(0)).get(target.fd, 0)
        if events & (select.POLLERR | select.POLLNVAL):
            self._talk.fault(f"poll says {events:#x}")

    def read_small(self, target: Target) -> None:
        """Read an answer with a buffer that may be too small for it."""
        talk = self._talk
        talk.send(target, hostile.request(Operation.INFO, 9))
        try:
            data = os.pread(target.fd, talk.rng.choice((0, 1, 23, 24, 100)), 0)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.EAGAIN):
                talk.fault(f"a small read failed with {symbol(error.errno)}")
            data = b""
        if data:
            talk.check(target, memoryview(data))

    # Calls that no file here has

    def ioctl(self, fd: int) -> None:
        """A number at random, or one that the kernel knows: ENOTTY for all that is not the kernel's own."""
        talk, rng = self._talk, self._talk.rng
        number = rng.choice(_KNOWN_IOCTLS) if rng.random() < 0.3 else rng.getrandbits(32)
        known = number >> 8 & 0xFF in _KERNEL_TYPES
        # as much room as the size bits of a number can ask for
        room = bytearray(rng.randbytes(64) + bytes(16_384 - 64))
        allowed = _KNOWN_ERRNOS if known else {errno.ENOTTY}
        talk.attempt(f"ioctl {number:#x}", allowed, lambda: fcntl.ioctl(fd, number, room, True))
        talk.look(bytes(room), "an ioctl")

    def wrong_calls(self, fd: int, seekable: bool) -> None:
        """Seeks, positions, lengths, modes, owners, locks, extended attributes.

        seekable: whether it is a `crypto`, whose pread and pwrite are reads and writes.
        """
        talk, rng = self._talk, self._talk.rng
        offset = rng.choice((-1, 0, 1, 4096, (1 << 63) - 1))
        calls: list[tuple[str, set[int], Callable[[], object]]] = [
            ("lseek", _SEEK_ERRNOS, lambda: os.lseek(fd, offset, rng.choice((0, 1, 2, os.SEEK_DATA, 99)))),
            ("fchmod", {errno.EPERM}, lambda: os.fchmod(fd, 0o777)),
            ("fchown", {errno.EPERM}, lambda: os.fchown(fd, os.geteuid(), -1)),
            ("ftruncate", {errno.EPERM, errno.EINVAL, errno.EFBIG}, lambda: os.ftruncate(fd, offset)),
            ("fsync", set(), lambda: os.fsync(fd)),
            ("setxattr", {errno.EOPNOTSUPP}, lambda: os.setxattr(fd, "user.x", b"1")),
            ("utime", {errno.EPERM, errno.EACCES}, lambda: os.utime(fd, (5, 5))),
        ]
        if not seekable:
            calls += [
                ("pread", {errno.ESPIPE, errno.EINVAL}, lambda: os.pread(fd, 16, offset)),
                ("pwrite", {errno.ESPIPE, errno.EINVAL}, lambda: os.pwrite(fd, b"1234", offset)),
                ("fallocate", {errno.ESPIPE, errno.EINVAL, errno.EFBIG}, lambda: os.posix_fallocate(fd, offset, 16)),
            ]
        what, allowed, call = rng.choice(calls)
        talk.attempt(what, allowed, call)

    # The tree

    def tree(self, target: Target) -> None:
        """Names that there are not, and calls that make or remove some."""
        talk, rng = self._talk, self._talk.rng
        name = rng.choice((*_NAMES, str(rng.getrandbits(70))))
        path = str(self._mount / rng.choice(_PLACES)) + "/" + name
        call = rng.choice((os.stat, os.mkdir, os.unlink, os.listdir, os.rmdir))
        talk.attempt(f"{call.__name__} {name[:20]!r}", TREE_ERRNOS, lambda: call(path))

    def intrude(self, victims: tuple[int, ...]) -> None:
        """Another user's context must not open."""
        rng = self._talk.rng
        path = self._mount / "contexts" / str(rng.choice(victims)) / rng.choice(("ctl", "stream", "status"))
        try:
            fd = os.open(path, rng.choice((os.O_RDWR, os.O_RDONLY, os.O_WRONLY)))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES):
                self._talk.fault(f"a foreign context: {symbol(error.errno)}")
            return
        os.close(fd)
        self._talk.fault(f"{path} opens for another user")

    def contexts(self) -> set[Path]:
        """The directories of the contexts that this user has open."""
        return set((self._mount / "contexts").iterdir())

    def opened_since(self, before: set[Path]) -> list[Path]:
        """Those of them that are new and this process's own: where all are one user, the others' come and go."""
        found = []
        for directory in self.contexts() - before:
            with contextlib.suppress(FileNotFoundError):
                if f"pid: {os.getpid()}\n" in (directory / "status").read_text():
                    found.append(directory)
        return found
