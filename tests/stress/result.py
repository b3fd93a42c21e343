"""What hostile clients did and what came of it."""

import errno
from collections import Counter
from dataclasses import dataclass, field

SHOWN = 10
"""Findings of one client that are kept."""


@dataclass
class AttackResult:
    """What was sent and what came of it.

    records: all hostile input: records, control calls, writes on streams. device_records: those of them that went to
    devices; files: messages through the stream files of devices; tampered: sealed files that were changed and tried.
    verdicts: by `accepted` or the errno of the refusal; statuses: of answers, by errno; limits: what the policy said
    no to, by its kind; nonces: those that devices made, with the device's name before them.
    """

    records: int = 0
    device_records: int = 0
    files: int = 0
    tampered: int = 0
    writes: int = 0
    answers: int = 0
    compared: int = 0
    received: int = 0
    mutations: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    nonces: list[bytes] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "AttackResult") -> None:
        """Take another client's result into account."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def symbol(number: int | None) -> str:
    """An errno's name, `ok` for 0."""
    if number == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return errno.errorcode.get(number, str(number)) if number else "ok"
