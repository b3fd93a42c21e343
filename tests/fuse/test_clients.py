"""Clients that were written from docs/protocol.md alone, and the examples of that document, on a live mount."""

import errno
import hashlib
import hmac
import os
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from helpers.compiling import compiled
from helpers.machine import TESTS

pytestmark = pytest.mark.mount

PROTOCOL = TESTS.parent / "docs" / "protocol.md"
KEY = bytes(range(16))
PAYLOAD_MAX = 1_040_384
HEADER = struct.Struct("<IBBHQII")  # size, version, operation, flags, id, status, attributes_size


def run(*command: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a client to its end."""
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def aes(data: bytes, mode: CBC | CTR) -> bytes:
    """`data` encrypted under KEY."""
    encryptor = Cipher(AES(KEY), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


# The clients


@pytest.mark.parametrize("size", [0, 1, 3, 64, 100_000, PAYLOAD_MAX])
def test_c_digest(mount: Path, tmp_path: Path, size: int) -> None:
    """client.c prints what sha256sum would."""
    data = os.urandom(size)
    result = run(compiled("client", tmp_path), mount, stdin=data)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == hashlib.sha256(data).hexdigest() + "\n"


def test_c_digest_too_large(mount: Path, tmp_path: Path) -> None:
    """More than PAYLOAD_MAX is refused by the write."""
    result = run(compiled("client", tmp_path), mount, stdin=bytes(PAYLOAD_MAX + 1))
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"client: write: Message too long\n"


def test_c_no_mount(tmp_path: Path) -> None:
    """A directory that is no mount is an error, too."""
    result = run(compiled("client", tmp_path), tmp_path)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"No such file or directory" in result.stderr


def test_c_pipeline(mount: Path, tmp_path: Path) -> None:
    """aes.c matches three answers of one write by their ids, and shows the daemon's message."""
    result = run(compiled("aes", tmp_path), mount)
    assert (result.returncode, result.stderr) == (0, b"")
    *lines, error = result.stdout.decode().splitlines()
    assert lines == [f"{n} {aes(bytes([n]) * 32, CBC(bytes([n]) * 16)).hex()}" for n in (1, 2, 3)]
    assert error.startswith("error 22 ")
    message = error.removeprefix("error 22 ")
    assert "iv" in message
    assert {"8", "16"} <= set(message.split()), "the value and the bound"


@pytest.mark.parametrize("size", [0, 1, 31, 32, 100_000, 3_000_000])
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_shell(mount: Path, tmp_path: Path, shell: str, size: int) -> None:
    """client.sh: digests and ciphers through ctl and stream; 3,000,000 bytes are more than a stream's buffer."""
    data = os.urandom(size)
    file = tmp_path / "a file"
    file.write_bytes(data)
    result = run(shell, TESTS / "clients" / "client.sh", mount, file)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().split("\n") == [
        hashlib.sha256(data).hexdigest(),
        hmac.digest(b"key", data, "sha256").hex(),
        aes(data[:32], CTR(bytes(16))).hex(),
        "same",
        "",
    ]


# The examples of the document


def examples(heading: str) -> list[str]:
    """The indented lines of a section of the document."""
    section = PROTOCOL.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith("    ")]


class Context:
    """One open of `crypto`, and its directory."""

    def __init__(self, mount: Path) -> None:
        self.fd = os.open(mount / "crypto", os.O_RDWR)
        self.number = int(os.read(self.fd, 64))
        self.directory = mount / "contexts" / str(self.number)

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def ctl(self, line: str) -> dict[str, str]:
        """A control call as text; its reply by tags."""
        fd = os.open(self.directory / "ctl", os.O_RDWR)
        try:
            assert os.write(fd, line.encode()) == len(line)
            reply = os.read(fd, 65536).decode()
            assert os.read(fd, 65536) == b"", "a reply is read once"
        finally:
            os.close(fd)
        return dict(line.split(": ", 1) for line in reply.splitlines())


def test_example_record(mount: Path) -> None:
    """The hex example of a record, after a configure by text."""
    lines = [bytes.fromhex(example) for example in examples("Records")]
    record, response, configure = lines[0], lines[1] + lines[2], lines[3] + lines[4]
    with Context(mount) as context:
        assert os.write(context.fd, configure) == len(configure) == 44
        assert os.read(context.fd, 65536)[5:8] == bytes([1, 0, 0x80])
        assert os.write(context.fd, record) == len(record) == 27
        assert os.read(context.fd, 65536) == response
        digest = hashlib.sha256(b"abc").digest()
        assert response == HEADER.pack(24 + 32, 1, 18, 0x8000, 1, 0, 0) + digest
        assert os.read(context.fd, 65536) == b"", "nothing in flight"


def test_example_lines(mount: Path) -> None:
    """The example lines of the control file, in their order."""
    calls = [call for line in examples("The control file") for call in line.split("  ") if call]
    calls = [call.strip().replace("hex:…", f"hex:{KEY.hex()}") for call in calls]
    assert [call.split()[0] for call in calls] == ["configure", "set-key", "reset", "info", "set", "cancel", "clone"]
    configure, set_key, reset, info, nonblocking, cancel, clone = calls
    with Context(mount) as context:
        reply = context.ctl(configure)
        assert (reply["type"], reply["name"]) == ("skcipher", "cbc(aes)")
        assert (reply["block-size"], reply["iv-size"], reply["key-sizes"]) == ("16", "16", "16 24 32")
        assert int(reply["context"]) == context.number
        context.ctl(set_key)
        context.ctl(reset)
        assert context.ctl(info)["nonblocking"] == "0"
        context.ctl(nonblocking)
        assert context.ctl(info)["nonblocking"] == "1"
        for call in (cancel, clone):  # no request 7, no context 9
            with pytest.raises(OSError) as caught:
                context.ctl(call)
            assert caught.value.errno in {errno.ENOENT, errno.EINVAL}  # EINVAL: this context is number 9


def test_example_clone(mount: Path) -> None:
    """`clone context=9` of a running stream, with the number of a context that is there."""
    clone = next(call for line in examples("The control file") for call in line.split("  ") if "clone" in call).strip()
    with Context(mount) as context, Context(mount) as other:
        for each in (context, other):
            each.ctl("configure type=hash name=sha256")
        with open(context.directory / "stream", "wb", buffering=0) as stream:
            stream.write(b"ab")
            context.ctl(clone.replace("9", str(other.number)))
            stream.write(b"c")
        with open(other.directory / "stream", "wb", buffering=0) as stream:
            stream.write(b"d")
        assert (context.directory / "stream").read_bytes() == hashlib.sha256(b"abc").digest()
        assert (other.directory / "stream").read_bytes() == hashlib.sha256(b"abd").digest()


def test_example_number(mount: Path) -> None:
    """An unconfigured context is read as its number and a newline, and then the end of file."""
    with open(mount / "crypto", "rb", buffering=0) as crypto:
        text = crypto.read()
        assert text == b"%d\n" % int(text)
        assert crypto.read() == b""
        assert (mount / "contexts" / text.decode().strip() / "ctl").exists()
    assert not (mount / "contexts" / text.decode().strip()).exists()
