"""`cryptofs run`: a program that uses AF_ALG, where the kernel has none or refuses it."""

import sys

import click

from ..engines import check_engines
from ..errors import CryptofsError
from ..runner.backend import Backend, LocalBackend
from ..runner.desk import OpenDevice
from ..runner.launch import NOT_STARTED, Settings, run
from ..runner.shim import library
from . import completing
from .standard import complain, describe

_DEFAULT = ("af_alg", "openssl")
_SESSIONS_MAX = 4096
"""Sessions of /dev/crypto, over all processes of one run."""


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
    if mountpoint is not None and engines is not None:
        raise click.UsageError("--mount and --engines: give only one")
    try:
        devices = _devices() if devcrypto else {}
        preloaded = library() if shim else None
        status = run(Settings(program, backend(mountpoint, engines), wide, devices, preloaded))
    except CryptofsError as error:
        complain(f"run: {error}")
        status = NOT_STARTED
    except OSError as error:
        complain(f"run: {describe(error)}")
        status = NOT_STARTED
    sys.exit(status)


def _devices() -> dict[bytes, OpenDevice]:
    # Only now: without this option a program starts sooner.
    from ..runner.devcrypto import Allowance
    from ..runner.devcrypto.endpoint import PATH, DeviceFile

    allowance = Allowance(_SESSIONS_MAX)
    return {PATH: lambda backend: DeviceFile(backend, allowance)}


def backend(mountpoint: str | None, engines: str | None) -> Backend:
    """What computes, as the options say. Errors: CryptofsError, MountNotFound."""
    if mountpoint is not None:
        # Only now: without a mount a program starts sooner.
        from ..runner.mounted import MountBackend

        return MountBackend(mountpoint or None)
    names = _DEFAULT if engines is None else [name.strip() for name in engines.split(",") if name.strip()]
    return LocalBackend(check_engines(names))
