"""What the tests of devices' streams share: a mount with devices of their own, and devices without a mount."""

import os
from pathlib import Path

from cryptofs.algorithms import Type
from cryptofs.contexts import Context, ContextTable
from cryptofs.devices import Device, DeviceSettings
from cryptofs.engines.opening import open_engines
from cryptofs.policy import Policy, Rule
from cryptofs.records import Operation

OPENSSL = open_engines(("openssl",))


def open_stream(mount: Path, device: str, word: str, flags: int = 0) -> int:
    """A descriptor of a stream file."""
    return os.open(mount / "devices" / device / word, os.O_RDWR | os.O_CLOEXEC | flags)


def newest(mount: Path) -> Path:
    """The directory of the context that was opened last."""
    return mount / "contexts" / max((each.name for each in (mount / "contexts").iterdir()), key=int)


def read_all(descriptor: int) -> bytes:
    """To the end of file, once."""
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def device_of(type_: Type, name: str, key: bytes, operations: set[Operation], caller_nonce: bool = False) -> Device:
    """OpenSSL's, without a mount."""
    description = OPENSSL[0].describe(type_, name)
    assert description is not None
    transform = OPENSSL[0].open(description, None)
    transform.set_key(key)
    return Device(
        DeviceSettings("d", type_, name, frozenset(operations), 1000, caller_nonce=caller_nonce), {1: transform}
    )


def context_of(device: Device, rule: Rule | None = None, as_stream: bool = True) -> Context:
    """A context of a device, in a table of its own."""
    table = ContextTable(OPENSSL, policy=Policy(rule or Rule()))
    table.devices = {device.settings.name: device}
    return table.open_device(device, 1000, 1000, 1, False, as_stream=as_stream)
