"""Every command with names that are no text, in every kind of locale, and with standard descriptors closed."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click import Context as Click
from helpers.cli_process import forked

from cryptofs.cli import STEPS
from cryptofs.cli.commands import commands

pytestmark = pytest.mark.mount

ODD = b"\xe9\n"
COMMANDS = [
    [b"hash", ODD],
    [b"hash", b"-c", ODD],
    [b"hash", b"-n", ODD],
    [b"hash", b"-k", ODD, b"-n", b"hmac(sha256)"],
    [b"hash", b"--device", ODD],
    [b"hash", b"--mount", ODD],
    [b"hash", b"--" + ODD],
    [b"encrypt", b"-k", ODD],
    [b"encrypt", b"-k", b"key", b"-i", ODD],
    [b"encrypt", b"-k", b"key", b"-O", ODD + b"/x"],
    [b"encrypt", b"-k", b"key", b"--iv", ODD],
    [b"decrypt", b"-k", ODD],
    [b"decrypt", b"--device", ODD],
    [b"decrypt", b"-k", b"key", b"-i", ODD],
    [b"seal", b"-k", ODD],
    [b"seal", b"-k", b"key", b"-n", ODD],
    [b"open", b"-k", b"key", b"-i", ODD],
    [b"compress", b"-n", ODD],
    [b"compress", b"-i", ODD],
    [b"decompress", b"-i", ODD],
    [b"algorithms", ODD],
    [b"algorithms", b"--mount", ODD],
    [b"check-config", ODD],
    [b"mount", ODD],
    [b"mount", b"--user", ODD, b"."],
    [b"mount", b"-o", ODD, b"."],
    [b"mount", b"--engines", ODD, b"."],
    [b"mount", b"--config", ODD, b"."],
    [b"mount", b"--service", b"--user", ODD, b"."],
    [b"umount", ODD],
    [b"run", b"--engines", ODD, b"--", b"true"],
    [b"run", b"--mount", ODD, b"--", b"true"],
    [b"run", b"--" + ODD],
    [b"agent", b"--base", ODD, b"--profile", b"socket"],
    [b"agent", b"--engines", ODD, b"socket"],
    [b"cuse", b"--owner", ODD],
    [b"cuse", b"--group", ODD],
    [b"cuse", b"--name", ODD],
    [b"cuse", b"--mode", ODD],
    [b"cuse", b"--mount", ODD],
    [b"benchmark", b"-n", ODD],
    [b"header", ODD],
    [b"sign", ODD],
    [b"sign", b"nosuch", ODD],
    [b"sign", b"nosuch", b"key", b"-o", ODD + b"/x"],
    [b"sign", b"nosuch", b"key", b"--hash", ODD],
    [b"verify", ODD, b"key", b"key"],
    [b"verify", b"nosuch", ODD, b"key"],
    [b"verify", b"nosuch", b"key", ODD],
    [b"random", ODD],
    [b"random", b"1", b"-n", ODD],
    [b"random", b"1", b"-o", ODD + b"/x"],
    [b"key", ODD],
    [b"key", b"new", b"-n", ODD],
    [b"key", b"new", b"--type", b"aead", b"-n", b"gcm(aes)", b"-o", ODD + b"/x"],
    [b"key", b"new", b"--type", b"aead", b"-n", b"gcm(aes)", b"--passphrase-file", ODD, b"-o", b"new"],
    [b"key", b"list", b"--config", ODD],
    [b"key", b"check", b"--config", ODD],
    [b"key", b"rotate", b"--config", ODD, b"device"],
    [b"key", b"rotate", ODD],
    [b"key", b"rewrap", b"--device", ODD, b"key"],
    [b"key", b"rewrap", b"--device", b"nosuch", ODD],
    [b"ssh-agent", b"--mount", ODD],
    [b"pkcs11-server", b"--mount", ODD],
    [b"pkcs11-server", b"-a", ODD + b"/x", b"-d"],
    [b"completion", ODD],
    [b"status", ODD],
    [b"status", b"--mount", ODD],
    [b"status", b"--watch=" + ODD],
    [b"hand-over", b"--user", ODD, b"mnt"],
    [b"hand-over", b"--key", ODD, b"mnt"],
    [b"hand-over", b"--key", b"a=" + ODD, b"--user", b"nobody", ODD + b"/" + b"x" * 300],
    [b"reload", b"--user", b"nobody", ODD + b"/nosuch"],
    [b"take-back", ODD + b"/nosuch"],
    [ODD],
    [],
]
"""None of these can be done."""


def test_each_command_is_tried() -> None:
    """A new command belongs in the list above."""
    tried = {arguments[0].decode() for arguments in COMMANDS if arguments and arguments[0] != ODD}
    assert set(commands.list_commands(Click(commands))) | set(STEPS) <= tried


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Latin-1 locale for LOCPATH."""
    directory = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", directory / "latin"]
    made = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if not (directory / "latin").is_dir():
        pytest.skip(f"NOT RUN: localedef makes no Latin-1 locale: {made.stderr[-200:]!r}")
    return directory


ENVIRONMENTS: list[dict[str, str]] = [
    {"LC_ALL": "C"},
    {"LC_ALL": "C.UTF-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "latin", "PYTHONUTF8": "0"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"},
]

EACH = """
import os, sys
import cryptofs.cli.commands, cryptofs.cli.steps
from importlib import import_module
for target in cryptofs.cli.commands._COMMANDS.values():
    import_module("cryptofs.cli." + target.partition(".")[0])
from cryptofs.cli import main
for arguments in {commands!r}:
    sys.stderr.flush()
    child = os.fork()
    if not child:
        sys.argv = ["cryptofs", *map(os.fsdecode, arguments)]
        try:
            main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code)
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(2, b"STATUS %d %r\\n" % (status, arguments))
"""


def run_each(environment: dict[str, str], mount: Path, directory: Path, run: list[list[bytes]]) -> bytes:
    """All commands in one interpreter that was started in this environment, forked; returns what they said."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    done = subprocess.run(
        [sys.executable, "-c", EACH.format(commands=run)],
        cwd=directory,
        env={**variables, "CRYPTOFS_MOUNT": str(mount), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def outcomes(said: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The status of each command, its arguments, and its lines."""
    lines: list[bytes] = []
    for line in said.splitlines():
        if line.startswith(b"STATUS "):
            _, status, arguments = line.split(b" ", 2)
            yield int(status), arguments, b"\n".join(lines)
            lines = []
        else:
            lines.append(line)


NAMES = [b"\xe9", "é".encode(), b"\xff\xfe"]
HELP = [
    *([name.encode(), b"--help"] for name in (*commands.list_commands(Click(commands)), "hand-over")),
    *([b"--help"], [b"--version"], [b"algorithms"], [b"algorithms", b"--json", b"cbc"]),
]
RUNS = {"odd": COMMANDS, "help": HELP, "digests": [[b"hash", name] for name in NAMES]}
Said = dict[str, list[tuple[int, bytes, bytes]]]


@pytest.fixture(scope="module", params=ENVIRONMENTS, ids=lambda each: " ".join(map("=".join, each.items())))
def said(request: pytest.FixtureRequest, mount: Path, locales: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What the commands of each of RUNS say in one environment. One interpreter runs them all, as its start takes
    longest."""
    directory = tmp_path_factory.mktemp("names")
    (directory / "key").write_bytes(bytes(32))
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_bytes(b"x")
    run = [arguments for each in RUNS.values() for arguments in each]
    found = outcomes(run_each({"LOCPATH": str(locales), **request.param}, mount, directory, run))
    said = {what: list(itertools.islice(found, len(each))) for what, each in RUNS.items()}
    assert next(found, None) is None
    return said


def test_odd_names(said: Said) -> None:
    """A clear line and status 1 or 2 (of run: 125), never a traceback, in any locale; the name in it is escaped."""
    assert len(said["odd"]) == len(COMMANDS)
    for status, arguments, text in said["odd"]:
        assert status in (1, 2, 125), (arguments, text)
        assert text, arguments
        assert b"Traceback" not in text
        assert b"bug in cryptofs" not in text
        if status == 1:
            assert text.count(b"\n") == 0, text


def test_help_and_lists(said: Said) -> None:
    """Every help text and every list can be printed in any locale."""
    for status, arguments, text in said["help"]:
        assert status == 0, (arguments, text[-500:])
        assert text


def test_a_digest_names_the_very_bytes(said: Said) -> None:
    """A name goes to standard output as it was given, whatever the locale."""
    for name, (status, _, text) in zip(NAMES, said["digests"], strict=True):
        assert (status, text[64:]) == (0, b"  " + name)


# Closed descriptors

CLOSED = [each for size in (1, 2, 3) for each in itertools.combinations((0, 1, 2), size)]


@pytest.mark.parametrize("closed", CLOSED, ids=lambda each: "".join(map(str, each)))
def test_closed_descriptors(mount: Path, tmp_path: Path, closed: tuple[int, ...]) -> None:
    """What needs none of them works; output to a closed one fails; nothing is written into a file by mistake."""
    data = tmp_path / "data"
    data.write_bytes(b"data")
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    shut = " ".join(f"{number}<&-" for number in closed)
    program = f"{sys.executable} -m cryptofs"

    def run(command: str) -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "CRYPTOFS_MOUNT": str(mount)}
        return subprocess.run(
            ["sh", "-c", f"exec {program} {command} {shut}"],
            cwd=tmp_path,
            env=environment,
            input=b"input",
            capture_output=True,
            timeout=60,
            check=False,
        )

    hashed = run("hash data")
    assert hashed.returncode == (1 if 1 in closed else 0)
    assert b"Traceback" not in hashed.stderr
    if 1 in closed and 2 not in closed:
        assert hashed.stderr == b"cryptofs: EBADF: standard output: Bad file descriptor\n"
    if 0 in closed and 1 not in closed:
        # its number must not go to the next file that is opened
        assert run("hash").returncode == 1
    assert run("seal -k key -i data -O sealed").returncode == 0
    assert forked(["open", "-k", "key", "-i", "sealed"], tmp_path, CRYPTOFS_MOUNT=str(mount)).stdout == b"data"
    assert (data.read_bytes(), key.read_bytes()) == (b"data", bytes(32))
