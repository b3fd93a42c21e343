"""A supervisor that has more rights than its program may have, and what the program could use of them."""

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.machine import TESTS
from helpers.other_user import NOBODY, as_user, needs_root
from helpers.running import ABC, DIGEST, command
from helpers.waiting import PATIENCE

from cryptofs.runner.libc import has_capabilities
from cryptofs.runner.notify import Call, Listener, RuntimesListener
from cryptofs.runner.process import Memory

READ_ONLY = """
import ctypes, mmap, socket
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc.mprotect(ctypes.c_void_p(at), 4096, 1)
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("hash", "sha256"))
    with bound.accept()[0] as operation:
        print(libc.recv(operation.fileno(), ctypes.c_void_p(at), 32, 0))
"""
CAPABLE = """
import ctypes, sys
from cryptofs.runner.launch import Settings, run
from cryptofs.runner.libc import has_capabilities
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # an ordinary user's processes are dumpable
print(has_capabilities(), run(Settings(sys.argv[1:], ("openssl",))), flush=True)
"""


@needs_root
def test_whose_memory_it_is() -> None:
    """Root's supervisor opens the memory of the thread that waits. Nobody else's is written by its number."""
    assert has_capabilities()
    line = command(sys.executable, "-c", READ_ONLY)
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
    assert (done.stdout, done.stderr) == ("32\n", "")


@needs_root
def test_an_ordinary_users() -> None:
    """It needs no such care: it can look into processes of its user alone."""
    importlib.import_module("cryptofs.runner.launch")
    assert as_user(NOBODY, NOBODY, [], CAPABLE, "true") == ["False 0"]


class _Outside(Listener):
    """A listener with a call of a process outside of the PID namespace."""

    def __init__(self) -> None:
        self.passed: list[Call] = []

    def receive(self) -> Call:
        return Call(1, 0, 41, (38, 5, 0, 0, 0, 0), Memory(0))


class _Served(RuntimesListener, _Outside):
    """The same for the agent."""

    def pass_on(self, call: Call) -> None:
        self.passed.append(call)


def test_a_process_outside_of_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call is the kernel's; the agent goes on."""
    listener = _Served()
    monkeypatch.setattr(Listener, "receive", _Outside.receive)
    assert listener.receive() is None
    assert [call.tid for call in listener.passed] == [0]


PLANTED = f"""
from pathlib import Path
for name in ("construct", "cryptography", "msgspec"):
    Path(name + ".py").write_text("open('planted', 'w').close()")
{DIGEST}
print(Path("planted").exists())
"""


def test_modules_that_the_program_writes(tmp_path: Path) -> None:
    """`python -m` looks for modules in the working directory. The supervisor loads its own from elsewhere."""
    line = command(sys.executable, "-c", PLANTED)
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE, cwd=tmp_path,
    )  # fmt: skip
    assert (done.stdout.split(), done.stderr) == ([ABC, "False"], "")


BROKEN = """
import sys
from cryptofs.runner import launch

def load(*_):
    raise {error}

launch._load = load
sys.exit(launch.run(launch.Settings([sys.executable, "-c", sys.argv[1]], ("openssl",), devcrypto={devices})))
"""
PROGRAM = """
import errno, socket
for _ in range(2):
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize("devices", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("ImportError('cannot import name x')", errno.EIO, "ImportError: cannot import name x. If cryptofs was"),
        ("OSError(24, 'Too many open files')", errno.EMFILE, "Too many open files"),
    ],
)
def test_what_computes_cannot_be_loaded(error: str, code: int, said: str, devices: bool) -> None:
    """For instance after an upgrade: the front says so once; ordinary files open all the same."""
    line = [sys.executable, "-c", BROKEN.format(error=error, devices=devices), PROGRAM]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE, cwd=TESTS.parent)
    assert (done.stdout.split(), done.returncode) == (2 * [errno.errorcode[code]], 0), done.stderr
    assert done.stderr.count("cannot be loaded") == 1
    assert said in done.stderr
