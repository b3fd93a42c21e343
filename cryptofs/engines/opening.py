"""Opening engines by their names."""

from collections.abc import Callable, Sequence

from . import NAMES, check_engines
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


ENGINES: dict[str, Callable[[], Engine]] = dict(zip(NAMES, (_af_alg, _openssl, _library, _keyctl), strict=True))


def open_engines(names: Sequence[str] = NAMES) -> tuple[Engine, ...]:
    """The engines by name, in this order. Errors: NotOffered naming the existing ones."""
    return tuple(ENGINES[name]() for name in check_engines(names, ENGINES))
