"""Contexts: one transform each (`context`), its calls (`control`), its stream (`stream`), all of them (`table`)."""

from .context import Context
from .stream import STREAM_BUFFER, Stream, StreamUser
from .table import CONTEXTS_MAX, CONTEXTS_PER_USER, ContextTable
from .workers import Workers

__all__ = [
    "CONTEXTS_MAX",
    "CONTEXTS_PER_USER",
    "STREAM_BUFFER",
    "Context",
    "ContextTable",
    "Stream",
    "StreamUser",
    "Workers",
]
