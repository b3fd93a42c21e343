"""`cryptofs run`: a program that uses AF_ALG, where the kernel has none or refuses it."""

import sys

import click

from ..errors import CryptofsError
from ..runner.launch import NOT_STARTED, Settings, run
from ..runner.shim import library
from . import completing
from .computing import Computing, computing_options
from .standard import complain, describe


@click.command(
    "run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)  # fmt: skip
@computing_options("af_alg", "openssl")
@click.option("--devcrypto", is_flag=True, help="Serve /dev/crypto as well, for programs that use cryptodev.")
@click.option(
    "--shim",
    is_flag=True,
    help="Preload a library for a container that refuses AF_ALG itself; for dynamic programs only.",
)
@click.option("--wide", is_flag=True, help="Serve descriptors below 512 as well; each read and write then costs more.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=completing.programs)
def run_(computing: Computing, devcrypto: bool, shim: bool, wide: bool, program: tuple[str, ...]) -> None:
    """Run PROGRAM unchanged where the kernel has no AF_ALG, or no /dev/crypto.

    Its sockets of AF_ALG and of netlink's crypto family are answered here; all else is the kernel's. The exit status is
    the program's, or 125 if `cryptofs run` itself fails, 126 if PROGRAM cannot be executed, 127 if it is not found.
    """
    try:
        mount, names = computing.chosen()
        status = run(Settings(program, names, mount, wide, devcrypto, library() if shim else None))
    except CryptofsError as error:
        complain(f"run: {error}")
        status = NOT_STARTED
    except OSError as error:
        complain(f"run: {describe(error)}")
        status = NOT_STARTED
    sys.exit(status)
