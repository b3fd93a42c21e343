"""`stats`: figures in Prometheus' text format.

prometheus_client makes the text (`figures`). It loads in 40 ms, which no start and no client should wait for, so a
thread loads it when the mount is there. A daemon that becomes another user loads it before.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field

from ..contexts import ContextTable
from ..devices import Device
from ..policy.rules import supplementary_groups
from .base import READ_ONLY, Caller, File, Handle, open_text

_FRESH = 0.1
"""Seconds for which the size of a text says that of the next one: a program asks for it before and after an open."""


@dataclass
class LastReload:
    """When the configuration was last loaded, by the time of day, and whether that went well. The start counts."""

    at: float = field(default_factory=time.time)
    successful: bool = True

    def note(self, successful: bool) -> None:
        """The configuration was loaded again, or that was refused."""
        self.at, self.successful = time.time(), successful


def preload() -> None:
    """Load what the first reading needs. If that fails, as without a free descriptor, the first reading tries again."""
    with contextlib.suppress(OSError, ImportError):
        from .figures import Figures  # noqa: F401


def may_see(device: Device, caller: Caller) -> bool:
    """Whether a caller may read a device's `status`, and so its figures here: as the kernel decides by its mode."""
    settings = device.settings
    if caller.uid in (0, os.geteuid()):
        return True
    if caller.uid == settings.uid:
        return bool(settings.mode & 0o400)
    if settings.mode & 0o040 == (settings.mode & 0o004) << 3:
        return bool(settings.mode & 0o004)
    is_member = caller.gid == settings.gid or settings.gid in supplementary_groups(caller.pid)
    return bool(settings.mode & (0o040 if is_member else 0o004))


@dataclass(frozen=True, kw_only=True)
class StatsFile(File):
    """The file. What concerns a device is in it for those who may read the device's `status`."""

    table: ContextTable
    reload: LastReload
    started: float
    """By `time.monotonic`."""
    mode: int = READ_ONLY
    changes: bool = True
    own: bool = True
    _sizes: dict[tuple[str, ...], tuple[float, int]] = field(default_factory=dict)
    """The size of the newest text, by the devices in it; only one is kept."""

    def size(self, caller: Caller) -> int:
        seen = self._seen(caller)
        made = self._sizes.get(tuple(device.settings.name for device in seen))
        if made is not None and time.monotonic() - made[0] < _FRESH:
            return made[1]
        return len(self._text(seen).encode())

    def open(self, flags: int, caller: Caller) -> Handle:
        return open_text(lambda: self._text(self._seen(caller)), flags)

    def _seen(self, caller: Caller) -> list[Device]:
        devices = self.table.devices
        return [devices[name] for name in sorted(devices) if may_see(devices[name], caller)]

    def _text(self, seen: list[Device]) -> str:
        from .figures import Figures

        now = time.monotonic()
        text = Figures(self.table, seen, now - self.started, self.reload.at, self.reload.successful).text()
        self._sizes.clear()
        self._sizes[tuple(device.settings.name for device in seen)] = now, len(text.encode())
        return text
