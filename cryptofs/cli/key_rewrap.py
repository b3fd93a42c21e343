"""`cryptofs key rewrap`: seal files again under the newest version of a device's key."""

from pathlib import Path
from typing import BinaryIO, cast

import click

from ..client import Context, decrypt_pieces, encrypt_pieces
from ..client.files import newest_version
from ..errors import CryptofsError, InvalidValue, printable
from ..formats import sealed
from . import completing
from .files import mount_option
from .output import open_output
from .standard import complain, describe
from .streams import Stream


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, shell_complete=completing.files)
@click.option(
    "--device", required=True, metavar="NAME", shell_complete=completing.devices, help="The device that sealed them."
)
@mount_option
def rewrap(files: tuple[str, ...], device: str, where: Path | None) -> int:
    """Decrypt sealed FILEs and encrypt them under the newest version of the device's key.

    A file gets all its new content, or stays as it is. One that has the newest version already is left alone. Their
    plaintext never comes to the disk. The status is 1 if a file failed; the others are done.
    """
    with Context.of_device(device, mount=where) as context:
        if context.type != "aead":
            raise InvalidValue(f"device {device}: its files name no version of the key; only those of an aead do")
    failed = False
    for file in files:
        try:
            said = _rewrap(file, device, where)
        except (CryptofsError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            complain(why if printable(file) in why else f"{printable(file)}: {why}")
            failed = True
        else:
            click.echo(f"{printable(file)}: {said}")
    return int(failed)


def _rewrap(file: str, device: str, where: Path | None) -> str:
    stream = Stream(file, file, None)
    with (
        Context.of_device(device, mount=where) as opening,
        Context.of_device(device, mount=where) as sealing,
        stream.open_input() as reader,
    ):
        newest = newest_version(sealing)
        start = reader.read(sealed.HEADER_SIZE + sealed.VERSION_SIZE) or b""
        head = sealed.parse_head(start[: sealed.head_size(start)])
        # A device that names no version has only version 1, and its files have the head without one.
        if head.version == newest:
            return f"left alone: it has the newest version, {newest or 1}"
        reader.seek(0)
        pieces = encrypt_pieces(sealing, decrypt_pieces(opening, cast(BinaryIO, reader)))
        with open_output(stream) as writer:
            # Its own head says the version: a reload may just have brought another one.
            head = sealed.parse_head(first := next(pieces))
            writer.write(first)
            for piece in pieces:
                writer.write(piece)
        return f"now under version {head.version or 1}"
