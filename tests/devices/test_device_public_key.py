"""Devices with private keys: programs sign, decrypt and agree with keys that they cannot read."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from helpers.configs import declare
from helpers.daemons import serving_config

from cryptofs.client import Context, RequestError

pytestmark = pytest.mark.mount

ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
X25519 = x25519.X25519PrivateKey.generate()
CONFIG = """
[devices.ed]
type = "sig"
name = "ed25519"
key.file = "{ed}"

[devices.rsa]
type = "sig"
name = "pkcs1(rsa,sha256)"
operations = ["sign", "public-key"]
key.file = "{rsa}"

[devices.curve]
type = "kpp"
name = "curve25519"
key.file = "{curve}"
"""


def pkcs8(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | x25519.X25519PrivateKey) -> bytes:
    """A private key in DER."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mount with three devices."""
    directory = tmp_path_factory.mktemp("keys")
    keys = {name: pkcs8(key) for name, key in (("ed", ED25519), ("rsa", RSA), ("curve", X25519))}  # type: ignore[arg-type]
    with serving_config(directory, CONFIG, **keys) as daemon:
        yield daemon.mountpoint


def test_sign(mount: Path) -> None:
    """What the device signs is verified by another library, and by the device itself."""
    with Context.of_device("ed", mount=mount) as context:
        signature = context.sign(b"message")
        ED25519.public_key().verify(signature, b"message")
        assert context.verify(signature, b"message")
        assert not context.verify(signature, b"another")
        assert context.public_key() == ED25519.public_key().public_bytes_raw()


def test_sign_in_the_shell(mount: Path) -> None:
    """The stream file `sign`: the message in, the signature out."""
    script = 'exec 3<>"$1"; printf "a message" >&3; cat <&3'
    signature = subprocess.run(
        ["bash", "-c", script, "bash", str(mount / "devices/ed/sign")], capture_output=True, check=True
    ).stdout
    ED25519.public_key().verify(signature, b"a message")


def test_only_what_is_allowed(mount: Path) -> None:
    """A device that only signs does not verify, and none makes a key or takes one."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"message")
    with Context.of_device("rsa", mount=mount) as context:
        signature = context.sign(digest.finalize())
        RSA.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())
        with pytest.raises(RequestError, match="not allowed") as caught:
            context.verify(signature, bytes(32))
        assert caught.value.errno == 13
        with pytest.raises(RequestError, match="not allowed"):
            context.generate_key()
        with pytest.raises(RequestError, match="cannot be replaced"):
            context.set_key(pkcs8(RSA))


def test_agree(mount: Path) -> None:
    """The device's half of an agreement."""
    other = x25519.X25519PrivateKey.generate()
    with Context.of_device("curve", mount=mount) as context:
        secret = context.agree(other.public_key().public_bytes_raw())
        assert secret == other.exchange(X25519.public_key())


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    """At the start, with the device's name; nothing of the key is told."""
    key = pkcs8(ec.generate_private_key(ec.SECP256R1()))  # type: ignore[arg-type]
    config = declare("x", "sig", "ed25519", "{secret}")
    with (
        pytest.raises(RuntimeError, match=r"devices\.x\.key\.file: ") as caught,
        serving_config(tmp_path, config, secret=key),
    ):
        pass
    assert key.hex()[:16] not in str(caught.value)
    assert os.listdir(tmp_path / "mount") == []
