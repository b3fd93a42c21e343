"""`cryptofs ssh-agent`: ssh, git and their kind sign with devices."""

import contextlib
import functools
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ..client import find_mount
from ..daemon.detaching import detach
from ..errors import printable
from ..faces.keys import DeviceKeys
from ..faces.server import serve, serve_command
from ..faces.ssh import SshAgent, serve_client
from . import completing
from .files import mount_option
from .standard import complain, describe

_NOT_EXECUTED, _NOT_FOUND = 126, 127


@click.command("ssh-agent", context_settings={"allow_interspersed_args": False})
@mount_option
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    shell_complete=completing.devices,
    help="Only this device; may be given several times.",
)
@click.option(
    "-a",
    "path",
    type=Path,
    metavar="SOCKET",
    shell_complete=completing.files,
    help="The socket; default: a new one in a directory of its own.",
)
@click.option("-d", "-D", "foreground", is_flag=True, help="Stay in the foreground.")
@click.option("-c", "csh", flag_value=True, default=None, help="Print commands for csh.")
@click.option("-s", "csh", flag_value=False, help="Print commands for a Bourne shell.")
@click.option("-v", "--verbose", is_flag=True, help="In the foreground, also log why requests are refused.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=completing.programs)
def ssh_agent(
    where: Path | None,
    devices: tuple[str, ...],
    path: Path | None,
    foreground: bool,
    csh: bool | None,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    """Speak the protocol of OpenSSH's agent for the devices of a mount that sign, and that you may use.

    It detaches, and prints commands that set SSH_AUTH_SOCK, as ssh-agent does: eval "$(cryptofs ssh-agent)". With
    COMMAND, it serves until the command ends. No private key leaves the daemon: the agent holds none.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: %(message)s")
    keys = DeviceKeys(find_mount(where).absolute(), frozenset(devices))
    keys.signing()
    serving = functools.partial(serve_client, SshAgent(keys))
    if command:
        with _socket(path) as place:
            variables = {"SSH_AUTH_SOCK": str(place), "SSH_AGENT_PID": str(os.getpid())}
            try:
                status = serve_command(place, serving, command, variables)
            except OSError as error:
                complain(f"ssh-agent: {describe(error, printable(command[0]))}")
                status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTED
        sys.exit(status)
    c_shell = os.environ.get("SHELL", "").endswith("csh") if csh is None else csh

    def live(ready: Callable[[], None]) -> None:
        with _socket(path) as place:

            def started() -> None:
                print_variables(place, None if foreground else os.getpid(), c_shell)
                ready()

            serve(place, serving, started)

    if path is not None:
        path = path.absolute()
    if foreground:
        live(lambda: None)
    else:
        detach(live)


@contextlib.contextmanager
def _socket(path: Path | None) -> Iterator[Path]:
    """The given path, or one in a new directory, which is removed at the end."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(
        prefix="cryptofs-ssh.", dir=os.environ.get("XDG_RUNTIME_DIR") or None
    ) as directory:
        yield Path(directory) / f"agent.{os.getpid()}"


def print_variables(path: Path, agent: int | None, csh: bool) -> None:
    """Commands for a shell. agent: the number of a process that the user does not see."""
    variables = {"SSH_AUTH_SOCK": shlex.quote(str(path)), **({} if agent is None else {"SSH_AGENT_PID": str(agent)})}
    for name, value in variables.items():
        print(f"setenv {name} {value};" if csh else f"{name}={value}; export {name};")
    print(f"echo Agent pid {os.getpid()};", flush=True)
