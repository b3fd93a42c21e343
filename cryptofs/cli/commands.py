"""The command `cryptofs` and its subcommands."""

import gc
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from .. import __version__
from . import STEPS
from .completing import VARIABLE

# Each command is imported when it is used: a service that restarts must not wait for modules that it does not need.
_COMMANDS = {
    "mount": "mount.mount",
    "umount": "mount.umount",
    "cuse": "cuse.cuse",
    "algorithms": "show.algorithms",
    "check-config": "config.check_config",
    "completion": "completion.completion",
    "benchmark": "benchmark.benchmark",
    "compress": "compression.compress",
    "decompress": "compression.decompress",
    "hash": "hash.hash_",
    "header": "header.header",
    "key": "key.key",
    "encrypt": "files.encrypt",
    "decrypt": "files.decrypt",
    "seal": "files.seal",
    "open": "files.open_",
    "run": "run.run_",
    "agent": "agent.agent",
    "pkcs11-server": "faces.pkcs11_server",
    "random": "randomness.random",
    "sign": "signing.sign",
    "ssh-agent": "faces.ssh_agent",
    "status": "status.status",
    "verify": "signing.verify",
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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        # click would import every command, to ask whether it is hidden.
        found = [CompletionItem(each) for each in sorted(_COMMANDS) if each.startswith(incomplete)]
        return found or click.Command.shell_complete(self, ctx, incomplete)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"The service's own steps: {', '.join(STEPS)}.",
)
@click.version_option(__version__, prog_name="cryptofs")
def commands() -> None:
    """Use the Linux kernel's cryptography through files."""


def run_commands() -> int:
    """Run the command line of this process; returns the exit status. Errors: those of the command."""
    try:
        status = commands.main(standalone_mode=False, complete_var=VARIABLE)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        # click's own exit.
        raise KeyboardInterrupt from None
    return status if isinstance(status, int) else 0
