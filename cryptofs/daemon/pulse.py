"""A separate process tests whether the mount answers. A thread of the daemon must not do it.

A thread that waits for its own process's answer cannot be killed. After SIGKILL it would stay, and with it the
descriptor of /dev/fuse, and every client would hang for good. A child without that descriptor gets an error instead.

The second child, the keeper, removes the mount when the daemon has ended for any reason. If the daemon gives up root,
the keeper stays root for that. Its only input is the daemon's end.
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
    """The path no longer leads to the mount: it was removed, or something was mounted over it."""


class _Child:
    """A forked process and a socket to it. It ends when this end is closed, also by the daemon's death."""

    def __init__(self, name: str, live: Callable[[socket.socket], None]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if not self._pid:
            _be_child(name, theirs, live)
        theirs.close()

    def close(self) -> None:
        """End it and wait until it has ended.

        A process that waits for a lock in the kernel may never end: a program of the same user can hold a lock on the
        mount's files. Then it is left behind, and holds nothing that keeps the mount.
        """
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        ends = time.monotonic() + _END_SECONDS
        while not os.waitpid(self._pid, os.WNOHANG)[0]:
            if time.monotonic() > ends:
                os.kill(self._pid, signal.SIGKILL)
                log.warning("a helper process, pid %d, does not end: leaving it behind", self._pid)
                return
            time.sleep(0.002)


def _be_child(name: str, to_parent: socket.socket, live: Callable[[socket.socket], None]) -> NoReturn:
    status = 1
    try:
        # A terminal's Ctrl-C goes to all processes. These end with the daemon, not before it.
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        # A detaching command must not keep its caller's pipes open through these.
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
    """Tests the mount on request. Make it before keys are read, because it is a copy of this process."""

    def __init__(self, mountpoint: Path, become: Callable[[], None]) -> None:
        """become: gives up the same privileges as the daemon."""

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
        """Start a test of the mount: a digest, or only its version. The answer comes on `socket`, if at all."""
        self.socket.send(_ASK_CRYPTO if compute else _ASK_VERSION)

    def answer(self) -> str:
        """The result: empty if the mount answered correctly, else the error.

        Errors: LostMount; BlockingIOError before the answer.
        """
        told = self.socket.recv(_TEXT_MAX)
        kind, text = told[:1], told[1:].decode(errors="replace")
        if kind == _LOST:
            raise LostMount(text)
        return "" if kind == _ANSWERED else text or "the pulse process has ended"


@contextlib.contextmanager
def _refused_is_answered() -> Iterator[None]:
    """The test concerns the daemon, not its policy: a rule may forbid the daemon's own user everything."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EDQUOT):
            raise


class _Probe:
    """The test: it looks up the path each time, because the mount may be removed while a file of it is open. It
    computes a digest on one context that stays open, or only reads `version` if policy forbids that."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._device: int | None = None
        self._count = 0
        self._context: int | None = None

    def ask(self, compute: bool) -> None:
        """Errors: LostMount; OSError and EngineFault for a mount that does not answer correctly."""
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
        """Make the kernel ask for copy_file_range(2) once. The daemon refuses it, and the kernel does not ask again.

        To ask, the kernel takes the lock of the source file. A program that writes to a stream holds that lock while it
        waits for its reader. A `cat` that copies would wait for the lock and never read.
        """
        with (
            contextlib.suppress(OSError),
            (self._mountpoint / "version").open("rb") as source,
            (self._mountpoint / "crypto").open("wb", buffering=0) as target,
        ):
            os.copy_file_range(source.fileno(), target.fileno(), 1)

    def _look(self) -> None:
        """Whether the mount at the path is still the first one."""
        try:
            device = os.stat(self._mountpoint).st_dev
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LostMount(f"the mount point is gone: {error.strerror}") from None
        if self._device is None and any(mount.is_cryptofs and mount.device == device for mount in mounts()):
            self._device = device
        if device != self._device:
            over = [mount.kind for mount in mounts_on(self._mountpoint)]
            raise LostMount(f"{over[-1]} is mounted over the mount" if over else "the mount was removed from its path")

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
    """A process beside the daemon that removes the mount after the daemon's end, with the rights it was created
    with."""

    def __init__(self, clear_away: Callable[[], None]) -> None:
        """clear_away: the function to call then."""

        def live(to_parent: socket.socket) -> None:
            # The daemon sends nothing: this returns when its end of the socket is closed.
            to_parent.recv(1)
            clear_away()

        super().__init__("cryptofs-keeper", live)
