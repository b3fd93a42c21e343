"""The command `cryptofs` and how its errors end it."""

import gc
import sys
from importlib import import_module

import click

from .. import __version__
from ..errors import CryptofsError

# each is imported when it is used: a service that restarts must not wait for what it does not need
_COMMANDS = {
    "mount": "mount.mount",
    "umount": "mount.umount",
    "algorithms": "show.algorithms",
    "check-config": "config.check_config",
    "benchmark": "benchmark.benchmark",
    "hash": "files.hash_",
    "encrypt": "files.encrypt",
    "decrypt": "files.decrypt",
    "seal": "files.seal",
    "open": "files.open_",
    "hand-over": "service.hand_over",
    "take-back": "service.take_back",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(".")
        command: click.Command = getattr(import_module(f".{module}", __package__), name)
        gc.enable()
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cryptofs")
def commands() -> None:
    """The Linux kernel's cryptography, for every program that can open a file."""


def main() -> None:
    """Run the command line; an error is one line on standard error and exit status 1."""
    # what is imported stays: looking through it again and again would take a third of a command's start
    gc.disable()
    try:
        commands(standalone_mode=True)
    except CryptofsError as error:
        sys.exit(f"cryptofs: {error}")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        sys.exit(f"cryptofs: {what}{error.strerror or error}")
