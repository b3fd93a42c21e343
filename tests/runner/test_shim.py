"""The shim: programs in a container whose filter refuses AF_ALG with an errno."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.compiling import compiled
from helpers.machine import TESTS
from helpers.refusing import inside
from helpers.running import ABC, DIGEST, OPENSSL, SECTIONS, command
from helpers.waiting import PATIENCE

from cryptofs.errors import SystemFault
from cryptofs.runner import shim

SHIM = (*OPENSSL, "--shim")
AF_UNIX = 1
ALLOWED_FAMILIES = [each for each in range(1, 46) if each not in (12, 19, 20, 23, 25, 34, 37, 38, 40)]
"""What a later default profile of docker allows: no family that Linux has given up, no AF_ALG, no AF_VSOCK."""


def contained(
    *program: object, options: Sequence[str] = SHIM, refused: Sequence[str] = (), **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run a program by `cryptofs run` in the container. refused: further system calls; more: the environment."""
    line = inside(command(*program, options=options), *refused)
    return subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE, env={**os.environ, **more}
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are compiled."""
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(scope="module")
def program(directory: Path) -> Path:
    """The client with all calls."""
    return compiled("alg", directory, options=("-pthread",))


def test_calls(program: Path) -> None:
    """Sections of the client: the bytes and errnos of a kernel."""
    for section in ("sockets", "hash", "aead", "processes"):
        done = contained(program, section)
        assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0), section


def test_python() -> None:
    """The module of CPython, and a child that the program starts."""
    text = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {DIGEST!r}], check=True)\n{DIGEST}"
    done = contained(sys.executable, "-c", text)
    assert (done.stdout, done.stderr, done.returncode) == (2 * (ABC + "\n"), "", 0)


def test_a_socket_by_syscall(directory: Path) -> None:
    """The C library's syscall(2), which hands on everything else."""
    program = compiled("by_syscall", directory)
    done = contained(program)
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)


def test_musl(directory: Path) -> None:
    """The same library in a program of another C library."""
    if not shutil.which("musl-gcc"):
        pytest.skip("NOT RUN: no musl-gcc (apt-get install musl-tools)")
    program = directory / "musl"
    line = ["musl-gcc", "-idirafter", "/usr/include", "-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"]
    subprocess.run([*line, "-o", program, TESTS / "clients" / "by_syscall.c"], check=True, timeout=60 * PATIENCE)
    done = contained(program)
    assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)


def test_what_it_does_not_catch_gets_the_errno(directory: Path) -> None:
    """A static program, and one that does without the environment: EPERM of the container, never other bytes."""
    static = compiled("by_syscall", directory, options=("-static",))
    for line in ([static], ["env", "-u", "LD_PRELOAD", sys.executable, "-c", DIGEST]):
        done = contained(*line)
        assert (done.stdout, done.returncode) == ("", 1)
        assert "Operation not permitted" in done.stderr


def test_without_the_shim() -> None:
    """The container's filter is noticed at the start; nothing runs."""
    done = contained("echo", "wrong", options=OPENSSL)
    assert (done.stdout, done.returncode) == ("", 125)
    assert "Operation not permitted" in done.stderr
    assert "--shim" in done.stderr


def test_without_a_supervisor() -> None:
    """The alias is no family of the kernel: the library alone gives errors."""
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], env={**os.environ, "LD_PRELOAD": str(shim.library())},
        capture_output=True, text=True, check=False, timeout=60 * PATIENCE,
    )  # fmt: skip
    assert done.stdout == ""
    assert "Address family not supported" in done.stderr


def test_where_nobody_refuses() -> None:
    """It does no harm there, and what it does not catch is answered all the same."""
    for line in ([sys.executable, "-c", DIGEST], ["env", "-u", "LD_PRELOAD", sys.executable, "-c", DIGEST]):
        done = subprocess.run(
            command(*line, options=SHIM), capture_output=True, text=True, check=False, timeout=60 * PATIENCE
        )
        assert (done.stdout, done.stderr, done.returncode) == (ABC + "\n", "", 0)


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_pidfd_getfd_is_refused(program: Path, section: str) -> None:
    """Docker's profile does so, unless the container has a capability: the bytes and errnos are the same."""
    done = contained(program, section, refused=["pidfd_getfd"])
    assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0)


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_calls_for_memory_are_refused(program: Path, section: str) -> None:
    """The default profile of docker 20.10 does so: the program's memory is a file of /proc, too."""
    done = contained(program, section, refused=["pidfd_getfd", "process_vm_readv", "process_vm_writev"])
    assert (done.stdout, done.stderr, done.returncode) == (SECTIONS[section], "", 0)


@pytest.mark.parametrize("allowed", [ALLOWED_FAMILIES, [AF_UNIX]], ids=["those of Linux", "one"])
def test_only_some_families_are_allowed(program: Path, allowed: list[int]) -> None:
    """Newer default profiles list the families that they allow, and so refuse every other number."""
    refused = [f"socket:{family}" for family in (*range(47), 99) if family not in allowed]
    done = contained(program, "hash", refused=refused)
    assert (done.stdout, done.stderr, done.returncode) == (SECTIONS["hash"], "", 0)


def test_a_protocol_that_af_alg_does_not_have() -> None:
    """The errno is the one without the shim; sockets of the family that the shim asks for are the kernel's."""
    text = "import socket\nfor family, protocol in ((38, 5), (1, 5), (1, 0)):\n    try:\n        "
    text += "socket.socket(family, socket.SOCK_SEQPACKET, protocol).close()\n        print('made')\n    "
    text += "except OSError as error: print(error.strerror)"
    done = contained(sys.executable, "-c", text)
    assert done.stdout == "Protocol not supported\nProtocol not supported\nmade\n", done.stderr


SPLICED = """
import os, socket, tempfile
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("hash", "sha256"))
    with bound.accept()[0] as operation:
        source, sink = os.pipe()
        os.write(sink, b"abc")
        print(os.splice(source, operation.fileno(), 2, flags=4), os.splice(source, operation.fileno(), 1))
        print(operation.recv(32).hex())
        with tempfile.TemporaryFile() as file:
            file.write(b"-abc")
            for offset in (1, None):
                file.seek(1)
                print(os.sendfile(operation.fileno(), file.fileno(), offset, 3), file.tell() - 1)
                print(operation.recv(32).hex())
            file.seek(1)
            print(os.sendfile(operation.fileno(), file.fileno(), None, 5), operation.send(b""))
            print(operation.recv(32).hex())
"""


def test_pipes_and_files_without_pidfd_getfd() -> None:
    """libkcapi and OpenSSL send by splice(2); the kernel itself reads a file whose position it has."""
    done = contained(sys.executable, "-c", SPLICED, refused=["pidfd_getfd"])
    parts = [f"2 1\n{ABC}", f"3 0\n{ABC}", f"3 3\n{ABC}", f"3 0\n{ABC}"]
    assert (done.stdout, done.stderr, done.returncode) == ("\n".join(parts) + "\n", "", 0)


OTHER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int socket(int family, int type, int protocol)
{
	int (*next)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
	if (write(2, "other\\n", 6) != 6)
		return -1;
	return next(family, type, protocol);
}
"""


def test_another_preloaded_library_stays(tmp_path: Path) -> None:
    """One that wraps socket(2) sees each call, and then the shim does."""
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text(OTHER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60 * PATIENCE)
    done = contained("/bin/sh", "-c", f"exec {sys.executable} -c '{DIGEST.replace(chr(39), chr(34))}'",
                     LD_PRELOAD=str(library))  # fmt: skip
    assert done.stdout == ABC + "\n"
    assert set(done.stderr.splitlines()) == {"other"}


def test_a_library_that_a_program_is_linked_with_stays(tmp_path: Path) -> None:
    """The shim precedes it, and hands sockets of other families on to it."""
    (tmp_path / "other.c").write_text(OTHER)
    (tmp_path / "main.c").write_text(
        "#include <sys/socket.h>\nint main(void) { return socket(AF_UNIX, SOCK_STREAM, 0) < 0; }\n"
    )
    library, program = tmp_path / "libother.so", tmp_path / "main"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "other.c", "-ldl"], check=True, timeout=60)
    link = [f"-L{tmp_path}", "-lother", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run(["cc", "-o", program, tmp_path / "main.c", "-Wl,--no-as-needed", *link], check=True, timeout=60)
    done = contained(program)
    assert (done.stderr, done.returncode) == ("other\n", 0)


def test_where_it_cannot_be_preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not built, or in a directory that LD_PRELOAD cannot name: the error says what to do."""
    monkeypatch.setattr(shim, "_BUILT", tmp_path / "none.so")
    with pytest.raises(SystemFault, match="install gcc"):
        shim.library()
    spaced = tmp_path / "a b.so"
    spaced.write_bytes(b"")
    monkeypatch.setattr(shim, "_BUILT", spaced)
    with pytest.raises(SystemFault, match="space"):
        shim.library()


@pytest.mark.slow
def test_no_compiler_is_needed(tmp_path: Path) -> None:
    """Without one the wheel lacks the library, and nothing else."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TESTS.parent / name, copy)
    for name in ("docs", "scripts/system"):
        shutil.copytree(TESTS.parent / name, copy / name)
    shutil.copytree(TESTS.parent / "cryptofs", copy / "cryptofs", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    line = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "CC": "false", "SETUPTOOLS_SCM_PRETEND_VERSION_FOR_CRYPTOFS": "1"}
    subprocess.run(
        [*line, "-w", tmp_path, copy], check=True, capture_output=True, env=environment, timeout=100 * PATIENCE
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        built = [name for name in archive.namelist() if name.endswith(".so")]
        assert "cryptofs/runner/launch.py" in archive.namelist()
    assert not built
