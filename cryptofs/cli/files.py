"""`cryptofs encrypt`, `decrypt`, `seal` and `open`: files through a mount.

Keys come from a file or a descriptor, never from an argument. docs/command-line.md has the formats.
"""

import errno
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from click.core import ParameterSource

from ..algorithms import Type, look_up
from ..client import Context, RequestError, decrypt_file, encrypt_file
from ..errors import InvalidValue, printable
from ..formats.sealed import SEGMENT
from . import device as through
from . import sealing
from .keys import key_options, key_stream, read_key
from .output import open_output
from .pieces import parts, read_full
from .streams import Stream, check_key_apart, check_output_apart

mount_option = click.option(
    "--mount", "where", type=click.Path(path_type=Path), help="The mount to use; default: the first usable one."
)


def file_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument FILE and the options -i and -o, of commands that make one file from another.

    The command gets `source` and `sink`. These streams differ from each other and from the key's.
    """

    @functools.wraps(function)
    def checked(*, argument: str | None, source: str | None, sink: str, **named: Any) -> Any:
        if argument is not None and source is not None:
            raise click.UsageError(f"two inputs, {printable(argument)} and --in {printable(source)}: give one")
        given = argument if argument is not None else source
        reads = Stream.named(given if given is not None else "-", 0)
        writes = Stream.named(sink, 1)
        key = key_stream(named.get("file"), named.get("descriptor"))
        check_key_apart(key, [reads])
        check_output_apart(writes, reads, key)
        return function(source=reads, sink=writes, **named)

    output = "Output file, replaced only after success; default: standard output (-)."
    for option in (
        click.option("-o", "-O", "--out", "--output", "sink", metavar="FILE", default="-", help=output),
        click.option("-i", "--in", "--input", "source", metavar="FILE", help="Input file; same as the argument FILE."),
        click.argument("argument", metavar="[FILE]", required=False),
    ):
        checked = option(checked)
    return checked


@contextmanager
def open_files(source: Stream, sink: Stream) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Input and output of a command. The output is complete when the block ends without an error. Errors: OSError."""
    with source.open_input() as reader, open_output(sink) as writer:
        yield cast(BinaryIO, reader), writer


device_option = click.option("--device", metavar="NAME", help="Use the key of this device, which no program can read.")


def check_alone(*others: str) -> None:
    """Errors: UsageError for an option that the device's declaration already sets."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in others and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]}: the device's declaration sets this")


def _iv_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "The IV in hexadecimal. Without it, encrypt writes a random IV before the output, and decrypt reads that."
    return click.option("--iv", metavar="HEX", help=text)(function)


def _padding_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "Padding for modes that take whole blocks (ecb, cbc), as in `openssl enc`."
    choice = click.Choice(["pkcs7", "none"])
    return click.option("--padding", type=choice, default="pkcs7", show_default=True, help=text)(function)


_cipher_name = click.option(
    "-n", "--name", default="ctr(aes)", show_default=True, help="Cipher, in the kernel's terms."
)


def _cipher_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments of encrypt and decrypt."""
    # The option that checks the key comes last, because it needs the values of all others.
    for option in (
        mount_option,
        file_options,
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
    source: Stream,
    sink: Stream,
    where: Path | None,
    **key: Any,
) -> None:
    """Encrypt a file with a skcipher, or with a device. A skcipher's output does not reveal changes: use `seal` or a
    device of type aead to detect them."""
    if device is not None:
        check_alone("name", "iv", "padding")
        with open_files(source, sink) as (reader, writer):
            through.encrypt(device, where, reader, writer)
        return
    with _cipher(name, read_key(**key), where) as context, open_files(source, sink) as (reader, writer):
        vector = _parse_iv(iv) if iv is not None else None
        encrypt_file(context, parts(reader, sink=writer), writer, iv=vector, padding=padding == "pkcs7")


@click.command()
@_cipher_options
def decrypt(
    name: str,
    device: str | None,
    iv: str | None,
    padding: str,
    source: Stream,
    sink: Stream,
    where: Path | None,
    **key: Any,
) -> None:
    """Decrypt the output of `encrypt` or `openssl enc`, or, with --device, of that device's streams."""
    if device is not None:
        check_alone("name", "iv", "padding")
        with open_files(source, sink) as (reader, writer):
            through.decrypt(device, where, reader, writer)
        return
    with _cipher(name, read_key(**key), where) as context, open_files(source, sink) as (reader, writer):
        vector = _parse_iv(iv) if iv is not None else None
        decrypt_file(context, parts(reader, sink=writer), writer, iv=vector, padding=padding == "pkcs7")


_HINTS = {
    Type.AEAD: f"it is an aead: use `cryptofs seal` and `cryptofs open` with {' and '.join(sealing.NAMES)}",
    Type.HASH: "it is a hash: use `cryptofs hash`",
    Type.COMPRESSION: "it is a compression: use `cryptofs compress` and `cryptofs decompress`",
}


def _cipher(name: str, key: bytes | None, where: Path | None) -> Context:
    """The context of a cipher. Errors: RequestError; if the name has another type, it names the right command."""
    try:
        return Context("skcipher", name, key, mount=where)
    except RequestError as error:
        if error.errno != errno.ENOENT:
            raise
        hints = [hint for type_, hint in _HINTS.items() if look_up(type_, name) is not None]
        if not hints:
            raise
        raise RequestError(error.errno, f"{error.message}; {hints[0]}") from None


def _random(size: int, where: Path | None) -> bytes:
    with Context("rng", "stdrng", mount=where) as rng:
        return rng.generate(size)


_aead = click.option(
    "-n", "--name", default="gcm(aes)", show_default=True, type=click.Choice(sealing.NAMES), help="AEAD to seal with."
)


@click.command()
@_aead
@key_options(required=True)
@file_options
@mount_option
def seal(name: str, source: Stream, sink: Stream, where: Path | None, **key: Any) -> None:
    """Encrypt and authenticate a file of any length; `open` refuses a file that was changed, truncated or reordered."""
    salt = _random(sealing.SALT_SIZE, where)
    context = sealing.open_context(name, read_key(**key), salt, where)
    with context, open_files(source, sink) as (reader, writer):
        for piece in sealing.seal(context, name, salt, parts(reader, SEGMENT, sink=writer)):
            writer.write(piece)


@click.command("open")
@key_options(required=True)
@file_options
@mount_option
def open_(source: Stream, sink: Stream, where: Path | None, **key: Any) -> None:
    """Decrypt a file that `seal` made. A segment is written only after its tag was verified."""
    secret = read_key(**key)
    with open_files(source, sink) as (reader, writer):
        name, salt = sealing.parse_header(read_full(reader, sealing.HEADER_SIZE))
        pieces = parts(reader, SEGMENT + sealing.TAG_SIZE, sink=writer)
        with sealing.open_context(name, secret, salt, where) as context:
            for piece in sealing.unseal(context, name, salt, pieces):
                writer.write(piece)
