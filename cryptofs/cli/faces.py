"""`cryptofs ssh-agent` and `pkcs11-server`: existing programs use the key pairs of devices."""

import contextlib
import functools
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ..client import find_mount
from ..daemon.detaching import detach
from ..errors import printable
from ..faces import pkcs11, ssh
from ..faces.keys import DeviceKeys
from ..faces.server import Serve, serve, serve_command
from . import completing
from .files import mount_option
from .keys import options
from .standard import complain, describe

log = logging.getLogger("cryptofs")

_NOT_EXECUTED, _NOT_FOUND = 126, 127


def _face_options(function: Callable[..., None]) -> Callable[..., None]:
    """What all faces take."""
    return options(
        mount_option,
        click.option(
            "--device",
            "devices",
            multiple=True,
            metavar="NAME",
            shell_complete=completing.devices,
            help="Only this device; may be given several times.",
        ),
        click.option(
            "-a",
            "path",
            type=Path,
            metavar="SOCKET",
            shell_complete=completing.files,
            help="The socket; default: a new one in a directory of its own.",
        ),
        click.option("-d", "-D", "foreground", is_flag=True, help="Stay in the foreground."),
        click.option("-c", "csh", flag_value=True, default=None, help="Print commands for csh."),
        click.option("-s", "csh", flag_value=False, help="Print commands for a Bourne shell."),
        click.option("-v", "--verbose", is_flag=True, help="In the foreground, also log why requests are refused."),
        click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=completing.programs),
    )(function)


_SETTINGS = {"allow_interspersed_args": False}


@click.command("ssh-agent", context_settings=_SETTINGS)
@_face_options
def ssh_agent(where: Path | None, devices: tuple[str, ...], verbose: bool, **how: Any) -> None:
    """Speak the protocol of OpenSSH's agent for the devices of a mount that sign, and that you may use.

    It detaches, and prints commands that set SSH_AUTH_SOCK, as ssh-agent does: eval "$(cryptofs ssh-agent)". With
    COMMAND, it serves until the command ends. No private key leaves the daemon: the agent holds none.
    """
    keys = _begin(where, devices, verbose, ssh.ALGORITHMS)
    client = functools.partial(ssh.serve_client, keys)
    _Face("ssh-agent", client, "SSH_AUTH_SOCK", "SSH_AGENT_PID", str).run(**how)


@click.command("pkcs11-server", context_settings=_SETTINGS)
@_face_options
def pkcs11_server(where: Path | None, devices: tuple[str, ...], verbose: bool, **how: Any) -> None:
    """Offer the RSA and ECDSA keys of a mount's devices as a PKCS#11 token.

    Programs load p11-kit-client.so as their PKCS#11 module. This command detaches, and prints commands that set
    P11_KIT_SERVER_ADDRESS: eval "$(cryptofs pkcs11-server)". With COMMAND, it serves until the command ends. No private
    key leaves the daemon.
    """
    keys = _begin(where, devices, verbose, pkcs11.ALGORITHMS)
    client = functools.partial(pkcs11.serve_client, keys)
    _Face("pkcs11-server", client, "P11_KIT_SERVER_ADDRESS", "P11_KIT_SERVER_PID", _address).run(**how)


def _begin(where: Path | None, devices: tuple[str, ...], verbose: bool, algorithms: Mapping[str, str]) -> DeviceKeys:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="cryptofs: %(message)s")
    keys = DeviceKeys(find_mount(where).absolute(), frozenset(devices))
    found = {key.device for key in keys.find(algorithms)}
    for name in sorted(keys.only - found):
        # No error: a reload may bring it.
        log.warning("device %s: not used now; it is missing, not yours, or has no key pair for this", printable(name))
    return keys


def _address(path: Path) -> str:
    return f"unix:path={quote(os.fspath(path))}"


@dataclass(frozen=True)
class _Face:
    """A face, as a command. address, process: the variables with the socket's address and the number of the process;
    spell: the address of a path."""

    name: str
    client: Serve
    address: str
    process: str
    spell: Callable[[Path], str]

    def run(self, path: Path | None, foreground: bool, csh: bool | None, command: tuple[str, ...]) -> None:
        """Serve, as the options say."""
        if command:
            sys.exit(self._beside(path, command))
        c_shell = os.environ.get("SHELL", "").endswith("csh") if csh is None else csh
        if path is not None:
            path = path.absolute()

        def live(ready: Callable[[], None]) -> None:
            with _socket(path) as place:

                def started() -> None:
                    shown = {self.address: self.spell(place)}
                    # In the foreground, the user has the process already.
                    print_variables(shown if foreground else {**shown, self.process: str(os.getpid())}, c_shell)
                    ready()

                serve(place, self.client, started)

        if foreground:
            live(lambda: None)
        else:
            detach(live)

    def _beside(self, path: Path | None, command: tuple[str, ...]) -> int:
        with _socket(path) as place:
            variables = {self.address: self.spell(place), self.process: str(os.getpid())}
            try:
                return serve_command(place, self.client, command, variables)
            except OSError as error:
                complain(f"{self.name}: {describe(error, printable(command[0]))}")
                return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTED


@contextlib.contextmanager
def _socket(path: Path | None) -> Iterator[Path]:
    """The given path, or one in a new directory, which is removed at the end."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cryptofs-", dir=os.environ.get("XDG_RUNTIME_DIR") or None) as directory:
        yield Path(directory) / f"agent.{os.getpid()}"


def print_variables(variables: dict[str, str], csh: bool) -> None:
    """Commands for a shell."""
    for name, value in variables.items():
        quoted = shlex.quote(value)
        print(f"setenv {name} {quoted};" if csh else f"{name}={quoted}; export {name};")
    print(f"echo Agent pid {os.getpid()};", flush=True)
