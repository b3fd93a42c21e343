"""Completion, in real shells: names with their parentheses, devices of a mount, files; and none that waits."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from helpers.cli_process import forked
from helpers.configs import declare
from helpers.daemons import serving_config
from helpers.waiting import PATIENCE

from cryptofs.cli.commands import commands
from cryptofs.cli.completing import VARIABLE

_PROGRAM = f"""#!/bin/sh
exec {sys.executable} -m cryptofs "$@"
"""
_SETUP = {
    "bash": (["bash", "--norc", "--noprofile"], "source <(cryptofs completion bash)"),
    "zsh": (
        ["zsh", "-f"],
        "unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u; . =(cryptofs completion zsh)",
    ),
}
_FREE = {
    "--credential",
    "--keyring",
    "--pkcs11",
    "--iv",
    "--level",
    "--mode",
    "--commit",
    "--only",
    "-o",
    "cuse --name",
    "--passphrase-credential",
}
"""Parameters whose text no list has."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a file, whose `bin` has the program."""
    program = tmp_path / "bin" / "cryptofs"
    program.parent.mkdir()
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    (tmp_path / "a key").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name, value in {"HOME": str(tmp_path), "TERM": "dumb", "LANG": "C.UTF-8", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


class Shell:
    """A shell at a terminal of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        arguments, setup = _SETUP[name]
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            try:
                os.chdir(directory)
                os.execvp(arguments[0], arguments)
            finally:
                os._exit(127)
        self.type(f"{setup}; echo read''y\n", "ready")

    def type(self, keys: str, *expected: str) -> str:
        """What the terminal shows since, once it has each expected text."""
        os.write(self.terminal, keys.encode())
        shown = ""
        deadline = time.monotonic() + 30 * PATIENCE
        while not all(each in shown for each in expected):
            ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{keys!r}: {expected} is not in {shown!r}"
            # A shell breaks its lines with what a terminal does not show.
            shown += os.read(self.terminal, 65536).decode().replace("\r", "").replace("\a", "")
        return shown

    def complete(self, line: str, *expected: str) -> None:
        """Type a line and a tab, and delete the line."""
        self.type(f"{line}\t", *expected)
        self.type("\x15")

    def end(self) -> None:
        """Hang up."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@contextmanager
def shell(name: str, directory: Path) -> Iterator[Shell]:
    """A shell that completes."""
    if shutil.which(name) is None:
        pytest.skip(f"NOT RUN: {name} is not installed")
    started = Shell(name, directory)
    try:
        yield started
    finally:
        started.end()


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_a_shell_completes_names_and_files(place: Path, name: str) -> None:
    """A name is quoted as the shell needs it, and in quotes as it is; after = too, and files with blanks."""
    with shell(name, place) as typed:
        typed.complete("cryptofs hash -n hmac\\(sha3-25", "6\\)")
        typed.complete("cryptofs hash -n 'hmac(sha3-25", "6)'")
        typed.complete("cryptofs seal --name=rfc", "7539\\(chacha20", "poly1305\\)")
        typed.complete("cryptofs seal --key-file=a", "\\ key")
        typed.complete("cryptofs check-c", "onfig ")


def test_fish_completes(place: Path) -> None:
    """As the others."""
    if shutil.which("fish") is None:
        pytest.skip("NOT RUN: fish is not installed")
    lines = {
        "cryptofs hash -n hmac\\(sha3-25": "hmac(sha3-256)",
        "cryptofs seal --name=rfc": "--name=rfc7539(chacha20,poly1305)",
        "cryptofs seal --key-file=a": "--key-file=a key",
        "cryptofs check-c": "check-config",
    }
    script = "cryptofs completion fish | source; for line in $argv; complete -C $line; end"
    done = subprocess.run(
        ["fish", "-N", "-c", script, *lines],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert (done.stdout.splitlines(), done.stderr) == (list(lines.values()), "")


def answers(*words: str) -> list[str]:
    """What bash is told for these words, of which the last is incomplete. Nothing may be on standard error."""
    variables = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1), VARIABLE: "bash_complete"}
    done = forked([], Path("/"), **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().split()


@pytest.mark.mount
def test_devices_are_those_of_the_mount(tmp_path: Path) -> None:
    """Of the mount that the command would use; none, without an error, if it does not answer or is not there."""
    text = declare("backup", "aead", "gcm(aes)", "{backup}") + declare("books", "aead", "gcm(aes)", "{books}")
    with serving_config(tmp_path, text, backup=bytes(32), books=bytes(32)) as daemon:
        mount = ("--mount", str(daemon.mountpoint))
        assert answers("cryptofs", "encrypt", *mount, "--device", "b") == ["plain,backup", "plain,books"]
        assert answers("cryptofs", "hash", *mount, "--device", "bo") == ["plain,books"]
        assert f"plain,{daemon.mountpoint}" in answers("cryptofs", "hash", "--mount", "")
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            assert answers("cryptofs", "encrypt", *mount, "--device", "b") == []
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
    assert answers("cryptofs", "encrypt", *mount, "--device", "b") == []


def test_words_of_each_kind() -> None:
    """Lists separated by commas, users, types of algorithms, programs; and the options of a command."""
    assert answers("cryptofs", "mount", "--engines", "openssl,a") == ["plain,openssl,af_alg"]
    assert "plain,root" in answers("cryptofs", "check-config", "--user", "ro")
    assert {"plain,aead", "plain,aegis128"} <= set(answers("cryptofs", "algorithms", "ae"))
    assert "plain,python3" in answers("cryptofs", "run", "--", "python")
    assert answers("cryptofs", "run", "--", "cat", "x") == ["file,x"]
    assert answers("cryptofs", "seal", "--key-f") == ["plain,--key-file", "plain,--key-fd"]
    assert answers("cryptofs", "none", "x") == []


def parameters(command: click.Command, path: str) -> Iterator[tuple[str, click.Parameter]]:
    """Every parameter of a command and its commands."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from parameters(inner, name)
    yield from ((path, each) for each in command.params)


def test_every_parameter_has_a_completion() -> None:
    """A parameter with a text or a path completes, unless no list has its text."""
    missing = []
    for path, each in parameters(commands, ""):
        own = type(each.type).shell_complete is not click.ParamType.shell_complete
        takes_text = not getattr(each, "is_flag", False) and not isinstance(each.type, click.types._NumberParamTypeBase)
        if takes_text and not own and each._custom_shell_complete is None:
            missing.append((path, each.opts[-1] if isinstance(each, click.Option) else each.name))
    assert [each for each in missing if each[1] not in _FREE and " ".join(map(str, each)) not in _FREE] == []
