"""`cryptofs sign` and `verify`: files of any length, by a device whose key no program can read."""

import sys
from pathlib import Path
from typing import BinaryIO

import click

from ..algorithms.public import signs_digest_of
from ..client import Context
from ..errors import InvalidValue, printable
from ..records import PAYLOAD_MAX, Attr, Operation
from . import completing, pss
from .files import check_terminal, file_options, mount_option, open_files
from .keys import options
from .pieces import parts, read_full
from .standard import complain
from .streams import Stream, check_apart

_NONE = "none"
_SIGNATURE_MAX = Attr.SIGNATURE.largest

_options = options(
    click.option(
        "--hash",
        "hash_",
        metavar="NAME",
        shell_complete=completing.names("hash"),
        help="Sign the digest of FILE by this hash; none: FILE is what the key signs. Default: the hash in the key's "
        "algorithm, or, for ECDSA, the one of the curve's size.",
    ),
    click.option(
        "--pss", "with_pss", is_flag=True, help="RSA-PSS, with a device of the algorithm rsa; default: sha256."
    ),
    click.option("--hex", "hexadecimal", is_flag=True, help="The signature is in hexadecimal."),
    mount_option,
)


@click.command()
@click.argument("device", shell_complete=completing.devices)
@file_options
@_options
def sign(
    device: str,
    source: Stream,
    sink: Stream,
    hash_: str | None,
    with_pss: bool,
    hexadecimal: bool,
    where: Path | None,
) -> None:
    """Sign FILE with a device: `cryptofs sign release FILE -o FILE.sig`.

    The command hashes FILE through the mount if the key's algorithm signs a digest, and else gives the key FILE itself,
    of at most 1,040,384 bytes (Ed25519, Ed448, ML-DSA).
    """
    if not hexadecimal:
        check_terminal(", --hex")
    with open_files(source, sink) as (reader, writer), Context.of_device(device, mount=where) as signer:
        if with_pss:
            hashed = pss.hash_for(signer, hash_)
            signature = pss.sign(signer, _digest(hashed, reader, writer, where), hashed)
        else:
            signature = signer.sign(_signed(signer, reader, writer, hash_, where))
        writer.write(signature.hex().encode() + b"\n" if hexadecimal else signature)


@click.command()
@click.argument("device", shell_complete=completing.devices)
@click.argument("file", shell_complete=completing.files)
@click.argument("signature", shell_complete=completing.files)
@_options
def verify(
    device: str,
    file: str,
    signature: str,
    hash_: str | None,
    with_pss: bool,
    hexadecimal: bool,
    where: Path | None,
) -> None:
    """Check a signature of FILE with a device. The exit status is 0 if it is good, and 1 if it is not.

    Give the same --hash as to `sign`. FILE or SIGNATURE may be standard input (-).
    """
    data, signed = Stream.named(file, 0), Stream.named(signature, 0)
    check_apart("signature", signed, data)
    with signed.open_input() as opened:
        octets = _signature(read_full(opened, 2 * _SIGNATURE_MAX + 2), hexadecimal)
    with data.open_input() as reader, Context.of_device(device, mount=where) as checker:
        if with_pss:
            hashed = pss.hash_for(checker, hash_)
            good = pss.is_signed(checker, octets, _digest(hashed, reader, None, where), hashed)
        else:
            good = checker.verify(octets, _signed(checker, reader, None, hash_, where))
    if not good:
        complain(f"EKEYREJECTED: {printable(signed.label)}: not a signature of {printable(data.label)} by this device")
        sys.exit(1)


def _signature(given: bytes, hexadecimal: bool) -> bytes:
    """Errors: InvalidValue for what cannot be one of any algorithm."""
    if hexadecimal:
        try:
            given = bytes.fromhex(given.decode("ascii"))
        except (UnicodeDecodeError, ValueError):
            raise InvalidValue("signature: an even number of hexadecimal digits") from None
    if len(given) > _SIGNATURE_MAX:
        raise InvalidValue(f"signature of more than {_SIGNATURE_MAX} bytes")
    return given


def _signed(
    context: Context, reader: BinaryIO, writer: BinaryIO | None, hash_: str | None, where: Path | None
) -> bytes:
    """What the key of a context signs of a file: its digest, or all of it."""
    digest, is_fixed = signs_digest_of(context.name)
    if hash_ not in (None, _NONE, digest) and (is_fixed or digest is None):
        what = f"it signs digests of {digest}" if digest else "it signs the message itself"
        raise click.UsageError(f"--hash {printable(hash_ or '')}: {what}; the device's algorithm is {context.name}")
    chosen = digest if hash_ is None else hash_
    if chosen is None or chosen == _NONE:
        # One byte more than can be signed: the error says so.
        return read_full(reader, PAYLOAD_MAX + 1)
    return _digest(chosen, reader, writer, where)


def _digest(name: str, reader: BinaryIO, writer: BinaryIO | None, where: Path | None) -> bytes:
    """The digest of a file by a hash of the mount."""
    with Context("hash", name, mount=where) as hashing:
        message = hashing.message(Operation.DIGEST)
        for piece in parts(reader, sink=writer):
            message.update(piece)
        return message.finish()
