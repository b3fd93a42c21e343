"""RSA keys in the kernel: what keyctl's engine answers is what OpenSSL's does. Needs a kernel that has it."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cryptofs.algorithms import Type
from cryptofs.client import Context, RequestError
from cryptofs.engines.keyctl import NAMES, KeyctlEngine, calls
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.engines.public import PublicKeyTransform
from cryptofs.errors import InvalidValue, KeyMissing, KeyRejected, NotSupported, SignatureMalformed
from cryptofs.records import Attr, Operation

# in the daemon's place: made before any thread starts
ENGINE = KeyctlEngine()
OPENSSL = OpensslEngine()
KEY = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def works() -> bool:
    """Whether the kernel takes private keys."""
    if not ENGINE.available:
        return False
    try:
        calls.invalidate(calls.add_asymmetric(b"cryptofs:test", bytearray(KEY)))
    except OSError:
        return False
    return True


needs_kernel = pytest.mark.skipif(
    not works(),
    reason="NOT RUN: no asymmetric keys here; scripts/guest --kernel qemu has them, after modprobe pkcs8_key_parser",
)


def opened(engine: KeyctlEngine | OpensslEngine, name: str, key: bytes | None = KEY) -> PublicKeyTransform:
    """A transform with its key."""
    type_ = Type.SIG if name.startswith("pkcs1(") else Type.AKCIPHER
    description = engine.describe(type_, name)
    assert description is not None
    transform = engine.open(description, None)
    assert isinstance(transform, PublicKeyTransform)
    if key is not None:
        transform.set_key(key)
    return transform


@needs_kernel
@pytest.mark.parametrize("name", [name for _, name in NAMES if name != "rsa"])
def test_signatures(name: str) -> None:
    """The same bytes from both engines, each accepted by the other; another digest by neither."""
    digest = hashlib.new(name.partition(",")[2].rstrip(")"), b"message").digest()
    kernel, library = opened(ENGINE, name), opened(OPENSSL, name)
    signature, _ = kernel.operate(Operation.SIGN, {}, digest)
    assert signature == library.operate(Operation.SIGN, {}, digest)[0]
    for transform in (kernel, library):
        assert transform.operate(Operation.VERIFY, {Attr.SIGNATURE: signature}, digest) == (b"", {})
        for wrong in (signature[:-1] + bytes([signature[-1] ^ 1]), bytes(256), os.urandom(256)):
            with pytest.raises(SignatureMalformed):
                transform.operate(Operation.VERIFY, {Attr.SIGNATURE: wrong}, digest)
        with pytest.raises(KeyRejected):
            transform.operate(Operation.VERIFY, {Attr.SIGNATURE: signature}, bytes(len(digest)))
        for size in (255, 257):
            with pytest.raises(InvalidValue):
                transform.operate(Operation.VERIFY, {Attr.SIGNATURE: bytes(size)}, digest)
        with pytest.raises(InvalidValue):
            transform.operate(Operation.SIGN, {}, digest + b"x")
    kernel.close()


@needs_kernel
def test_textbook() -> None:
    """Numbers there and back, the same as OpenSSL's; the same ones are refused."""
    kernel, library = opened(ENGINE, "rsa"), opened(OPENSSL, "rsa")
    for data in (b"\2", b"message", os.urandom(255)):
        sealed, _ = kernel.operate(Operation.ENCRYPT, {}, data)
        assert sealed == library.operate(Operation.ENCRYPT, {}, data)[0]
        assert kernel.operate(Operation.DECRYPT, {}, sealed)[0] == data.rjust(256, b"\0")
    for data in (b"", b"\0", b"\1", b"\xff" * 256, b"\1" * 257):
        for transform in (kernel, library):
            with pytest.raises(InvalidValue):
                transform.operate(Operation.ENCRYPT, {}, data)
    kernel.close()


@needs_kernel
def test_keys() -> None:
    """Wrong ones are refused and leave the old one; the kernel forgets them with the transform."""
    kernel = opened(ENGINE, "pkcs1(rsa,sha256)")
    signature, _ = kernel.operate(Operation.SIGN, {}, bytes(32))
    for key in (b"x", KEY[:-1], os.urandom(1000)):
        with pytest.raises(InvalidValue, match="PKCS#8"):
            kernel.set_key(key)
    assert kernel.operate(Operation.SIGN, {}, bytes(32))[0] == signature
    kernel.set_key(KEY)
    with pytest.raises(NotSupported):
        kernel.operate(Operation.GENERATE_KEY, {}, b"")
    mine = [line for line in Path("/proc/keys").read_text().splitlines() if "cryptofs:" in line]
    kernel.close()
    kernel.close()
    with pytest.raises(KeyMissing):
        kernel.operate(Operation.SIGN, {}, bytes(32))
    valid = [
        line
        for line in Path("/proc/keys").read_text().splitlines()
        if "cryptofs:" in line and "i" not in line.split()[1]
    ]
    assert len(valid) < max(len(mine), 1)


@needs_kernel
@pytest.mark.mount
def test_through_a_mount(mount: Path) -> None:
    """Asked for by name; many signatures, from workers, too."""
    with Context("sig", "pkcs1(rsa,sha256)", KEY, engine="keyctl", mount=mount) as context:
        assert context.driver == "pkcs1-rsa-sha256-keyctl"
        digests = [hashlib.sha256(bytes([each])).digest() for each in range(20)]
        signatures = [context.sign(digest) for digest in digests]
        assert all(map(context.verify, signatures, digests))
        assert not context.verify(signatures[0], digests[1])
        with pytest.raises(RequestError) as caught:
            context.public_key()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_a_kernel_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It offers nothing, and says so quietly."""
    monkeypatch.setattr(calls, "has_public_keys", lambda: False)
    engine = KeyctlEngine()
    assert list(engine.names()) == []
    assert [engine.describe(type_, name) for type_, name in NAMES] == [None] * len(NAMES)
