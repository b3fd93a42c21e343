"""`encrypt` and `decrypt` with --device: a file of any length through a device's records, many in flight.

The result has the format of the device's stream files, so each can open the other's; see docs/devices.md.
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
    """Decrypt `source` into `sink`; a segment is written only after its tag was verified."""
    with Context.of_device(device, mount=where) as context:
        decrypt_file(context, parts(source, sink=sink), sink)
