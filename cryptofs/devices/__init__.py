"""Devices: their settings and keys (`device`), a context's view of one (`transform`), and their files (`streams`)."""

from .comparing import fingerprint, same_keys
from .counts import Counts
from .device import Device, DeviceSettings
from .nonces import MESSAGES_MAX
from .streams import StreamTransform
from .transform import DeviceTransform

__all__ = [
    "MESSAGES_MAX",
    "Counts",
    "Device",
    "DeviceSettings",
    "DeviceTransform",
    "StreamTransform",
    "fingerprint",
    "same_keys",
]
