"""Engines: what they offer (`base`), how messages in parts behave (`kinds`), the engines themselves, and `opening`."""

from collections.abc import Collection, Sequence

from ..errors import NotOffered

# This module imports no engine, and not even their interface: `cryptofs run` checks names before its program starts.

NAMES = ("af_alg", "openssl", "library", "keyctl")
"""The engines, in the default order in which they are asked."""


def check_engines(names: Sequence[str], known: Collection[str] = NAMES) -> tuple[str, ...]:
    """The names as given. Errors: NotOffered naming the existing ones."""
    for name in names:
        if name not in known:
            raise NotOffered(f"engine {name!r}: one of {', '.join(known)}")
    if not names:
        raise NotOffered(f"no engine given: one or more of {', '.join(known)}")
    return tuple(names)


def parse_engines(text: str, known: Collection[str] = NAMES) -> tuple[str, ...]:
    """The names in a text with commas. Errors: NotOffered naming the existing ones."""
    return check_engines([name.strip() for name in text.split(",") if name.strip()], known)
