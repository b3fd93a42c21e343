"""Logging that cannot stop the daemon: a bounded queue, and a thread that writes.

A full disk, an unread pipe and a hanging journal lose log lines, which are counted. They have no other effect. Under
systemd, lines carry their priority, and audit events go to the journal with their values as fields. A daemon without
standard error writes to a file or to syslog.
"""

import contextlib
import errno
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from logging.handlers import QueueHandler, SysLogHandler
from pathlib import Path
from typing import Protocol

LINES_MAX = 10_000
"""Log lines that wait to be written; further lines are dropped and counted."""
LOG_MODE = 0o640
"""The mode of a new log file. An existing one keeps its mode."""
_STOP_BOUND = 1.0
_IDENTIFIER = "cryptofs"
_SYSLOG = "/dev/log"

# syslog's numbers.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_WORDS = {7: "debug", 6: "info", 4: "warning", 3: "error", 2: "critical"}

Send = Callable[..., object]
_WAKE = logging.makeLogRecord({})


class Sink(Protocol):
    """A destination of log lines, used only by the writing thread."""

    def write(self, priority: int, lines: list[str]) -> None:
        """Write the lines of one message; priority: syslog's number. Errors: OSError; the lines are then lost."""

    def reopen(self) -> None:
        """Continue in the file that has the name now. Errors: OSError; the old file then stays in use."""


class Standard:
    """Standard error, with the priorities that the journal reads if it is connected to the journal."""

    def __init__(self) -> None:
        self._journal = to_journal()

    def write(self, priority: int, lines: list[str]) -> None:
        """Write the lines of one message."""
        before = f"<{priority}>" if self._journal else f"{_IDENTIFIER}: "
        _write_all(2, "".join(f"{before}{line}\n" for line in lines))

    def reopen(self) -> None:
        """Nothing: the file belongs to the program that started this process."""


class LogFile:
    """A file to which lines are appended, each with its time, its process and its level."""

    def __init__(self, path: Path, owner: tuple[int, int] | None) -> None:
        """owner: uid and gid of a new file, if root makes it for another user. Errors: OSError."""
        self._path = path
        self._file = self._opened(owner)

    def _opened(self, owner: tuple[int, int] | None) -> int:
        # Non-blocking, because an unread pipe must not stop the start.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            descriptor = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0)
        except FileExistsError:
            return os.open(self._path, flags)
        # By the descriptor, so that the umask has no effect.
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, LOG_MODE)
        return descriptor

    def write(self, priority: int, lines: list[str]) -> None:
        """Write the lines of one message."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        before = f"{at} {_IDENTIFIER}[{os.getpid()}] {_WORDS.get(priority, 'info')}: "
        _write_all(self._file, "".join(f"{before}{line}\n" for line in lines))

    def reopen(self) -> None:
        """Continue in the file that has the name now. Errors: OSError; the old file then stays in use."""
        descriptor = self._opened(None)
        os.dup2(descriptor, self._file, inheritable=False)
        os.close(descriptor)


class Syslog(SysLogHandler):
    """syslog's socket, facility daemon. Without a listener, lines are lost; each new line tries again."""

    append_nul = False

    def __init__(self) -> None:
        super().__init__(_SYSLOG, SysLogHandler.LOG_DAEMON)
        self.ident = f"{_IDENTIFIER}[{os.getpid()}]: "

    def write(self, priority: int, lines: list[str]) -> None:
        """Write the lines of one message."""
        for line in lines:
            # Names that are not UTF-8 are escaped, because the handler would refuse the line.
            text = line.encode("utf-8", "backslashreplace").decode()
            self.emit(logging.makeLogRecord({"msg": text, "levelname": _WORDS.get(priority, "info").upper()}))

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the line as lost."""
        error = sys.exc_info()[1]
        raise error if isinstance(error, OSError) else OSError(errno.EIO, str(error))

    def reopen(self) -> None:
        """Nothing: the socket has no file of its own."""


class _Queued(QueueHandler):
    """Puts records on the queue, or counts them."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(lines)
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class Logs:
    """The daemon's logging, from `start` to `stop`."""

    def __init__(self, sink: Sink) -> None:
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(LINES_MAX)
        self._handler = _Queued(self._lines)
        self._reported = 0
        self._sink = sink
        self._journal = _journal() if isinstance(sink, Standard) else None
        self._to_reopen = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cryptofs-logs", daemon=True)

    @property
    def dropped(self) -> int:
        """Lines that were dropped because the queue was full."""
        return self._handler.dropped

    def start(self, level: int, with_audit: bool) -> None:
        """Take over all logging of the process; called after the last fork."""
        root = logging.getLogger()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        root.addHandler(self._handler)
        root.setLevel(level)
        logging.getLogger("cryptofs.audit").setLevel(logging.INFO if with_audit else logging.CRITICAL)
        self._thread.start()

    def reopen(self) -> None:
        """Open the file again, in the writing thread, because opening may wait."""
        self._to_reopen.set()
        # If the queue is full, the next line triggers it.
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(_WAKE)

    def stop(self) -> None:
        """Write the waiting lines, for at most a second."""
        logging.getLogger().removeHandler(self._handler)
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_STOP_BOUND)

    def _run(self) -> None:
        while (record := self._lines.get()) is not None:
            if self._to_reopen.is_set():
                self._to_reopen.clear()
                self._reopen()
            dropped = self.dropped - self._reported
            if dropped:
                self._reported += dropped
                self._write(4, f"{dropped} log lines were dropped: the writer was too slow")
            if record is not _WAKE:
                self._emit(record)

    def _emit(self, record: logging.LogRecord) -> None:
        priority = _PRIORITIES.get(record.levelno, 6)
        fields = getattr(record, "fields", None)
        if fields is not None and self._journal is not None:
            named = {f"CRYPTOFS_{name.upper()}": str(value)[:200] for name, value in fields.items()}
            try:
                self._journal(priority=priority, message=record.getMessage(), SYSLOG_IDENTIFIER=_IDENTIFIER, **named)
                return
            except Exception:
                # Otherwise as a line like all others.
                self._journal = None
        self._write(priority, record.getMessage())

    def _reopen(self) -> None:
        try:
            self._sink.reopen()
        except OSError as error:
            self._write(3, f"{error.filename}: cannot open the log file again: {error.strerror}")

    def _write(self, priority: int, message: str) -> None:
        try:
            self._sink.write(priority, message.splitlines() or [""])
        except OSError:
            self._handler.dropped += 1
            self._reported += 1


def _write_all(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode("utf-8", "backslashreplace"))


def to_journal() -> bool:
    """Whether standard error is the journal's. A program may have inherited only the variable, so this checks the
    descriptor."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError):
        status = os.fstat(2)
        return (str(status.st_dev), str(status.st_ino)) == (device, inode)
    return False


def discards_messages() -> bool:
    """Whether standard error leads nowhere: it is /dev/null, which also replaces a closed one."""
    return os.fstat(2).st_rdev == os.stat(os.devnull).st_rdev


def _journal() -> Send | None:
    """The function that sends fields to the journal, if the journal and the optional package exist."""
    if not to_journal():
        return None
    try:
        from cysystemd.journal import send
    except ImportError:
        return None
    return send  # type: ignore[no-any-return]
