"""Published test vectors (NIST CAVP, RFCs, Wycheproof) out of two packages, in one form."""

from collections.abc import Iterator

from cryptofs.algorithms import look_up

from .case import Case, Item, Skip
from .table import CHAINS, KERNEL_ONLY, files_of
from .table import FAMILIES as ALL_FAMILIES

__all__ = ["ALL_FAMILIES", "FAMILIES", "Case", "items", "load"]

FAMILIES = [
    family
    for family in ALL_FAMILIES
    if family not in CHAINS and (family not in KERNEL_ONLY or look_up(*KERNEL_ONLY[family]) is not None)
]
"""Those of single messages with names of the catalogue: what a mount serves."""


def items(family: str) -> Iterator[tuple[str, Item]]:
    """Everything in the files of a family, each with its file."""
    for name, (path, loader) in files_of(family).items():
        for item in loader(path):
            yield name, item


def load(family: str) -> tuple[list[Case], int]:
    """The cases of a family that an open transform either answers as expected or refuses for its tag, and the number
    of all that were left out."""
    cases, left_out = [], 0
    for _, item in items(family):
        plain = isinstance(item, Case) and (item.valid or item.tag_is_wrong)
        if isinstance(item, Case) and plain and not item.acceptable and not item.offset:
            cases.append(item)
        else:
            left_out += item.count if isinstance(item, Skip) else 1
    return cases, left_out
