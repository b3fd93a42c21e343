"""The command `cryptofs` and how its errors end it."""

import sys

import click

from .. import __version__
from ..errors import CryptofsError
from .benchmark import benchmark
from .compression import compress, decompress
from .files import decrypt, encrypt, hash_, open_, seal
from .mount import mount, umount
from .show import algorithms


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cryptofs")
def commands() -> None:
    """The Linux kernel's cryptography, for every program that can open a file."""


for command in (mount, umount, algorithms, benchmark, hash_, encrypt, decrypt, seal, open_, compress, decompress):
    commands.add_command(command)


def main() -> None:
    """Run the command line; an error is one line on standard error and exit status 1."""
    try:
        commands(standalone_mode=True)
    except CryptofsError as error:
        sys.exit(f"cryptofs: {error}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        sys.exit(f"cryptofs: {what}{error.strerror or error}")
