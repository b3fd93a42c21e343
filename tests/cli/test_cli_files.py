"""Files of the command line on a real mount: output that is whole or not there, and streams that are kept apart."""

import errno
import fcntl
import hmac
import io
import os
import pty
import shlex
import signal
import socket
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from helpers.device_mount import daemon
from helpers.other_user import OWNER, needs_root

from cryptofs.cli import pieces
from cryptofs.cli.commands import commands
from cryptofs.cli.output import open_output
from cryptofs.cli.streams import Stream, opened_elsewhere
from cryptofs.client import RequestError
from cryptofs.errors import CryptofsError

__all__ = ["daemon"]

pytestmark = pytest.mark.mount

OLD = b"what was there before\n"
KEYED = ["encrypt", "decrypt", "seal", "open"]


class Shell:
    """Runs the command by a shell in a directory, as people do: `C` is the command, `key` a key file, `f` data."""

    def __init__(self, mount: Path, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "CRYPTOFS_MOUNT": str(mount), "PYTHON": sys.executable}
        (directory / "key").write_bytes(bytes(range(32)))
        (directory / "f").write_bytes(OLD)

    def __call__(self, line: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"stdin": subprocess.DEVNULL, "cwd": self.directory, "env": self.environment, **options}
        return subprocess.run(self.command(line), capture_output=True, timeout=60, check=False, **options)

    def command(self, line: str) -> list[str]:
        """The arguments that run `line`."""
        return ["bash", "-c", 'C() { "$PYTHON" -m cryptofs "$@"; }; ' + line]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """The command itself, to be sent signals."""
        command = [sys.executable, "-m", "cryptofs", *arguments]
        options = {"stderr": subprocess.PIPE, "cwd": self.directory, "env": self.environment, **options}
        return subprocess.Popen(command, **options)

    def path(self, name: str) -> Path:
        """A file of the directory."""
        return self.directory / name

    def names(self) -> set[str]:
        """What is in the directory; nothing but what a test put there may be."""
        return set(os.listdir(self.directory))


@pytest.fixture
def sh(mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell in a directory with a key and a file, which is this process's own, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYPTOFS_MOUNT", str(mount))
    return Shell(mount, tmp_path)


def call(line: str) -> None:
    """The command in this process, for files alone. Errors: those of the command."""
    commands.main(shlex.split(line), prog_name="cryptofs", standalone_mode=False)


def usage_error(line: str) -> str:
    """What the command says of its usage."""
    with pytest.raises(click.UsageError) as caught:
        call(line)
    assert caught.value.exit_code == 2
    return caught.value.format_message()


def opened(name: str) -> bytes:
    """What `open` makes of a sealed file."""
    call(f"open -k key {name} -o .opened")
    data = Path(".opened").read_bytes()
    os.unlink(".opened")
    return data


# Input and output


@pytest.mark.parametrize(
    "command",
    [
        *(f"{command} -k key" for command in KEYED),
        "compress",
        "decompress",
        "encrypt --device gcm",
        "decrypt --device gcm",
    ],
)
def test_input_is_output(sh: Shell, command: str) -> None:
    """One file by two names, or by one: refused, and it is as it was."""
    os.link("f", "hard")
    os.symlink("f", "soft")
    with open("f", "r+b") as file:
        names = f"/dev/fd/{file.fileno()}"
        for files in (
            "-i f -O f",
            "f -o f",
            "f -o ./f",
            "f -o hard",
            "soft -o f",
            "f -o soft",
            f"-o {names} f",
            f"-o f {names}",
        ):
            assert "the output is the input" in usage_error(f"{command} {files}"), files
    assert sh.path("f").read_bytes() == OLD
    assert sh.names() == {"f", "key", "hard", "soft"}


def test_redirected_onto_itself(sh: Shell) -> None:
    """What the shell has opened can be seen; appending would never end."""
    for files in ("-o f <f", "<f >>f", "f 1<>f", "<f >f"):
        done = sh(f"C seal -k key {files}")
        assert done.returncode == 2, files
        assert b"the output is the input" in done.stderr
        assert sh.path("f").read_bytes() == (b"" if files == "<f >f" else OLD)


@pytest.mark.parametrize("command", KEYED)
def test_key_is_output(sh: Shell, command: str) -> None:
    """The key would be lost, and with it what it encrypts."""
    os.link("key", "hard")
    with open("key", "rb") as file:
        for files in ("-k key f -o key", f"--key-fd {file.fileno()} f -o key", "-k hard f -o key", "-k key f -o hard"):
            assert "the output is the key file" in usage_error(f"{command} {files}"), files
    assert sh.path("key").read_bytes() == bytes(range(32))


def test_what_may_be_both(sh: Shell) -> None:
    """/dev/null, a terminal or a socket as input and output is no file that could be lost."""
    assert sh("C seal -k key </dev/null >/dev/null").returncode == 0
    call("seal -k key /dev/null -o /dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(OLD)
        ours.shutdown(socket.SHUT_WR)
        command = sh.start("compress", stdin=theirs, stdout=theirs)
        assert command.communicate(timeout=30) == (None, b"")
        theirs.close()
        assert ours.recv(4096, socket.MSG_WAITALL)


# One stream for key and data


@pytest.mark.parametrize("command", KEYED)
def test_key_and_data_from_one_stream(sh: Shell, command: str) -> None:
    """Refused: whichever is read first would take all."""
    for files in (
        "--key-fd 0",
        "-k /dev/stdin",
        "-k -",
        "-k /dev/fd/0 -o out",
        "-k /proc/self/fd/0",
        "-k - -i -",
        "--key-fd 0 /dev/stdin",
    ):
        assert "key and data come from one stream" in usage_error(f"{command} {files}"), files
    assert sh.names() == {"f", "key"}


def test_hash_with_key_and_data_from_one_stream(sh: Shell) -> None:
    """The same of `hash`, and of any of its files."""
    for files in ("--key-fd 0", "-k -", "-k /dev/stdin -", "-k - f /dev/fd/0 f"):
        assert "key and data come from one stream" in usage_error(f"hash -n 'hmac(sha256)' {files}"), files
    done = sh("C hash -n 'hmac(sha256)' -k - f <key")
    assert done.stdout.split() == [hmac.digest(bytes(range(32)), OLD, "sha256").hex().encode(), b"f"], done.stderr


@pytest.mark.parametrize(
    "files",
    [
        "cat key | C seal --key-fd 3 3<&0",
        "C seal --key-fd 3 3<key <&3",
        "mkfifo p; cat key >p & C seal -k p <p",
    ],
)
def test_one_stream_by_two_descriptors(sh: Shell, files: str) -> None:
    """A duplicated descriptor and a FIFO are one stream by whatever names."""
    done = sh(files)
    assert done.returncode == 2, done.stderr
    assert b"key and data come from one stream" in done.stderr


def test_one_stream_by_two_names(sh: Shell) -> None:
    """The same of a FIFO's names, and of a descriptor's."""
    os.mkfifo("p")
    os.link("p", "q")
    os.symlink("p", "r")
    for files in ("-k p -i p", "-k p q", "-k r q"):
        assert "key and data come from one stream" in usage_error(f"seal {files}")
    with open("key", "rb") as file:
        number = file.fileno()
        assert "one stream" in usage_error(f"seal --key-fd {number} -i /dev/fd/{number}")


def test_key_from_standard_input(sh: Shell) -> None:
    """Where the data comes from elsewhere, it may; and one file that is opened twice is two streams."""
    done = sh(
        "C seal -k - f <key -o one && cat key | C seal --key-fd 0 f -o two && C seal --key-fd 3 3<key <f -o three"
    )
    assert done.returncode == 0, done.stderr
    assert [opened(name) for name in ("one", "two", "three")] == [OLD] * 3
    call("seal -k key key -o four")
    assert opened("four") == bytes(range(32))


def test_no_such_key_descriptor(sh: Shell) -> None:
    """A word and a status, whatever the number."""
    for number in ("-1", "2147483648", "99999999999999999999", "x"):
        assert number in usage_error(f"seal --key-fd {number} f")
    done = sh("C seal --key-fd 99 f")
    assert done.returncode == 1
    assert b"descriptor 99: Bad file descriptor" in done.stderr


# Names


def test_spellings(sh: Shell) -> None:
    """The input as an argument or an option, the output by each of its names."""
    for out in ("-o", "-O", "--out", "--output"):
        for source in ("f", "-i f", "--in f", "--input f", "-- f"):
            call(f"seal -k key {out} sealed {source}")
            assert opened("sealed") == OLD
            os.unlink("sealed")
    done = sh("C seal -k key - <f | C open -k key -i - -o -")
    assert (done.returncode, done.stdout) == (0, OLD), done.stderr


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("encrypt -k key", "decrypt -k key"),
        ("encrypt -n 'cbc(aes)' -k key", "decrypt -n 'cbc(aes)' -k key"),
        ("encrypt --device gcm", "decrypt --device gcm"),
        ("encrypt --device cbc", "decrypt --device cbc"),
        ("compress", "decompress"),
    ],
)
def test_positional_for_every_command(sh: Shell, there: str, back: str) -> None:
    """There and back by names alone."""
    call(f"{there} f -o made")
    call(f"{back} made -o back")
    assert sh.path("back").read_bytes() == OLD
    assert sh.names() == {"f", "key", "made", "back"}


def test_a_file_named_minus(sh: Shell) -> None:
    """`./-` is a file, `-` is not."""
    sh.path("-").write_bytes(OLD)
    assert "the output is the input" in usage_error("seal -k key ./- -o ./-")
    call("seal -k key ./- -o made")
    assert opened("made") == OLD
    sh.path("-").write_bytes(bytes(range(32)))
    call("seal -k ./- f -o made")
    assert opened("made") == OLD


def test_two_inputs(sh: Shell) -> None:
    """Refused, with both names."""
    assert "f and --in key" in usage_error("seal -k key f -i key")
    assert "key" in usage_error("seal -k key f key")
    assert sh.names() == {"f", "key"}


def test_names_that_are_no_text(sh: Shell) -> None:
    """A name is bytes, in a C locale as well."""
    done = sh("cp f $'\\xe9 \\n'; LC_ALL=C C seal -k key $'\\xe9 \\n' -o $'\\xff' && C open -k key $'\\xff'")
    assert (done.returncode, done.stdout) == (0, OLD), done.stderr
    done = sh("LC_ALL=C C seal -k key $'\\xff' -o $'\\xff'")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


# Whole or as before


FAILING = {
    "changed": "open -k key cut -o {}",
    "no key": "open -k nosuch cut -o {}",
    "no input": "seal -k key nosuch -o {}",
    "directory": "seal -k key . -o {}",
    "no name": "encrypt -n nosuch -k key f -o {}",
    "padding": "decrypt -n 'cbc(aes)' -k key cut -o {}",
    "iv": "encrypt -k key --iv xyz f -o {}",
    "no device": "encrypt --device nosuch f -o {}",
    "not sealed": "decrypt --device gcm cut -o {}",
    "not compressed": "decompress f -o {}",
    "no mount": "seal --mount . -k key f -o {}",
}


@pytest.mark.parametrize("line", FAILING.values(), ids=FAILING.keys())
def test_failure_changes_nothing(sh: Shell, line: str) -> None:
    """The old file stays, no new one comes, no temporary one is left: of commands that fail in the middle or before."""
    sh.path("plain").write_bytes(bytes(300_000))
    sh.path("old").write_bytes(OLD)
    call("seal -k key plain -o cut")
    os.truncate("cut", 200_000)
    before = sh.names()
    for name in ("old", "new"):
        with pytest.raises((OSError, CryptofsError)):
            call(line.format(name))
        assert sh.path("old").read_bytes() == OLD
        assert sh.names() == before


def test_failure_is_told_once(sh: Shell) -> None:
    """One line and status 1; where the file may not grow as well."""
    sh.path("plain").write_bytes(bytes(300_000))
    for line in ("ulimit -f 64; C encrypt -k key plain -o f", "C seal -k key nosuch -o f"):
        done = sh(line)
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert sh.path("f").read_bytes() == OLD
        assert sh.names() == {"f", "key", "plain"}


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGINT, "f"),
        (signal.SIGTERM, "new"),
        (signal.SIGTERM, "f"),
        (signal.SIGHUP, "new"),
        (signal.SIGQUIT, "f"),
    ],
)
def test_signals(sh: Shell, number: signal.Signals, name: str) -> None:
    """The old file stays and nothing is left, and the caller sees which signal it was."""
    before = sh.names()
    command = sh.start("encrypt", "-k", "key", "-o", name, stdin=subprocess.PIPE)
    assert command.stdin is not None
    command.stdin.write(bytes(1_500_000))
    command.stdin.flush()
    deadline = time.monotonic() + 30
    while sh.names() == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sh.names() > before
    command.send_signal(number)
    # twice, as timeout(1) does
    command.send_signal(number)
    command.communicate(timeout=30)
    assert command.returncode == -number
    assert sh.names() == before
    assert sh.path("f").read_bytes() == OLD


def test_ignored_signals_stay_ignored(sh: Shell) -> None:
    """Under nohup a hang-up ends nothing."""
    before = sh.names()
    command = sh.start(
        "seal", "-k", "key", "-o", "new", stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while sh.names() == before and time.monotonic() < deadline:
        time.sleep(0.01)
    command.send_signal(signal.SIGHUP)
    command.communicate(OLD, timeout=30)
    assert command.returncode == 0
    assert sh("C open -k key new").stdout == OLD


def test_the_old_file_can_be_read_meanwhile(sh: Shell) -> None:
    """Until all is well there is the old content, then at once the new one."""
    command = sh.start("compress", "-o", "f", stdin=subprocess.PIPE)
    assert command.stdin is not None
    command.stdin.write(os.urandom(2_000_000))
    command.stdin.flush()
    while len(sh.names()) < 3:
        time.sleep(0.01)
    assert sh.path("f").read_bytes() == OLD
    command.communicate(timeout=30)
    assert command.returncode == 0
    assert sh.path("f").stat().st_size > 2_000_000
    assert sh.names() == {"f", "key"}


# What the new file is like


@contextmanager
def masked(mask: int) -> Iterator[None]:
    """This process's umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660, 0o755, 0o4755])
def test_mode_of_an_old_file(sh: Shell, mode: int) -> None:
    """Kept; set-user-ID goes, as with every write."""
    sh.path("old").write_bytes(OLD)
    sh.path("old").chmod(mode)
    with masked(0o077):
        call("seal -k key f -o old")
    assert stat.S_IMODE(sh.path("old").stat().st_mode) == mode & 0o777


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_mode_of_a_new_file(sh: Shell, mask: int) -> None:
    """By the umask."""
    with masked(mask):
        call("seal -k key f -o new")
    assert stat.S_IMODE(sh.path("new").stat().st_mode) == 0o666 & ~mask


@needs_root
def test_owner_is_kept(sh: Shell) -> None:
    """Root writes another user's file, and it stays that user's."""
    sh.path("old").write_bytes(OLD)
    os.chown(sh.path("old"), OWNER, OWNER + 1)
    sh.path("old").chmod(0o640)
    call("seal -k key f -o old")
    status = sh.path("old").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OWNER, OWNER + 1, 0o640)


def test_access_list_is_kept(sh: Shell) -> None:
    """As far as the file system has any."""
    sh.path("old").write_bytes(OLD)
    entries = [(1, 6, 2**32 - 1), (2, 4, OWNER), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
    listed = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, rights, who in entries
    )
    try:
        os.setxattr(sh.path("old"), "system.posix_acl_access", listed)
    except OSError as error:
        pytest.skip(f"NOT RUN: this file system has no access lists: {error}")
    call("seal -k key f -o old")
    assert os.getxattr(sh.path("old"), "system.posix_acl_access") == listed


def test_through_links(sh: Shell) -> None:
    """A symbolic link stays and what it leads to is replaced, if only by coming into being; loops are errors."""
    sh.path("sub").mkdir()
    sh.path("sub/old").write_bytes(OLD)
    for link, name in (("one", "sub/old"), ("two", "one"), ("dangling", "sub/new"), ("a", "b"), ("b", "a")):
        os.symlink(name, link)
    call("seal -k key f -o two")
    call("seal -k key f -o dangling")
    for name in ("one", "two", "dangling"):
        assert sh.path(name).is_symlink()
    for name in ("sub/old", "sub/new"):
        assert opened(name) == OLD
    assert set(os.listdir("sub")) == {"old", "new"}
    with pytest.raises(OSError) as caught:
        call("seal -k key f -o a")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("name", ["nosuch/out", "sub", "sub/", "new/", "''", "f/x", "x" * 256])
def test_names_that_no_file_can_have(sh: Shell, name: str) -> None:
    """An error that names it, and nothing is made."""
    sh.path("sub").mkdir()
    with pytest.raises(OSError) as caught:
        call(f"seal -k key f -o {name}")
    assert caught.value.filename == name
    assert sh.names() == {"f", "key", "sub"}


def test_longest_name(sh: Shell) -> None:
    """A name of 255 bytes leaves no room for more in a temporary one."""
    call(f"seal -k key f -o {'x' * 255}")
    assert sh.names() == {"f", "key", "x" * 255}


def test_what_is_no_file_is_written_directly(sh: Shell) -> None:
    """Devices, FIFOs and open descriptors stay what they are."""
    call("seal -k key f -o /dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    done = sh("mkfifo p; C seal -k key f -o p & C open -k key p; wait $!")
    assert done.stdout == OLD
    assert stat.S_ISFIFO(sh.path("p").stat().st_mode)
    # a pipe, and a file that others write as well: the shell goes on behind what was written
    assert sh("C seal -k key f -o /dev/stdout | C open -k key /dev/stdin").stdout == OLD
    call("seal -k key f -o made")
    for out in ("/dev/stdout", "/proc/thread-self/fd/1"):
        done = sh(f"{{ C open -k key made -o {out}; echo end; }} >both; cat both; rm both")
        assert done.stdout == OLD + b"end\n", out
    done = sh("{ C open -k key made -o /dev/fd/5; echo end >&5; } 5>both; cat both")
    assert done.stdout == OLD + b"end\n"


@pytest.mark.parametrize("command", ["seal -k key", "encrypt -k key", "compress", "encrypt --device gcm"])
def test_full_devices(sh: Shell, command: str) -> None:
    """An output that takes nothing is an error that names it."""
    with pytest.raises(OSError) as caught:
        call(f"{command} f -o /dev/full")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


@pytest.mark.parametrize(
    "command", ["seal -k key f", "decrypt -k key g", "compress f", "encrypt --device gcm f", "algorithms --plain"]
)
def test_standard_output_that_takes_nothing(sh: Shell, command: str) -> None:
    """Closed or full: status 1 and one line, whatever prints; with its reader gone, no line."""
    sh.path("g").write_bytes(bytes(100))
    for redirection, word in ((">&-", b"Bad file descriptor"), (">/dev/full", b"No space left on device")):
        done = sh(f"C {command} {redirection}")
        assert done.returncode == 1, done.stderr
        assert word in done.stderr
        assert b"standard output" in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert sh.names() == {"f", "g", "key"}


def test_standard_streams_that_are_closed(sh: Shell) -> None:
    """No file that is opened takes the place of one."""
    done = sh("C seal -k key f -o made <&- >&- 2>&-")
    assert done.returncode == 0
    assert opened("made") == OLD
    done = sh("C seal -k key -o f <&-")
    assert done.returncode == 1
    assert b"standard input: Bad file descriptor" in done.stderr
    assert sh.path("f").read_bytes() == OLD
    # the reader ends before the writer has written
    done = sh("head -c 3000000 /dev/zero | C encrypt -k key | true; echo ${PIPESTATUS[1]}")
    assert done.stdout == b"141\n"
    assert done.stderr == b""


def demoted() -> None:
    """Become a user who owns nothing."""
    os.setgroups([])
    os.setgid(OWNER)
    os.setuid(OWNER)


def replaced_as_user(path: Path) -> str:
    """Replace a file as another user, by a child; returns the error, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            demoted()
            with open_output(Stream.named(str(path), 1)) as file:
                file.write(b"new")
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        return pipe.read().decode()


@needs_root
def test_rights_of_other_users(tmp_path: Path) -> None:
    """What could not be written before cannot be replaced now; what cannot be replaced says how it can be written."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    shut, free = tmp_path / "shut", tmp_path / "free"
    for directory, mode in ((shut, 0o755), (free, 0o777)):
        directory.mkdir()
        directory.chmod(mode)
    for path, mode, owner in (
        (shut / "writable", 0o666, 0),
        (shut / "roots", 0o644, 0),
        (free / "readonly", 0o444, OWNER),
        (free / "roots", 0o644, 0),
        (free / "shared", 0o666, 0),
        (free / "own", 0o640, OWNER),
    ):
        path.write_bytes(OLD)
        path.chmod(mode)
        os.chown(path, owner, owner)
    assert "redirect standard output" in replaced_as_user(shut / "writable")
    assert "redirect" not in replaced_as_user(shut / "roots")
    assert "Permission denied" in replaced_as_user(shut / "new")
    assert "Permission denied" in replaced_as_user(free / "readonly")
    assert "Permission denied" in replaced_as_user(free / "roots")
    assert "owner, group and rights" in replaced_as_user(free / "shared")
    for path in (shut / "writable", free / "readonly", free / "roots", free / "shared"):
        assert path.read_bytes() == OLD
    assert replaced_as_user(free / "own") == ""
    assert (free / "own").read_bytes() == b"new"
    assert set(os.listdir(free)) == {"readonly", "roots", "shared", "own"}
    assert set(os.listdir(shut)) == {"writable", "roots"}


def test_a_target_that_cannot_be_renamed_to(sh: Shell) -> None:
    """A file that something is mounted on stays, and nothing is left."""
    sh.path("target").write_bytes(OLD)
    done = subprocess.run(["mount", "--bind", "f", "target"], cwd=sh.directory, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("NOT RUN: only root mounts")
    try:
        done = sh("C seal -k key key -o target")
        assert done.returncode == 1
        assert b"busy" in done.stderr
        assert sh.path("target").read_bytes() == OLD
        assert sh.names() == {"f", "key", "target"}
    finally:
        subprocess.run(["umount", "target"], cwd=sh.directory, check=True, timeout=10)


# Progress bars


def on_terminal(sh: Shell, line: str, **environment: str) -> tuple[int, bytes]:
    """Status, and what the terminal shows that is its standard error."""
    controller, terminal = pty.openpty()
    attributes = termios.tcgetattr(terminal)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    shown = io.BytesIO()

    def read() -> None:
        while True:
            try:
                data = os.read(controller, 4096)
            except OSError:
                return
            shown.write(data)

    reader = threading.Thread(target=read)
    reader.start()
    with open(sh.path("out"), "wb") as out:
        done = subprocess.run(
            sh.command(line), cwd=sh.directory, env={**sh.environment, **environment}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=terminal, timeout=60, check=False,
        )  # fmt: skip
    os.close(terminal)
    reader.join(30)
    os.close(controller)
    return done.returncode, shown.getvalue()


@pytest.mark.parametrize(
    "variables",
    [
        {"FORCE_COLOR": "1", "TERM": "xterm-256color", "CLICOLOR_FORCE": "1", "COLORTERM": "truecolor"},
        {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "FORCE_COLOR": "3"},
    ],
)
def test_no_bar_without_a_terminal(sh: Shell, variables: dict[str, str]) -> None:
    """Whatever the environment says of terminals, a file gets no bar."""
    done = sh("C seal -k key f -o out && C hash out >/dev/null", env={**sh.environment, **variables})
    assert (done.returncode, done.stderr) == (0, b"")


def test_bar_on_a_terminal(sh: Shell) -> None:
    """There is one, also beside -o; without colours where NO_COLOR is set, and none where it could not be redrawn."""
    line = "head -c 3000000 /dev/zero | C seal -k key -o made"
    status, shown = on_terminal(sh, line, TERM="xterm-256color")
    assert status == 0
    assert b"\x1b[38" in shown or b"\x1b[3" in shown
    status, plain = on_terminal(sh, line, TERM="xterm-256color", NO_COLOR="1")
    assert status == 0
    assert plain
    assert b"\x1b[38" not in plain
    assert b"\x1b[3" not in plain
    assert on_terminal(sh, line, TERM="dumb") == (0, b"")
    assert on_terminal(sh, line, TERM="dumb", FORCE_COLOR="1") == (0, b"")


# Hints


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("encrypt -n 'gcm(aes)' -k key f", ["cryptofs seal"]),
        ("decrypt -n 'gcm(aes)' -k key f", ["cryptofs open"]),
        ("encrypt -n 'ccm(aes)' -k key f", ["cryptofs seal", "gcm(aes)"]),
        ("encrypt -n 'rfc7539(chacha20,poly1305)' -k key f", ["cryptofs seal"]),
        ("encrypt -n sha256 -k key f", ["cryptofs hash"]),
        ("encrypt -n zstd -k key f", ["cryptofs compress"]),
    ],
)
def test_a_name_of_another_command(sh: Shell, line: str, words: list[str]) -> None:
    """The error names the command that takes it."""
    with pytest.raises(RequestError) as caught:
        call(line)
    assert caught.value.errno == errno.ENOENT
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("command", KEYED)
def test_no_key(sh: Shell, command: str) -> None:
    """Where a key is missing, the error says how it is given."""
    said = usage_error(f"{command} f")
    for word in ("no key", "-k FILE", "--key-fd"):
        assert word in said
    assert ("--device" in said) == (command in ("encrypt", "decrypt"))
    assert "two keys" in usage_error(f"{command} -k key --key-fd 3 f")


# The pieces themselves


def test_descriptors_of_other_processes(tmp_path: Path) -> None:
    """They are files that are open, not names that could be replaced."""
    path = tmp_path / "f"
    path.write_bytes(OLD)
    with path.open("rb") as file:
        number = file.fileno()
        assert Stream.named(f"/dev/fd/{number}", 0).descriptor == number
        assert Stream.named(f"/proc/{os.getpid()}/fd/{number}", 0).descriptor == number
        other = f"/proc/{os.getppid()}/fd/0"
        assert Stream.named(other, 0).path == other
        assert opened_elsewhere(other) == other
    assert Stream.named(str(path), 0).path == str(path)
    assert Stream.named("/dev/fd/99999999999999999999", 0).descriptor is None
    assert opened_elsewhere(str(path)) is None


def test_output_of_any_writer(tmp_path: Path) -> None:
    """An exception of the block keeps the old file, whatever it is."""
    path = tmp_path / "f"
    path.write_bytes(OLD)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def replace(fail: Callable[[], None]) -> None:
        with open_output(Stream.named(str(path), 1)) as file:
            file.write(b"new")
            fail()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(stop)
    assert path.read_bytes() == OLD
    replace(lambda: None)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_parts_take_no_more_than_they_give() -> None:
    """A pipe is read as it comes, and each piece but the last is full."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)

    def feed() -> None:
        for _ in range(10):
            os.write(writer, bytes(1000))
        os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    with Stream.inherited(reader).open_input() as source:
        assert [len(piece) for piece in pieces.parts(source, 3000)] == [3000, 3000, 3000, 1000]
    thread.join(10)
    os.close(reader)
