"""`cryptofs algorithms`: whole names whatever the width, patterns, and forms for scripts."""

import fcntl
import json
import os
import struct
import sys
import termios
from pathlib import Path

import pytest
from helpers.cli_process import forked

pytestmark = pytest.mark.mount


def names(mount: Path, *arguments: str) -> list[str]:
    """The second column, as --plain has it."""
    done = forked(["algorithms", "--plain", *arguments], Path("/"), CRYPTOFS_MOUNT=str(mount))
    return [line.split("\t")[1] for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize("columns", [20, 80, 400])
def test_a_terminal_gets_whole_names(mount: Path, columns: int) -> None:
    """On a real terminal of this width every name stands whole, and the columns that are left out are named."""
    child, terminal = os.forkpty()
    if not child:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment["CRYPTOFS_MOUNT"] = str(mount)
        os.execve(sys.executable, [sys.executable, "-m", "cryptofs", "algorithms"], environment)
    said = b""
    try:
        while piece := os.read(terminal, 65_536):
            said += piece
    except OSError:
        # the terminal is hung up when the program has ended
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    shown = {line.split()[1] for line in said.decode().splitlines()[1:] if len(line.split()) > 1}
    assert set(names(mount)) <= shown
    assert (b"is too narrow for" in said) == (columns < 100)


def test_a_pipe_gets_all_columns(mount: Path) -> None:
    """Also where COLUMNS says that there is little room."""
    done = forked(["algorithms"], Path("/"), CRYPTOFS_MOUNT=str(mount), COLUMNS="30")
    head, *rows = done.stdout.decode().splitlines()
    assert head.split()[-1] == "max-authsize"
    assert [row.split()[1] for row in rows] == names(mount)
    assert done.stderr == b""


def test_patterns(mount: Path) -> None:
    """A type, a part of a name, a shell's pattern; several are any of them; none that fits is status 1."""
    assert names(mount, "rng") == ["stdrng"]
    assert all("sha3" in name for name in names(mount, "sha3"))
    assert "cbc(aes)" in names(mount, "cbc(*)")
    assert "pcbc(aes)" not in names(mount, "cbc(*)")
    assert set(names(mount, "rng", "cbc(aes)")) >= {"stdrng", "cbc(aes)"}
    done = forked(["algorithms", "nosuch"], Path("/"), CRYPTOFS_MOUNT=str(mount))
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"cryptofs: no algorithm matches nosuch\n")


def test_json(mount: Path) -> None:
    """The same rows as --plain."""
    done = forked(["algorithms", "--json", "aead"], Path("/"), CRYPTOFS_MOUNT=str(mount))
    assert [row["name"] for row in json.loads(done.stdout)] == names(mount, "aead")
