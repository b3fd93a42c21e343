"""The one ledger: what each user holds now, over all contexts of that uid, and what all users hold together.

    Ledger        the daemon: a bound for each kind of thing, and who may have the last ones
      Usage       one user: what it holds of each kind
        Queue     that user's requests, their bytes and their rate, where a rule bounds them

`charge` counts something, `release` takes it back, `check` and `has_room` only ask. What was charged is released with
the same amount, whatever the rule is by then.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from ..errors import OverQuota
from .rules import BURST, Rule

_REMEMBERED = 4096


class Thing(IntEnum):
    """The things that are bounded for every user, with or without a rule. Numbers, because each open and close looks
    them up some twenty times: the hash of another member is a call in Python."""

    CONTEXTS = 0
    HANDLES = 1
    STATE = 2
    """What open messages hold in addition to their data: windows and tables of a compression, a socket, a running
    digest."""
    KERNEL_KEYS = 3

    @property
    def words(self) -> str:
        """What messages call it."""
        return _WORDS[self]


_WORDS = {
    Thing.CONTEXTS: "contexts",
    Thing.HANDLES: "open files and directories",
    Thing.STATE: "bytes of state in open messages",
    Thing.KERNEL_KEYS: "keys in the kernel's keyring",
}
_NOTHING = dict.fromkeys(Thing, 0)


@dataclass(frozen=True)
class Bound:
    """The bounds of a thing.

    most: over all users; reserved: the last of them, only for root and the daemon's own user; per_user: for each other
    user, unless a rule says less.
    """

    most: int
    reserved: int
    per_user: int


class Ledger:
    """All users that hold something."""

    def __init__(self, bounds: Mapping[Thing, Bound]) -> None:
        """bounds: of every thing."""
        self.bounds = bounds
        self.held = _NOTHING.copy()
        """What all users hold together."""
        self._users: dict[int, Usage] = {}

    def user(self, uid: int, rule: Rule) -> "Usage":
        """A user's holdings, from now on under this rule: the newest rule applies to everything that the user holds."""
        usage = self._users.get(uid)
        if usage is None:
            usage = self._users[uid] = Usage(self, uid, rule)
        usage.rule = rule
        return usage

    def forget_idle(self, usage: "Usage") -> None:
        """Forget a user who holds nothing."""
        # A rate outlives its use. Otherwise closing and opening would renew it.
        if not any(usage.held.values()) and (not usage.rule.rate or len(self._users) > _REMEMBERED):
            self._users.pop(usage.uid, None)

    def __len__(self) -> int:
        return len(self._users)


class Usage:
    """The holdings of one user. It stays the same object as long as the user holds anything."""

    __slots__ = ("_ledger", "_metered", "_unmetered", "held", "rule", "uid")

    def __init__(self, ledger: Ledger, uid: int, rule: Rule) -> None:
        self._ledger = ledger
        self.uid = uid
        self.rule = rule
        self.held = _NOTHING.copy()
        self._unmetered = Queue(self)
        self._metered: MeteredQueue | None = None

    @property
    def queue(self) -> "Queue":
        """The queue in which a new context counts its requests."""
        if not self.rule.counts:
            return self._unmetered
        if self._metered is None:
            self._metered = MeteredQueue(self)
        return self._metered

    def charge(self, thing: Thing, amount: int = 1) -> None:
        """Count something. Errors: OverQuota naming the held amount and the bound; then nothing was counted."""
        try:
            self._check(thing, amount)
        except OverQuota:
            self._ledger.forget_idle(self)
            raise
        self.held[thing] += amount
        self._ledger.held[thing] += amount

    def release(self, thing: Thing, amount: int = 1) -> None:
        """Take back what was counted."""
        self.held[thing] -= amount
        self._ledger.held[thing] -= amount
        self._ledger.forget_idle(self)

    def _check(self, thing: Thing, amount: int) -> None:
        bound, held = self._ledger.bounds[thing], self.held[thing]
        favoured = self.uid in (0, os.geteuid())
        most = self._most(thing, bound.most if favoured else bound.per_user)
        if held + amount > most:
            raise OverQuota(f"uid {self.uid} has {held} {thing.words}{_more(amount)}: at most {most}")
        everybody = self._ledger.held[thing]
        if everybody + amount > bound.most - (0 if favoured else bound.reserved):
            kept = "" if favoured else f", {bound.reserved} of them for root and the daemon's own user"
            raise OverQuota(
                f"all users together have {everybody} {thing.words}{_more(amount)}: at most {bound.most}{kept}"
            )

    def _most(self, thing: Thing, without_rule: int) -> int:
        if thing is Thing.CONTEXTS:
            return self.rule.contexts
        if thing is Thing.HANDLES:
            return self.rule.handles
        return without_rule


def _more(amount: int) -> str:
    return "" if amount == 1 else f", and {amount} more are asked"


class Queue:
    """The count of a user's requests for contexts and streams. This one lets every request pass and counts none: it is
    for rules without such bounds. A small request calls it three times, so it must cost nothing."""

    __slots__ = ("usage",)

    def __init__(self, usage: Usage) -> None:
        self.usage = usage

    def has_room(self, requests: int, size: int) -> bool:
        """Whether this many requests of `size` bytes in all would be accepted now."""
        return True

    def check(self, requests: int, size: int) -> None:
        """Errors: OverQuota naming what the user holds and the bound."""

    def charge(self, requests: int, size: int) -> None:
        """This many requests were accepted, or only this many more bytes are held. It does not check."""

    def release(self, requests: int, size: int) -> None:
        """This many answers were read or dropped, or only this many bytes."""

    def pass_one(self, size: int) -> None:
        """A request without waiting uses its place in the rate: a message of a stream begins, with `size` bytes that
        are counted elsewhere. Errors: OverQuota."""

    def charge_state(self, size: int) -> None:
        """A message has opened that holds a state of this many bytes. Errors: OverQuota."""
        self.usage.charge(Thing.STATE, size)

    def release_state(self, size: int) -> None:
        """A message has closed."""
        self.usage.release(Thing.STATE, size)


class MeteredQueue(Queue):
    """Counts: a request is charged when it is accepted and released when its answer is read."""

    __slots__ = ("_at", "_tokens", "queue_bytes", "requests")

    def __init__(self, usage: Usage) -> None:
        super().__init__(usage)
        self.requests = 0
        self.queue_bytes = 0
        self._tokens = float(usage.rule.rate) * BURST
        self._at = time.monotonic()

    def has_room(self, requests: int, size: int) -> bool:
        return self._lacking(requests, size) is None

    def check(self, requests: int, size: int) -> None:
        lacking = self._lacking(requests, size)
        if lacking is not None:
            raise OverQuota(f"uid {self.usage.uid}: {lacking}")

    def _lacking(self, requests: int, size: int) -> str | None:
        rule = self.usage.rule
        if rule.requests and self.requests + requests > rule.requests:
            return f"{self.requests} requests wait to be read and {requests} more are asked: at most {rule.requests}"
        if rule.queue_bytes and self.queue_bytes + size > rule.queue_bytes:
            return f"{self.queue_bytes} bytes are queued and {size} more are asked: at most {rule.queue_bytes}"
        if rule.rate and requests:
            self._refill()
            # A batch larger than the burst passes when the burst is whole, and is paid off afterwards.
            if self._tokens < min(requests, rule.rate * BURST):
                return f"{requests} requests at once: at most {rule.rate} a second"
        return None

    def _refill(self) -> None:
        now = time.monotonic()
        rate = self.usage.rule.rate
        self._tokens = min(rate * BURST, self._tokens + (now - self._at) * rate)
        self._at = now

    def charge(self, requests: int, size: int) -> None:
        self.requests += requests
        self.queue_bytes += size
        if self.usage.rule.rate:
            self._tokens -= requests

    def release(self, requests: int, size: int) -> None:
        self.requests -= requests
        self.queue_bytes -= size

    def pass_one(self, size: int) -> None:
        self.check(1, size)
        self.charge(1, 0)
        self.release(1, 0)

    def charge_state(self, size: int) -> None:
        self.check(0, size)
        super().charge_state(size)
        self.charge(0, size)

    def release_state(self, size: int) -> None:
        self.release(0, size)
        super().release_state(size)
