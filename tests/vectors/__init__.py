"""Published test vectors (NIST CAVP, RFCs) out of the package cryptography_vectors, in one form."""

from . import aeads, ciphers, digests
from .case import Case, MonteCarlo, Skips
from .digests import monte_carlo

FAMILIES: dict[str, ciphers.Loader] = ciphers.LOADERS | aeads.LOADERS | digests.LOADERS
"""Loaders by family; each gives its cases and tells what it left out."""

__all__ = ["FAMILIES", "Case", "MonteCarlo", "Skips", "load", "monte_carlo"]


def load(family: str) -> tuple[list[Case], Skips]:
    """All cases of a family, and what was left out."""
    skips = Skips()
    return list(FAMILIES[family](skips)), skips
