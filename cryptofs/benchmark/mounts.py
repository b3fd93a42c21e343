"""The measured file systems, each in its own process: two empty ones, and cryptofs of this or another commit."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICES = """
[devices.mac]
type = "hash"
name = "hmac(sha256)"
key.file = "{directory}/mac"

[devices.signer]
type = "sig"
name = "ed25519"
key.file = "{directory}/signer"
"""


class CannotMeasure(Exception):
    """Something that a measurement needs is missing on this machine; the message says what."""


@dataclass(frozen=True)
class Mount:
    """A mounted file system and the process that serves it."""

    path: Path
    pid: int

    @property
    def crypto(self) -> Path:
        """The file that takes records; the empty file systems have one of the same name."""
        return self.path / "crypto"


@dataclass(frozen=True)
class Checkout:
    """The package of another commit, unpacked. name: what the user called the commit."""

    name: str
    root: Path


@contextlib.contextmanager
def empty_mount() -> Iterator[Mount]:
    """The empty pyfuse3 file system."""
    with _mounted(["cryptofs.benchmark.empty", "MOUNT"]) as mount:
        yield mount


@contextlib.contextmanager
def bare_mount() -> Iterator[Mount]:
    """The empty file system of a bare Python loop. Errors: CannotMeasure without fusermount3."""
    if shutil.which("fusermount3") is None:
        raise CannotMeasure("no fusermount3 (package fuse3)")
    with _mounted(["cryptofs.benchmark.bare", "MOUNT"]) as mount:
        yield mount


@contextlib.contextmanager
def cryptofs_mount(engine: str, checkout: Checkout | None = None) -> Iterator[Mount]:
    """A cryptofs with one engine: this one, or another commit's."""
    with _mounted(["cryptofs", "mount", "MOUNT", "--allow-root", "--engines", engine], checkout) as mount:
        yield mount


@contextlib.contextmanager
def devices_mount(mac_key: bytes, signing_key: bytes) -> Iterator[Mount]:
    """A cryptofs with the devices `mac` (hmac(sha256)) and `signer` (ed25519); keys raw and in PKCS #8."""
    with tempfile.TemporaryDirectory(prefix="cryptofs-benchmark.") as name:
        directory = Path(name)
        config = DEVICES.format(directory=directory).encode()
        for file, content in (("mac", mac_key), ("signer", signing_key), ("cryptofs.toml", config)):
            (directory / file).touch(0o600)
            (directory / file).write_bytes(content)
        command = ["cryptofs", "mount", "MOUNT", "--allow-root", "--engines", "openssl"]
        with _mounted([*command, "--config", str(directory / "cryptofs.toml")]) as mount:
            yield mount


@contextlib.contextmanager
def checkout_of(commit: str) -> Iterator[Checkout]:
    """The tree of a commit, unpacked beside the repository from which this package runs.

    Its daemon runs with this interpreter and its packages. Errors: CannotMeasure if the commit does not exist.
    """
    repository = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="cryptofs-benchmark.") as name:
        root = Path(name)
        # An archive, not a work tree: after a crash the repository needs no cleanup.
        archive = _ran(["git", "-C", str(repository), "archive", "--format=tar", commit, "cryptofs"])
        _ran(["tar", "-x", "-C", name], archive)
        checkout = Checkout(commit, root)
        command = [sys.executable, "-c", "import cryptofs; print(cryptofs.__file__)"]
        where = _ran(command, checkout=checkout).decode().strip()
        if Path(where).resolve() != (root / "cryptofs" / "__init__.py").resolve():
            raise CannotMeasure(f"commit {commit}: Python imports {where} instead of its package")
        yield checkout


def _ran(command: list[str], data: bytes = b"", checkout: Checkout | None = None) -> bytes:
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, check=False, timeout=60, **_place(checkout)
        )  # fmt: skip
    except FileNotFoundError:
        raise CannotMeasure(f"no {command[0]}") from None
    if done.returncode:
        raise CannotMeasure(done.stderr.decode(errors="replace").strip() or f"{command[0]}: status {done.returncode}")
    output: bytes = done.stdout
    return output


def _place(checkout: Checkout | None) -> dict[str, Any]:
    # `python -m` puts the current directory before PYTHONPATH, so both name the checkout.
    return {} if checkout is None else {"cwd": checkout.root, "env": {**os.environ, "PYTHONPATH": str(checkout.root)}}


@contextlib.contextmanager
def _mounted(command: list[str], checkout: Checkout | None = None) -> Iterator[Mount]:
    with tempfile.TemporaryDirectory(prefix="cryptofs-benchmark.") as directory:
        path, log = Path(directory) / "mount", Path(directory) / "log"
        path.mkdir()
        arguments = [str(path) if word == "MOUNT" else word for word in command]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, **_place(checkout),
            )  # fmt: skip
        try:
            _wait_for(path / "crypto", process, log)
            yield Mount(path, process.pid)
        finally:
            _end(process, path)


def _wait_for(file: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CannotMeasure(f"no mount: {log.read_text(errors='replace').strip()[-500:]}")
        time.sleep(0.02)


def _end(process: "subprocess.Popen[bytes]", path: Path) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)
    if os.path.ismount(path):
        subprocess.run(["fusermount3", "-u", "-z", "--", str(path)], check=False, timeout=30)


def has_af_alg() -> bool:
    """Whether this kernel has AF_ALG."""
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()
    except OSError:
        return False
    return True
