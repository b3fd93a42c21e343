"""`cryptofs completion`: the script that makes a shell complete the words of this command."""

import sys
from pathlib import Path

import click

# Our own: click's scripts leave parentheses unquoted, and cut a name at a comma; algorithm names have both.
_SCRIPTS = {"bash": "cryptofs.bash", "zsh": "_cryptofs", "fish": "cryptofs.fish"}


@click.command()
@click.argument("shell", type=click.Choice(list(_SCRIPTS)))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, algorithm names, the mount's devices and files. For bash: `source <(cryptofs
    completion bash)`. For zsh, write it to a file `_cryptofs` in a directory of $fpath. For fish: `cryptofs completion
    fish | source`.
    """
    sys.stdout.write((Path(__file__).parent / "shells" / _SCRIPTS[shell]).read_text("utf-8"))
