"""The daemon killed with SIGKILL under load, round after round: who notices when, and when it is back."""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from helpers.daemons import SHARED, Daemon

from cryptofs.client import Context
from cryptofs.records import Attr, Operation, Record, build

from .result import symbol

NOTICED_MAX = 1.0
"""Seconds from SIGKILL until a client has its error."""
BACK_MAX = 2.0
"""Seconds from SIGKILL until the mount answers again, on a machine that is not too busy to start an interpreter."""
STARTS = 4
"""Where it is: so many times what the start of an interpreter with the daemon's modules takes there and then."""
DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
_FORK = multiprocessing.get_context("fork")
_SLOW = ("skcipher", "cbc(des3_ede)", bytes(range(24)))
_GIVE_UP = 20.0
_ALLOWED: dict[str, set[int]] = {
    # between the old mount's end and the new one there is no such name
    "opens": {errno.ENOENT},
    # the kernel's errno for a read whose answer was just being copied, some 1 in 1,000
    "waits_in_read": {errno.EIO},
}
"""What a client of one kind may get besides, by the load's name."""


@dataclass
class KillsResult:
    """Figures over all rounds, seconds. wrong: what must not be."""

    rounds: int = 0
    noticed: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class WrongAnswer(Exception):
    """A client got an answer that is not the right one."""


# What the clients are doing when it happens; each runs until its first error


def _round_trips(mount: Path, ready: Callable[[], None]) -> None:
    with Context("hash", "sha256", mount=mount) as context:
        ready()
        for number in range(1 << 62):
            data = b"%d" % number
            if context.digest(data) != hashlib.sha256(data).digest():
                raise WrongAnswer("a wrong digest")


def _waits_in_read(mount: Path, ready: Callable[[], None]) -> None:
    """Blocked in read(2) most of the time: each request takes tens of milliseconds."""
    with Context(*_SLOW, mount=mount) as context:
        request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(8)}, bytes(800_000)))
        for _ in range(5):
            os.pwrite(context.fileno(), request, 0)
        ready()
        while True:
            if not os.pread(context.fileno(), len(request), 0):
                raise WrongAnswer("nothing to read, though requests are in flight")
            os.pwrite(context.fileno(), request, 0)


def _waits_in_poll(mount: Path, ready: Callable[[], None]) -> None:
    with Context("hash", "sha256", mount=mount) as context:
        poll = select.poll()
        poll.register(context.fileno(), select.POLLIN)
        ready()
        events = poll.poll(_GIVE_UP * 1000)
        if not events:
            raise WrongAnswer("poll slept on")
        if not events[0][1] & (select.POLLERR | select.POLLHUP):
            raise WrongAnswer(f"poll says {events[0][1]:#x}")
        context.digest(b"")


def _streams(mount: Path, ready: Callable[[], None]) -> None:
    with Context("skcipher", "ctr(aes)", bytes(16), mount=mount) as context:
        ready()
        while True:
            (context.directory / "ctl").write_text("reset iv=hex:" + "00" * 16)
            # one open is one message
            fd = os.open(context.directory / "stream", os.O_RDWR | os.O_NONBLOCK)
            try:
                with contextlib.suppress(BlockingIOError):
                    os.write(fd, bytes(65_536))
                with contextlib.suppress(BlockingIOError):
                    os.read(fd, 131_072)
            finally:
                os.close(fd)


def _opens(mount: Path, ready: Callable[[], None]) -> None:
    ready()
    while True:
        (mount / "version").read_bytes()
        Context("hash", "sha1", mount=mount).close()


LOADS: tuple[Callable[[Path, Callable[[], None]], None], ...] = (
    _round_trips,
    _round_trips,
    _waits_in_read,
    _waits_in_poll,
    _streams,
    _opens,
)


def _client(connection: Any, mount: Path, load: Callable[[Path, Callable[[], None]], None]) -> None:
    while connection.recv():
        try:
            load(mount, lambda: connection.send("ready"))
            outcome: tuple[str, float, int] = ("ended without an error", time.monotonic(), 0)
        except OSError as error:
            outcome = ("", time.monotonic(), error.errno or 0)
        except Exception as error:
            outcome = (f"{type(error).__name__}: {error}", time.monotonic(), 0)
        connection.send(outcome)


class Clients:
    """One process for each load, for as many rounds as wanted."""

    def __init__(self, mount: Path) -> None:
        self._ends = []
        for load in LOADS:
            ours, theirs = _FORK.Pipe()
            process = _FORK.Process(target=_client, args=(theirs, mount, load), daemon=True)
            process.start()
            theirs.close()
            self._ends.append((load.__name__.strip("_"), process, ours))

    def begin(self) -> None:
        """Have all of them at work. Errors: RuntimeError for one that cannot begin."""
        for _, _, connection in self._ends:
            connection.send(True)
        for name, _, connection in self._ends:
            if not connection.poll(_GIVE_UP) or (said := connection.recv()) != "ready":
                raise RuntimeError(f"{name} did not begin: {said if connection.poll(0) else 'no word'}")

    def outcomes(self) -> list[tuple[str, str, float, int]]:
        """How each ended: its name, what is wrong, when (monotonic seconds), the errno."""
        found = []
        for name, _, connection in self._ends:
            if connection.poll(_GIVE_UP):
                found.append((name, *connection.recv()))
            else:
                found.append((name, f"no error within {_GIVE_UP:.0f} s", time.monotonic(), 0))
        return found

    def end(self) -> None:
        """End the processes."""
        for _, process, connection in self._ends:
            with contextlib.suppress(OSError):
                connection.send(False)
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join(5)
            connection.close()


def run(rounds: int, seed: int, path: Path, progress: Callable[[], None] = lambda: None) -> KillsResult:
    """Kill the daemon on `path`/mount so many times; the clients are at work each time."""
    rng = Random(f"{seed}/kills")
    result = KillsResult()
    clients = Clients(path / "mount")
    daemon = Daemon(path / "mount", *SHARED, log=path / "log-0")
    try:
        for index in range(1, rounds + 1):
            clients.begin()
            time.sleep(rng.random() * 0.1)
            killed = time.monotonic()
            daemon.process.kill()
            # the same place at once, as a supervisor would: it is stale now
            daemon.process.wait(10)
            daemon = Daemon(path / "mount", *SHARED, log=path / f"log-{index % 2}")
            back = time.monotonic() - killed
            _judge(result, index, killed, back, clients)
            progress()
        status = daemon.stop()
        if status:
            result.wrong.append(f"the last daemon ended with status {status}")
    except RuntimeError as error:
        result.wrong.append(str(error))
    finally:
        clients.end()
        if daemon.process.poll() is None:
            daemon.kill()
    return result


def seconds_to_start() -> float:
    """What the interpreter and the daemon's modules take to start now, without any daemon."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import cryptofs.cli.commands, cryptofs.daemon"], check=True)
    return time.monotonic() - began


def _judge(result: KillsResult, index: int, killed: float, back: float, clients: Clients) -> None:
    result.rounds += 1
    result.back.append(back)
    if back > BACK_MAX and back > (allowed := STARTS * seconds_to_start()):
        result.wrong.append(f"round {index}: back after {back:.2f} s, at most {max(BACK_MAX, allowed):.2f}")
    for name, wrong, when, number in clients.outcomes():
        after = when - killed
        result.noticed.append(after)
        result.errors[symbol(number)] += 1
        if wrong:
            result.wrong.append(f"round {index}: {name}: {wrong}")
        elif number not in DEAD | _ALLOWED.get(name, set()):
            result.wrong.append(f"round {index}: {name} got {symbol(number)}")
        if after > NOTICED_MAX:
            result.wrong.append(f"round {index}: {name} noticed after {after:.2f} s, at most {NOTICED_MAX}")
