"""The command line on a real mount, beside sha256sum and openssl."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner

from cryptofs.cli.commands import commands

pytestmark = pytest.mark.mount


def cryptofs(mount: Path, *arguments: str, data: bytes = b"", fds: tuple[int, ...] = ()) -> bytes:
    """Run the command with the mount in its environment; returns its output. It must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "cryptofs", *arguments],
        input=data,
        env={**os.environ, "CRYPTOFS_MOUNT": str(mount)},
        capture_output=True,
        pass_fds=fds,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A file with a 32-byte key."""
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    return path


def test_hash(mount: Path, tmp_path: Path, key: Path) -> None:
    """As sha256sum prints it; keyed from a file and from a descriptor."""
    data = os.urandom(1_500_000)
    path = tmp_path / "data"
    path.write_bytes(data)
    expected = subprocess.run(["sha256sum", str(path)], capture_output=True, check=True).stdout
    assert cryptofs(mount, "hash", str(path)) == expected
    assert cryptofs(mount, "hash", data=data).split()[0].decode() == hashlib.sha256(data).hexdigest()
    mac = cryptofs(mount, "hash", "-n", "hmac(sha256)", "-k", str(key), str(path)).split()[0].decode()
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{bytes(range(32)).hex()}", str(path)]
    assert mac in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    reader, writer = os.pipe()
    os.write(writer, bytes(range(32)).hex().encode())
    os.close(writer)
    arguments = ("hash", "-n", "hmac(sha256)", "--key-fd", str(reader), "--key-hex", str(path))
    assert cryptofs(mount, *arguments, fds=(reader,)).split()[0].decode() == mac
    os.close(reader)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 524_288, 1_300_001])
def test_encrypt_as_openssl_enc(mount: Path, tmp_path: Path, key: Path, size: int) -> None:
    """With an iv given, cbc(aes) is what `openssl enc -aes-256-cbc` makes; without, the file carries it."""
    data = os.urandom(size)
    iv = "000102030405060708090a0b0c0d0e0f"
    sealed = cryptofs(mount, "encrypt", "-n", "cbc(aes)", "-k", str(key), "--iv", iv, data=data)
    command = ["openssl", "enc", "-aes-256-cbc", "-K", bytes(range(32)).hex(), "-iv", iv]
    assert sealed == subprocess.run(command, input=data, capture_output=True, check=True).stdout
    assert cryptofs(mount, "decrypt", "-n", "cbc(aes)", "-k", str(key), "--iv", iv, data=sealed) == data
    first, second = (cryptofs(mount, "encrypt", "-k", str(key), data=data) for _ in range(2))
    assert first[:16] != second[:16]
    assert len(first) == 16 + size
    assert cryptofs(mount, "decrypt", "-k", str(key), data=first) == data


@pytest.mark.parametrize("name", ["gcm(aes)", "rfc7539(chacha20,poly1305)"])
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 300_000])
def test_seal_and_open(mount: Path, key: Path, name: str, size: int) -> None:
    """What was sealed opens, and differs each time."""
    data = os.urandom(size)
    first, second = (cryptofs(mount, "seal", "-n", name, "-k", str(key), data=data) for _ in range(2))
    assert first != second
    assert cryptofs(mount, "open", "-k", str(key), data=first) == data


def test_open_refuses_what_was_changed(mount: Path, tmp_path: Path, key: Path) -> None:
    """A flipped bit, a cut, segments swapped or another key: an error that names the segment, exit status 1."""
    data = os.urandom(200_000)
    sealed = cryptofs(mount, "seal", "-k", str(key), data=data)
    segment = 65_536 + 16
    first, second = sealed[64 : 64 + segment], sealed[64 + segment : 64 + 2 * segment]
    changed = {
        "bit": sealed[:100_000] + bytes([sealed[100_000] ^ 1]) + sealed[100_001:],
        "cut at a segment": sealed[: 64 + 2 * segment],
        "cut within": sealed[:-1],
        "swapped": sealed[:64] + second + first + sealed[64 + 2 * segment :],
        "salt": sealed[:50] + b"0000" + sealed[54:],
        "extended": sealed + bytes(100),
    }  # fmt: skip
    for what, content in changed.items():
        path = tmp_path / "changed"
        path.write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "cryptofs", "open", "--mount", str(mount), "-k", str(key), "-i", str(path)],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, what
        assert b"segment" in done.stderr, what
        assert data.startswith(done.stdout), what


def test_algorithms(mount: Path) -> None:
    """The list names engines and drivers; --plain has one tab-separated line for each."""
    lines = cryptofs(mount, "algorithms", "--plain").decode().splitlines()
    rows = {tuple(line.split("\t")[:2]) for line in lines}
    assert {("hash", "sha256"), ("skcipher", "cbc(aes)"), ("aead", "gcm(aes)"), ("rng", "stdrng")} <= rows
    assert b"sha256" in cryptofs(mount, "algorithms", "--local")


def test_no_command_takes_a_key_as_an_argument() -> None:
    """Keys come from files and descriptors: no option takes one."""
    context = Context(commands)
    found = [commands.get_command(context, name) for name in commands.list_commands(context)]
    assert len(found) > 5
    for command in found:
        assert command is not None
        for parameter in command.params:
            assert parameter.name not in ("key", "password", "passphrase"), command.name


def test_usage_errors(key: Path) -> None:
    """No key, two keys, no mount: a clear word each."""
    runner = CliRunner()
    assert "--key-file" in runner.invoke(commands, ["seal"]).output
    both = runner.invoke(commands, ["seal", "-k", str(key), "--key-fd", "0"])
    assert "--key-file or by --key-fd" in both.output


def test_a_missing_mount_is_told(tmp_path: Path) -> None:
    """One line, exit status 1."""
    done = subprocess.run(
        [sys.executable, "-m", "cryptofs", "hash", "--mount", str(tmp_path)],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"no cryptofs is mounted here" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("module", ["files", "hash", "key", "mount", "run", "show", "status"])
def test_a_command_loads_little(module: str) -> None:
    """A shell starts a command for each file of a loop: none loads what only a terminal or an event loop needs."""
    code = f"import cryptofs.cli.commands, cryptofs.cli.{module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"asyncio", "rich", "trio", "pyfuse3"} & set(done.stdout.split())
