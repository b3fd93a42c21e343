"""`cryptofs encrypt`, `decrypt`, `seal` and `open`: files through a mount.

Keys come from a file or a descriptor, never from an argument. Formats are in docs/command-line.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click
from click.core import ParameterSource

from ..client import Context
from ..errors import InvalidValue
from ..records import Operation
from . import device as through
from . import sealing
from .keys import key_options, read_key
from .pieces import parts, read_full

mount_option = click.option(
    "--mount", "where", type=click.Path(path_type=Path), help="The mount to use; the first found if not given."
)
input_option = click.option(
    "-i", "--in", "source", type=click.File("rb"), default="-", help="Input file; standard input if not given."
)
output_option = click.option(
    "-O", "--out", "sink", type=click.File("wb"), default="-", help="Output file; standard output if not given."
)

device_option = click.option("--device", metavar="NAME", help="Use this device of the mount, whose key nobody reads.")


def check_alone(*others: str) -> None:
    """Errors: UsageError for an option that a device has decided already."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in others and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]}: the device has decided that")


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
    # the one that checks the key comes last: it sees the values of all others
    for option in (
        mount_option,
        output_option,
        input_option,
        _padding_option,
        _iv_option,
        _cipher_name,
        device_option,
        key_options(required=True),
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
    name: str,
    device: str | None,
    iv: str | None,
    padding: str,
    source: BinaryIO,
    sink: BinaryIO,
    where: Path | None,
    **key: Any,
) -> None:
    """Encrypt a file with a skcipher, or with a device. Nothing notices a change of what a skcipher made: `seal` and
    devices of type aead do that.
    """
    if device is not None:
        check_alone("name", "iv", "padding")
        through.encrypt(device, where, source, sink)
        return
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
    name: str,
    device: str | None,
    iv: str | None,
    padding: str,
    source: BinaryIO,
    sink: BinaryIO,
    where: Path | None,
    **key: Any,
) -> None:
    """Decrypt what `encrypt` or `openssl enc` made, or, with --device, what that device's streams made."""
    if device is not None:
        check_alone("name", "iv", "padding")
        through.decrypt(device, where, source, sink)
        return
    with Context("skcipher", name, read_key(**key), mount=where) as context:
        vector = _parse_iv(iv) if iv is not None else None
        if vector is None and context.iv_size:
            vector = read_full(source, context.iv_size)
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
        sink.write(through.unpad(held, context.block_size) if padded else held)
        sink.flush()


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
    name, salt = sealing.parse_header(read_full(source, sealing.HEADER_SIZE))
    with sealing.open_context(name, read_key(**key), salt, where) as context:
        for piece in sealing.unseal(context, name, salt, parts(source, sealing.SEGMENT + sealing.TAG_SIZE)):
            sink.write(piece)
        sink.flush()
