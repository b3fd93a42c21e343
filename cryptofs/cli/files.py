"""`cryptofs encrypt`, `decrypt`, `seal` and `open`: files through a mount.

Keys come from a file or a descriptor, never from an argument. docs/command-line.md has the formats.
"""

import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from click.core import ParameterSource

from ..algorithms import Type, look_up
from ..client import Context, RequestError, decrypt_file, encrypt_file
from ..errors import InvalidValue, printable
from ..formats.sealed import SEGMENT
from ..keyfiles import VERSION_MAX
from . import completing, sealing
from .keys import key_options, key_stream, options, read_key
from .output import open_output
from .pieces import parts, read_full
from .streams import Stream, check_key_apart, check_output_apart

mount_option = click.option(
    "--mount",
    "where",
    type=click.Path(path_type=Path),
    shell_complete=completing.mounts,
    help="The mount to use; default: the first usable one.",
)


output_option = click.option(
    "-o",
    "-O",
    "--out",
    "--output",
    "sink",
    metavar="FILE",
    default="-",
    shell_complete=completing.files,
    help="Output file, replaced only after success; default: standard output (-).",
)


def check_terminal(otherwise: str = "") -> None:
    """Check that a result that nobody can read does not go to a terminal, unless the command line says so.

    otherwise: what else would do. Errors: UsageError.
    """
    given = click.get_current_context().get_parameter_source("sink") is ParameterSource.COMMANDLINE
    if not given and os.isatty(1):
        raise click.UsageError(f"standard output is a terminal: give -o FILE{otherwise}, or -o - to write there")


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

    taken = options(
        click.argument("argument", metavar="[FILE]", required=False, shell_complete=completing.files),
        click.option(
            "-i",
            "--in",
            "--input",
            "source",
            metavar="FILE",
            shell_complete=completing.files,
            help="Input file; same as the argument FILE.",
        ),
        output_option,
    )
    return taken(checked)


@contextmanager
def open_files(source: Stream, sink: Stream) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Input and output of a command. The output is complete when the block ends without an error. Errors: OSError."""
    with source.open_input() as reader, open_output(sink) as writer:
        yield cast(BinaryIO, reader), writer


device_option = click.option(
    "--device",
    metavar="NAME",
    shell_complete=completing.devices,
    help="Use the key of this device, which no program can read.",
)


def check_alone(*others: str) -> None:
    """Errors: UsageError for an option that the device's declaration already sets."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in others and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[-1]}: the device's declaration sets this")


# The option that checks the key comes first, because it needs the values of all others.
_cipher_options = options(
    key_options(required=True),
    device_option,
    click.option(
        "-n",
        "--name",
        default="ctr(aes)",
        show_default=True,
        shell_complete=completing.names("skcipher"),
        help="Cipher, in the kernel's terms.",
    ),
    click.option(
        "--iv",
        metavar="HEX",
        help="The IV in hexadecimal. Without it, encrypt writes a random IV before the output, and decrypt reads that.",
    ),
    click.option(
        "--padding",
        type=click.Choice(["pkcs7", "none"]),
        default="pkcs7",
        show_default=True,
        help="Padding for modes that take whole blocks (ecb, cbc), as in `openssl enc`.",
    ),
    file_options,
    mount_option,
)


def _parse_iv(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidValue(f"iv {text!r}: an even number of hexadecimal digits") from None


@click.command()
@_cipher_options
def encrypt(**given: Any) -> None:
    """Encrypt a file with a skcipher, or with a device. A skcipher's output does not reveal changes: use `seal` or a
    device of type aead to detect them."""
    check_terminal()
    _crypt(encrypt_file, **given)


@click.command()
@_cipher_options
@click.option(
    "--key-version",
    type=click.IntRange(1, VERSION_MAX),
    metavar="N",
    help="With --device: the version of its key for a cipher's file, which does not name it; default: the newest.",
)
def decrypt(key_version: int | None, **given: Any) -> None:
    """Decrypt the output of `encrypt` or `openssl enc`, or, with --device, of that device's streams."""
    if key_version is not None and given["device"] is None:
        raise click.UsageError("--key-version: only a --device has versions of its key")
    _crypt(partial(decrypt_file, key_version=key_version), **given)


def _crypt(
    work: Callable[..., int],
    name: str,
    device: str | None,
    iv: str | None,
    padding: str,
    source: Stream,
    sink: Stream,
    where: Path | None,
    **key: Any,
) -> None:
    """work: `encrypt_file` or `decrypt_file`. With a device, the file has the format of its stream files."""
    if device is not None:
        check_alone("name", "iv", "padding")
        with open_files(source, sink) as (reader, writer), Context.of_device(device, mount=where) as context:
            work(context, parts(reader, sink=writer), writer)
        return
    with _cipher(name, read_key(**key), where) as context, open_files(source, sink) as (reader, writer):
        vector = _parse_iv(iv) if iv is not None else None
        work(context, parts(reader, sink=writer), writer, iv=vector, padding=padding == "pkcs7")


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


@click.command()
@click.option(
    "-n", "--name", default="gcm(aes)", show_default=True, type=click.Choice(sealing.NAMES), help="AEAD to seal with."
)
@key_options(required=True)
@file_options
@mount_option
def seal(name: str, source: Stream, sink: Stream, where: Path | None, **key: Any) -> None:
    """Encrypt and authenticate a file of any length; `open` refuses a file that was changed, truncated or reordered."""
    check_terminal()
    with Context("rng", "stdrng", mount=where) as rng:
        salt = rng.generate(sealing.SALT_SIZE)
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
