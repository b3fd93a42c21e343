"""/dev/crypto: the sessions of cryptodev-linux, whoever brings their ioctls."""

from .numbers import Command
from .session import Allowance, Piece, Plan
from .sessions import Memory, Sessions

__all__ = ["Allowance", "Command", "Memory", "Piece", "Plan", "Sessions"]
