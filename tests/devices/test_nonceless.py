"""Devices of algorithms that want no nonce: they wrap keys, or seal files so that equal ones look equal."""

import errno
import os
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config

from cryptofs.client import Context, RequestError

pytestmark = pytest.mark.mount

KEY = bytes(range(32))
SIGNER = ec.generate_private_key(ec.SECP521R1())
DEVICES = (
    declare("wrap", "aead", "kwp(aes)", "{secret}", 'operations = ["encrypt"]')
    + declare("unwrap", "aead", "rfc3394(kw(aes))", "{secret}", 'operations = ["decrypt"]')
    + declare("siv", "aead", "siv(aes)", "{secret}")
    + declare("sign", "sig", "p1363(ecdsa-nist-p521)", "{signer}")
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with these devices."""
    signer = SIGNER.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with serving_config(tmp_path_factory.mktemp("nonceless"), DEVICES, secret=KEY, signer=signer) as daemon:
        yield daemon


def test_keys_are_wrapped_one_way(daemon: Daemon) -> None:
    """A device that only wraps does not unwrap, and has no stream files: a file is no key."""
    with Context.of_device("wrap", mount=daemon.mountpoint) as device:
        wrapped = device.encrypt(b"a key of 21 bytes, so")
        assert aes_key_unwrap_with_padding(KEY, wrapped) == b"a key of 21 bytes, so"
        with pytest.raises(RequestError) as caught:
            device.decrypt(wrapped)
        assert caught.value.errno == errno.EACCES
    with Context.of_device("unwrap", mount=daemon.mountpoint) as device:
        assert device.decrypt(aes_key_wrap(KEY, bytes(24))) == bytes(24)
        with pytest.raises(RequestError) as caught:
            device.decrypt(bytes(32))
        assert caught.value.errno == errno.EBADMSG
    for name in ("wrap", "unwrap"):
        assert not {"encrypt", "decrypt"} & set(os.listdir(daemon.mountpoint / "devices" / name))


def test_siv_seals_without_a_nonce(daemon: Daemon) -> None:
    """Equal messages give equal bytes, which other libraries open; a stream's segments have their places in them."""
    with Context.of_device("siv", mount=daemon.mountpoint) as device:
        sealed = device.encrypt(b"text", assoc=b"head")
        assert sealed == device.encrypt(b"text", assoc=b"head") == AESSIV(KEY).encrypt(b"text", [b"head"])
        assert device.decrypt(sealed, assoc=b"head") == b"text"


def test_a_key_of_p521_signs(daemon: Daemon) -> None:
    """r and s, which the key's other half accepts."""
    with Context.of_device("sign", mount=daemon.mountpoint) as device:
        signature = device.sign(bytes(64))
    r, s = int.from_bytes(signature[:66]), int.from_bytes(signature[66:])
    SIGNER.public_key().verify(utils.encode_dss_signature(r, s), bytes(64), ECDSA(utils.Prehashed(SHA512())))
