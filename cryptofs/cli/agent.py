"""`cryptofs agent`: answers the calls of containers, for their runtime."""

import json
import logging
from pathlib import Path
from typing import Any

import click

from ..daemon.service import tell
from ..errors import InvalidValue, printable
from ..runner.agent import Settings, serve
from ..runner.answers import open_backend
from ..runner.profile import profile
from . import completing
from .computing import Computing, computing_options


@click.command()
@click.argument("path", metavar="SOCKET", type=Path, shell_complete=completing.files)
@computing_options("af_alg", "openssl")
@click.option("--interruptible", is_flag=True, help="Serve containers whose profile lets signals interrupt calls, too.")
@click.option("--profile", "print_profile", is_flag=True, help="Print a seccomp profile for containers, and end.")
@click.option(
    "--base",
    type=Path,
    metavar="FILE",
    shell_complete=completing.files,
    help="With --profile: the profile that it is like in all else.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also log which containers come and go.")
def agent(
    computing: Computing, path: Path, interruptible: bool, print_profile: bool, base: Path | None, verbose: bool
) -> None:
    """Answer the AF_ALG calls of containers whose seccomp profile names SOCKET as its listenerPath.

    It runs on the host, as the runtime's user, in the foreground. SIGTERM ends it; the containers then get errors.
    """
    if base is not None and not print_profile:
        raise click.UsageError("--base: only with --profile")
    path = path.absolute()
    if print_profile:
        made = profile(str(path), None if base is None else _read(base), not interruptible)
        click.echo(json.dumps(made, indent=2))
        return
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: agent: %(message)s")
    serve(Settings(path, open_backend(*computing.chosen()), interruptible), lambda: tell("READY"))


def _read(base: Path) -> dict[str, Any]:
    try:
        found = json.loads(base.read_bytes())
    except ValueError as error:
        raise InvalidValue(f"--base {printable(base)}: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidValue(f"--base {printable(base)}: no seccomp profile")
    return found
