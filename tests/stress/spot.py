"""What an attacker of tests/stress/attackers.py has: a mount, contexts, threads, and a count of what it did."""

import errno
import mmap
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptofs.records import RECORD_MAX, Attr, Operation, Record, Value, build, parse_responses

REFUSALS = (errno.EDQUOT, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOENT, errno.ENOMEM)


@dataclass
class Place:
    """Where an attacker is. done: shared memory with a number for each process, of writes that were accepted and of
    other calls; index: of this process's.
    """

    mount: Path
    done: mmap.mmap
    index: int

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def count(self, times: int = 1) -> None:
        """So much more was done."""
        with self._lock:
            (now,) = struct.unpack_from("Q", self.done, 8 * self.index)
            struct.pack_into("Q", self.done, 8 * self.index, now + times)


class Spot:
    """One context of an attacker's, on `crypto`."""

    def __init__(self, place: Place, type_: str = "", name: str = "", **more: Value) -> None:
        self.place = place
        self.fd = os.open(place.mount / "crypto", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.number = int(os.pread(self.fd, 64, 0))
        self.directory = place.mount / "contexts" / str(self.number)
        if type_:
            attributes = {Attr[word.upper()]: value for word, value in more.items()}
            status = self.ask(Record(Operation.CONFIGURE, 0, 1, 0, {Attr.TYPE: type_, Attr.NAME: name, **attributes}))
            if status:
                self.close()
                raise OSError(status, f"configure {name}: {os.strerror(status)}")

    def offer(self, data: bytes) -> bool:
        """One write; returns whether it was accepted, or too much waits already."""
        try:
            os.pwrite(self.fd, data, 0)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EDQUOT):
                raise
            return False
        self.place.count()
        return True

    def send(self, data: bytes) -> None:
        """Write until it is accepted, reading answers in between."""
        while not self.offer(data):
            self.drain(0.1)

    def drain(self, seconds: float) -> None:
        """Read what is answered, waiting so long at most for the first."""
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        while poller.poll(seconds * 1000):
            try:
                data = os.pread(self.fd, RECORD_MAX, 0)
            except BlockingIOError:
                break
            if not data:
                break
            seconds = 0

    def ask(self, record: Record) -> int:
        """The status of one request's answer; nothing else may be in flight."""
        os.pwrite(self.fd, build(record), 0)
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        poller.poll(60_000)
        return parse_responses(os.pread(self.fd, RECORD_MAX, 0))[0].status

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


def spots(place: Place, count: int, *configuration: str, **more: Value) -> list[Spot]:
    """Up to so many contexts: as many as the rule gives."""
    made: list[Spot] = []
    try:
        while len(made) < count:
            made.append(Spot(place, *configuration, **more))
    except OSError as error:
        if not made or error.errno not in REFUSALS:
            raise
    return made


def threads(count: int, work: Callable[[int], None]) -> None:
    """So many threads that do the same for ever; what is refused is tried again."""

    def run(index: int) -> None:
        while True:
            try:
                work(index)
            except OSError as error:
                if error.errno not in (*REFUSALS, errno.EINTR, errno.EBADFD, errno.EINVAL, errno.EPIPE, errno.EFBIG):
                    raise
                time.sleep(0.001)

    for index in range(count):
        threading.Thread(target=run, args=(index,), daemon=True).start()
    threading.Event().wait()
