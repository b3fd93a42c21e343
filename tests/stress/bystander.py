"""A good client beside an attack: small requests at a steady pace, and how long each took.

Beside it runs an echo: two processes that hand the same bytes to and fro without the daemon. What that waits for is
the machine, not the daemon, so it is taken off before anything is judged.
"""

import contextlib
import hashlib
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from helpers.other_user import become

from cryptofs.client import Context
from cryptofs.records import Operation, Record, build, parse_responses

FORK = multiprocessing.get_context("fork")
PERIOD = 0.005
"""Seconds between two requests."""
ANSWERED = 15.0
"""Seconds after which a bystander that has not come back is taken for one that hangs."""
_OPENED_EVERY = 50


@dataclass
class Waits:
    """How long calls took, in order, seconds; wrong: what was answered wrongly."""

    seconds: list[float]
    wrong: list[str]

    @property
    def median(self) -> float:
        """Half of the calls took no longer."""
        return statistics.median(self.seconds) if self.seconds else float("inf")

    @property
    def worst(self) -> float:
        """The longest."""
        return max(self.seconds, default=float("inf"))


class _Paced:
    """Calls one after the other, PERIOD apart where they are quick enough, until told to stop."""

    def __init__(self) -> None:
        self.waits = Waits([], [])

    def run(self, stop: Any, calls: Callable[[int], Callable[[], None]]) -> Waits:
        due = time.monotonic()
        count = 0
        while not stop.is_set():
            call = calls(count)
            began = time.monotonic()
            try:
                call()
            except OSError as error:
                self.waits.wrong.append(f"request {count}: {error}")
                break
            self.waits.seconds.append(time.monotonic() - began)
            count += 1
            due = max(due + PERIOD, time.monotonic() - PERIOD)
            time.sleep(max(0.0, due - time.monotonic()))
        return self.waits


def good(mount: Path, stop: Any) -> Waits:
    """Records by write and read, records by ioctl, now and then a context of its own; each digest is checked."""
    paced = _Paced()
    began = time.monotonic()
    with Context("hash", "sha256", mount=mount) as by_ioctl, Context("hash", "sha256", mount=mount) as by_write:

        def digest(count: int) -> Callable[[], None]:
            data = count.to_bytes(64)
            expected = hashlib.sha256(data).digest()

            def check(answer: bytes) -> None:
                if answer != expected:
                    paced.waits.wrong.append(f"digest {count} is wrong")

            def fresh() -> None:
                with Context("hash", "sha256", mount=mount) as context:
                    check(context.digest(data))

            def written() -> None:
                request = Record(Operation.DIGEST, 0, 0, 0, {}, data)
                check(bytes(_written(by_write, request)))

            if count % _OPENED_EVERY == _OPENED_EVERY - 1:
                return fresh
            return written if count % 2 else lambda: check(by_ioctl.digest(data))

        # to get its contexts is its first request
        paced.waits.seconds.append(time.monotonic() - began)
        return paced.run(stop, digest)


def _written(context: Context, request: Record) -> bytes:
    os.pwrite(context.fileno(), build(request), 0)
    (answer,) = parse_responses(os.pread(context.fileno(), 4096, 0))
    return bytes(answer.payload)


def echo(mount: Path, stop: Any) -> Waits:
    """64 bytes to another process and back."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if not child:
        ours.close()
        while data := theirs.recv(4096):
            theirs.send(data)
        os._exit(0)
    theirs.close()

    def there_and_back() -> None:
        ours.send(bytes(64))
        ours.recv(4096)

    try:
        return _Paced().run(stop, lambda _: there_and_back)
    finally:
        ours.close()
        os.waitpid(child, 0)


def _live(connection: Connection, work: Callable[[Path, Any], Waits], mount: Path, stop: Any, uid: int) -> None:
    become(uid)
    connection.send(work(mount, stop))


class Bystander:
    """One of the above in a process of its own, as a user of its own."""

    def __init__(self, work: Callable[[Path, Any], Waits], mount: Path, uid: int) -> None:
        self._stop = FORK.Event()
        self._result, theirs = FORK.Pipe()
        arguments = (theirs, work, mount, self._stop, uid)
        self._process = FORK.Process(target=_live, args=arguments, name=work.__name__, daemon=True)
        self._process.start()
        theirs.close()

    def stop(self) -> Waits:
        """End it; returns what it measured. One that hangs is killed, and has waited for ever."""
        self._stop.set()
        try:
            if self._result.poll(ANSWERED):
                found: Waits = self._result.recv()
                return found
            return Waits([ANSWERED], [f"{self._process.name} had no answer for {ANSWERED:.0f} s"])
        except EOFError:
            return Waits([], [f"{self._process.name} has died"])
        finally:
            self._result.close()
            self._process.join(1)
            if self._process.is_alive():
                self._process.kill()
                self._process.join(5)


class Beats:
    """A service manager's socket: when the daemon said that the mount answers."""

    SECONDS = 2.0
    """The watchdog's time; the unit gives five times as much."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        self._last = time.monotonic()
        self.longest = 0.0
        """Seconds of the longest silence."""

    @contextlib.contextmanager
    def announced(self, path: Path) -> Iterator[None]:
        """In here a daemon that starts finds the socket in its environment."""
        words = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(self.SECONDS * 1e6))}
        os.environ.update(words)
        try:
            yield
        finally:
            for word in words:
                del os.environ[word]

    def look(self) -> None:
        """Take what has come. It must be called several times a second: a message has no time of its own."""
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"WATCHDOG=1" in self._socket.recv(65_536):
                    self._last = time.monotonic()
        self.longest = max(self.longest, time.monotonic() - self._last)

    def start_again(self) -> None:
        """Forget earlier silences."""
        self.look()
        self.longest = 0.0
        self._last = time.monotonic()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
