"""`cryptofs sign`, `verify` and `random`: compared with another library, and at a terminal."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from helpers.cli_process import Done, forked
from helpers.daemons import Daemon
from helpers.signing import DEVICES, KEYS, signing_mount
from helpers.waiting import PATIENCE

from cryptofs.cli import pss
from cryptofs.errors import InvalidValue

pytestmark = pytest.mark.mount

DATA = os.urandom(3_000_001)
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices that sign."""
    with signing_mount(tmp_path_factory.mktemp("signing")) as daemon:
        yield daemon


def run(mount: Path, directory: Path, *arguments: str | bytes, data: bytes = b"") -> Done:
    """One command."""
    return forked(list(arguments), directory, data, CRYPTOFS_MOUNT=str(mount))


def matches(key: str, signature: bytes, data: bytes, digest: str) -> None:
    """Errors: InvalidSignature."""
    public = KEYS[key].public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, data)
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signature, data, padding.PKCS1v15(), HASHES[digest])
    else:
        public.verify(signature, data, ec.ECDSA(HASHES[digest]))


@pytest.mark.parametrize(
    ("device", "more", "digest", "size"),
    [
        ("ed", [], "", 100_000),
        ("p256", [], "sha256", len(DATA)),
        ("p256", ["--hash", "sha512"], "sha512", len(DATA)),
        ("rsa-256", [], "sha256", len(DATA)),
        ("rsa-512", ["--hash", "sha512"], "sha512", 0),
    ],
)
def test_sign_and_verify(mount: Path, tmp_path: Path, device: str, more: list[str], digest: str, size: int) -> None:
    """Another library accepts the signature. A changed file, another file's and a shortened signature are refused with
    one line and status 1."""
    (tmp_path / "f").write_bytes(DATA[:size])
    assert run(mount, tmp_path, "sign", device, "f", "-o", "s", *more) == (0, b"", b"")
    signature = (tmp_path / "s").read_bytes()
    matches(DEVICES[device][1], signature, DATA[:size], digest)
    assert run(mount, tmp_path, "verify", device, "f", "s", *more) == (0, b"", b"")
    assert run(mount, tmp_path, "verify", device, "-", "s", *more, data=DATA[:size]).returncode == 0
    assert run(mount, tmp_path, "verify", device, "f", "-", *more, data=signature).returncode == 0
    for file, wrong in ((DATA[:size] + b"x", signature), (DATA[:size], signature[:-1]), (DATA[:size], b"")):
        (tmp_path / "f2").write_bytes(file)
        (tmp_path / "s2").write_bytes(wrong)
        done = run(mount, tmp_path, "verify", device, "f2", "s2", *more)
        assert done.returncode == 1, wrong
        assert done.stderr.count(b"\n") == 1
        assert not wrong or b"s2: not a signature of f2" in done.stderr or b"EINVAL" in done.stderr


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_pss(mount: Path, tmp_path: Path, digest: str) -> None:
    """Another library accepts the signature, and what that one signs, with any salt; no two signatures are equal."""
    (tmp_path / "f").write_bytes(DATA)
    more = ["--pss", *([] if digest == "sha256" else ["--hash", digest])]
    signatures = []
    for _ in range(2):
        assert run(mount, tmp_path, "sign", "textbook", "f", "-o", "s", *more) == (0, b"", b"")
        signatures.append((tmp_path / "s").read_bytes())
        assert run(mount, tmp_path, "verify", "textbook", "f", "s", *more) == (0, b"", b"")
    assert signatures[0] != signatures[1]
    private, method = KEYS["rsa"], HASHES[digest]
    assert isinstance(private, rsa.RSAPrivateKey)
    strict = padding.PSS(padding.MGF1(method), method.digest_size)
    private.public_key().verify(signatures[0], DATA, strict, method)
    (tmp_path / "s").write_bytes(private.sign(DATA, padding.PSS(padding.MGF1(method), 11), method))
    assert run(mount, tmp_path, "verify", "textbook", "f", "s", *more).returncode == 0
    for wrong in (
        signatures[0][:-1] + bytes([signatures[0][-1] ^ 1]),
        b"",
        private.sign(DATA, padding.PKCS1v15(), method),
    ):
        (tmp_path / "s").write_bytes(wrong)
        done = run(mount, tmp_path, "verify", "textbook", "f", "s", *more)
        assert (done.returncode, b"not a signature" in done.stderr) == (1, True)


@pytest.mark.parametrize("bits", [1024, 1025, 1026, 1031, 2048])
def test_the_encoding_of_pss(bits: int) -> None:
    """Moduli whose size is no number of whole bytes, too: another library accepts what is made of it."""
    salt, digest = os.urandom(20), os.urandom(32)
    made = pss.encoded(digest, "sha256", bits - 1, salt)
    assert len(made) == (bits + 6) // 8
    assert int.from_bytes(made, "big").bit_length() <= bits - 1
    if bits >= 1025:
        private = rsa.generate_private_key(65537, bits)
        numbers = private.private_numbers()
        number = pow(int.from_bytes(made, "big"), numbers.d, numbers.public_numbers.n)
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
        signature = number.to_bytes((bits + 7) // 8, "big")
        private.public_key().verify(signature, digest, scheme, utils.Prehashed(hashes.SHA256()))


def test_a_key_that_is_too_small_for_pss() -> None:
    """RSA of 1024 bits, and a digest and salt of 512 each."""
    with pytest.raises(InvalidValue, match="1024 bits is too small for PSS with sha512"):
        pss.encoded(bytes(64), "sha512", 1023, bytes(64))


def test_a_digest_that_is_there_already(mount: Path, tmp_path: Path) -> None:
    """With --hash none the file is what the key signs; hexadecimal signatures are lines."""
    hashed = hashes.Hash(hashes.SHA256())
    hashed.update(DATA)
    (tmp_path / "d").write_bytes(hashed.finalize())
    signed = run(mount, tmp_path, "sign", "rsa-256", "d", "--hash", "none", "--hex")
    matches("rsa", bytes.fromhex(signed.stdout.decode()), DATA, "sha256")
    (tmp_path / "s").write_bytes(signed.stdout)
    (tmp_path / "f").write_bytes(DATA)
    assert run(mount, tmp_path, "verify", "rsa-256", "f", "s", "--hex").returncode == 0
    assert run(mount, tmp_path, "sign", "rsa-256", "f", "--hash", "none").stderr.startswith(b"cryptofs: E")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["sign", "rsa-256", "f", "--hash", "sha512"], 2, b"it signs digests of sha256"),
        (["sign", "ed", "f", "--hash", "sha512"], 2, b"it signs the message itself"),
        (["sign", "p256", "f", "-o", "f"], 2, b"the output is the input"),
        (["sign", "rsa-256", "f", "--pss"], 2, b"for a device of akcipher rsa"),
        (["verify", "ed", "f", "f", "--pss"], 2, b"for a device of akcipher rsa"),
        (["sign", "textbook", "f", "--pss", "--hash", "md5"], 2, b"with --pss one of sha256"),
        (["sign", "textbook", "f", "--pss", "--hash", "none"], 2, b"with --pss one of sha256"),
        (["sign"], 2, b"DEVICE"),
        (["verify", "ed", "-", "-"], 2, b"come from one stream"),
        (["verify", "ed", "f"], 2, b"SIGNATURE"),
        (["verify", "ed", "f", "f", "--hex"], 1, b"hexadecimal"),
        (["verify", "ed", "f", "big"], 1, b"more than 5120"),
        (["verify", "mute", "f", "f"], 1, b"not allowed"),
        (["sign", "checker", "f"], 1, b"EACCES"),
        (["sign", "ed", "big"], 1, b"EMSGSIZE"),
        (["sign", "nosuch", "f"], 1, b"ENOENT"),
        (["sign", "gcm", "f"], 1, b"EOPNOTSUPP"),
        (["random", "-1"], 2, b"-1"),
        (["random", "many"], 2, b"many"),
        (["random", "1", "-n", "nosuch"], 1, b"ENOENT"),
    ],
)
def test_refusals(mount: Path, tmp_path: Path, arguments: list[str], status: int, words: bytes) -> None:
    """Wrong usage is status 2, an error 1; nothing is written."""
    (tmp_path / "f").write_bytes(b"\xff" * 64)
    (tmp_path / "big").write_bytes(DATA)
    done = run(mount, tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (status, b"")
    assert words in done.stderr
    assert (tmp_path / "f").read_bytes() == b"\xff" * 64


@pytest.mark.parametrize("count", [0, 1, 1_040_384, 2_500_000])
def test_random(mount: Path, tmp_path: Path, count: int) -> None:
    """As many bytes as asked, and different ones each time."""
    assert len(run(mount, tmp_path, "random", str(count)).stdout) == count
    assert run(mount, tmp_path, "random", str(count), "-o", "r") == (0, b"", b"")
    made = (tmp_path / "r").read_bytes()
    assert len(made) == count
    if 100 < count < 2_000_000:
        digits = run(mount, tmp_path, "random", str(count), "--hex").stdout
        assert digits.endswith(b"\n")
        assert len(bytes.fromhex(digits.decode())) == count
        assert bytes.fromhex(digits.decode()) != made


@pytest.mark.parametrize(
    ("line", "writes"),
    [
        ("sign ed f", False),
        ("random 16", False),
        ("encrypt -k k f", False),
        ("seal -k k f", False),
        ("compress f", False),
        ("random 16 --hex", True),
        ("sign ed f --hex", True),
        ("random 16 -o -", True),
        ("compress f -o -", True),
    ],
)
def test_a_terminal_gets_no_bytes(mount: Path, tmp_path: Path, line: str, writes: bool) -> None:
    """Unless the command line says so."""
    (tmp_path / "f").write_bytes(b"data")
    (tmp_path / "k").write_bytes(bytes(32))
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "cryptofs", *line.split()]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "CRYPTOFS_MOUNT": str(mount)}, stdin=subprocess.DEVNULL,
        stdout=terminal, stderr=subprocess.PIPE, timeout=60 * PATIENCE, check=False,
    )  # fmt: skip
    os.set_blocking(controller, False)
    try:
        shown = os.read(controller, 4096)
    except BlockingIOError:
        shown = b""
    os.close(terminal)
    os.close(controller)
    assert (done.returncode, bool(shown)) == ((0, True) if writes else (2, False))
    assert writes or b"standard output is a terminal: give -o FILE" in done.stderr
