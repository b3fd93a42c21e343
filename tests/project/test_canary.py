"""A canary key is used in every way there is, and looked for everywhere where it must not be."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.configs import configured, declare
from helpers.daemons import SHARED, Daemon, serving
from helpers.machine import TESTS

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root may look everywhere")]


# gives the key in every form to contexts of its own and leaves them open: a line, a record, a batch, wrongly, too late
CLIENT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from cryptofs.client import Context, RequestError
from cryptofs.records import Attr, Operation, Record, build
mount, key = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
kept = []
for type_, name in (("skcipher", "cbc(aes)"), ("aead", "gcm(aes)"), ("hash", "hmac(sha256)"), ("skcipher", "ctr(aes)")):
    context = Context(type_, name, key, mount=mount)
    kept.append(context)
    context.set_key(key)
    try:
        Context(type_, name, key * 3, mount=mount)
    except RequestError:
        pass
def control(context, line):
    descriptor = os.open(context.directory / "ctl", os.O_RDWR)
    try:
        os.write(descriptor, line)
    except OSError:
        pass
    print(os.read(descriptor, 4096))
    os.close(descriptor)
first = kept[0]
for form in (f"hex:{key.hex()}", "text:" + key.hex()[:16]):
    control(first, f"set-key key={form}\\n".encode())
control(first, b"set-key key=hex:" + key.hex().encode() + b"0\\n")
control(first, b"set-key " + key.hex().encode() + b"\\n")
control(first, b"configure type=hash name=" + key.hex().encode() + b" key=hex:" + key.hex().encode())
fresh = os.open(mount / "crypto", os.O_RDWR)
attributes = {Attr.TYPE: "skcipher", Attr.NAME: "cbc(aes)", Attr.KEY: key}
os.write(fresh, build(Record(Operation.CONFIGURE, 0, 1, 0, attributes)) +
         build(Record(Operation.ENCRYPT, 0, 2, 0, {Attr.IV: bytes(16)}, bytes(64))))
os.read(fresh, 1 << 20)
print("ready", flush=True)
sys.stdin.read()
for context in kept:
    context.close()
os.close(fresh)
# what comes after is written over what libfuse has read into
with Context("hash", "sha256", mount=mount) as last:
    for _ in range(4):
        last.digest(bytes(1_000_000))
print("closed", flush=True)
sys.stdin.close()
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file with a key that this process has never seen."""
    path = tmp_path / "canary"
    subprocess.run(["sh", "-c", f"umask 077; head -c 32 /dev/urandom > '{path}'"], check=True)
    return path


@pytest.fixture
def guarded(tmp_path: Path, canary: Path) -> Iterator[Daemon]:
    """A daemon with the canary as a device's key, too, that says all it can."""
    config = configured(tmp_path, declare("canary", "aead", "gcm(aes)", canary, 'mode = "0666"'))
    with serving(tmp_path / "mount", *SHARED, *config, rough=True) as daemon:
        yield daemon


def search(canary: Path, *arguments: object) -> dict[int, int]:
    """Which processes have the canary in memory, and how often."""
    command = [sys.executable, str(TESTS / "helpers" / "canary.py"), str(canary), *map(str, arguments)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {int(pid): int(count) for pid, count in (line.split() for line in output.splitlines())}


def contains(canary: Path, path: Path) -> bool:
    """Whether a file has the canary in it, raw, in hexadecimal or as Python would show it."""
    script = (
        "import sys; k = open(sys.argv[1], 'rb').read(); d = open(sys.argv[2], 'rb').read();"
        "sys.exit(any(form in d for form in (k, k.hex().encode(), k.hex()[:16].encode(), repr(k)[2:-1].encode())))"
    )
    return subprocess.run([sys.executable, "-c", script, str(canary), str(path)], check=False).returncode != 0


def test_the_search_finds(canary: Path) -> None:
    """It would see a key that is there."""
    script = "import sys; k = bytearray(open(sys.argv[1], 'rb').read()); print('r', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(canary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert search(canary, process.pid)[process.pid] >= 1
        assert process.pid in search(canary, "others")
        process.stdin.close()
    assert contains(canary, canary)


def test_canary(guarded: Daemon, canary: Path, tmp_path: Path) -> None:
    """Not in the log, in no file of the mount, in no core, in no other process, and gone with the contexts."""
    mount = guarded.mountpoint
    devices = search(canary, guarded.process.pid)[guarded.process.pid]
    command = [sys.executable, "-c", CLIENT, str(mount), str(canary), str(TESTS.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        said = []
        while (line := client.stdout.readline()) and line != "ready\n":
            said.append(line)
        assert line == "ready\n"
        replies = tmp_path / "replies"
        replies.write_text("".join(said))

        assert search(canary, guarded.process.pid), "the daemon itself must have it now, or nothing is tested"
        assert search(canary, "others", guarded.process.pid, client.pid) == {}

        files = [path for path in mount.rglob("*") if path.is_file() and path.name in ("status", "stats", "version")]
        assert len(files) > 6
        for path in files:
            copy = tmp_path / "copy"
            copy.write_bytes(path.read_bytes())
            assert not contains(canary, copy), path
        assert not contains(canary, tmp_path / "log")
        assert not contains(canary, replies)
        for name in ("cmdline", "environ"):
            copy.write_bytes(Path(f"/proc/{guarded.process.pid}/{name}").read_bytes())
            assert not contains(canary, copy), name

        before = search(canary, guarded.process.pid)[guarded.process.pid]
        client.stdin.close()
        assert client.stdout.readline() == "closed\n"
        client.wait(30)
    after = search(canary, guarded.process.pid).get(guarded.process.pid, 0)
    # the device keeps its key; libfuse's receive buffer, which nobody can reach, may have the end of an old write
    assert after <= devices + 1 < before, (
        f"{devices} copies of the device's, {before} with contexts, {after} afterwards"
    )


READER = """
import ctypes, os, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
pid = int(sys.argv[1])
refused = []
for name in ("mem", "environ", "maps"):
    try:
        open(f"/proc/{pid}/{name}", "rb").read(1)
    except PermissionError:
        refused.append(name)
    except OSError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, pid, 0, 0) == -1 and ctypes.get_errno() == 1:
    refused.append("ptrace")
class Span(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))
buffer = ctypes.create_string_buffer(16)
here, there = Span(ctypes.addressof(buffer), 16), Span(int(sys.argv[2], 16), 16)
if libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == -1 and ctypes.get_errno() == 1:
    refused.append("process_vm_readv")
print(*refused)
"""


def test_no_core_and_no_reader(reachable: Path) -> None:
    """The daemon makes no core, and processes of its own user may neither read nor trace it."""
    with serving(reachable, "--user", "nobody", rough=True) as daemon:
        pid = daemon.process.pid
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
        address = Path(f"/proc/{pid}/maps").read_text().split("-", 1)[0]

        def refused(target: int) -> str:
            command = [sys.executable, "-c", READER, str(target), address]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

        assert refused(pid) == "mem environ maps ptrace process_vm_readv"
        with subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[]) as other:
            # the reader can do these things to others of its user
            assert "environ" not in refused(other.pid)
            other.kill()
        daemon.process.send_signal(signal.SIGQUIT)
        assert daemon.process.wait(30) == -signal.SIGQUIT
        assert not [path for path in Path.cwd().glob("core*") if path.is_file()]
