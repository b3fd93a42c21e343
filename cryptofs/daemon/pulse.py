"""Does the mount answer? A separate process asks, never a thread of the daemon.

A thread that waits for its own process's answer cannot be killed: SIGKILL would leave it, and with it the
descriptor of /dev/fuse and every client, hanging for good. A child that has no such descriptor gets an error instead.

The second child, the keeper, takes the mount away when the daemon has ended, however it ended; where the daemon gives
up root, the keeper keeps it for that. It reads nothing but that end.
"""

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from ..errors import CryptofsError, EngineFault, Gone
from ..mountinfo import mounts, mounts_on
from ..records import RECORD_MAX, Attr, Operation, Record, Value, build, parse_responses

_ASK_VERSION, _ASK_CRYPTO = b"v", b"c"
_ANSWERED, _LOST, _WRONG = b"o", b"l", b"w"
_TEXT_MAX = 512
_PR_SET_NAME = 15
_END_SECONDS = 5.0
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


log = logging.getLogger("cryptofs")


class LostMount(Gone):
    """The mount point leads elsewhere: the mount was taken away, or something was mounted over it."""


class _Child:
    """A forked process and a socket to it; it ends when this end is closed, which death does as well."""

    def __init__(self, name: str, live: Callable[[socket.socket], None]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if not self._pid:
            _be_child(name, theirs, live)
        theirs.close()

    def close(self) -> None:
        """End it and wait until it has ended.

        A process that waits for a lock of the kernel's may never end: a program of the same user can hold one on the
        files of the mount. Then it is left behind, and nothing that it holds keeps the mount.
        """
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        ends = time.monotonic() + _END_SECONDS
        while not os.waitpid(self._pid, os.WNOHANG)[0]:
            if time.monotonic() > ends:
                os.kill(self._pid, signal.SIGKILL)
                log.warning("a helper process, pid %d, does not end: it is left behind", self._pid)
                return
            time.sleep(0.002)


def _be_child(name: str, to_parent: socket.socket, live: Callable[[socket.socket], None]) -> NoReturn:
    status = 1
    try:
        # a terminal's Ctrl-C goes to all: these end with the daemon, not before it
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        # a command that detaches must not keep its caller's pipes open through these
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.closerange(3, to_parent.fileno())
        os.closerange(to_parent.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        os.chdir("/")
        live(to_parent)
        status = 0
    finally:
        os._exit(status)


class Pulse(_Child):
    """Asks the mount when told to. Make it before keys are read: it is a copy of this process as it is now."""

    def __init__(self, mountpoint: Path, become: Callable[[], None]) -> None:
        """become: gives up the privileges that the daemon gives up, too."""

        def live(to_parent: socket.socket) -> None:
            become()
            probe = _Probe(mountpoint)
            while asked := to_parent.recv(1):
                try:
                    probe.ask(compute=asked == _ASK_CRYPTO)
                    answer = _ANSWERED
                except LostMount as error:
                    answer = _LOST + error.message.encode(errors="backslashreplace")
                except (OSError, CryptofsError) as error:
                    answer = _WRONG + str(error).encode(errors="backslashreplace")
                to_parent.send(answer[:_TEXT_MAX])

        super().__init__("cryptofs-pulse", live)
        self.socket.setblocking(False)

    def ask(self, compute: bool) -> None:
        """Have the mount asked: for a digest, or only for its version. The answer comes on `socket`, if one does."""
        self.socket.send(_ASK_CRYPTO if compute else _ASK_VERSION)

    def answer(self) -> str:
        """What came: nothing if the mount answered as it should, else what was wrong.

        Errors: LostMount; BlockingIOError while nothing has come.
        """
        told = self.socket.recv(_TEXT_MAX)
        kind, text = told[:1], told[1:].decode(errors="replace")
        if kind == _LOST:
            raise LostMount(text)
        return "" if kind == _ANSWERED else text or "the asking process has ended"


@contextlib.contextmanager
def _refused_is_answered() -> Iterator[None]:
    """This watches the daemon, not its policy: a rule may forbid the daemon's own user everything."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EDQUOT):
            raise


class _Probe:
    """What asks: the path each time, since the mount may be taken away while a file of it is open; and a digest on one
    context that is kept open, or no more than `version` where policy forbids that."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._device: int | None = None
        self._count = 0
        self._context: int | None = None

    def ask(self, compute: bool) -> None:
        """Errors: LostMount; OSError and EngineFault for a mount that does not answer as it should."""
        self._look()
        (self._mountpoint / "version").read_bytes()
        if not compute:
            self._refuse_copies()
            return
        if self._context is None:
            self._open()
        if self._context != -1:
            self._digest()

    def _refuse_copies(self) -> None:
        """Let the kernel ask for copy_file_range(2) once. It is refused, and the kernel does not ask again.

        To ask, the kernel takes the lock of the file that is read. Of a stream, the program that writes it holds that
        lock while it waits for its reader; a `cat` that copies would wait for the lock and never read.
        """
        with (
            contextlib.suppress(OSError),
            (self._mountpoint / "version").open("rb") as source,
            (self._mountpoint / "crypto").open("wb", buffering=0) as target,
        ):
            os.copy_file_range(source.fileno(), target.fileno(), 1)

    def _look(self) -> None:
        """Is the mount at the path still the first one?"""
        try:
            device = os.stat(self._mountpoint).st_dev
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LostMount(f"the mount point is gone: {error.strerror}") from None
        if self._device is None and any(mount.is_cryptofs and mount.device == device for mount in mounts()):
            self._device = device
        if device != self._device:
            over = [mount.kind for mount in mounts_on(self._mountpoint)]
            raise LostMount(
                f"{over[-1]} is mounted over the mount" if over else "the mount was taken away from its path"
            )

    def _open(self) -> None:
        self._context = -1
        with _refused_is_answered():
            self._context = os.open(self._mountpoint / "crypto", os.O_RDWR | os.O_CLOEXEC)
            attributes: dict[int, Value] = {Attr.TYPE: "hash", Attr.NAME: "sha256"}
            os.write(self._context, build(Record(Operation.CONFIGURE, attributes=attributes)))
            self._responses()

    def _responses(self) -> list[Record]:
        assert self._context is not None
        return parse_responses(os.read(self._context, RECORD_MAX))

    def _digest(self) -> None:
        assert self._context is not None
        self._count += 1
        data = self._count.to_bytes(8)
        with _refused_is_answered():
            os.write(self._context, build(Record(Operation.DIGEST, id=self._count, payload=data)))
            self._check(data)

    def _check(self, data: bytes) -> None:
        (response,) = self._responses()
        right = response.status or response.payload == hashlib.sha256(data).digest()
        if response.id != self._count or not right:
            raise EngineFault("the mount gave a wrong answer")


class Keeper(_Child):
    """A process beside the daemon that clears up after the daemon's end, with the rights that it was made with."""

    def __init__(self, clear_away: Callable[[], None]) -> None:
        """clear_away: what to do then."""

        def live(to_parent: socket.socket) -> None:
            # nothing is ever sent: this returns when the daemon's end is closed
            to_parent.recv(1)
            clear_away()

        super().__init__("cryptofs-keeper", live)
