"""The number of messages that a key has encrypted under random nonces, kept over restarts.

Each key has a file in the state directory, named by the key's fingerprint, so that all devices with one key share its
count. The file has a number that is ahead of the count: a block of messages is written down before the first of them is
made. So a crash counts too many, never too few. A daemon that ends in order writes the exact number.

Without a state directory the count begins at 0 with the daemon.
"""

import errno
import itertools
import logging
import math
import os
import threading
from contextlib import suppress
from pathlib import Path

from ..errors import InvalidValue, OverQuota, SystemFault, printable

log = logging.getLogger("cryptofs")

BLOCK = 1 << 16
"""Messages that are written down at a time."""
NEAR = 0.9
"""The part of its bound from which the log warns of a key."""
_HEAD = "cryptofs count 1\n"
_FILE_MAX = 64


class Count:
    """The count of one key. largest: its bound. path: its file; None: it is kept nowhere."""

    def __init__(self, largest: int | None, path: Path | None = None, used: int = 0) -> None:
        self.used = used
        """Messages so far; it may lag behind by the messages that other threads begin just now."""
        self._largest = largest
        self._path = path
        self._ticks = itertools.count(used)
        self._written = used
        # Short of `_written`, so that the next block is written down before this one ends.
        self._asks_at = used
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None
        self._warned = False
        self._looks = 0
        """Ticks that were no message."""

    def take(self, name: str) -> None:
        """Count one more message of the device `name`. Errors: OverQuota at the bound."""
        # One step of the interpreter: no message is lost, whatever the threads do.
        number = next(self._ticks)
        if number >= self._asks_at:
            self._ask(number, name)
        self.used = number + 1

    def _ask(self, number: int, name: str) -> None:
        with self._lock:
            if self._largest is not None and number >= self._largest:
                self.used = self._largest
                raise OverQuota(f"device {name}: {self._largest} messages under one key: at most {self._largest}")
            self._warn(number, name)
            if number >= self._written:
                self._write_ahead(number)
                return
            self._ask_at(self._written)
            if self._path is not None and self._writer is None and self._written != self._largest:
                # In the middle of a block: no message waits for the disk.
                writer = threading.Thread(target=self._write_next, name="cryptofs-count", daemon=True)
                # Without a free thread, the end of the block does it.
                with suppress(RuntimeError):
                    writer.start()
                    self._writer = writer

    def _ask_at(self, number: int) -> None:
        """When to ask again. The warning must not come late by a block."""
        if self._largest is not None and not self._warned:
            number = min(number, math.ceil(NEAR * self._largest))
        self._asks_at = number

    def _warn(self, number: int, name: str) -> None:
        if self._largest is not None and number >= NEAR * self._largest and not self._warned:
            self._warned = True
            log.warning(
                "device %s: its key has encrypted %d of at most %d messages: give it a new version", name, number,
                self._largest,
            )  # fmt: skip

    def _write_next(self) -> None:
        with self._lock:
            # After `close` the exact number stays.
            if self._writer is threading.current_thread():
                self._writer = None
                self._write_ahead(self._written)

    def _write_ahead(self, number: int) -> None:
        ahead = number + BLOCK if self._largest is None else min(number + BLOCK, self._largest)
        self._store(ahead)
        self._written = ahead
        self._ask_at(ahead if self._path is None else number + (ahead - number + 1) // 2)

    def _store(self, value: int) -> None:
        if self._path is None:
            return
        try:
            write_count(self._path, value)
        except OSError as error:
            # To refuse every message would be worse than a count that a crash makes too small.
            log.error("%s: messages are not counted over a restart: %s", self._path, os.strerror(error.errno or 0))

    def close(self) -> None:
        """Write the exact number. Messages that are begun afterwards are not counted over a restart."""
        with self._lock:
            self._writer = None
            # `used` may lag behind for good, where two threads set it at the same time; the ticks never do.
            exact = next(self._ticks) - self._looks
            self._looks += 1
            if self._largest is not None:
                exact = min(exact, self._largest)
            if self._written != exact:
                self._written = self._asks_at = self.used = exact
                self._store(exact)


class Counts:
    """The counts of all keys, by their fingerprints. directory: the state directory, None without one."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._counts: dict[str, Count] = {}

    def of(self, key: str, largest: int | None) -> Count:
        """The count of the key with this fingerprint.

        Errors: InvalidValue for a file that is no count, SystemFault for one that cannot be read.
        """
        count = self._counts.get(key)
        if count is None:
            path = None if self._directory is None or largest is None else self._directory / f"messages-{key}"
            used = 0 if path is None else read_count(path)
            count = self._counts[key] = Count(largest, path, used)
        return count

    def close(self) -> None:
        """Write the exact numbers."""
        for count in self._counts.values():
            count.close()


def read_count(path: Path) -> int:
    """The number in a file; 0 if there is none. Errors: InvalidValue, SystemFault."""
    try:
        # The directory is the serving account's, and root may read it: no link is followed, no FIFO waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            text = file.read(_FILE_MAX).decode("ascii", "replace")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return 0
        raise SystemFault.of(error, path) from None
    digits = text.removeprefix(_HEAD).removesuffix("\n")
    if text != f"{_HEAD}{digits}\n" or not digits.isdecimal():
        raise InvalidValue(
            f"{printable(path)}: no count of messages: write the last known one into it, or remove it with its key"
        )
    return int(digits)


def write_count(path: Path, value: int) -> None:
    """Replace the number in a file, whole or not at all, on the disk. Errors: OSError."""
    temporary = path.with_name(f".{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        text = f"{_HEAD}{value}\n".encode()
        if os.write(descriptor, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
