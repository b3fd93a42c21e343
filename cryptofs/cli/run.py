"""`cryptofs run`: a program that uses AF_ALG, where the kernel has none or refuses it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..engines import parse_engines
from ..errors import CryptofsError
from ..runner.launch import NOT_STARTED, Settings, run
from ..runner.shim import library
from . import completing
from .standard import complain, describe

_DEFAULT = ("af_alg", "openssl")


@click.command(
    "run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)  # fmt: skip
@click.option(
    "--mount",
    "mountpoint",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    shell_complete=completing.mounts,
    help="Compute by the daemon of this mount, or of the first usable one: its policy, audit trail and devices count.",
)
@click.option(
    "--engines",
    metavar="NAME[,…]",
    shell_complete=completing.engines,
    help=f"Engines in this process, in the order in which they are asked for a name; default: {','.join(_DEFAULT)}.",
)
@click.option("--devcrypto", is_flag=True, help="Serve /dev/crypto as well, for programs that use cryptodev.")
@click.option(
    "--shim",
    is_flag=True,
    help="Preload a library for a container that refuses AF_ALG itself; for dynamic programs only.",
)
@click.option("--wide", is_flag=True, help="Serve descriptors below 512 as well; each read and write then costs more.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=completing.programs)
def run_(
    mountpoint: str | None, engines: str | None, devcrypto: bool, shim: bool, wide: bool, program: tuple[str, ...]
) -> None:
    """Run PROGRAM unchanged where the kernel has no AF_ALG, or no /dev/crypto.

    Its sockets of AF_ALG and of netlink's crypto family are answered here; all else is the kernel's. The exit status is
    the program's, or 125 if `cryptofs run` itself fails, 126 if PROGRAM cannot be executed, 127 if it is not found.
    """
    try:
        mount, names = chosen(mountpoint, engines)
        status = run(Settings(program, names, mount, wide, devcrypto, library() if shim else None))
    except CryptofsError as error:
        complain(f"run: {error}")
        status = NOT_STARTED
    except OSError as error:
        complain(f"run: {describe(error)}")
        status = NOT_STARTED
    sys.exit(status)


def chosen(mountpoint: str | None, engines: str | None) -> tuple[Path | None, Sequence[str]]:
    """The mount or the engines that the options name, checked. Nothing of what computes is loaded for it.

    Errors: UsageError for both, NotOffered, MountNotFound.
    """
    if mountpoint is not None:
        if engines is not None:
            raise click.UsageError("--mount and --engines: give only one")
        # Only now: without a mount a program starts sooner.
        from ..client.mounts import find_mount

        return find_mount(mountpoint or None), ()
    return None, _DEFAULT if engines is None else parse_engines(engines)
