"""What the tests of devices share: a mount with each kind, other libraries that open what it seals, other users."""

import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from helpers.daemons import Daemon

from cryptofs.client import Context
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can be several users")

ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
OWNER, MEMBER, STRANGER, GROUP = 70_001, 70_002, 70_003, 70_100

CIPHER_KEY, MAC_KEY = bytes(range(100, 132)), bytes(range(200, 232))
KEYS = {
    "gcm": bytes(range(32)),
    "ccm": bytes(range(1, 33)),
    "rfc7539": bytes(range(2, 34)),
    "authenc": struct.pack("<HH", 8, 1) + struct.pack(">I", 32) + MAC_KEY + CIPHER_KEY,
    "cbc": bytes(range(3, 35)),
    "ctr": bytes(range(4, 36)),
    "xts": bytes(range(5, 69)),
    "chacha20": bytes(range(6, 38)),
    "hmac": bytes(range(7, 39)),
}
NAMES = {
    "gcm": ("aead", "gcm(aes)"),
    "ccm": ("aead", "ccm(aes)"),
    "rfc7539": ("aead", "rfc7539(chacha20,poly1305)"),
    "authenc": ("aead", "authenc(hmac(sha256),cbc(aes))"),
    "cbc": ("skcipher", "cbc(aes)"),
    "ctr": ("skcipher", "ctr(aes)"),
    "xts": ("skcipher", "xts(aes)"),
    "chacha20": ("skcipher", "chacha20"),
    "hmac": ("hash", "hmac(sha256)"),
}
AEADS = [name for name, (kind, _) in NAMES.items() if kind == "aead"]
CIPHERS = [name for name, (kind, _) in NAMES.items() if kind == "skcipher"]
BLOCKS = {"authenc", "cbc", "xts"}
NONCE = {name: 12 if name in ("gcm", "ccm", "rfc7539", "chacha20") else 16 for name in (*AEADS, *CIPHERS)}


# What another library makes of it


def _plain(cipher: Cipher, text: bytes) -> bytes:
    decryptor = cipher.decryptor()
    return decryptor.update(text) + decryptor.finalize()


def _open_authenc(nonce: bytes, text: bytes, assoc: bytes) -> bytes:
    mac = hmac.HMAC(MAC_KEY, hashes.SHA256())
    mac.update(nonce + assoc + text[:-32])
    mac.verify(text[-32:])
    return _plain(Cipher(algorithms.AES(CIPHER_KEY), modes.CBC(nonce)), text[:-32])


OPENERS: dict[str, Callable[[bytes, bytes, bytes], bytes]] = {
    "gcm": AESGCM(KEYS["gcm"]).decrypt,
    "ccm": AESCCM(KEYS["ccm"]).decrypt,
    "rfc7539": ChaCha20Poly1305(KEYS["rfc7539"]).decrypt,
    "authenc": _open_authenc,
    "cbc": lambda nonce, text, _: _plain(Cipher(algorithms.AES(KEYS["cbc"]), modes.CBC(nonce)), text),
    "ctr": lambda nonce, text, _: _plain(Cipher(algorithms.AES(KEYS["ctr"]), modes.CTR(nonce)), text),
    "xts": lambda nonce, text, _: _plain(Cipher(algorithms.AES(KEYS["xts"]), modes.XTS(nonce)), text),
    "chacha20": lambda nonce, text, _: _plain(
        Cipher(algorithms.ChaCha20(KEYS["chacha20"], bytes(4) + nonce), None), text
    ),
}


def opened(name: str, sealed: bytes, assoc: bytes = b"") -> bytes:
    """The plaintext of what a device made, by pyca."""
    size = NONCE[name]
    return OPENERS[name](sealed[:size], sealed[size:], assoc)


# The mount


def declare(name: str, key: Path, kind: str, algorithm: str, *more: str) -> str:
    """A device's section."""
    lines = (f"[devices.{name}]", f'type = "{kind}"', f'name = "{algorithm}"', f'key.file = "{key}"')
    return "\n".join((*lines, *more, ""))


def write_private(path: Path, data: bytes) -> Path:
    """A file as keys and configurations have to be: of a mode that lets nobody else in."""
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def let_in(mountpoint: Path) -> Path:
    """Let other users reach a mount below the tests' own directory."""
    for parent in (mountpoint.parent, mountpoint.parent.parent, mountpoint.parent.parent.parent):
        parent.chmod(0o755)
    return mountpoint


def options() -> tuple[str, ...]:
    """What a daemon is given besides its configuration."""
    return ("-o", "allow_other") if os.geteuid() == 0 else ()


def configured(directory: Path, text: str) -> Iterator[Daemon]:
    """A daemon with this configuration, until the test or module is done; it must end well."""
    mountpoint = directory / "mount"
    mountpoint.mkdir()
    config = write_private(directory / "cryptofs.toml", text.encode())
    daemon = Daemon(mountpoint, *options(), "--config", str(config), log=directory / "log")
    try:
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log, daemon.log
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device of each kind."""
    directory = tmp_path_factory.mktemp("devices")
    files = {name: write_private(directory / f"{name}.key", key) for name, key in KEYS.items()}
    mine = (f"user = {os.getuid()}", f"group = {os.getgid()}")
    text = "".join(declare(name, files[name], *NAMES[name], *mine) for name in KEYS)
    gcm = ("gcm", *NAMES["gcm"])
    text += declare("sealonly", files["gcm"], *gcm[1:], 'operations = ["encrypt"]', *mine)
    text += declare("openonly", files["gcm"], *gcm[1:], 'operations = ["decrypt"]', *mine)
    text += declare("caller", files["gcm"], *gcm[1:], 'nonce = "caller"', *mine)
    text += declare("short-tag", files["gcm"], *gcm[1:], "authsize = 12", *mine)
    if os.geteuid() == 0:
        text += declare("owned", files["hmac"], *NAMES["hmac"], f"user = {OWNER}", f"group = {GROUP}", 'mode = "0600"')
        text += declare("shared", files["hmac"], *NAMES["hmac"], f"user = {OWNER}", f"group = {GROUP}", 'mode = "0060"')
        text += declare("public", files["hmac"], *NAMES["hmac"], 'mode = "0666"')
    yield from configured(directory, text)


@pytest.fixture
def device(mount: Path) -> Callable[[str], Context]:
    """Opens a device."""
    return lambda name: Context.of_device(name, mount=mount)


def refused(number: int, call: Callable[[], object]) -> str:
    """Check that a call fails with this errno; returns the message."""
    with pytest.raises((OSError, CryptofsError)) as caught:
        call()
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def sample(name: str, size: int) -> bytes:
    """Data of about this size that the device's algorithm takes."""
    if name in BLOCKS:
        size = max(16, size - size % 16) if name == "xts" else size - size % 16
    return (b"plain text, " * (size // 12 + 1))[:size]


# Other users


class AsUser:
    """A program that runs as somebody else, in a fork: the interpreter's own file may be out of his reach."""

    def __init__(self, uid: int, gid: int, groups: list[int], code: str, *arguments: str | Path) -> None:
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(writer)
            self._reader = reader
            return
        status = 1
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            sys.argv = ["-c", *map(str, arguments)]
            exec(compile(code, "-c", "exec"), {})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def lines(self) -> list[str]:
        """What it printed, once it has ended."""
        with open(self._reader) as pipe:
            text = pipe.read()
        assert os.waitpid(self._pid, 0)[1] == 0, text
        return text.splitlines()


def as_user(uid: int, gid: int, groups: list[int], code: str, *arguments: str | Path) -> list[str]:
    """What a program prints that runs as somebody else."""
    return AsUser(uid, gid, groups, code, *arguments).lines()
