"""What computes is loaded with the program's first call that may need it, and nothing goes wrong in between."""

import subprocess
import sys
from textwrap import indent

import pytest
from helpers.other_user import needs_root
from helpers.running import ABC, DIGEST, OPENSSL, run
from helpers.waiting import PATIENCE

LARGE = {
    "construct", "crc32c", "cryptography", "msgspec", "pyfuse3", "rich", "trio",
    "cryptofs.algorithms", "cryptofs.client", "cryptofs.engines.base", "cryptofs.records", "cryptofs.runner.answers",
}  # fmt: skip
LOADED = """
import os
def is_loaded():
    with open(f"/proc/{os.getppid()}/maps") as maps:
        return any("cryptography" in line for line in maps)
"""
"""Whether the program's parent, the supervisor, has loaded what computes. Only root may look into it."""


LINE = 'os.write(1, operation.recv(32).hex().encode() + b"\\n")'
"""Prints as a whole, whatever other threads print."""


def test_a_start_imports_little() -> None:
    """All that runs before the program does, which the supervisor is forked from."""
    code = "import cryptofs.cli.commands, cryptofs.cli.run, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not LARGE & set(done.stdout.split())


@needs_root
@pytest.mark.parametrize("options", [OPENSSL, (*OPENSSL, "--wide"), ()])
def test_a_program_that_does_not_need_it(options: tuple[str, ...]) -> None:
    """It uses calls and descriptors that the filter hands over, and the supervisor has loaded nothing when it ends."""
    program = (
        LOADED
        + """
import fcntl, socket
reader, writer = os.pipe()
for number in (600, 700):
    os.dup2(reader, number)
copy = fcntl.fcntl(600, fcntl.F_DUPFD, 800)
os.dup2(writer, 900)
os.write(900, b"through")
print(os.read(copy, 9), copy)
try:
    socket.socket(fileno=600)
except OSError as error:
    print(error.errno)
print(is_loaded())
"""
    )
    done = run(sys.executable, "-c", program, options=options)
    assert (done.stdout.split("\n"), done.stderr, done.returncode) == (["b'through' 800", "88", "False", ""], "", 0)


@needs_root
def test_a_program_that_needs_it() -> None:
    """It waits for it once."""
    done = run(sys.executable, "-c", LOADED + "print(is_loaded())" + DIGEST + "print(is_loaded())" + DIGEST)
    assert (done.stdout.split(), done.stderr) == (["False", ABC, "True", ABC], "")


@pytest.mark.parametrize("ending", ["os._exit(7)", "os.kill(os.getpid(), 9)", "sys.exit(7)"])
def test_the_program_ends_meanwhile(ending: str) -> None:
    """Before it has an answer to its first call, or just after it."""
    program = f"""
import os, socket, sys, threading
threading.Thread(target=lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET), daemon=True).start()
{ending}
"""
    done = run(sys.executable, "-c", program, timeout=20 * PATIENCE)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", -9 if "kill" in ending else 7)


def test_many_begin_at_once() -> None:
    """Threads and processes whose first calls wait for the same load all get their answers."""
    program = (
        "def digest():\n"
        + indent(DIGEST.replace("print(operation.recv(32).hex(), flush=True)", LINE), "    ")
        + """
import os, threading
for _ in range(3):
    if not os.fork(): break
threads = [threading.Thread(target=digest) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
"""
    )
    done = run(sys.executable, "-c", program)
    assert (sorted(done.stdout.split()), done.stderr) == ([ABC] * 16, "")


def test_the_first_call_may_be_wrong() -> None:
    """Nothing but the supervisor's own question is answered without what computes."""
    program = """
import socket
for kind, protocol in ((socket.SOCK_SEQPACKET, 0x70726F62), (socket.SOCK_STREAM, 0)):
    try:
        socket.socket(socket.AF_ALG, kind, protocol)
    except OSError as error:
        print(error.errno)
"""
    assert run(sys.executable, "-c", program).stdout.split() == ["93", "94"]
