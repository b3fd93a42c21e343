"""The names and amounts that each user may have: rules by user and group, and what each user holds now.

A rule is found when a context is opened and stays with it; what a user holds is counted over all contexts of that
uid. Without a configuration one rule serves everybody: every name, and the daemon's own bounds.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .algorithms import Type
from .errors import NotPermitted, OverQuota

CONTEXTS_PER_USER = 16_384
"""Contexts that one uid may have open at once, unless a rule says less."""
BURST = 1.0
"""Seconds of a rate that may be used at once."""
_REMEMBERED = 4096
# shown for a group that the daemon's user namespace lacks: no rule may take it for `nogroup`
_UNMAPPED = 65534


@dataclass(frozen=True)
class Rule:
    """What a user may do. names None: every name. requests: accepted and not read, over all contexts; queue_bytes:
    what they and their answers take; rate: requests a second; 0 is no bound of this rule's."""

    names: frozenset[tuple[Type, str]] | None = None
    contexts: int = CONTEXTS_PER_USER
    requests: int = 0
    queue_bytes: int = 0
    rate: int = 0

    @property
    def counts(self) -> bool:
        """Whether requests have to be counted."""
        return bool(self.requests or self.queue_bytes or self.rate)

    def admits(self, type_: Type, name: str) -> bool:
        return self.names is None or (type_, name) in self.names

    def check_name(self, type_: Type, name: str) -> None:
        """Errors: NotPermitted for a name that is not on the list."""
        if not self.admits(type_, name):
            raise NotPermitted(f"{type_} {name!r}: the policy does not allow you this name")


EVERYTHING = Rule()


@dataclass(frozen=True)
class Policy:
    """The rules: a user's own, else that of the first listed group that the user is in, else everybody's."""

    everybody: Rule = EVERYTHING
    users: Mapping[int, Rule] = field(default_factory=dict)
    groups: Mapping[int, Rule] = field(default_factory=dict)
    members: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By group: its members in the user database. A process may be in further groups, which the kernel shows."""

    def rule(self, uid: int, gid: int, pid: int) -> Rule:
        """The rule for a caller; pid: to find its further groups."""
        own = self.users.get(uid)
        if own is not None:
            return own
        if self.groups:
            member_of = {gid} | supplementary_groups(pid)
            for group, rule in self.groups.items():
                if group in member_of or uid in self.members.get(group, ()):
                    return rule
        return self.everybody


def supplementary_groups(pid: int) -> set[int]:
    """The further groups of a process; none if it is gone or hidden."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return set()
    for line in text.splitlines():
        if line.startswith("Groups:"):
            return {int(word) for word in line.split()[1:]} - {_UNMAPPED}
    return set()


class Account:
    """What one user holds now. A request is charged when it is accepted and given back when its answer is read."""

    __slots__ = ("_at", "_tokens", "contexts", "queue_bytes", "requests", "rule", "uid")

    def __init__(self, uid: int, rule: Rule) -> None:
        self.uid = uid
        self.rule = rule
        self.contexts = 0
        self.requests = 0
        self.queue_bytes = 0
        self._tokens = float(rule.rate) * BURST
        self._at = time.monotonic()

    def has_room(self, count: int, size: int) -> bool:
        """Whether `count` requests of `size` bytes in all would be taken now."""
        return self._lacking(count, size) is None

    def check(self, count: int, size: int) -> None:
        """Errors: OverQuota naming what the user holds and the bound."""
        lacking = self._lacking(count, size)
        if lacking is not None:
            raise OverQuota(f"uid {self.uid}: {lacking}")

    def _lacking(self, count: int, size: int) -> str | None:
        rule = self.rule
        if rule.requests and self.requests + count > rule.requests:
            return f"{self.requests} requests wait to be read and {count} more are asked: at most {rule.requests}"
        if rule.queue_bytes and self.queue_bytes + size > rule.queue_bytes:
            return f"{self.queue_bytes} bytes are queued and {size} more are asked: at most {rule.queue_bytes}"
        if rule.rate and count:
            self._refill()
            # a batch that is larger than the burst passes when the burst is whole, and is paid off afterwards
            if self._tokens < min(count, rule.rate * BURST):
                return f"{count} requests at once: at most {rule.rate} a second"
        return None

    def _refill(self) -> None:
        now = time.monotonic()
        rate = self.rule.rate
        self._tokens = min(rate * BURST, self._tokens + (now - self._at) * rate)
        self._at = now

    def charge(self, count: int, size: int) -> None:
        """So many requests were accepted."""
        self.requests += count
        self.queue_bytes += size
        if self.rule.rate:
            self._tokens -= count

    def give_back(self, count: int, size: int) -> None:
        """So many answers were read or dropped."""
        self.requests -= count
        self.queue_bytes -= size


class Accounts:
    """The accounts of all users that hold something."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}

    def open(self, uid: int, rule: Rule) -> Account:
        """One context more. Errors: OverQuota. The newest rule holds for what the user holds in all."""
        account = self._accounts.get(uid)
        if account is None:
            account = Account(uid, rule)
        if account.contexts >= rule.contexts:
            raise OverQuota(f"uid {uid} has {account.contexts} contexts open: at most {rule.contexts}")
        account.rule = rule
        account.contexts += 1
        self._accounts[uid] = account
        return account

    def close(self, account: Account) -> None:
        """One context less."""
        account.contexts -= 1
        # a rate outlives the contexts, or closing and opening again would renew it
        if not account.contexts and (not account.rule.rate or len(self._accounts) > _REMEMBERED):
            self._accounts.pop(account.uid, None)

    def __len__(self) -> int:
        return len(self._accounts)
