"""The audit trail: opens, configures and refusals, with the user. Never a key, never data.

One line an event, `open uid=1000 pid=77 context=5`; in the journal its values are fields too (CRYPTOFS_UID=1000).
Refusals are warnings: the journal's own limit counts them apart from the opens and configures, of which a client can
make as many as it likes. A refusal that is repeated is held back, and its number told a second later; so is what one
user has of refusals beyond LINES a second. Nothing is recorded until `cryptofs.logs` has turned it on.
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
"""Lines of refusals that a uid gets a second. Further ones are reported as a number."""
BURST = 100
"""Lines that it gets at once."""
REFUSALS_MAX = 4096
"""Refusals that are remembered, to recognise a repetition. The number of the oldest is reported before it is
forgotten."""
USERS_MAX = 4096
"""Users whose lines are counted; likewise."""

Fields = dict[str, str | int]
_Key = tuple[tuple[str, str | int], ...]


def audit(event: str, uid: int, pid: int, **values: str | int) -> None:
    """Record an event. values: what it concerns; text of a client's is cut and quoted."""
    _record(logging.INFO, {"event": event, "uid": uid, "pid": pid, **values})


def audit_refusal(event: str, uid: int, pid: int, error: CryptofsError, **values: str | int) -> None:
    """Record a refusal. A client that repeats a request does not fill the log.

    A refusal is the same as another if all is the same but the reason's words and the context's number.
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
    """A refusal that was recorded. since: when; held: how often it came again after that."""

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
        """Whether a user has a line left; it is spent then."""
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
        """Report what was held back for REPEAT seconds, or everything, and forget what is over."""
        now = time.monotonic()
        for key, known in list(self.refusals.items()):
            if everything or now - known.since >= REPEAT:
                del self.refusals[key]
                if self._tell_refusal(known, now) and not everything:
                    # it may go on: then the next number follows in its turn
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
        """Look each second, as long as there may be something to tell: an idle daemon sleeps."""
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
    # a value that could be taken for more than one, or for another line, is quoted
    return text if text.isprintable() and text and not set(text) & set(" \"'=\\") else repr(text)
