"""`devices/<name>/`: contexts that are configured already, with a key that the program cannot read."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ..algorithms import format_rows
from ..contexts import ContextTable
from ..devices import Device
from ..errors import InvalidValue, NoSuchTarget, NotPermitted, StreamTooLong
from ..records import OPERATIONS, Operation
from .base import (
    BIG_PIECES,
    Caller,
    Directory,
    Entry,
    File,
    Handle,
    Node,
    Owner,
    StaticDirectory,
    TextFile,
    access_mode,
    missing,
    numbered,
)
from .crypto import CryptoHandle
from .stream import StreamHandle

DEVICE_STREAM = 16 * 1024 * 1024
"""Bytes of output that a device's stream file holds for the program that writes it, before that program reads."""
FIRST_DEVICE = 1 << 20  # The inode of a file with one inode for each user has 30 bits.
_PER_DEVICE = 16
_CRYPTO, _STATUS, _FIRST_STREAM = 1, 2, 3
_STREAMS = tuple(operation for operation in Operation if operation.row.device_file)


@dataclass(frozen=True, kw_only=True)
class DeviceFile(File):
    """A file of a device. The kernel checks owner and mode. For a file that only its owner may use, this checks
    again."""

    table: ContextTable
    device: Device
    # Not cached by the kernel, because a reload may change owner and mode.
    timeout: float = 0.0
    block_size: int = BIG_PIECES
    own: bool = True

    def concerns(self) -> dict[str, str | int]:
        settings = self.device.settings
        return {"device": settings.name, "type": settings.type, "name": settings.algorithm}

    def check(self, caller: Caller) -> None:
        """Errors: NotPermitted, NoSuchTarget for a device that was retired in the meantime."""
        settings = self.device.settings
        if self.table.devices.get(settings.name) is not self.device:
            raise NoSuchTarget(f"device {settings.name}: removed or changed; open it again")
        if not settings.mode & 0o077 and caller.uid not in (0, settings.uid):
            raise NotPermitted(f"device {settings.name}: uid {caller.uid} may not open it")


@dataclass(frozen=True, kw_only=True)
class DeviceCryptoFile(DeviceFile):
    """`crypto`: records, as in the mount's own `crypto`."""

    def open(self, flags: int, caller: Caller) -> Handle:
        self.check(caller)
        context = self.table.open_device(self.device, caller.uid, caller.gid, caller.pid, bool(flags & os.O_NONBLOCK))
        return CryptoHandle(self.table, context)


class DeviceStreamHandle(StreamHandle):
    """One open of a stream file: a separate message in a separate context."""

    def __init__(self, table: ContextTable, device: Device, operation: Operation, flags: int, caller: Caller) -> None:
        self._table = table
        context = table.open_device(
            device, caller.uid, caller.gid, caller.pid, bool(flags & os.O_NONBLOCK), as_stream=True
        )
        try:
            stream = context.open_stream(DEVICE_STREAM)
            stream.set_parameters(operation, None, None)
            super().__init__(context, stream, flags)
        except BaseException:
            table.close(context)
            raise

    def _check_reader(self) -> None:
        if self._stream.is_full and self._stream.is_alone(self._user):
            error = StreamTooLong(
                f"{DEVICE_STREAM} bytes of output wait, and this descriptor is the only one that could read them: "
                "use `cryptofs encrypt --device`, or records"
            )
            self._stream.give_up(error)
            raise error

    def close(self) -> None:
        super().close()
        self._table.close(self._context)


@dataclass(frozen=True, kw_only=True)
class DeviceStreamFile(DeviceFile):
    """`encrypt`, `decrypt`, `digest`: bytes in, then bytes out, on one descriptor."""

    operation: Operation

    def open(self, flags: int, caller: Caller) -> Handle:
        self.check(caller)
        self.device.allow(self.operation)
        if access_mode(flags) != (True, True):
            raise InvalidValue(
                f"{self.operation.word} of device {self.device.settings.name}: open it for reading and writing "
                "(`exec 3<>` in a shell): each open is a message of its own"
            )
        return DeviceStreamHandle(self.table, self.device, self.operation, flags, caller)


def _status(table: ContextTable, device: Device) -> str:
    return device.status() + format_rows(table.device_tally(device.settings.name).rows())


class DeviceNodes:
    """The nodes of all devices.

    A device that is declared again gets new inodes, so that access by the old mode does not open the new device.
    """

    def __init__(self, table: ContextTable, owner: Owner) -> None:
        self._table = table
        self._owner = owner
        self._devices: dict[int, Device] = {}
        self._last = 0

    def get(self, inode: int) -> Node | None:
        """The node with this inode, or None."""
        number = (inode - FIRST_DEVICE) // _PER_DEVICE
        device = self._devices.get(number)
        if device is None or not self._is_open(device):
            return None
        directory = self._directory(number, device)
        return {node.inode: node for node in (directory, *directory.children.values())}.get(inode)

    def directory(self, name: str) -> Node:
        """The directory of a device. Errors: NoSuchTarget."""
        device = self._table.devices.get(name)
        if device is None:
            raise missing(name)
        return self._directory(self._number(device), device)

    def directories(self) -> list[tuple[str, Node]]:
        """All devices; their names are not secret."""
        return [(name, self.directory(name)) for name in sorted(self._table.devices)]

    def _is_open(self, device: Device) -> bool:
        return self._table.devices.get(device.settings.name) is device

    def _number(self, device: Device) -> int:
        for number, each in self._devices.items():
            if each is device:
                return number
        self._devices = {number: each for number, each in self._devices.items() if self._is_open(each)}
        self._last += 1
        self._devices[self._last] = device
        return self._last

    def _directory(self, number: int, device: Device) -> StaticDirectory:
        settings = device.settings
        first = FIRST_DEVICE + number * _PER_DEVICE
        owner = Owner(settings.uid, settings.gid)
        mode = stat.S_IFREG | settings.mode
        files: dict[str, Node] = {
            "crypto": DeviceCryptoFile(inode=first + _CRYPTO, mode=mode, owner=owner, table=self._table, device=device),
            "status": TextFile(
                inode=first + _STATUS,
                mode=mode & ~0o333,
                owner=owner,
                timeout=0.0,
                changes=True,
                own=True,
                make=partial(_status, self._table, device),
            ),
        }
        for index, operation in enumerate(_STREAMS):
            if operation in OPERATIONS[settings.type] and device.has_streams:
                files[operation.word] = DeviceStreamFile(
                    inode=first + _FIRST_STREAM + index,
                    mode=mode,
                    owner=owner,
                    table=self._table,
                    device=device,
                    operation=operation,
                )
        return StaticDirectory(inode=first, owner=self._owner, timeout=0.0, children=files)


@dataclass(frozen=True, kw_only=True)
class DevicesDirectory(Directory):
    """`devices`."""

    nodes: DeviceNodes

    def lookup(self, name: str, caller: Caller) -> Node:
        return self.nodes.directory(name)

    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        return numbered(self.nodes.directories(), after)
