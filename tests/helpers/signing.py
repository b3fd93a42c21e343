"""A mount with devices that sign, for the tests of its faces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.other_user import OWNER, ROOT

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

KEYS: dict[str, Private] = {
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
    "rsa-raw": rsa.generate_private_key(65537, 2048),
    "rsa-one": rsa.generate_private_key(65537, 2048),
}
DEVICES = {
    "ed": ("ed25519", "ed"),
    "p256": ("x962(ecdsa-nist-p256)", "p256"),
    "p384": ("p1363(ecdsa-nist-p384)", "p384"),
    "p521": ("ecdsa-nist-p521", "p521"),
    "rsa-256": ("pkcs1(rsa,sha256)", "rsa"),
    "rsa-512": ("pkcs1(rsa,sha512)", "rsa"),
    "only-256": ("pkcs1(rsa,sha256)", "rsa-one"),
}
"""Of devices that sign: the algorithm and the key."""


def pkcs8(key: Private) -> bytes:
    """A private key in DER."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


def openssh(key: Private) -> str:
    """A public key as ssh writes it, without a comment."""
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@contextmanager
def signing_mount(directory: Path) -> Iterator[Daemon]:
    """A daemon with these devices, with some of which no face can do anything, and with others that are not all
    users'."""
    text = "".join(declare(name, "sig", algorithm, f"{{{key}}}") for name, (algorithm, key) in DEVICES.items())
    text += declare("mute", "sig", "ed25519", "{ed}", 'operations = ["sign"]')
    text += declare("checker", "sig", "ed25519", "{ed}", 'operations = ["verify", "public-key"]')
    text += declare("sha1", "sig", "pkcs1(rsa,sha1)", "{rsa}")
    text += declare("raw", "sig", "pkcs1(rsa,none)", "{rsa-raw}")
    text += declare("decrypter", "akcipher", "pkcs1pad(rsa)", "{rsa}", 'operations = ["decrypt", "public-key"]')
    text += declare("textbook", "akcipher", "rsa", "{rsa}", 'operations = ["decrypt", "public-key"]')
    text += declare("curve", "kpp", "ecdh-nist-p256", "{p256}")
    text += declare("gcm", "aead", "gcm(aes)", "{aes}")
    if ROOT:
        text += declare("theirs", "sig", "ed25519", "{ed}", f"user = {OWNER}")
        text += declare("everybody", "sig", "ed25519", "{ed}", f"user = {OWNER}", 'mode = "0666"')
    keys = {name: pkcs8(key) for name, key in KEYS.items()}
    with serving_config(directory, text, **keys, aes=bytes(range(32))) as daemon:
        yield daemon
