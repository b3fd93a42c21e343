"""The result of a measured goal: its figure, the bound, and whether it holds."""

from dataclasses import dataclass

from .turns import Comparison, Ratio


@dataclass(frozen=True)
class Result:
    """One goal's figure.

    figure None: not measured; `detail` has the reason. halves: the figures of the first and the second half of the
    time, if measured in turns. bound None: for information, not a goal.
    """

    name: str
    bound: float | None
    at_most: bool
    figure: float | None
    halves: tuple[float, float] | None
    noisy: bool
    detail: str

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached. None: not measured, not a goal, or so noisy that the halves disagree."""
        if self.figure is None or self.bound is None:
            return None
        bound = self.bound
        figures = (self.figure, *self.halves) if self.noisy and self.halves else (self.figure,)
        kept = [figure <= bound if self.at_most else figure >= bound for figure in figures]
        return kept[0] if len(set(kept)) == 1 else None

    @property
    def wanted(self) -> str:
        """The bound, in people's notation."""
        return "" if self.bound is None else f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    @property
    def verdict(self) -> str:
        """The result in one to three words."""
        if self.figure is None:
            return "NOT MEASURED"
        word = {True: "yes", False: "NO", None: "undecided"}[self.holds] if self.bound is not None else ""
        return f"{word} noisy".strip() if self.noisy else word


@dataclass(frozen=True)
class Goal:
    """A row of the table of goals, before it is measured."""

    name: str
    bound: float | None
    at_most: bool

    def by_time(self, comparison: Comparison, pair: tuple[int, int]) -> Result:
        """The ratio of one operation's time to another's."""
        one, other = (f"{comparison.seconds(operation) * 1e6:,.1f} us" for operation in pair)
        return self._by_ratio(comparison.ratio(*pair), f"{one} to {other}")

    def by_rate(self, comparison: Comparison, amount: float, unit: str) -> Result:
        """The ratio of operation 0's rate to operation 1's, if each handles `amount` of the unit in one call."""
        rates = (amount / comparison.seconds(operation) for operation in (0, 1))
        ours, floor = (f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}" for rate in rates)
        return self._by_ratio(comparison.ratio(1, 0), f"{ours} to {floor} {unit}")

    def _by_ratio(self, ratio: Ratio, detail: str) -> Result:
        halves = (ratio.first, ratio.second)
        return Result(self.name, self.bound, self.at_most, ratio.all, halves, ratio.noisy, detail)

    def by_figure(self, figure: float, detail: str) -> Result:
        """The result of something that was counted, not compared."""
        return Result(self.name, self.bound, self.at_most, figure, None, False, detail)

    def not_measured(self, why: str) -> Result:
        """The result if this machine or this run cannot measure it."""
        return Result(self.name, self.bound, self.at_most, None, None, False, why)


def at_most(name: str, bound: float) -> Goal:
    """A goal: the figure is at most the bound."""
    return Goal(name, bound, True)


def at_least(name: str, bound: float) -> Goal:
    """A goal: the figure is at least the bound."""
    return Goal(name, bound, False)


def told(name: str) -> Goal:
    """A figure for information."""
    return Goal(name, None, True)
