"""Contexts: one transform each (`context`), its calls (`control`), its stream (`stream`), all of them (`table`)."""

from .context import Context
from .device import Device, DeviceSettings
from .nonces import MESSAGES_MAX
from .stream import STREAM_BUFFER, Stream, StreamUser
from .table import CONTEXTS_MAX, ContextTable
from .workers import Workers

__all__ = [
    "CONTEXTS_MAX",
    "MESSAGES_MAX",
    "STREAM_BUFFER",
    "Context",
    "ContextTable",
    "Device",
    "DeviceSettings",
    "Stream",
    "StreamUser",
    "Workers",
]
