"""`cryptofs key new` and `rotate`: random keys, into places that nobody else can read."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..algorithms import Type
from ..daemon.inventory import find_key_set
from ..engines.opening import open_engines
from ..errors import NotSupported, SystemFault, printable
from ..formats.token_uri import TokenObject
from ..keys import ByteSource, CredentialKey, FileKey, TokenKey, add_to_keyring
from ..keys.making import Form, made_key, make_in_token
from ..keys.writing import add_version, write_new
from . import completing
from .config import DEFAULT
from .keys import options

_CREDENTIALS = "systemd-creds"
_PATIENCE = 120.0
_TYPES = ("skcipher", "aead", "hash", "akcipher", "sig", "kpp")


@dataclass(frozen=True)
class _Wanted:
    """What key the options name, and how its file is written."""

    type: str | None
    name: str | None
    size: int | None
    bits: int | None
    form: Form


_options = options(
    click.option("--type", "type_", type=click.Choice(_TYPES), help="The algorithm's type."),
    click.option(
        "-n", "--name", shell_complete=completing.names(*_TYPES), help="The algorithm, in the kernel's terms."
    ),
    click.option(
        "--size", type=click.IntRange(1, 8192), metavar="BYTES", help="Of a symmetric key; default: the largest."
    ),
    click.option("--bits", type=click.IntRange(2048, 8192), help="Of an RSA key; default: 3072."),
    click.option("--hex", "hexadecimal", is_flag=True, help='Write hexadecimal digits (key.encoding = "hex").'),
    click.option("--passphrase", "asks", is_flag=True, help="Ask for a passphrase that protects the file."),
    click.option(
        "--passphrase-file",
        metavar="FILE",
        type=Path,
        shell_complete=completing.files,
        help="A file with that passphrase.",
    ),
    click.option("--passphrase-credential", metavar="NAME", help="A credential of systemd with it."),
)


def _key_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what key; it gets a _Wanted as its first argument."""

    @_options
    @functools.wraps(command)
    def checked(
        type_: str | None,
        name: str | None,
        size: int | None,
        bits: int | None,
        hexadecimal: bool,
        asks: bool,
        passphrase_file: Path | None,
        passphrase_credential: str | None,
        **others: Any,
    ) -> None:
        form = _form(hexadecimal, asks, passphrase_file, passphrase_credential)
        command(_Wanted(type_, name, size, bits, form), **others)

    return checked


@click.command()
@_key_options
@click.option(
    "-o",
    "--out",
    "file",
    metavar="FILE",
    shell_complete=completing.files,
    help="A file that does not exist yet; it gets mode 0600.",
)
@click.option("--credential", metavar="NAME", help="With -o: make it an encrypted credential of systemd of this name.")
@click.option("--keyring", metavar="TEXT", help="Into the keyring of your user, with this description.")
@click.option(
    "--key-type",
    type=click.Choice(["user", "logon"]),
    default="user",
    show_default=True,
    help="With --keyring: nobody can read a logon key, and only AF_ALG can take it.",
)
@click.option(
    "--pkcs11",
    metavar="URI",
    help="In a token, which makes the key itself: pkcs11:token=T;object=KEY?module-path=LIBRARY&pin-source=file:PIN.",
)
@click.option("--stdout", is_flag=True, help="On standard output, if that is no terminal. Same as `-o -`.")
def new(
    wanted: _Wanted,
    file: str | None,
    credential: str | None,
    keyring: str | None,
    key_type: str,
    pkcs11: str | None,
    stdout: bool,
) -> None:
    """Make a random key for an algorithm, of the size that it takes. A private key is DER (PKCS #8).

    The place is a new file, a credential of systemd, the kernel's keyring or a PKCS#11 token. An engine must accept the
    key first.
    """
    if wanted.type is None or wanted.name is None:
        raise click.UsageError("give --type and --name: they say what key to make")
    path = None if file in (None, "-") else Path(file or "")
    stdout = stdout or file == "-"
    if (path is not None) + (keyring is not None) + (pkcs11 is not None) + stdout != 1:
        raise click.UsageError("give one place for the key: -o FILE, --keyring TEXT, --pkcs11 URI or --stdout")
    if credential is not None and path is None:
        raise click.UsageError("--credential: with -o FILE")
    if wanted.form.passphrase is not None and keyring is not None:
        raise click.UsageError("--passphrase…: for a file; nothing could use a protected key of a keyring")
    if wanted.form.in_digits and keyring is not None:
        raise click.UsageError("--hex: for a file; a keyring has the bytes of the key")
    if stdout and os.isatty(1):
        raise click.UsageError("standard output is a terminal, where a key would stay visible: redirect it")
    if pkcs11 is not None:
        if wanted.form != Form() or wanted.bits is not None:
            raise click.UsageError("--hex, --bits, --passphrase…: the token makes and keeps the key")
        make_in_token(_token_key(pkcs11), Type(wanted.type), wanted.name, wanted.size)
        return
    with made_key(open_engines(), wanted.type, wanted.name, wanted.size, wanted.bits, wanted.form) as made:
        if keyring is not None:
            add_to_keyring(key_type, keyring, made)
        elif path is None:
            sys.stdout.buffer.write(made)
            sys.stdout.buffer.flush()
        elif credential is not None:
            _write_credential(path, credential, made)
        else:
            write_new(path, made)


@click.command()
@click.argument("target", metavar="DEVICE|DIRECTORY", shell_complete=completing.devices)
@_key_options
@click.option(
    "--config", type=click.Path(path_type=Path), default=DEFAULT, show_default=True, help="The configuration."
)
def rotate(
    wanted: _Wanted,
    target: str,
    config: Path,
) -> None:
    """Add a new version to the key of a DEVICE that has key.directory, or to a DIRECTORY (written with a slash).

    The file is written whole or not at all. The daemon takes it at the next reload, without a restart. For a directory
    that the configuration does not name, give --type and --name.
    """
    directory = Path(target).absolute() if "/" in target else None
    type_, name, form = wanted.type, wanted.name, wanted.form
    if directory is None or type_ is None:
        if type_ is not None or name is not None:
            raise click.UsageError(
                "--type, --name: together, and only for a directory; a device's declaration has them"
            )
        found = find_key_set(config, target, directory)
        directory, type_, name = found.directory, found.type, found.name
        if form != Form():
            raise click.UsageError("--hex, --passphrase…: a device's declaration says how its keys are written")
        form = found.form
    if name is None:
        raise click.UsageError("--type: with --name")
    with made_key(open_engines(), type_, name, wanted.size, wanted.bits, form) as made:
        version = add_version(directory, made)
    click.echo(f"{printable(directory)}: version {version}; a reload takes it (`systemctl reload cryptofs`, or SIGHUP)")


def _token_key(uri: str) -> TokenKey:
    """The key that a URI names. Errors: InvalidValue, UsageError for one that does not say how to reach the token."""
    wanted = TokenObject.parse(uri)
    if wanted.module is None or wanted.pin_source is None:
        raise click.UsageError("--pkcs11: the URI needs ?module-path=LIBRARY&pin-source=file:PATH")
    if wanted.type not in (None, "secret-key"):
        raise click.UsageError(f"--pkcs11: type={wanted.type}: a device takes a secret key of a token")
    return TokenKey(Path(wanted.module), wanted, FileKey(Path(wanted.pin_source)))


class _Asked(ByteSource):
    """A passphrase that the user types twice, at the terminal."""

    def describe(self) -> str:
        return "the passphrase that was typed"

    def unchecked(self) -> str:
        return ""

    def read(self) -> bytearray:
        if not sys.stdin.isatty():
            raise click.UsageError("--passphrase: there is no terminal to ask at: use --passphrase-file")
        return bytearray(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True).encode())


def _form(hexadecimal: bool, asks: bool, file: Path | None, credential: str | None) -> Form:
    if asks + (file is not None) + (credential is not None) > 1:
        raise click.UsageError("give one of --passphrase, --passphrase-file and --passphrase-credential")
    passphrase: ByteSource | None = _Asked() if asks else None
    if file is not None:
        passphrase = FileKey(file.absolute())
    elif credential is not None:
        passphrase = CredentialKey(credential)
    return Form(hexadecimal, passphrase)


def _write_credential(path: Path, name: str, key: bytearray) -> None:
    """An encrypted credential. Errors: NotSupported without systemd's program, SystemFault."""
    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as directory:
        made = Path(directory) / "credential"
        command = [_CREDENTIALS, "encrypt", f"--name={name}", "-", str(made)]
        try:
            done = subprocess.run(command, input=key, capture_output=True, timeout=_PATIENCE, check=False)
        except FileNotFoundError:
            raise NotSupported(f"credential {name!r}: {_CREDENTIALS} is not installed (systemd 250 has it)") from None
        except subprocess.TimeoutExpired:
            raise SystemFault(f"credential {name!r}: {_CREDENTIALS} did not end within {_PATIENCE:g} s") from None
        if done.returncode:
            raise SystemFault(f"credential {name!r}: {_CREDENTIALS}: {printable(done.stderr.strip()[-200:])}")
        write_new(path, bytearray(made.read_bytes()))
