"""`encrypt` and `decrypt` with --device: a file of any length through a device's records, many in flight.

The result is what the device's stream files make, so either opens the other's; docs/devices.md has the formats.
"""

from pathlib import Path
from typing import IO

from ..client import Context, decrypt_file, encrypt_file
from .pieces import parts


def encrypt(device: str, where: Path | None, source: IO[bytes], sink: IO[bytes]) -> None:
    """Encrypt `source` into `sink`."""
    with Context.of_device(device, mount=where) as context:
        encrypt_file(context, parts(source, sink=sink), sink)


def decrypt(device: str, where: Path | None, source: IO[bytes], sink: IO[bytes]) -> None:
    """Decrypt `source` into `sink`; nothing of a segment is written before its tag was found right."""
    with Context.of_device(device, mount=where) as context:
        decrypt_file(context, parts(source, sink=sink), sink)
