"""Contexts: what one is (`context`), its requests, its control calls, its stream, and all of them (`table`)."""

from .batch import MANY, Batch
from .context import Context
from .fast import FastWay
from .lanes import Call
from .phases import StreamUser
from .scheduler import Scheduler, Turns
from .stream import STREAM_BUFFER, Stream
from .table import CONTEXTS_MAX, ContextTable

__all__ = [
    "CONTEXTS_MAX",
    "MANY",
    "STREAM_BUFFER",
    "Batch",
    "Call",
    "Context",
    "ContextTable",
    "FastWay",
    "Scheduler",
    "Stream",
    "StreamUser",
    "Turns",
]
