"""What each user holds now, over all contexts of that uid."""

import time

from ..errors import OverQuota
from .rules import BURST, Rule

_REMEMBERED = 4096


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
