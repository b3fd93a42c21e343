"""Programs that read whatever a directory lists: they end, and take nobody's answer."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config

from cryptofs.client import Context
from cryptofs.records import Flag, Operation, Record, build, parse_responses

pytestmark = pytest.mark.mount

CONFIG = declare("backup", "aead", "gcm(aes)", "{secret}") + declare("mac", "hash", "hmac(sha256)", "{secret}")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices."""
    with serving_config(tmp_path_factory.mktemp("walkers"), CONFIG, secret=bytes(32)) as daemon:
        yield daemon


WALKERS = {
    "cp": 'cp -a "$1" "$2/copy"',
    "tar": 'tar -C "$1" -cf "$2/tar" .',
    "grep": 'grep -r -c no-such-text "$1" >"$2/found"',
    "find": 'find "$1" -type f -exec head -c 100 {} \\; >"$2/heads"',
    "du": 'du -a --apparent-size "$1" >"$2/sizes"',
    "python": """python3 -c '
import os, sys
for at, _, names in os.walk(sys.argv[1]):
    for name in names:
        with open(os.path.join(at, name), "rb", buffering=0) as file:
            while file.read(65536):
                pass
' "$1" """,
}


@pytest.mark.parametrize("name", WALKERS)
def test_walkers_end_and_take_nothing(name: str, mount: Path, tmp_path: Path) -> None:
    """Over contexts of every state: a digest and an error that wait, a message under way, a generator, no message at
    all, an answer in a queue and a reply on `ctl`.
    """
    contexts = [Context("hash", "sha256", mount=mount) for _ in range(4)] + [Context("rng", "stdrng", mount=mount)]
    waiting, under_way, _idle, queued, generator = contexts
    held = []
    try:
        (waiting.directory / "stream").write_bytes(b"message")
        held.append(writer := os.open(under_way.directory / "stream", os.O_WRONLY))
        os.write(writer, b"first ")
        os.write(queued.fileno(), build(Record(Operation.DIGEST, Flag(0), 77, payload=b"message")))
        held.append(control := os.open(queued.directory / "ctl", os.O_RDWR))
        os.write(control, b"info")
        where = mount / ("contexts" if name in ("cp", "tar", "grep", "find", "python") else "")
        done = subprocess.run(
            ["bash", "-c", WALKERS[name], "bash", where, tmp_path], capture_output=True, timeout=30, check=False
        )
        if name == "tar":
            # the time of a text that changes is the current one
            assert all(line.endswith(b"file changed as we read it") for line in done.stderr.splitlines())
        else:
            # grep found nothing
            assert (done.returncode, done.stderr) == (1 if name == "grep" else 0, b"")
        os.write(writer, b"second")
        os.close(held.pop(0))
        assert (waiting.directory / "stream").read_bytes() == hashlib.sha256(b"message").digest()
        assert (under_way.directory / "stream").read_bytes() == hashlib.sha256(b"first second").digest()
        (response,) = parse_responses(os.pread(queued.fileno(), 65_536, 0))
        assert (response.id, response.payload) == (77, hashlib.sha256(b"message").digest())
        assert os.read(control, 4096).startswith(b"context: ")
        with (generator.directory / "stream").open("rb", buffering=0) as stream:
            assert len(stream.read(32)) == 32
    finally:
        for descriptor in held:
            os.close(descriptor)
        for context in contexts:
            context.close()


def test_the_whole_mount_is_walked(mount: Path, tmp_path: Path) -> None:
    """A copy ends, with an error only for the stream files of devices, which are open for both or not at all."""
    with Context("rng", "stdrng", mount=mount):
        done = subprocess.run(["cp", "-a", mount, tmp_path / "copy"], capture_output=True, timeout=60, check=False)
    refused = done.stderr.decode().splitlines()
    assert len(refused) == 3, refused
    assert all("/devices/" in line and line.endswith("Invalid argument") for line in refused)
    assert (tmp_path / "copy/crypto").read_text().strip().isdecimal()
    assert (tmp_path / "copy/algorithms/hash/sha256").read_bytes() == (mount / "algorithms/hash/sha256").read_bytes()


def test_the_stream_is_found_by_its_name(mount: Path) -> None:
    """It is not listed, and everything else that a program does with a name works, a shell's pattern included."""
    with Context("hash", "sha256", mount=mount) as context:
        assert sorted(os.listdir(context.directory)) == ["ctl", "status"]
        command = ["bash", "-c", 'echo "$1"/contexts/*/stream; test -e "$1"/contexts/*/stream', "bash", mount]
        found = subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
        assert found == f"{context.directory}/stream\n".encode()
