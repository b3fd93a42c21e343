"""Measure everything in several passes, so that each figure is repeated minutes later.

A machine has phases: for a while its clock is slow, or waking a processor takes long. Within a phase a ratio looks
steady, and in the next phase it is different. Figures of one pass alone would not show that.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

PASSES_LEAST = 2
PASSES_MOST = 8


class Noisy(Protocol):
    """A row or a result that knows whether the next run would probably change it."""

    @property
    def noisy(self) -> bool:
        """Whether its two halves differ too much."""


Measured = TypeVar("Measured", bound=Noisy)
Stage = tuple[str, Callable[[], Iterable[Measured]]]
"""A part of the measurements: its name, and a function that measures once more and returns the rows of all passes."""


def in_passes(stages: Sequence[Stage[Measured]], results: dict[str, list[Measured]]) -> Iterator[tuple[str, int]]:
    """Measure each stage PASSES_LEAST times, and noisy stages up to PASSES_MOST times.

    Before each measurement it yields the stage's name and the number of stages left in this pass. `results` gets the
    newest rows of each stage, in the order of the stages.
    """
    for number in range(PASSES_MOST):
        again = number >= PASSES_LEAST
        due = [stage for stage in stages if not again or any(result.noisy for result in results[stage[0]])]
        for done, (name, measure) in enumerate(due):
            yield name, len(due) - done
            results[name] = list(measure())
