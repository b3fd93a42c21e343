"""What the tests of devices share: a mount with each kind, other libraries that open what it seals, other users."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.other_user import GROUP, OWNER, ROOT

from cryptofs.client import Context
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation

ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST

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


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device of each kind."""
    directory = tmp_path_factory.mktemp("devices")
    text = "".join(declare(name, *NAMES[name], f"{{{name}}}") for name in KEYS)
    gcm = (*NAMES["gcm"], "{gcm}")
    text += declare("sealonly", *gcm, 'operations = ["encrypt"]')
    text += declare("openonly", *gcm, 'operations = ["decrypt"]')
    text += declare("caller", *gcm, 'nonce = "caller"')
    text += declare("short-tag", *gcm, "authsize = 12")
    if ROOT:
        mac, owner = (*NAMES["hmac"], "{hmac}"), (f"user = {OWNER}", f"group = {GROUP}")
        text += declare("owned", *mac, *owner, 'mode = "0600"')
        text += declare("shared", *mac, *owner, 'mode = "0060"')
        text += declare("public", *mac, 'mode = "0666"')
    with serving_config(directory, text, **KEYS) as daemon:
        yield daemon


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
