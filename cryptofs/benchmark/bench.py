"""What every run measures on: the floors, and a daemon for each engine, with the times that were taken so far."""

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from typing import Self

from . import mounts
from .mounts import CannotMeasure, Mount
from .passes import PASSES_LEAST
from .turns import TURN_SECONDS, Comparison, Turn, alternate


class Bench:
    """Separate mounts that exist as long as the object's `with`.

    seconds: for each comparison, in PASSES_LEAST passes. Errors on entering: CannotMeasure if a mount is not available.
    """

    empty: Mount
    ours: Mount
    """Of the engine openssl."""
    bare: Mount | None = None
    no_bare = ""
    """Why there is no bare loop."""
    kernel: Mount | None = None
    """Of AF_ALG, if this kernel has it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stack = ExitStack()
        self._comparisons: dict[Hashable, Comparison] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.make_mounts(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def make_mounts(self, stack: ExitStack) -> None:
        """Make all mounts, and remove them with the stack."""
        self.empty = stack.enter_context(mounts.empty_mount())
        self.ours = stack.enter_context(mounts.cryptofs_mount("openssl"))
        try:
            self.bare = stack.enter_context(mounts.bare_mount())
        except CannotMeasure as error:
            self.no_bare = str(error)
        if mounts.has_af_alg():
            self.kernel = stack.enter_context(mounts.cryptofs_mount("af_alg"))

    def alternate(
        self, key: Hashable, turns: Sequence[Turn], turn_seconds: float = TURN_SECONDS, times: int = 1
    ) -> Comparison:
        """One more pass of a comparison, which has the rounds of all passes so far. times: how much longer than
        others."""
        comparison = self._comparisons.setdefault(key, Comparison())
        alternate(comparison, turns, times * self._seconds / PASSES_LEAST, turn_seconds)
        return comparison
