"""Where log lines go, so that no log can stop the daemon: a bounded queue, and a thread that writes.

A full disk, a pipe that nobody reads and a journal that hangs cost log lines, which are counted, and nothing else.
Under systemd lines carry their priority, and audit events go to the journal with their values as fields.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from logging.handlers import QueueHandler

LINES_MAX = 10_000
"""Log lines that wait to be written; more are dropped and counted."""
_STOP_BOUND = 1.0
_IDENTIFIER = "cryptofs"

# syslog's numbers
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

Send = Callable[..., object]


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

    def __init__(self) -> None:
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(LINES_MAX)
        self._handler = _Queued(self._lines)
        self._reported = 0
        self._journal = _journal()
        self._prefixed = "JOURNAL_STREAM" in os.environ
        self._thread = threading.Thread(target=self._run, name="cryptofs-logs", daemon=True)

    @property
    def dropped(self) -> int:
        """Lines that found the queue full."""
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

    def stop(self) -> None:
        """Write what waits, for a second at most."""
        logging.getLogger().removeHandler(self._handler)
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_STOP_BOUND)

    def _run(self) -> None:
        while (record := self._lines.get()) is not None:
            dropped = self.dropped - self._reported
            if dropped:
                self._reported += dropped
                self._write(4, f"{dropped} log lines were dropped: they came faster than they could be written")
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
                # then as a line like all others
                self._journal = None
        self._write(priority, record.getMessage())

    def _write(self, priority: int, message: str) -> None:
        lines = message.splitlines() or [""]
        if self._prefixed:
            text = "".join(f"<{priority}>{line}\n" for line in lines)
        else:
            text = "".join(f"cryptofs: {line}\n" for line in lines)
        try:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode("utf-8", "backslashreplace"))
        except OSError:
            self._handler.dropped += 1
            self._reported += 1


def _journal() -> Send | None:
    """What sends fields to the journal, if it is there and the optional package is."""
    if "JOURNAL_STREAM" not in os.environ:
        return None
    try:
        from cysystemd.journal import send
    except ImportError:
        return None
    return send  # type: ignore[no-any-return]
