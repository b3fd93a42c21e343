"""The audit trail: who opened, configured and was refused what. Never a key, never data.

One line an event, `open uid=1000 pid=77 context=5`; in the journal its values are fields too (CRYPTOFS_UID=1000).
Nothing is recorded until `cryptofs.logs` has turned it on.
"""

import logging
import time

from .errors import CryptofsError

log = logging.getLogger("cryptofs.audit")
log.setLevel(logging.CRITICAL)

REPEAT = 1.0
"""Seconds in which the same refusal of the same user is recorded once; the next one then says how many there were."""
_REMEMBERED = 1024

_refusals: dict[tuple[int, str, str], tuple[float, int]] = {}


def audit(event: str, uid: int, pid: int, **values: str | int) -> None:
    """Record an event. values: what it concerns; text of a client's is cut and quoted."""
    if log.isEnabledFor(logging.INFO):
        fields = {"event": event, "uid": uid, "pid": pid, **values}
        log.info("%s", _line(fields), extra={"fields": fields})


def audit_refusal(event: str, uid: int, pid: int, error: CryptofsError, **values: str | int) -> None:
    """Record that something was refused; a client that asks again and again fills no log with it."""
    if not log.isEnabledFor(logging.INFO):
        return
    key = (uid, event, error.symbol)
    now = time.monotonic()
    since, held = _refusals.get(key, (-REPEAT, 0))
    if now - since < REPEAT:
        _refusals[key] = (since, held + 1)
        return
    if len(_refusals) >= _REMEMBERED:
        _refusals.clear()
    _refusals[key] = (now, 0)
    if held:
        values["unrecorded"] = held
    audit(event, uid, pid, refused=error.symbol, reason=error.message, **values)


def _line(fields: dict[str, str | int]) -> str:
    rest = (f"{name}={_quote(value)}" for name, value in fields.items() if name != "event")
    return f"{fields['event']} {' '.join(rest)}"


def _quote(value: str | int) -> str:
    text = str(value)[:200]
    # a value that could be taken for more than one, or for another line, is quoted
    return text if text.isprintable() and text and not set(text) & set(" \"'=\\") else repr(text)
