"""What users may do (`rules`), what they hold (`ledger`), and the trail of what they did (`audit`)."""

from .ledger import Account, Accounts
from .rules import BURST, CONTEXTS_PER_USER, EVERYTHING, Policy, Rule

__all__ = [
    "BURST",
    "CONTEXTS_PER_USER",
    "EVERYTHING",
    "Account",
    "Accounts",
    "Policy",
    "Rule",
]
