"""The names and amounts that each user may have: rules by user and group.

A rule is found when a context is opened and stays with it. Without a configuration one rule serves everybody: every
name, and the daemon's own bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..algorithms import Type
from ..errors import NotPermitted

CONTEXTS_PER_USER = 16_384
"""Contexts that one uid may have open at once, unless a rule says less."""
HANDLES_PER_USER = 32_768
"""Files and directories of the mount that one uid may have open at once, unless a rule says less: two for a context."""
BURST = 1.0
"""Seconds of a rate that may be used at once."""
# Shown for a group that the daemon's user namespace lacks: no rule may mistake it for `nogroup`.
_UNMAPPED = 65534


@dataclass(frozen=True)
class Rule:
    """The permissions of a user, over all contexts. names None: every name. handles: open files and directories.
    requests: accepted and unread; queue_bytes: bytes of these, their answers and open messages; rate: requests a
    second; 0: this rule sets no bound."""

    names: frozenset[tuple[Type, str]] | None = None
    contexts: int = CONTEXTS_PER_USER
    handles: int = HANDLES_PER_USER
    requests: int = 0
    queue_bytes: int = 0
    rate: int = 0

    @property
    def counts(self) -> bool:
        """Whether requests must be counted."""
        return bool(self.requests or self.queue_bytes or self.rate)

    def admits(self, type_: Type, name: str) -> bool:
        return self.names is None or (type_, name) in self.names

    def check_name(self, type_: Type, name: str) -> None:
        """Errors: NotPermitted for a name that is not on the list."""
        if not self.admits(type_, name):
            raise NotPermitted(f"{type_} {name!r}: the policy does not allow you this name")


@dataclass(frozen=True)
class Policy:
    """The rules: a user's own, else that of the first listed group that the user is in, else everybody's."""

    everybody: Rule = field(default_factory=Rule)
    users: Mapping[int, Rule] = field(default_factory=dict)
    groups: Mapping[int, Rule] = field(default_factory=dict)
    members: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By group: its members in the user database. A process may be in further groups, which the kernel shows."""

    def rule(self, uid: int, gid: int, pid: int) -> Rule:
        """The rule for a caller; pid: of the process with its further groups."""
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
