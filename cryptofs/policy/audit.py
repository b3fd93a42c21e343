"""The audit trail: opens, configures and refusals, with the user. Never a key, never data.

Each event is one line, `open uid=1000 pid=77 context=5`; in the journal its values are also fields (CRYPTOFS_UID=1000).
Refusals are warnings, because the journal's own limit counts them separately from opens and configures, whose number no
rule bounds. A repeated refusal is held back, and its number is reported a second later. The same holds for a user's
refusals beyond LINES a second. Nothing is recorded until `cryptofs.logs` has enabled it.
"""

import logging
import time
from dataclasses import dataclass, field

import trio

from ..errors import CryptofsError

log = logging.getLogger("cryptofs.audit")
log.setLevel(logging.CRITICAL)

REPEAT = 1.0
"""Seconds in which the same refusal of the same process is recorded once. After that, the number of repetitions is
reported."""
LINES = 10
"""Lines of refusals for each uid and second. Further ones are reported as a number."""
BURST = 100
"""Lines that a uid gets at once."""
REFUSALS_MAX = 4096
"""Refusals that are remembered, to recognise a repetition. The number of the oldest is reported before it is
forgotten."""
USERS_MAX = 4096
"""Users whose lines are counted. The oldest is reported before it is forgotten, too."""

Fields = dict[str, str | int]
_Key = tuple[tuple[str, str | int], ...]


def audit(event: str, uid: int, pid: int, **values: str | int) -> None:
    """Record an event. values: its details; text from a client is truncated and quoted."""
    _record(logging.INFO, {"event": event, "uid": uid, "pid": pid, **values})


def audit_refusal(event: str, uid: int, pid: int, error: CryptofsError, **values: str | int) -> None:
    """Record a refusal. A client that repeats a request does not fill the log.

    Two refusals are the same if they differ only in the reason's words and the context's number.
    """
    if not log.isEnabledFor(logging.INFO):
        return
    fields: Fields = {"event": event, "uid": uid, "pid": pid, "refused": error.symbol, "reason": error.message}
    trail.refuse(fields | values)


def tell_held_back() -> None:
    """Report everything that was held back, because there may be no later event."""
    trail.tell(everything=True)


def _record(level: int, fields: Fields) -> None:
    if log.isEnabledFor(logging.INFO):
        log.log(level, "%s", _line(fields), extra={"fields": fields})


@dataclass(slots=True)
class _Refusal:
    """A recorded refusal. since: its time; held: number of repetitions since then."""

    fields: Fields
    since: float
    held: int = 0


@dataclass(slots=True)
class _User:
    """Lines that a user may have. unrecorded: refusals without a line."""

    at: float
    lines: float = float(BURST)
    unrecorded: int = 0


@dataclass(slots=True)
class Trail:
    """The refusals of the last seconds."""

    refusals: dict[_Key, _Refusal] = field(default_factory=dict)
    users: dict[int, _User] = field(default_factory=dict)
    watched: bool = False

    def refuse(self, fields: Fields) -> None:
        """Record a refusal, or hold it back."""
        now = time.monotonic()
        fields = {name: value if isinstance(value, int) else value[:200] for name, value in fields.items()}
        key = tuple(item for item in fields.items() if item[0] not in ("reason", "context"))
        known = self.refusals.get(key)
        if known is not None and now - known.since < REPEAT:
            known.held += 1
            return
        if known is not None:
            del self.refusals[key]
        held = known.held if known is not None else 0
        uid = int(fields["uid"])
        if not self._may_write(uid, now):
            self.users[uid].unrecorded += 1 + held
            return
        if len(self.refusals) >= REFUSALS_MAX:
            self._tell_refusal(self.refusals.pop(next(iter(self.refusals))), now)
        self.refusals[key] = _Refusal(fields, now)
        _record(logging.WARNING, fields | {"unrecorded": held} if held else fields)
        self._watch()

    def _may_write(self, uid: int, now: float) -> bool:
        """Whether a user has a line left; this uses it."""
        user = self.users.get(uid)
        if user is None:
            if len(self.users) >= USERS_MAX:
                oldest = next(iter(self.users))
                self._tell_user(oldest, self.users.pop(oldest))
            user = self.users[uid] = _User(now)
        user.lines = min(BURST, user.lines + (now - user.at) * LINES)
        user.at = now
        if user.lines < 1:
            return False
        user.lines -= 1
        return True

    def tell(self, everything: bool = False) -> None:
        """Report what was held back for REPEAT seconds, or everything, and forget old entries."""
        now = time.monotonic()
        for key, known in list(self.refusals.items()):
            if everything or now - known.since >= REPEAT:
                del self.refusals[key]
                if self._tell_refusal(known, now) and not everything:
                    # It may continue. Then the next number follows later.
                    self.refusals[key] = _Refusal(known.fields, now)
        for uid, user in list(self.users.items()):
            self._tell_user(uid, user)
            if everything or user.lines + (now - user.at) * LINES >= BURST:
                del self.users[uid]

    def _tell_refusal(self, known: _Refusal, now: float) -> bool:
        if not known.held:
            return False
        uid = int(known.fields["uid"])
        if not self._may_write(uid, now):
            self.users[uid].unrecorded += known.held
            return False
        fields = {name: value for name, value in known.fields.items() if name not in ("reason", "context")}
        _record(logging.WARNING, fields | {"unrecorded": known.held})
        return True

    @staticmethod
    def _tell_user(uid: int, user: _User) -> None:
        if user.unrecorded:
            reason = f"more than {LINES} refusals a second"
            _record(logging.WARNING, {"event": "refusals", "uid": uid, "unrecorded": user.unrecorded, "reason": reason})
            user.unrecorded = 0

    def _watch(self) -> None:
        if self.watched or not trio.lowlevel.in_trio_run():
            return
        self.watched = True
        trio.lowlevel.spawn_system_task(self._tell_in_time)

    async def _tell_in_time(self) -> None:
        """Check each second, as long as there may be something to report: an idle daemon sleeps."""
        try:
            while self.refusals or self.users:
                await trio.sleep(REPEAT)
                self.tell()
        finally:
            self.watched = False


trail = Trail()
"""The daemon's."""


def _line(fields: Fields) -> str:
    rest = (f"{name}={_quote(value)}" for name, value in fields.items() if name != "event")
    return f"{fields['event']} {' '.join(rest)}"


def _quote(value: str | int) -> str:
    text = str(value)[:200]
    # Quote a value that could be mistaken for several values, or for another line.
    return text if text.isprintable() and text and not set(text) & set(" \"'=\\") else repr(text)
