"""What computes for a program: engines in this process and records on a mount, which must not differ."""

import errno
import gc
import hashlib
import hmac
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import declare
from helpers.daemons import serving_config

from cryptofs.algorithms import Type
from cryptofs.client import MountNotFound
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation
from cryptofs.runner.backend import Backend, LocalBackend
from cryptofs.runner.mounted import MountBackend, MountTransform

ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
KEY, IV = bytes(range(32)), bytes(range(16))
SECRET = b"a key that nobody may see in it."


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Backend]]:
    """Both, of which the mount has devices, too."""
    text = declare("mac", "hash", "hmac(sha256)", "{mac}")
    text += declare("box", "aead", "gcm(aes)", "{box}", 'nonce = "caller"', "authsize = 12")
    text += declare("own-nonce", "aead", "gcm(aes)", "{box}")
    with serving_config(tmp_path_factory.mktemp("backend"), text, "--engines", "openssl", mac=KEY, box=KEY) as daemon:
        yield {"local": LocalBackend(("openssl",)), "mount": MountBackend(daemon.mountpoint)}


@pytest.fixture(params=["local", "mount"])
def backend(request: pytest.FixtureRequest, backends: dict[str, Backend]) -> Backend:
    """Each of them in turn."""
    return backends[request.param]


def refused(number: int, call: Callable[[], object]) -> str:
    """Check that a call fails with this errno; returns the message."""
    with pytest.raises(CryptofsError) as caught:
        call()
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def test_short_messages_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of an engine's shorter way, the longer one answers, with its own errors."""
    backend = LocalBackend(("openssl",))
    digest = backend.open(Type.HASH, "sha256")
    box = backend.open(Type.AEAD, "gcm(aes)")
    box.set_key(KEY)
    for result in (OSError(errno.ENOMEM, "no memory"), ValueError("wrong"), None):

        def short(*_: object, result: Exception | None = result) -> None:
            if result is not None:
                raise result

        for transform in (digest, box):
            monkeypatch.setattr(transform._transform, "short", short, raising=False)  # type: ignore[attr-defined]
        assert digest.once(DIGEST, None, 0, b"data") == hashlib.sha256(b"data").digest()
        refused(errno.EBADMSG, lambda: box.once(DECRYPT, IV[:12], 0, bytes(32)))
    digest.close()
    box.close()


def test_a_name_is_described_and_opened(backend: Backend) -> None:
    """With its sizes, by its generic name or its driver's; an unknown one is ENOENT, whatever is wrong with it."""
    found = backend.describe(Type.SKCIPHER, "cbc(aes)")
    assert (found.block_size, found.iv_size, found.chunk_size, found.key_sizes.listed) == (16, 16, 16, (16, 24, 32))
    assert backend.describe(Type.SKCIPHER, found.driver) == found
    assert backend.describe(Type.AEAD, "gcm(aes)").authsizes == (4, 8, 12, 13, 14, 15, 16)
    assert backend.describe(Type.HASH, "sha256").digest_size == 32
    for name in ("cbc(none)", "", "a/b", "..", "x" * 200, "cbc(aes", "caf\xe9"):
        refused(errno.ENOENT, lambda name=name: backend.describe(Type.SKCIPHER, name))  # type: ignore[misc]
        refused(errno.ENOENT, lambda name=name: backend.open(Type.SKCIPHER, name))  # type: ignore[misc]


def test_a_hash(backend: Backend) -> None:
    """In one, in parts, cloned in the middle, and given up."""
    transform = backend.open(Type.HASH, "sha256")
    assert not transform.needs_key
    assert bytes(transform.once(DIGEST, None, 0, b"abc")) == hashlib.sha256(b"abc").digest()
    running = transform.hash()
    running.update(b"a")
    twin, third = running.clone(), running.clone()
    assert running.finish(b"bc") == twin.finish(bytearray(b"bc")) == hashlib.sha256(b"abc").digest()
    assert third.clone().finish() == hashlib.sha256(b"a").digest()
    assert transform.hash().clone().finish(b"x") == hashlib.sha256(b"x").digest()
    for each in (running, twin, third, transform.hash()):
        each.close()
        each.close()
    refused(errno.EINVAL, lambda: transform.set_key(b"key"))
    transform.close()
    transform.close()


def test_a_keyed_hash(backend: Backend) -> None:
    """Without a key it computes nothing."""
    transform = backend.open(Type.HASH, "hmac(sha256)")
    assert transform.needs_key
    refused(errno.ENOKEY, lambda: transform.once(DIGEST, None, 0, b"abc"))
    refused(errno.ENOKEY, transform.hash)
    transform.set_key(KEY)
    assert bytes(transform.once(DIGEST, None, 0, b"abc")) == hmac.digest(KEY, b"abc", "sha256")
    transform.close()


def test_a_cipher(backend: Backend) -> None:
    """Both ways; after a refused key it has none, as in the kernel."""
    transform = backend.open(Type.SKCIPHER, "cbc(aes)")
    transform.set_key(bytearray(KEY))
    text = bytes(range(64))
    encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
    sealed = encryptor.update(text) + encryptor.finalize()
    assert bytes(transform.once(ENCRYPT, IV, 0, text)) == sealed
    assert bytes(transform.once(DECRYPT, IV, 0, memoryview(sealed))) == text
    refused(errno.EINVAL, lambda: transform.once(ENCRYPT, IV, 0, b"short"))
    refused(errno.EINVAL, lambda: transform.once(ENCRYPT, IV[:8], 0, text))
    said = refused(errno.EINVAL, lambda: transform.set_key(SECRET[:31]))
    assert SECRET[:8].decode() not in said
    assert transform.needs_key
    refused(errno.ENOKEY, lambda: transform.once(ENCRYPT, IV, 0, text))
    transform.set_key(KEY)
    assert bytes(transform.once(ENCRYPT, IV, 0, text)) == sealed
    transform.close()


def test_an_aead_and_its_tags(backend: Backend) -> None:
    """The size of the tag may change with a key and without."""
    transform = backend.open(Type.AEAD, "gcm(aes)")
    assert transform.authsize == 16
    transform.set_authsize(12)
    transform.set_key(KEY)
    nonce, assoc, text = bytes(12), b"header", b"some text"
    whole = AESGCM(KEY).encrypt(nonce, text, assoc)
    assert bytes(transform.once(ENCRYPT, nonce, len(assoc), assoc + text)) == whole[:-4]
    transform.set_authsize(16)
    assert transform.authsize == 16
    assert bytes(transform.once(ENCRYPT, nonce, len(assoc), assoc + text)) == whole
    assert bytes(transform.once(DECRYPT, nonce, len(assoc), assoc + whole)) == text
    refused(errno.EBADMSG, lambda: transform.once(DECRYPT, nonce, len(assoc), assoc + whole[:-1] + b"x"))
    refused(errno.EINVAL, lambda: transform.once(ENCRYPT, nonce, 99, text))
    refused(errno.EINVAL, lambda: transform.set_authsize(7))
    assert bytes(transform.once(ENCRYPT, nonce, 0, b"")) == AESGCM(KEY).encrypt(nonce, b"", None)
    transform.close()


def test_an_rng(backend: Backend) -> None:
    """Any number of bytes, others each time."""
    transform = backend.open(Type.RNG, "stdrng")
    transform.set_key(b"")
    assert len(transform.generate(1000)) == 1000
    assert transform.generate(16) != transform.generate(16)
    transform.close()


def test_a_key_is_wiped(backends: dict[str, Backend]) -> None:
    """With the transform, or with the next key; nothing shows it."""
    for backend in backends.values():
        transform = backend.open(Type.AEAD, "gcm(aes)")
        transform.set_key(SECRET)
        kept = transform._key  # type: ignore[attr-defined]
        assert bytes(kept) == SECRET
        assert "nobody" not in repr(vars(transform)).replace(repr(kept), "")
        transform.set_key(KEY)
        assert bytes(kept) == bytes(32)
        kept = transform._key  # type: ignore[attr-defined]
        transform.close()
        assert bytes(kept) == bytes(32)
        refused(errno.ENOKEY, lambda transform=transform: transform.once(ENCRYPT, bytes(12), 0, b""))  # type: ignore[misc]
    gc.collect()


def test_an_unknown_engine() -> None:
    """It is said before anything runs."""
    assert "af_alg" in refused(errno.ENOENT, lambda: LocalBackend(("openssh",)))


def test_a_mount_that_is_none(tmp_path: Path) -> None:
    """So is a wrong mount."""
    with pytest.raises(MountNotFound):
        MountBackend(tmp_path)


# A device's key


def test_a_device_by_its_name(backends: dict[str, Backend]) -> None:
    """The program gives the name in place of a key, and never sees the key."""
    backend = backends["mount"]
    mac = backend.open(Type.HASH, "hmac(sha256)")
    mac.set_key(b"device:mac")
    assert bytes(mac.once(DIGEST, None, 0, b"abc")) == hmac.digest(KEY, b"abc", "sha256")
    running = mac.hash()
    running.update(b"a")
    assert running.finish(b"bc") == hmac.digest(KEY, b"abc", "sha256")
    mac.close()
    box = backend.open(Type.AEAD, "gcm(aes)")
    box.set_key(b"device:box")
    assert box.authsize == 12
    box.set_authsize(12)
    assert "device box" in refused(errno.EINVAL, lambda: box.set_authsize(16))
    assert bytes(box.once(ENCRYPT, bytes(12), 2, b"aatext")) == AESGCM(KEY).encrypt(bytes(12), b"text", b"aa")[:-4]
    box.set_key(b"device:own-nonce")
    assert "makes the nonces" in refused(errno.EINVAL, lambda: box.once(ENCRYPT, bytes(12), 0, b"text"))
    box.close()


def test_a_wrong_device(backends: dict[str, Backend]) -> None:
    """One that is not there, of another algorithm, or no name at all; then the transform has no key."""
    box = backends["mount"].open(Type.AEAD, "gcm(aes)")
    box.set_key(KEY)
    refused(errno.ENOENT, lambda: box.set_key(b"device:none"))
    assert "hmac(sha256)" in refused(errno.EINVAL, lambda: box.set_key(b"device:mac"))
    refused(errno.EINVAL, lambda: box.set_key(b"device:../../etc"))
    refused(errno.ENOKEY, lambda: box.once(ENCRYPT, bytes(12), 0, b""))
    box.close()


def _moved() -> tuple[int, int]:
    """How many reads and writes this process has made, as the kernel counts them. Each look is some reads more."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["syscr"]), int(counts["syscw"])


@pytest.mark.parametrize("size", [16, 1024, 8192])
@pytest.mark.parametrize(
    ("type_", "name", "iv", "assoclen"),
    [
        (Type.HASH, "sha256", None, 0),
        (Type.HASH, "hmac(sha256)", None, 0),
        (Type.SKCIPHER, "cbc(aes)", IV, 0),
        (Type.AEAD, "gcm(aes)", IV[:12], 0),
        (Type.AEAD, "gcm(aes)", IV[:12], 13),
        (Type.RNG, "stdrng", None, 0),
    ],
)
def test_one_call_to_the_daemon(
    backends: dict[str, Backend], type_: Type, name: str, iv: bytes | None, assoclen: int, size: int
) -> None:
    """A whole message on a mount is one ioctl: it needs no read and no write."""
    transform = backends["mount"].open(type_, name)
    assert isinstance(transform, MountTransform)
    if transform.needs_key:
        transform.set_key(KEY)

    def message() -> None:
        if type_ is Type.RNG:
            transform.generate(size)
        else:
            transform.once(DIGEST if type_ is Type.HASH else ENCRYPT, iv, assoclen, bytes(size))

    message()
    before, again = _moved(), _moved()
    for _ in range(5):
        message()
    after = _moved()
    look = again[0] - before[0]
    assert (after[0] - again[0] - look, after[1] - again[1]) == (0, 0)
    transform.close()
