"""How many vectors were run, for the end of a test run."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Of one family on one engine. cases: vectors run as published; inverse: the same the other way round; parts: run
    again in parts; rejected: among the cases, those whose tag is wrong; skipped: not run, by reason."""

    engine: str
    family: str
    cases: int = 0
    inverse: int = 0
    parts: int = 0
    rejected: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """One line for people."""
        text = (
            f"{self.engine:8} {self.family:18} {self.cases:6} cases, {self.inverse:6} inverse, "
            f"{self.parts:5} in parts, {self.rejected:5} rejected, {self.failed} failed"
        )
        if self.skipped:
            text += f", {sum(self.skipped.values())} skipped"
        return text


COUNTS: list[Counts] = []
"""What the run has seen, in order."""


def record(engine: str, family: str) -> Counts:
    """A new row, which the caller fills."""
    counts = Counts(engine, family)
    COUNTS.append(counts)
    return counts


def summary_lines() -> list[str]:
    """A line for each family and engine, the sums, and why vectors were skipped; empty if none ran."""
    lines = [counts.line() for counts in COUNTS]
    for engine in sorted({counts.engine for counts in COUNTS}):
        rows = [counts for counts in COUNTS if counts.engine == engine]
        total = Counts(engine, f"{len(rows)} families")
        for counts in rows:
            total.cases += counts.cases
            total.inverse += counts.inverse
            total.parts += counts.parts
            total.rejected += counts.rejected
            total.failed += counts.failed
            total.skipped += counts.skipped
        lines.append(total.line())
        lines += [f"{engine:8} skipped {count:6}: {reason}" for reason, count in total.skipped.most_common()]
    return lines
