"""Engines: what they offer (`base`), how messages in parts behave (`kinds`), and the engines themselves."""

from collections.abc import Callable, Sequence

from ..errors import NotOffered
from .base import Engine

# Each engine is imported when it is opened: `cryptofs algorithms` needs none of them, and they load for 0.2 s.


def _af_alg() -> Engine:
    from .af_alg import AfAlgEngine

    return AfAlgEngine()


def _openssl() -> Engine:
    from .openssl import OpensslEngine

    return OpensslEngine()


def _library() -> Engine:
    from .codecs import LibraryEngine

    return LibraryEngine()


def _keyctl() -> Engine:
    from .keyctl import KeyctlEngine

    return KeyctlEngine()


# The default order in which they are asked.
ENGINES: dict[str, Callable[[], Engine]] = {
    "af_alg": _af_alg,
    "openssl": _openssl,
    "library": _library,
    "keyctl": _keyctl,
}


def check_engines(names: Sequence[str]) -> tuple[str, ...]:
    """The names as given. Errors: NotOffered naming the existing ones."""
    for name in names:
        if name not in ENGINES:
            raise NotOffered(f"engine {name!r}: one of {', '.join(ENGINES)}")
    if not names:
        raise NotOffered(f"no engine given: one or more of {', '.join(ENGINES)}")
    return tuple(names)


def open_engines(names: Sequence[str] = tuple(ENGINES)) -> tuple[Engine, ...]:
    """The engines by name, in this order. Errors: NotOffered naming the existing ones."""
    return tuple(ENGINES[name]() for name in check_engines(names))
