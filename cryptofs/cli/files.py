"""`cryptofs hash`, `encrypt`, `decrypt`, `seal` and `open`: files through a mount.

Keys come from a file or a descriptor, never from an argument. Formats are in docs/command-line.md.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from ..client import Context
from ..errors import InvalidValue
from ..records import Operation
from . import sealing
from .keys import key_options, read_key

PART = 512 * 1024
"""Bytes of a file that go into one request."""

mount_option = click.option(
    "--mount", "where", type=click.Path(path_type=Path), help="The mount to use; the first found if not given."
)
input_option = click.option(
    "-i", "--in", "source", type=click.File("rb"), default="-", help="Input file; standard input if not given."
)
output_option = click.option(
    "-O", "--out", "sink", type=click.File("wb"), default="-", help="Output file; standard output if not given."
)


def parts(source: IO[bytes], size: int = PART) -> Iterator[bytes]:
    """The pieces of a file, each `size` bytes but the last, with a progress bar where a person waits for it."""
    with _progress(source) as advance:
        while piece := _read_full(source, size):
            yield piece
            advance(len(piece))
            if len(piece) < size:
                return


def _read_full(source: IO[bytes], size: int) -> bytes:
    pieces = []
    while size > 0 and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


@contextmanager
def _progress(source: IO[bytes]) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    if not console.is_terminal or sys.stdout.isatty():
        yield lambda size: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=_size(source))
        yield lambda size: progress.advance(task, size)


def _size(source: IO[bytes]) -> int | None:
    try:
        path = Path(source.name)
        return path.stat().st_size if path.is_file() else None
    except (OSError, TypeError, ValueError, AttributeError):
        return None


@click.command("hash")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-n", "--name", default="sha256", show_default=True, help="Hash, in the kernel's terms: sha256, hmac(sha256), …"
)
@key_options(required=False)
@mount_option
def hash_(files: tuple[Path, ...], name: str, where: Path | None, **key: Any) -> None:
    """Print the digest of each of FILES (or of standard input) as sha256sum does."""
    with Context("hash", name, read_key(**key), mount=where) as context:
        for path in files or (Path("-"),):
            with click.open_file(str(path), "rb") as source:
                message = context.message(Operation.DIGEST)
                for piece in parts(source):
                    message.update(piece)
                click.echo(f"{message.finish().hex()}  {path}")


def _iv_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "The IV in hexadecimal. Without it, one is made and put before the output, and read from there."
    return click.option("--iv", metavar="HEX", help=text)(function)


def _padding_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "Padding for modes that take whole blocks (ecb, cbc), as `openssl enc` has it."
    choice = click.Choice(["pkcs7", "none"])
    return click.option("--padding", type=choice, default="pkcs7", show_default=True, help=text)(function)


_cipher_name = click.option(
    "-n", "--name", default="ctr(aes)", show_default=True, help="Cipher, in the kernel's terms."
)


def _cipher_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What encrypt and decrypt take."""
    for option in (
        mount_option,
        output_option,
        input_option,
        _padding_option,
        _iv_option,
        key_options(required=True),
        _cipher_name,
    ):
        function = option(function)
    return function


def _parse_iv(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidValue(f"iv {text!r}: an even number of hexadecimal digits") from None


@click.command()
@_cipher_options
def encrypt(
    name: str, iv: str | None, padding: str, source: BinaryIO, sink: BinaryIO, where: Path | None, **key: Any
) -> None:
    """Encrypt a file with a skcipher. Nothing notices a change of the result: `seal` does that."""
    with Context("skcipher", name, read_key(**key), mount=where) as context:
        vector = _parse_iv(iv) if iv is not None else None
        if vector is None and context.iv_size:
            vector = _random(context.iv_size, where)
            sink.write(vector)
        message = context.message(Operation.ENCRYPT, vector)
        pad = context.block_size if padding == "pkcs7" and context.block_size > 1 else 0
        total = 0
        for piece in parts(source):
            total += len(piece)
            sink.write(message.update(piece))
        filler = pad - total % pad if pad else 0
        sink.write(message.finish(bytes([filler]) * filler))
        sink.flush()


@click.command()
@_cipher_options
def decrypt(
    name: str, iv: str | None, padding: str, source: BinaryIO, sink: BinaryIO, where: Path | None, **key: Any
) -> None:
    """Decrypt what `encrypt` or `openssl enc` made."""
    with Context("skcipher", name, read_key(**key), mount=where) as context:
        vector = _parse_iv(iv) if iv is not None else None
        if vector is None and context.iv_size:
            vector = _read_full(source, context.iv_size)
            if len(vector) < context.iv_size:
                raise InvalidValue(f"input of {len(vector)} bytes: it begins with an iv of {context.iv_size}")
        message = context.message(Operation.DECRYPT, vector)
        padded = padding == "pkcs7" and context.block_size > 1
        # the last block is held back: only at the end is it known to be the padding
        held = b""
        for piece in parts(source):
            held += message.update(piece)
            keep = context.block_size if padded else 0
            sink.write(held[: len(held) - keep])
            held = held[len(held) - keep :]
        held += message.finish()
        sink.write(_unpad(held, context.block_size) if padded else held)
        sink.flush()


def _unpad(block: bytes, size: int) -> bytes:
    count = block[-1] if block else 0
    if not 1 <= count <= size or len(block) < count or block[-count:] != bytes([count]) * count:
        raise InvalidValue("padding: not what encryption with pkcs7 leaves; wrong key, iv or name?")
    return block[:-count]


def _random(size: int, where: Path | None) -> bytes:
    with Context("rng", "stdrng", mount=where) as rng:
        return rng.generate(size)


_aead = click.option(
    "-n", "--name", default="gcm(aes)", show_default=True, type=click.Choice(sealing.NAMES), help="AEAD to seal with."
)


@click.command()
@_aead
@key_options(required=True)
@input_option
@output_option
@mount_option
def seal(name: str, source: BinaryIO, sink: BinaryIO, where: Path | None, **key: Any) -> None:
    """Encrypt and authenticate a file of any length; `open` refuses what was changed, cut or reordered."""
    salt = _random(sealing.SALT_SIZE, where)
    with sealing.open_context(name, read_key(**key), salt, where) as context:
        for piece in sealing.seal(context, name, salt, parts(source, sealing.SEGMENT)):
            sink.write(piece)
        sink.flush()


@click.command("open")
@key_options(required=True)
@input_option
@output_option
@mount_option
def open_(source: BinaryIO, sink: BinaryIO, where: Path | None, **key: Any) -> None:
    """Decrypt what `seal` made. Nothing of a segment is written before its tag was found right."""
    name, salt = sealing.parse_header(_read_full(source, sealing.HEADER_SIZE))
    with sealing.open_context(name, read_key(**key), salt, where) as context:
        for piece in sealing.unseal(context, name, salt, parts(source, sealing.SEGMENT + sealing.TAG_SIZE)):
            sink.write(piece)
        sink.flush()
