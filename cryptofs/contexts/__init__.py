"""Contexts: what one is (`context`), its requests, its control calls, its stream, and all of them (`table`)."""

from .context import Context
from .fast import FastWay
from .lanes import Call
from .phases import StreamUser
from .scheduler import Scheduler
from .stream import STREAM_BUFFER, Stream
from .table import CONTEXTS_MAX, ContextTable

__all__ = [
    "CONTEXTS_MAX",
    "STREAM_BUFFER",
    "Call",
    "Context",
    "ContextTable",
    "FastWay",
    "Scheduler",
    "Stream",
    "StreamUser",
]
