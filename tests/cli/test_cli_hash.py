"""`cryptofs hash` beside the real sha256sum: the same bytes on standard output, the same exit status."""

import errno
import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli_process import forked

pytestmark = pytest.mark.mount

NAMES = [
    b"plain",
    b"a b",
    b"b\nc",
    b"r\rt",
    b"back\\slash",
    b"\\",
    b"\xe9",
    "é".encode(),
    b"both\\n\n",
    b"#first",
    b"(x) = y",
]


def run(
    command: list[bytes | str], directory: Path, data: bytes = b"", **variables: str
) -> "subprocess.CompletedProcess[bytes]":
    """A command in a directory; it may fail."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **variables}
    return subprocess.run(
        command, cwd=directory, input=data, env=environment, capture_output=True, timeout=60, check=False
    )


def both(mount: Path, directory: Path, *arguments: bytes | str, data: bytes = b"") -> bytes:
    """What both say on standard output; it and the exit status must be the same."""
    theirs = run(["sha256sum", *arguments], directory, data)
    ours = forked(["hash", *arguments], directory, data, CRYPTOFS_MOUNT=str(mount))
    assert ours.stdout == theirs.stdout, arguments
    assert ours.returncode == theirs.returncode, (arguments, ours.stderr, theirs.stderr)
    assert b"Traceback" not in ours.stderr
    # as many lines of complaint, ours each with the program's name
    assert len(ours.stderr.splitlines()) == len(theirs.stderr.splitlines()), (ours.stderr, theirs.stderr)
    return ours.stdout


@pytest.fixture
def files(tmp_path: Path) -> list[bytes]:
    """Files whose names are hard, in tmp_path."""
    for number, name in enumerate(NAMES):
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(bytes([number]) * number)
    return NAMES


@pytest.mark.parametrize("options", [(), ("--tag",), ("--zero",), ("-b",), ("-z", "--tag"), ("--text",)], ids=" ".join)
def test_names_are_escaped(mount: Path, tmp_path: Path, files: list[bytes], options: tuple[str, ...]) -> None:
    """Newline, carriage return and backslash are escaped, and the line begins with a backslash; others are as given."""
    assert len(both(mount, tmp_path, *options, "--", *files)) > 64 * len(files)


def test_every_file_is_tried(mount: Path, tmp_path: Path, files: list[bytes]) -> None:
    """A missing file, a directory, a loop, a file as a directory: a message each, the others are hashed, status 1."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "directory").mkdir()
    wrong = ["nosuch", b"\xff", b"no\nsuch", "directory", "loop", "plain/x", ""]
    both(mount, tmp_path, "plain", *wrong, "a b", "-", "-", data=b"input")
    (tmp_path / "plain").unlink()
    both(mount, tmp_path, "plain")


def test_what_a_failure_says(mount: Path, tmp_path: Path) -> None:
    """One line with the errno's name and the name, in which a newline is no newline."""
    (tmp_path / "directory").mkdir()
    command = ["hash", "--mount", str(mount), b"no\nsuch\xe9", "directory"]
    assert forked(command, tmp_path).stderr.splitlines() == [
        b"cryptofs: ENOENT: no\\nsuch\\xe9: No such file or directory",
        b"cryptofs: EISDIR: directory: Is a directory",
    ]


def test_a_file_that_fails_midway_spoils_no_other(mount: Path, tmp_path: Path) -> None:
    """Reading of a process's memory fails with EIO after the open; the next digest is right."""
    (tmp_path / "good").write_bytes(b"good")
    both(mount, tmp_path, "good", "/proc/self/mem", "good")


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root")
def test_unreadable(mount: Path, tmp_path: Path) -> None:
    """EACCES of one file is its own."""
    tmp_path.chmod(0o755)
    (tmp_path / "closed").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    (tmp_path / "good").write_bytes(b"good")
    # the user cannot walk through the directories above
    descriptor = os.open(mount, os.O_PATH)
    where = f"/proc/self/fd/{descriptor}"
    done = forked(["hash", "closed", "good"], tmp_path, user=65534, CRYPTOFS_MOUNT=where)
    os.close(descriptor)
    assert done.returncode == 1
    assert done.stderr == b"cryptofs: EACCES: closed: Permission denied\n"
    assert done.stdout == hashlib.sha256(b"good").hexdigest().encode() + b"  good\n"


# --check

# older ones of coreutils escape these in a list, but not when they print what became of it
RARE = [b"r\rt", b"back\\slash", b"\\"]


def sums(directory: Path, *options: str) -> bytes:
    """What sha256sum prints of the files there."""
    names = [name for name in NAMES if name not in RARE]
    return subprocess.run(["sha256sum", *options, "--", *names], cwd=directory, capture_output=True, check=True).stdout


@pytest.mark.parametrize("form", [(), ("--tag",), ("-b",)], ids=["plain", "tag", "binary"])
@pytest.mark.parametrize(
    "options",
    [(), ("--quiet",), ("--status",), ("--warn",), ("--strict",), ("--ignore-missing",), ("-w", "--strict", "--quiet")],
    ids=" ".join,
)
def test_check(
    mount: Path, tmp_path: Path, files: list[bytes], form: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """A list that is right; the same with a changed file, a missing one and lines that are no checksums."""
    listing = sums(tmp_path, *form)
    (tmp_path / "sums").write_bytes(listing)
    both(mount, tmp_path, "--check", *options, "sums")
    (tmp_path / "a b").write_bytes(b"changed")
    (tmp_path / "b\nc").unlink()
    digest = b"0" * 64
    (tmp_path / "bad").write_bytes(
        b"# a comment\n\nnonsense\n" + digest[1:] + b"  plain\n\\" + digest + b"  bad\\escape\n" + listing + b"cut"
    )
    both(mount, tmp_path, "--check", *options, "bad", "nosuch", "sums")


def test_check_prints_names_as_a_list_has_them(mount: Path, tmp_path: Path, files: list[bytes]) -> None:
    """Carriage returns and backslashes are escaped, as today's coreutils do."""
    listing = run(["sha256sum", "--", *RARE], tmp_path).stdout
    command = ["hash", "--check"]
    done = forked(command, tmp_path, listing, CRYPTOFS_MOUNT=str(mount))
    assert done.stdout == b"\\r\\rt: OK\n\\back\\\\slash: OK\n\\\\\\: OK\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"\n\n",
        b"# nothing\n",
        b"nonsense\n",
        b"%s  plain\r\n",
        b"  \t%s  plain\n",
        b"%s *plain\n",
        b"%s plain\n",
        b"%s   plain\n",
        b"%s  \n",
        b"%s \n",
        b"%s\n",
        b"%s\tplain\n",
        b"SHA256 (plain) = %s\n",
        b"SHA256(plain)= %s\n",
        b"SHA256 (plain) = %s extra\n",
        b"SHA512 (plain) = %s\n",
        b"SHA256 (nosuch) (x) = %s\n",
        b"%s  plain",
        b"\\%s  plain\n",
        b"%s0  plain\n",
        b"%s  nosuch\n",
        b"%s  -\n",
        b"%s  " + b"x" * 5000 + b"\n",
        b"x" * 200_000 + b"\n%s  plain\n",
    ],
    ids=lambda lines: repr(lines[:30]),
)
def test_lines(mount: Path, tmp_path: Path, lines: bytes) -> None:
    """One line at a time, in a file and from standard input; digests in capitals are the same digests."""
    (tmp_path / "plain").write_bytes(b"plain")
    digest = hashlib.sha256(b"plain").hexdigest().encode()
    (tmp_path / "sums").write_bytes(lines.replace(b"%s", digest.upper()))
    both(mount, tmp_path, "-c", "-w", "sums", data=b"plain")
    both(mount, tmp_path, "-c", "-w", "--strict", data=lines.replace(b"%s", digest))


def test_a_name_that_no_file_can_have(mount: Path, tmp_path: Path) -> None:
    """NUL in a list: the line is no checksum. sha256sum would check the name up to it."""
    (tmp_path / "sums").write_bytes(b"0" * 64 + b"  a\0b\n")
    done = forked(["hash", "-cw", "sums"], tmp_path, CRYPTOFS_MOUNT=str(mount))
    assert done.returncode == 1
    assert b"sums: 1: improperly formatted" in done.stderr
    assert b"no properly formatted" in done.stderr


@pytest.mark.parametrize(
    ("name", "program"),
    [("sha512", "sha512sum"), ("sha1", "sha1sum"), ("md5", "md5sum"), ("blake2b-512", "b2sum")],
)
def test_others_read_our_lists_and_we_theirs(mount: Path, tmp_path: Path, name: str, program: str) -> None:
    """Plain and tagged lists of other hashes go both ways."""
    (tmp_path / "data").write_bytes(b"data")
    for options in ([], ["--tag"]):
        ours = forked(
            ["hash", "-n", name, *options, "data"],
            tmp_path,
            CRYPTOFS_MOUNT=str(mount),
        ).stdout
        assert ours == run([program, *options, "data"], tmp_path).stdout
        command = ["hash", "-n", name, "--check"]
        assert forked(command, tmp_path, ours, CRYPTOFS_MOUNT=str(mount)).stdout == b"data: OK\n"


def test_a_keyed_list(mount: Path, tmp_path: Path) -> None:
    """HMACs are listed and checked with the key, tagged with the kernel's name, and not without the key."""
    (tmp_path / "key").write_bytes(bytes(20))
    (tmp_path / "data").write_bytes(b"data")
    base = ["hash", "--mount", str(mount), "-n", "hmac(sha256)"]
    listing = forked([*base, "-k", "key", "--tag", "data"], tmp_path).stdout
    assert listing.decode() == f"hmac(sha256) (data) = {hmac.digest(bytes(20), b'data', 'sha256').hex()}\n"
    assert forked([*base, "-k", "key", "--check"], tmp_path, listing).stdout == b"data: OK\n"
    for arguments in (["data"], ["--check"]):
        done = forked([*base, *arguments], tmp_path, listing)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"cryptofs: ENOKEY: hmac(sha256) needs a key: give it with -k FILE or --key-fd N\n"


@pytest.mark.parametrize(
    "arguments", [["-c", "--tag"], ["-c", "-z"], ["--quiet"], ["--strict"], ["-w"], ["--tag", "--text"]], ids=" ".join
)
def test_options_that_do_not_go_together(mount: Path, tmp_path: Path, arguments: list[str]) -> None:
    """A usage error, status 2, and nothing is read."""
    done = forked(["hash", *arguments, "nosuch"], tmp_path, CRYPTOFS_MOUNT=str(mount))
    assert done.returncode == 2
    assert b"--" in done.stderr
    assert b"nosuch" not in done.stderr


# Standard output


@pytest.mark.parametrize("arguments", [["data"], ["--check", "sums"]], ids=" ".join)
def test_output_that_cannot_be_written(mount: Path, tmp_path: Path, arguments: list[str]) -> None:
    """A full or closed standard output is an error in one line, status 1."""
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "sums").write_bytes(run(["sha256sum", "data"], tmp_path).stdout)
    command = f"exec {sys.executable} -m cryptofs hash --mount {mount} {' '.join(arguments)}"
    for redirection, number in ((">/dev/full", errno.ENOSPC), (">&-", errno.EBADF)):
        done = run(["sh", "-c", command + redirection], tmp_path)
        line = f"cryptofs: {errno.errorcode[number]}: standard output: {os.strerror(number)}\n"
        assert (done.returncode, done.stderr.decode()) == (1, line)


def test_a_reader_that_has_gone(mount: Path, tmp_path: Path) -> None:
    """The program ends without a word, with the status that a shell shows of a program that SIGPIPE has ended."""
    (tmp_path / "data").write_bytes(b"data")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "cryptofs", "hash", "--mount", str(mount), str(tmp_path / "data")],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_input_that_must_not_wait(mount: Path, tmp_path: Path) -> None:
    """A non-blocking standard input with nothing in it yet is EAGAIN, as sha256sum says, and no empty file."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    done = subprocess.run(
        [sys.executable, "-m", "cryptofs", "hash", "--mount", str(mount)],
        stdin=reader,
        capture_output=True,
        timeout=60,
        check=False,
    )
    os.close(reader)
    os.close(writer)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"EAGAIN: standard input" in done.stderr
