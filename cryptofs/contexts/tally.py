"""What was done since the start, counted in plain integers: a small request may pay for no more than a few additions.

Each context counts its own (`Exchange`, `Flow`). A `Tally` adds what contexts have counted, when they close or when
somebody asks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..algorithms import Rows
from ..records import HEADER_SIZE

SAMPLED = 17
"""The fast way times one in so many of its requests, which stands for all of them: reading the clock twice costs as
much as a tenth of what it measures. A prime, so that a program that alternates between requests has each kind timed."""
_BITS = 64


@dataclass(slots=True)
class Tally:
    """What was done. The first four are of requests that took the general way, and of messages of streams; the last
    three of short requests, as they are at hand there: their number, their costs (`lanes.cost_of`), the bytes of their
    answers with headers."""

    answers: int = 0
    failed: int = 0
    received: int = 0
    sent: int = 0
    short: int = 0
    short_cost: int = 0
    short_sent: int = 0

    @property
    def requests(self) -> int:
        """Requests that were answered, and messages of streams that have ended."""
        return self.answers + self.short

    @property
    def bytes_in(self) -> int:
        """Bytes of data of requests and streams."""
        return self.received + self.short_cost // 2 - HEADER_SIZE * self.short

    @property
    def bytes_out(self) -> int:
        """Bytes of data of their answers."""
        return self.sent + self.short_sent - HEADER_SIZE * self.short

    def answered(self, failed: bool) -> None:
        """A request was answered."""
        self.answers += 1
        self.failed += failed

    def add(self, other: "Tally") -> None:
        """Count what another one has counted, too."""
        self.answers += other.answers
        self.failed += other.failed
        self.received += other.received
        self.sent += other.sent
        self.short += other.short
        self.short_cost += other.short_cost
        self.short_sent += other.short_sent

    def with_all(self, others: Iterable["Tally"]) -> "Tally":
        """A new one: this one and the others together."""
        total = replace(self)
        for each in others:
            total.add(each)
        return total

    def rows(self) -> Rows:
        """Rows for the status of a device."""
        return [
            ("requests", self.requests),
            ("failed", self.failed),
            ("input-bytes", self.bytes_in),
            ("output-bytes", self.bytes_out),
        ]


class Latencies:
    """How long requests took from being accepted to being answered, by powers of two.

    counts[n]: requests that took less than 2 ** n nanoseconds, and not less than half of that.
    """

    __slots__ = ("counts", "nanoseconds")

    def __init__(self) -> None:
        self.counts = [0] * _BITS
        self.nanoseconds = 0
        """Of all of them together."""

    def note(self, nanoseconds: int, requests: int = 1) -> None:
        """So many requests took so long each."""
        self.counts[nanoseconds.bit_length()] += requests
        self.nanoseconds += nanoseconds * requests

    def below(self, bits: int) -> int:
        """Requests that took less than 2 ** bits nanoseconds."""
        return sum(self.counts[: bits + 1])
