"""Contexts: one transform each (`context`), its calls (`control`), its stream (`stream`), all of them (`table`)."""

from .context import Context
from .lanes import Call
from .scheduler import Workers
from .steps import StreamUser
from .stream import STREAM_BUFFER, Stream
from .table import CONTEXTS_MAX, ContextTable

__all__ = [
    "CONTEXTS_MAX",
    "STREAM_BUFFER",
    "Call",
    "Context",
    "ContextTable",
    "Stream",
    "StreamUser",
    "Workers",
]
