"""Contexts: one transform each (`context`), its calls (`control`), its stream (`stream`), all of them (`table`)."""

from ..exchange import Call
from .comparing import same_key
from .context import Context
from .device import Device, DeviceSettings, device_operations
from .nonces import MESSAGES_MAX
from .steps import StreamUser
from .stream import STREAM_BUFFER, Stream
from .table import CONTEXTS_MAX, ContextTable
from .workers import Workers

__all__ = [
    "CONTEXTS_MAX",
    "MESSAGES_MAX",
    "STREAM_BUFFER",
    "Call",
    "Context",
    "ContextTable",
    "Device",
    "DeviceSettings",
    "Stream",
    "StreamUser",
    "Workers",
    "device_operations",
    "same_key",
]
