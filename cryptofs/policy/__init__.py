"""The permissions of users (`rules`), what they hold (`ledger`), and the trail of their actions (`audit`)."""

from .ledger import Bound, Ledger, Queue, Thing, Usage
from .rules import BURST, CONTEXTS_PER_USER, HANDLES_PER_USER, Policy, Rule

__all__ = [
    "BURST",
    "CONTEXTS_PER_USER",
    "HANDLES_PER_USER",
    "Bound",
    "Ledger",
    "Policy",
    "Queue",
    "Rule",
    "Thing",
    "Usage",
]
