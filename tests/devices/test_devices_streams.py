"""The streams of devices: by the shell, by the command, by the client, and as the documents have it."""

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from helpers import device_mount
from helpers.device_mount import KEYS, opened, refused
from helpers.machine import IN_GUEST

from cryptofs.client import Context, decrypt_file, encrypt_file
from cryptofs.nodes.devices import DEVICE_STREAM

pytestmark = pytest.mark.mount
daemon, device = device_mount.daemon, device_mount.device

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "devices.md"


# a system call of the guest's costs forty times as much
STREAM_SIZES = (1, 65_536) if IN_GUEST else (0, 1, 65_535, 65_536, 65_537, 200_001)


def shell(script: str, mount: Path, *arguments: str | Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a bash script with $M the mount."""
    command = ["bash", "-uc", script, "bash", *map(str, arguments)]
    environment = {**os.environ, "M": str(mount)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


# as the documents have it
IDIOM = 'exec 3<>"$M/devices/$1/$2" && cat "$3" >&3 && cat <&3 >"$4"'


def by_shell(mount: Path, device: str, word: str, source: Path, target: Path) -> bytes:
    """A file through a device's stream."""
    done = shell(IDIOM, mount, device, word, source, target)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


def by_command(mount: Path, device: str, word: str, source: Path, target: Path) -> bytes:
    """A file through `cryptofs encrypt` or `decrypt`."""
    command = [sys.executable, "-m", "cryptofs", word, "--device", device, "--mount", str(mount)]
    with source.open("rb") as stdin, target.open("wb") as stdout:
        subprocess.run(command, stdin=stdin, stdout=stdout, timeout=100, check=True)
    return target.read_bytes()


def by_client(mount: Path, device: str, word: str, source: Path, target: Path) -> bytes:
    """The same in this process."""
    sink = io.BytesIO()
    with Context.of_device(device, mount=mount) as context:
        {"encrypt": encrypt_file, "decrypt": decrypt_file}[word](context, io.BytesIO(source.read_bytes()), sink)
    target.write_bytes(sink.getvalue())
    return sink.getvalue()


def round_trips(mount: Path, tmp_path: Path, name: str, size: int, ways: tuple[Callable[..., bytes], ...]) -> None:
    """Seal and open in all combinations of ways."""
    plain, sealed, again = (tmp_path / each for each in ("plain", "sealed", "again"))
    plain.write_bytes(os.urandom(size))
    for seal in ways:
        assert len(seal(mount, name, "encrypt", plain, sealed)) > size
        for open_ in ways:
            assert open_(mount, name, "decrypt", sealed, again) == plain.read_bytes()


@pytest.mark.parametrize("size", STREAM_SIZES)
@pytest.mark.parametrize("name", ["gcm", "ccm", "rfc7539", "short-tag", "cbc", "ctr", "chacha20", "xts"])
def test_streams_and_client(mount: Path, tmp_path: Path, name: str, size: int) -> None:
    """What the shell seals the client opens, and the other way round."""
    round_trips(mount, tmp_path, name, size, (by_shell, by_client))


@pytest.mark.parametrize("size", [0, 65_536, 3_000_000])
def test_streams_and_command(mount: Path, tmp_path: Path, size: int) -> None:
    """The same with the command itself."""
    round_trips(mount, tmp_path, "gcm", size, (by_shell, by_command))


def test_one_after_the_other(mount: Path, tmp_path: Path) -> None:
    """Each open is a message of its own, with nonces of its own, and a digest's its own."""
    script = """
    for each in one two one; do
        exec 3<>"$M/devices/gcm/encrypt" 4<>"$M/devices/gcm/decrypt" 5<>"$M/devices/hmac/digest"
        printf "$each" >&3; cat <&3 >"$1/$each"; cat "$1/$each" >&4; cat <&4; echo
        printf "$each" >&5; cat <&5 | od -An -v -tx1 | tr -d ' \\n'; echo
    done"""
    done = shell(script, mount, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert lines[0::2] == ["one", "two", "one"]
    mac = hmac.HMAC(KEYS["hmac"], hashes.SHA256())
    mac.update(b"one")
    assert lines[1] == lines[5] == mac.finalize().hex() != lines[3]


def test_line_by_line(mount: Path) -> None:
    """A shell writes each line by itself: many small writes are no more than the bytes that they have."""
    script = """
    exec 3<>"$M/devices/ctr/encrypt" 4<>"$M/devices/ctr/decrypt"
    for ((i = 0; i < 9000; i++)); do echo "line $i" >&3 || exit 1; done
    cat <&3 >&4 && cat <&4"""
    done = shell(script, mount)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"line {index}\n" for index in range(9000))


def test_the_bound_of_a_stream(mount: Path, tmp_path: Path) -> None:
    """16 MiB go through one descriptor; more is EFBIG, and what the reader then gets does not pass for the whole."""
    plain, sealed, again = (tmp_path / each for each in ("plain", "sealed", "again"))
    plain.write_bytes(os.urandom(DEVICE_STREAM))
    by_shell(mount, "gcm", "encrypt", plain, sealed)
    assert by_shell(mount, "gcm", "decrypt", sealed, again) == plain.read_bytes()
    with plain.open("ab") as file:
        file.write(bytes(300_000))
    script = """
    exec 3<>"$M/devices/gcm/encrypt"
    cat "$1" >&3; echo "write $?"
    cat "$M"/contexts/*/status | grep stream-error
    cat <&3 >"$2"; echo "read $?" """
    done = shell(script, mount, plain, sealed)
    assert "write 1" in done.stdout
    assert "read 1" in done.stdout
    assert done.stderr.count("File too large") == 2, done.stderr
    assert f"EFBIG: {DEVICE_STREAM} bytes of output wait" in done.stdout
    assert "cryptofs encrypt --device" in done.stdout
    assert refused(errno.EBADMSG, lambda: by_client(mount, "gcm", "decrypt", sealed, again))
    by_client(mount, "gcm", "encrypt", plain, sealed)
    assert by_client(mount, "gcm", "decrypt", sealed, again) == plain.read_bytes()


def test_a_second_reader_makes_it_a_pipe(mount: Path, tmp_path: Path) -> None:
    """With a reader of its own a stream has no bound."""
    plain, sealed, again = (tmp_path / each for each in ("plain", "sealed", "again"))
    plain.write_bytes(os.urandom(40_000_000))
    script = """
    exec 3<>"$M/devices/gcm/encrypt"
    for each in "$M"/contexts/*; do newest=$each; done
    cat "$newest/stream" >"$2" 3>&- & reader=$!
    sleep 0.3; cat "$1" >&3; echo "write $?"
    exec 3>&-; wait $reader; echo "read $?" """
    done = shell(script, mount, plain, sealed)
    # closing the last descriptor of the device ends the context: its reader is told, rather than given an end of file
    assert (done.returncode, done.stdout) == (0, "write 0\nread 1\n"), done
    assert done.stderr.count("\n") == 1, done.stderr
    assert sealed.stat().st_size > DEVICE_STREAM
    assert refused(errno.EBADMSG, lambda: by_client(mount, "gcm", "decrypt", sealed, again))


def test_only_for_reading_and_writing(mount: Path) -> None:
    """One open is one message: a stream opened one way only has no other end."""
    for flags in (os.O_RDONLY, os.O_WRONLY):
        refused(errno.EINVAL, lambda flags=flags: os.open(mount / "devices" / "gcm" / "encrypt", flags))


def test_which_files(mount: Path) -> None:
    """The files of a device are those of its type; what takes whole blocks with a tag has no streams."""
    listed = {name: set(os.listdir(mount / "devices" / name)) for name in KEYS}
    assert listed["gcm"] == listed["cbc"] == {"crypto", "encrypt", "decrypt", "status"}
    assert listed["hmac"] == {"crypto", "digest", "status"}
    assert listed["authenc"] == {"crypto", "status"}
    with Context.of_device("authenc", mount=mount) as context:
        refused(errno.EINVAL, lambda: encrypt_file(context, io.BytesIO(b""), io.BytesIO()))
    status = dict(line.split(": ") for line in (mount / "devices/sealonly/status").read_text().splitlines())
    assert status["device"] == "sealonly"
    assert status["operations"] == "encrypt"
    assert (status["key"], status["nonce"], status["nonce-size"]) == ("(hidden)", "daemon", "12")


def test_tampered_through_the_mount(mount: Path, tmp_path: Path) -> None:
    """The shell's reader gets an error in place of the end of the file, and the command a status of 1."""
    plain, sealed, bad = (tmp_path / each for each in ("plain", "sealed", "bad"))
    plain.write_bytes(os.urandom(200_000))
    whole = by_client(mount, "gcm", "encrypt", plain, sealed)
    segment = 12 + 65_536 + 16
    wrong = {
        "cut": whole[:-1],
        "cut in the header": whole[:20],
        "empty": b"",
        "cut between segments": whole[: 32 + segment],
        "extended": whole + b"x",
        "swapped": whole[:32]
        + whole[32 + segment : 32 + 2 * segment]
        + whole[32 : 32 + segment]
        + whole[32 + 2 * segment :],
        "another identity": whole[:16] + bytes(16) + whole[32:],
        "flipped": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
    }
    for what, data in wrong.items():
        bad.write_bytes(data)
        script = 'exec 3<>"$M/devices/gcm/decrypt"; cat "$1" >&3; cat <&3 >"$2"; echo "read $?"'
        done = shell(script, mount, bad, tmp_path / "out")
        assert done.stdout == "read 1\n", what
        assert "Bad message" in done.stderr, what
        if what != "empty":
            assert plain.read_bytes() != (tmp_path / "out").read_bytes()
        out = tmp_path / "out"
        message = refused(errno.EBADMSG, lambda out=out: by_client(mount, "gcm", "decrypt", bad, out))
        assert "segment" in message or len(data) < 32


def test_cbc_streams_are_openssl_s(mount: Path, tmp_path: Path) -> None:
    """IV and ciphertext, padded: `openssl enc` opens it, and makes what a device opens."""
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    for size in (0, 15, 16, 70_001):
        plain.write_bytes(os.urandom(size))
        text = by_shell(mount, "cbc", "encrypt", plain, sealed)
        command = ["openssl", "enc", "-aes-256-cbc", "-K", KEYS["cbc"].hex(), "-iv"]
        done = subprocess.run([*command, text[:16].hex(), "-d"], input=text[16:], capture_output=True, check=True)
        assert done.stdout == plain.read_bytes()
        made = subprocess.run([*command, "0f" * 16], input=plain.read_bytes(), capture_output=True, check=True).stdout
        sealed.write_bytes(b"\x0f" * 16 + made)
        assert by_shell(mount, "cbc", "decrypt", sealed, tmp_path / "again") == plain.read_bytes()
    # in the middle of a block: what a cut between two leaves may look like padding by chance
    sealed.write_bytes(sealed.read_bytes()[:-8])
    assert shell(IDIOM, mount, "cbc", "decrypt", sealed, tmp_path / "again").returncode == 1


def blocks(language: str) -> list[str]:
    """The examples in the document."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize("size", STREAM_SIZES)
def test_the_documents_opener(mount: Path, tmp_path: Path, size: int) -> None:
    """The opener that the document gives opens what streams make, and nothing that was changed."""
    (code,) = [block for block in blocks("python") if "def open_sealed" in block]
    names: dict[str, Callable[..., bytes]] = {}
    exec(code, names)
    open_sealed = names["open_sealed"]
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(os.urandom(size))
    data = by_shell(mount, "gcm", "encrypt", plain, sealed)
    assert open_sealed(KEYS["gcm"], data) == plain.read_bytes()
    for wrong in (data[:-1], data + b"x", data[:32], data[: 32 + 65_564], bytes([data[0] ^ 1]) + data[1:]):
        if wrong != data:
            with pytest.raises((ValueError, InvalidTag)):
                open_sealed(KEYS["gcm"], wrong)


def test_the_documents_client(mount: Path, device: Callable[[str], Context], tmp_path: Path) -> None:
    """The examples in Python and C run as they stand."""
    (code,) = [block for block in blocks("python") if "of_device" in block]
    code = code.replace('"backup"', '"gcm"')
    environment = {**os.environ, "CRYPTOFS_MOUNT": str(mount)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True)
    (source,) = blocks("c")
    (tmp_path / "seal.c").write_text(source.replace("/run/cryptofs/devices/backup", f"{mount}/devices/gcm"))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", tmp_path / "seal", tmp_path / "seal.c"], timeout=60, check=True)
    done = subprocess.run([tmp_path / "seal"], input=b"from C", capture_output=True, timeout=60, check=True)
    assert opened("gcm", done.stdout) == b"from C"
    with device("gcm") as context:
        assert context.decrypt(done.stdout) == b"from C"
