"""A client that speaks records, and requests that take long enough to be seen in flight."""

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from helpers.waiting import PATIENCE

from cryptofs.records import PAYLOAD_MAX, RECORD_MAX, Attr, Operation, Record, Value, build, parse_responses


def build_many(records: Iterable[Record]) -> bytes:
    """The bytes of several records back to back, as one write carries them."""
    return b"".join(map(build, records))


LONG = PAYLOAD_MAX - PAYLOAD_MAX % 8
"""Bytes that triple DES takes tens of milliseconds for."""


SHORT_OF_LONG = 128 * 1024
"""Bytes that it takes some milliseconds for: enough to go to a worker."""


SLOW = ("skcipher", "cbc(des3_ede)")


SLOW_KEY = bytes(range(24))


BOUND = 20.0 * PATIENCE
"""Seconds that nothing here may take."""


QUEUE_REQUESTS = 4096


class Raw:
    """One open of `crypto`, used with records as any program would."""

    def __init__(self, mount: Path, flags: int = 0) -> None:
        self.mount = mount
        self.fd = os.open(mount / "crypto", os.O_RDWR | os.O_CLOEXEC | flags)
        self.number = int(os.pread(self.fd, 64, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor."""
        return self.fd

    def close(self) -> None:
        """Close it once."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            # on a dead mount closing fails, and closes
            with contextlib.suppress(OSError):
                os.close(fd)

    @property
    def directory(self) -> Path:
        """The context's directory."""
        return self.mount / "contexts" / str(self.number)

    def status(self) -> dict[str, str]:
        """The tags of the status file."""
        lines = (self.directory / "status").read_text().splitlines()
        return dict(line.split(": ", 1) for line in lines)

    def write(self, *records: Record) -> None:
        """One write of these records."""
        data = build_many(records)
        assert os.pwrite(self.fd, data, 0) == len(data)

    def read(self, size: int = RECORD_MAX) -> list[Record]:
        """The answers of one read; none where nothing was in flight."""
        data = os.pread(self.fd, size, 0)
        return parse_responses(data) if data else []

    def call(self, operation: Operation, attributes: dict[int, Value], identity: int = 1 << 60) -> Record:
        """A control call on a context that nothing else is in flight on."""
        self.write(Record(operation, 0, identity, 0, attributes))
        (reply,) = self.read()
        assert (reply.id, reply.operation) == (identity, operation)
        return reply

    def configure(self, type_: str, name: str, key: bytes | None = None) -> Self:
        """Configure by record."""
        attributes: dict[int, Value] = {Attr.TYPE: type_, Attr.NAME: name}
        if key is not None:
            attributes[Attr.KEY] = key
        reply = self.call(Operation.CONFIGURE, attributes)
        assert reply.status == 0, reply
        return self

    def answers(self, count: int) -> list[Record]:
        """Exactly `count` answers, whether the context waits for them or not, and then no more."""
        found: list[Record] = []
        while len(found) < count:
            self.wait(select.POLLIN)
            found += self.read()
        assert len(found) == count
        assert self.read() == []
        return found

    def wait(self, events: int, seconds: float = BOUND) -> int:
        """Wait for events by poll(2); returns what came."""
        poller = select.poll()
        poller.register(self.fd, events)
        found = poller.poll(seconds * 1000)
        assert found, f"no event within {seconds} s: {self.status()}"
        return found[0][1]


def slow(mount: Path, flags: int = 0) -> Raw:
    """A context of triple DES whose pace the daemon knows."""
    raw = Raw(mount, flags).configure(*SLOW, SLOW_KEY)
    raw.write(encryption(1, SHORT_OF_LONG))
    raw.answers(1)
    return raw


def hasher(mount: Path, flags: int = 0) -> Raw:
    """A context of SHA-256."""
    return Raw(mount, flags).configure("hash", "sha256")


def encryption(identity: int, size: int, flags: int = 0, iv: bytes | None = bytes(8)) -> Record:
    """A request to a context of `slow`."""
    attributes: dict[int, Value] = {} if iv is None else {Attr.IV: iv}
    return Record(Operation.ENCRYPT, flags, identity, 0, attributes, bytes(size))


def digest(identity: int, data: bytes = b"abc", flags: int = 0) -> Record:
    """A request to a context of `hasher`."""
    return Record(Operation.DIGEST, flags, identity, 0, {}, data)


def error_of(call: Callable[..., object], *arguments: object) -> int:
    """The errno that a call fails with, 0 if it does not."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def joined(thread: threading.Thread) -> None:
    """Wait for a thread, but not for ever."""
    thread.join(BOUND)
    assert not thread.is_alive(), f"{thread.name} is blocked"
