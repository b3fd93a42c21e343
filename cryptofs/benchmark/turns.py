"""Compare operations in turns, so that a change of the machine affects all of them.

One figure alone says little: the clock, the host and the neighbours change it by a factor of two within seconds. Two
figures from within about ten milliseconds share these conditions, so we keep their ratio.
"""

import contextlib
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

Call = Callable[[], object]
Turn = Callable[[float], float]
"""A turn lasts about this many seconds, and returns the seconds that one operation took."""

TURN_SECONDS = 0.005
"""Length of a turn of a quick call: long enough to be warm, short enough that the machine does not change."""
ROUNDS_LEAST = 5
NOISY = 0.15
"""Allowed difference between the two halves of a comparison."""


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, of all rounds and of the first and the second half of them."""

    all: float
    first: float
    second: float

    @property
    def noisy(self) -> bool:
        """Whether the halves differ by more than NOISY: the next run would probably give another figure."""
        low, high = sorted((self.first, self.second))
        return high > low * (1 + NOISY)


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """The figure of the rounds' ratios, in the order in which they were taken; at least two."""
    half = len(ratios) // 2
    median = statistics.median
    return Ratio(median(ratios), median(ratios[:half]), median(ratios[half:]))


@dataclass
class Comparison:
    """The times of each operation in each round: `rounds[number][operation]` in seconds."""

    rounds: list[list[float]] = field(default_factory=list)

    def seconds(self, operation: int) -> float:
        """The median of an operation's turns."""
        return statistics.median(times[operation] for times in self.rounds)

    def ratio(self, one: int, other: int) -> Ratio:
        """One operation's time to another's, round by round."""
        return ratio_of([times[one] / times[other] for times in self.rounds])


def timed(call: Call) -> Turn:
    """Turns of a call: each returns the median time of the calls that fit, at least three.

    The first call of a turn does not count. At that time the caches have the data of the operation before, and the
    process that answers is asleep.
    """

    def turn(seconds: float) -> float:
        clock = time.perf_counter
        call()
        times = []
        end = clock() + seconds
        while True:
            begin = clock()
            call()
            now = clock()
            times.append(now - begin)
            if now > end and len(times) >= 3:
                return statistics.median(times)

    return turn


def alternate(
    comparison: Comparison, turns: Sequence[Turn], seconds: float, turn_seconds: float = TURN_SECONDS
) -> None:
    """Add rounds to a comparison, for about `seconds`, and at least ROUNDS_LEAST.

    Each round has one turn of each operation in random order, so that none always follows the same neighbour.
    """
    shuffle = random.Random(len(comparison.rounds))
    with undisturbed():
        end = time.perf_counter() + seconds
        enough = len(comparison.rounds) + ROUNDS_LEAST
        while len(comparison.rounds) < enough or time.perf_counter() < end:
            times = [0.0] * len(turns)
            for operation in shuffle.sample(range(len(turns)), len(turns)):
                times[operation] = turns[operation](turn_seconds)
            comparison.rounds.append(times)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep this process's garbage collector out of the measurement."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def percentile(times: Sequence[float], share: float) -> float:
    """The time within which `share` of the calls end."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def times_of(call: Call, seconds: float) -> list[float]:
    """The time of each call that fits into this many seconds, at least one."""
    clock = time.perf_counter
    times: list[float] = []
    end = clock() + seconds
    while not times or clock() < end:
        begin = clock()
        call()
        times.append(clock() - begin)
    return times
