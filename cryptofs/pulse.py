"""Does the mount answer? Asked by a process of its own, never by a thread of the daemon.

A thread that waits for its own process's answer cannot be killed: SIGKILL would leave it, and with it the
descriptor of /dev/fuse and every client, hanging for good. A child that has no such descriptor gets an error instead.

The second child, the keeper, keeps root where the daemon gives it up, for the one thing that needs it: to take
the mount away when the daemon has ended, however it ended. It reads nothing but that end.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from .errors import CryptofsError, EngineFault
from .privileges import protect_mountpoint, take_away
from .records import RECORD_MAX, Attr, Operation, Record, Value, build, parse_responses

_ASK_VERSION, _ASK_CRYPTO, _ANSWERED = b"v", b"c", b"ok"
_TEXT_MAX = 512
_PR_SET_NAME = 15
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Child:
    """A forked process and a socket to it; it ends when this end is closed, which death does as well."""

    def __init__(self, name: str, live: Callable[[socket.socket], None]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if not self._pid:
            _be_child(name, theirs, live)
        theirs.close()

    def close(self) -> None:
        """End it and wait for that."""
        if self.socket.fileno() >= 0:
            self.socket.close()
            os.waitpid(self._pid, 0)


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
            probe: _Probe | None = None
            while asked := to_parent.recv(1):
                try:
                    if asked == _ASK_VERSION:
                        (mountpoint / "version").read_bytes()
                    else:
                        probe = probe or _Probe(mountpoint)
                        probe.ask()
                    answer = _ANSWERED
                except (OSError, CryptofsError) as error:
                    answer = str(error).encode()[:_TEXT_MAX]
                to_parent.send(answer)

        super().__init__("cryptofs-pulse", live)
        self.socket.setblocking(False)

    def ask(self, compute: bool) -> None:
        """Have the mount asked: for a digest, or only for its version. The answer comes on `socket`, if one does."""
        self.socket.send(_ASK_CRYPTO if compute else _ASK_VERSION)

    def answer(self) -> str:
        """What came: nothing if the mount answered as it should, else what was wrong. Errors: BlockingIOError."""
        told = self.socket.recv(_TEXT_MAX)
        return "" if told == _ANSWERED else told.decode(errors="replace") or "the asking process has ended"


@contextlib.contextmanager
def _refused_is_answered() -> Iterator[None]:
    """What is watched is the daemon, not its policy: a rule may leave the daemon's own user nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EDQUOT):
            raise


class _Probe:
    """One context that is kept open, and a digest on it each time; where policy forbids that, `version` is read."""

    def __init__(self, mountpoint: Path) -> None:
        self._version = mountpoint / "version"
        self._count = 0
        self._context = -1
        with _refused_is_answered():
            self._context = os.open(mountpoint / "crypto", os.O_RDWR | os.O_CLOEXEC)
            attributes: dict[int, Value] = {Attr.TYPE: "hash", Attr.NAME: "sha256"}
            os.write(self._context, build(Record(Operation.CONFIGURE, attributes=attributes)))
            self._responses()

    def _responses(self) -> list[Record]:
        return parse_responses(os.read(self._context, RECORD_MAX))

    def ask(self) -> None:
        if self._context < 0:
            self._version.read_bytes()
            return
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
    """Root's process beside a daemon that is not root: unmounts when the daemon has ended, and guards the directory."""

    def __init__(self, mountpoint: Path) -> None:
        def live(to_parent: socket.socket) -> None:
            # nothing is ever sent: this returns when the daemon's end is closed
            to_parent.recv(1)
            take_away(mountpoint)
            protect_mountpoint(mountpoint)

        super().__init__("cryptofs-keeper", live)
