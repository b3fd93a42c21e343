"""Keys in a PKCS#11 token, on a real SoftHSM, against the OpenSSL engine with the same keys."""

import ctypes
import errno
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cryptofs.algorithms import Type
from cryptofs.cli.commands import commands
from cryptofs.daemon.assembly import Assembly
from cryptofs.engines.base import Transform
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.errors import (
    BadTag,
    CryptofsError,
    InvalidValue,
    KeyUnavailable,
    NotOffered,
    NotPermitted,
    NotSupported,
    OutOfResources,
    PinRefused,
    TooLarge,
)
from cryptofs.formats.token_uri import TokenObject
from cryptofs.keys import FileKey, TokenKey
from cryptofs.records import PAYLOAD_MAX, Operation

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
pkcs11 = pytest.importorskip("pkcs11", reason="NOT RUN: no python-pkcs11 (the extra pkcs11)")
making = pytest.importorskip("cryptofs.engines.pkcs11.making")
pytestmark = pytest.mark.skipif(not MODULE.exists(), reason=f"NOT RUN: no SoftHSM (package softhsm2): {MODULE}")

PIN = "canary-pin-5e0c"
ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
OPENSSL = OpensslEngine()
SLACK = 16
AES_KEYS = {size: bytes(0xC0 ^ byte for byte in range(size)) for size in (16, 24, 32)}
MAC_KEY = bytes(0x5A ^ byte for byte in range(64))
SIZES = (0, 1, 15, 16, 17, 31, 32, 255, 4096, 65_535, 65_536, 65_537, 131_072, 200_001)
CIPHERS = {"ecb(aes)": 0, "cbc(aes)": 16, "ctr(aes)": 16}
DIGESTS = ("sha256", "sha384", "sha512")


def new_token(directory: Path, label: str) -> None:
    """A token made as an administrator does."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "so-pin-1"]
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "SOFTHSM2_CONF": str(directory / "conf")}
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a SoftHSM with the token `cryptofs` and its keys, and the file `pin`."""
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    (directory / "conf").write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\n")
    (directory / "pin").write_text(PIN + "\n")
    (directory / "pin").chmod(0o600)
    new_token(directory, "cryptofs")
    new_token(directory, "second")
    # in a process of its own: this one must find the token as the daemon does
    keys = [(f"aes-{size}", "AES", value.hex(), {}) for size, value in AES_KEYS.items()]
    keys += [("mac", "GENERIC_SECRET", MAC_KEY.hex(), {"SIGN": True})]
    keys += [("mac-short", "GENERIC_SECRET", MAC_KEY[:16].hex(), {"SIGN": True})]
    keys += [("seal-only", "AES", AES_KEYS[32].hex(), {"DECRYPT": False})]
    keys += [("numbered", "AES", AES_KEYS[32].hex(), {"ID": b"\x01\xfe"})]
    keys += [("twice", "AES", AES_KEYS[32].hex(), {})] * 2
    script = f"""
import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
library = pkcs11.lib({str(MODULE)!r})
for name in ("cryptofs", "second"):
    with library.get_token(token_label=name).open(rw=True, user_pin={PIN!r}) as session:
        for label, kind, value, more in {keys!r}:
            session.create_object({{
                Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType[kind], Attribute.LABEL: label,
                Attribute.VALUE: bytes.fromhex(value), Attribute.TOKEN: True, Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False,
                **({{Attribute.ENCRYPT: True, Attribute.DECRYPT: True}} if kind == "AES" else {{}}),
                **{{Attribute[key]: flag for key, flag in more.items()}},
            }})
        if name == "cryptofs":
            session.generate_key(KeyType.AES, 256, label="made", store=True)
"""
    environment = {**os.environ, "SOFTHSM2_CONF": str(directory / "conf")}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(directory / "conf")
    pkcs11.unload(str(MODULE))
    yield directory
    pkcs11.unload(str(MODULE))
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def source(place: Path) -> Callable[..., TokenKey]:
    """Key sources by label."""

    def make(label: str, token: str = "cryptofs") -> TokenKey:
        return TokenKey(MODULE, TokenObject(token, label=label), FileKey(place / "pin"))

    return make


def reference(type_: Type, name: str, key: bytes, authsize: int | None = None) -> Transform:
    description = OPENSSL.describe(type_, name)
    assert description is not None
    transform = OPENSSL.open(description, authsize)
    transform.set_key(key)
    return transform


def once(transform: Transform, operation: Operation, data: bytes, iv: bytes | None = None, assoclen: int = 0) -> bytes:
    out = memoryview(bytearray(transform.room(operation, len(data)) + SLACK))
    return bytes(out[: transform.once(operation, iv, assoclen, data, out)])


def in_parts(
    transform: Transform, operation: Operation, parts: list[bytes], iv: bytes | None = None, assoclen: int = 0
) -> bytes:
    result = bytearray()
    with closing(transform.start(operation, iv, assoclen)) as message:
        for at, part in enumerate(parts):
            last = at == len(parts) - 1
            out = memoryview(bytearray(message.room(len(part), last) + SLACK))
            result += out[: message.update(part, last, out)]
    return bytes(result)


def cut(data: bytes, seed: int) -> list[bytes]:
    """Two to six parts, some perhaps empty."""
    rng = random.Random(seed)
    ends = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the class and errno of what it raises."""
    try:
        return call()
    except CryptofsError as error:
        return type(error), error.errno, error.message


# The same bytes and errors as OpenSSL


@pytest.mark.parametrize("size", AES_KEYS)
@pytest.mark.parametrize("name", CIPHERS)
def test_ciphers(source: Callable[..., TokenKey], name: str, size: int) -> None:
    """Whole and in parts, both ways, at many sizes, wrong ones among them."""
    iv = os.urandom(CIPHERS[name]) or None
    with (
        closing(source(f"aes-{size}").open((), Type.SKCIPHER, name, None)) as ours,
        closing(reference(Type.SKCIPHER, name, AES_KEYS[size])) as theirs,
    ):
        assert (ours.description.engine, ours.description.block_size) == ("pkcs11", theirs.description.block_size)
        for length in SIZES:
            data = os.urandom(length)
            for operation in (ENCRYPT, DECRYPT):
                expected = outcome(lambda: once(theirs, operation, data, iv))  # noqa: B023
                assert outcome(lambda: once(ours, operation, data, iv)) == expected, (length, operation)  # noqa: B023
                parts = cut(data, length)
                assert outcome(lambda: in_parts(ours, operation, parts, iv)) == expected  # noqa: B023


@pytest.mark.parametrize("blocks", [1, 2, 4096, 4097])
def test_ctr_counter_wraps(source: Callable[..., TokenKey], blocks: int) -> None:
    """A counter goes on at 0 after its end, as the kernel's and OpenSSL's do; SoftHSM itself refuses that."""
    iv = ((1 << 128) - blocks).to_bytes(16, "big")
    data = os.urandom(200_003)
    with (
        closing(source("aes-32").open((), Type.SKCIPHER, "ctr(aes)", None)) as ours,
        closing(reference(Type.SKCIPHER, "ctr(aes)", AES_KEYS[32])) as theirs,
    ):
        expected = once(theirs, ENCRYPT, data, iv)
        assert once(ours, ENCRYPT, data, iv) == expected
        assert in_parts(ours, ENCRYPT, cut(data, blocks), iv) == expected


@pytest.mark.parametrize("authsize", [None, 4, 8, 12, 13, 14, 15, 16])
def test_gcm(source: Callable[..., TokenKey], authsize: int | None) -> None:
    """Every tag size; sealed here and opened there, and the other way."""
    with (
        closing(source("aes-32").open((), Type.AEAD, "gcm(aes)", authsize)) as ours,
        closing(reference(Type.AEAD, "gcm(aes)", AES_KEYS[32], authsize)) as theirs,
    ):
        assert ours.authsize == theirs.authsize
        for assoclen in (0, 1, 16, 1000):
            for length in (0, 1, 15, 16, 17, 4096, 65_537):
                iv, data = os.urandom(12), os.urandom(assoclen + length)
                sealed = once(theirs, ENCRYPT, data, iv, assoclen)
                assert once(ours, ENCRYPT, data, iv, assoclen) == sealed
                assert in_parts(ours, ENCRYPT, cut(data, length), iv, assoclen) == sealed
                assert once(ours, DECRYPT, data[:assoclen] + sealed, iv, assoclen) == data[assoclen:]


def test_largest_gcm_message(source: Callable[..., TokenKey]) -> None:
    """The published limit goes through, a byte more does not."""
    data = os.urandom(PAYLOAD_MAX)
    iv = os.urandom(12)
    with closing(source("aes-32").open((), Type.AEAD, "gcm(aes)", None)) as ours:
        sealed = once(ours, ENCRYPT, data, iv)
        assert sealed == once(reference(Type.AEAD, "gcm(aes)", AES_KEYS[32]), ENCRYPT, data, iv)
        with pytest.raises(TooLarge):
            in_parts(ours, ENCRYPT, [data, b"x"], iv)


@pytest.mark.parametrize("flipped", [0, 20, -1])
@pytest.mark.parametrize("authsize", [4, 12, 16])
def test_wrong_tag(source: Callable[..., TokenKey], authsize: int, flipped: int) -> None:
    """One bit wrong in associated data, text or tag: BadTag, nothing written, and the transform goes on."""
    iv, data = os.urandom(12), os.urandom(16 + 40)
    with (
        closing(source("aes-16").open((), Type.AEAD, "gcm(aes)", authsize)) as ours,
        closing(reference(Type.AEAD, "gcm(aes)", AES_KEYS[16], authsize)) as theirs,
    ):
        sealed = bytearray(data[:16] + once(theirs, ENCRYPT, data, iv, 16))
        sealed[flipped] ^= 1
        out = memoryview(bytearray(len(sealed) + SLACK))
        with pytest.raises(BadTag) as caught:
            ours.once(DECRYPT, iv, 16, sealed, out)
        assert caught.value.message == outcome(lambda: once(theirs, DECRYPT, bytes(sealed), iv, 16))[2]
        assert not any(out)
        sealed[flipped] ^= 1
        assert once(ours, DECRYPT, bytes(sealed), iv, 16) == data[16:]


def test_same_refusals(source: Callable[..., TokenKey]) -> None:
    """What is wrong in a call has the same class, errno and words as on OpenSSL."""
    calls: list[tuple[Operation, bytes, bytes | None, int]] = [
        (ENCRYPT, b"", None, 0),
        (ENCRYPT, b"", bytes(11), 0),
        (DECRYPT, bytes(15), bytes(12), 0),
        (DECRYPT, bytes(20), bytes(12), 8),
        (ENCRYPT, bytes(7), bytes(12), 8),
        (DIGEST, b"", None, 0),
    ]
    with (
        closing(source("aes-32").open((), Type.AEAD, "gcm(aes)", None)) as ours,
        closing(reference(Type.AEAD, "gcm(aes)", AES_KEYS[32])) as theirs,
    ):
        for operation, data, iv, assoclen in calls:
            expected = outcome(lambda: once(theirs, operation, data, iv, assoclen))  # noqa: B023
            assert isinstance(expected, tuple)
            assert outcome(lambda: once(ours, operation, data, iv, assoclen)) == expected  # noqa: B023
    for authsize in (0, 3, 5, 17):
        expected = outcome(lambda: reference(Type.AEAD, "gcm(aes)", AES_KEYS[32], authsize))  # noqa: B023
        found = outcome(lambda: source("aes-32").open((), Type.AEAD, "gcm(aes)", authsize))  # noqa: B023
        assert found[:2] == expected[:2]
        assert found[2].endswith(expected[2])


@pytest.mark.parametrize("digest", DIGESTS)
def test_hmac(source: Callable[..., TokenKey], digest: str) -> None:
    """Whole, in parts that are gathered, and in parts that need a session of their own."""
    with (
        closing(source("mac").open((), Type.HASH, f"hmac({digest})", None)) as ours,
        closing(reference(Type.HASH, f"hmac({digest})", MAC_KEY)) as theirs,
    ):
        for length in (*SIZES, 3_000_000):
            data = os.urandom(length)
            expected = once(theirs, DIGEST, data)
            if length <= PAYLOAD_MAX:
                assert once(ours, DIGEST, data) == expected
            assert in_parts(ours, DIGEST, cut(data, length), None) == expected


def test_hmac_clone(source: Callable[..., TokenKey]) -> None:
    """A state is cloned while it is short, and refused when the token holds it."""
    with (
        closing(source("mac").open((), Type.HASH, "hmac(sha256)", None)) as ours,
        closing(reference(Type.HASH, "hmac(sha256)", MAC_KEY)) as theirs,
    ):
        message = ours.start(DIGEST, None, 0)
        nothing = memoryview(bytearray(64))
        message.update(b"abc", False, nothing)
        twin = message.clone()
        for end, one in ((b"d", message), (b"e", twin)):
            out = memoryview(bytearray(64))
            assert one.update(end, True, out) == 32
            assert bytes(out[:32]) == once(theirs, DIGEST, b"abc" + end)
            one.close()
        with closing(ours.start(DIGEST, None, 0)) as long:
            long.update(bytes(70_000), False, nothing)
            with pytest.raises(NotSupported):
                long.clone()


def test_many_long_messages(source: Callable[..., TokenKey]) -> None:
    """Interleaved long messages do not disturb each other; their number is bounded; given up ones free their place."""
    before = threading.active_count()
    data = os.urandom(70_000)
    with (
        closing(source("mac").open((), Type.HASH, "hmac(sha512)", None)) as ours,
        closing(reference(Type.HASH, "hmac(sha512)", MAC_KEY)) as theirs,
    ):
        messages = [ours.start(DIGEST, None, 0) for _ in range(16)]
        nothing = memoryview(bytearray(SLACK))
        for number, message in enumerate(messages):
            message.update(bytes([number]) + data, False, nothing)
        with pytest.raises(OutOfResources) as caught:
            in_parts(ours, DIGEST, [data, data])
        assert caught.value.errno == errno.ENFILE
        # whole messages still pass between them
        assert once(ours, DIGEST, b"x") == once(theirs, DIGEST, b"x")
        for number, message in enumerate(messages[:8]):
            out = memoryview(bytearray(64 + SLACK))
            message.update(b"end", True, out)
            assert bytes(out[:64]) == once(theirs, DIGEST, bytes([number]) + data + b"end")
        for message in messages:
            message.close()
            message.close()
        assert in_parts(ours, DIGEST, [data, data]) == once(theirs, DIGEST, data + data)
    deadline = threading.Event()
    while threading.active_count() > before and not deadline.wait(0.01):
        pass


def test_threads(source: Callable[..., TokenKey]) -> None:
    """Four threads share transforms of two keys; SoftHSM, which was not told of threads, gives each its own bytes."""
    failures: list[BaseException] = []
    with (
        closing(source("aes-32").open((), Type.AEAD, "gcm(aes)", None)) as gcm,
        closing(source("mac").open((), Type.HASH, "hmac(sha256)", None)) as mac,
        closing(reference(Type.AEAD, "gcm(aes)", AES_KEYS[32])) as gcm_reference,
        closing(reference(Type.HASH, "hmac(sha256)", MAC_KEY)) as mac_reference,
    ):

        def work(seed: int) -> None:
            rng = random.Random(seed)
            try:
                for _ in range(40):
                    data, iv = rng.randbytes(rng.randrange(100_000)), rng.randbytes(12)
                    assert once(gcm, ENCRYPT, data, iv) == once(gcm_reference, ENCRYPT, data, iv)
                    assert in_parts(mac, DIGEST, cut(data, seed)) == once(mac_reference, DIGEST, data)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_message_goes_from_thread_to_thread(source: Callable[..., TokenKey]) -> None:
    """Parts of one long message are given by different threads, as workers do."""
    data = os.urandom(300_000)
    with (
        closing(source("mac").open((), Type.HASH, "hmac(sha256)", None)) as ours,
        closing(reference(Type.HASH, "hmac(sha256)", MAC_KEY)) as theirs,
    ):
        message = ours.start(DIGEST, None, 0)
        out = memoryview(bytearray(64))
        for at in range(0, len(data), 100_000):
            part = data[at : at + 100_000]
            thread = threading.Thread(target=message.update, args=(part, at == 200_000, out))
            thread.start()
            thread.join()
        message.close()
        assert bytes(out[:32]) == once(theirs, DIGEST, data)


# The key stays in the token


def test_key_cannot_be_read(source: Callable[..., TokenKey]) -> None:
    """Neither through python-pkcs11 nor wrapped by another key of the token; a transform has no bytes of it."""
    from pkcs11 import Attribute, Mechanism

    with closing(source("aes-32").open((), Type.AEAD, "gcm(aes)", None)) as transform:
        key: Any = transform._key._key  # type: ignore[attr-defined]
        with pytest.raises(pkcs11.AttributeSensitive):
            _ = key[Attribute.VALUE]
        assert key[Attribute.SENSITIVE] is True
        assert key[Attribute.EXTRACTABLE] is False
        made: Any = transform._key.token.find(TokenObject(label="made"))  # type: ignore[attr-defined]
        with pytest.raises(pkcs11.PKCS11Error):
            made.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
        assert made[Attribute.EXTRACTABLE] is False
        with pytest.raises(NotSupported):
            transform.set_key(bytes(32))
        assert AES_KEYS[32].hex() not in repr(vars(transform)) + repr(key)


def test_key_attributes_are_obeyed(source: Callable[..., TokenKey]) -> None:
    """A key that may only encrypt answers EACCES to decrypt."""
    with closing(source("seal-only").open((), Type.AEAD, "gcm(aes)", None)) as transform:
        sealed = once(transform, ENCRYPT, b"text", bytes(12))
        with pytest.raises(NotPermitted) as caught:
            once(transform, DECRYPT, sealed, bytes(12))
        assert caught.value.errno == errno.EACCES


def test_transforms_of_one_token(source: Callable[..., TokenKey]) -> None:
    """Closing one transform logs nobody else out; after the last one a wrong PIN is noticed again."""
    first = source("aes-32").open((), Type.AEAD, "gcm(aes)", None)
    second = source("aes-32").open((), Type.AEAD, "gcm(aes)", None)
    other = source("mac", "second").open((), Type.HASH, "hmac(sha256)", None)
    first.close()
    first.close()
    assert len(once(second, ENCRYPT, b"x", bytes(12))) == 17
    second.close()
    assert len(once(other, DIGEST, b"x")) == 32
    other.close()
    with pytest.raises(CryptofsError):
        once(first, ENCRYPT, b"x", bytes(12))
    from cryptofs.engines.pkcs11 import token

    assert token._tokens == {}


# What is refused


def test_names(source: Callable[..., TokenKey]) -> None:
    """Names that the token has no mechanism for are not offered."""
    for type_, name in (
        (Type.SKCIPHER, "xts(aes)"),
        (Type.AEAD, "ccm(aes)"),
        (Type.HASH, "sha256"),
        (Type.RNG, "stdrng"),
    ):
        with pytest.raises(NotOffered):
            source("aes-32").open((), type_, name, None)


@pytest.mark.parametrize(
    ("label", "type_", "name", "said"),
    [
        ("mac", Type.AEAD, "gcm(aes)", "GENERIC_SECRET"),
        ("aes-32", Type.HASH, "hmac(sha256)", "AES"),
        ("mac-short", Type.HASH, "hmac(sha256)", "at least 32 bytes"),
    ],
)
def test_wrong_keys(source: Callable[..., TokenKey], label: str, type_: Type, name: str, said: str) -> None:
    """A key of another type or size is EINVAL and names both sides."""
    with pytest.raises(InvalidValue, match=said):
        source(label).open((), type_, name, None)


def test_unavailable(place: Path, source: Callable[..., TokenKey], tmp_path: Path) -> None:
    """Everything that can be missing or wrong is KeyUnavailable, says what, and never the PIN."""
    wrong = tmp_path / "pin"
    wrong.write_text("canary-wrong-pin")
    wrong.chmod(0o600)
    pin = FileKey(place / "pin")
    cases = {
        "no secret key 'missing'": source("missing"),
        "has 2 of secret key 'twice'": source("twice"),
        "no token": source("aes-32", "absent"),
        "PinIncorrect": TokenKey(MODULE, TokenObject("cryptofs", label="aes-32"), FileKey(wrong)),
        "absolute": TokenKey(Path("libsofthsm2.so"), TokenObject("cryptofs", label="aes-32"), pin),
        "No such file": TokenKey(tmp_path / "module.so", TokenObject("cryptofs", label="aes-32"), pin),
        "ELF|file too short": TokenKey(wrong, TokenObject("cryptofs", label="aes-32"), pin),
        "no such file": TokenKey(MODULE, TokenObject("cryptofs", label="aes-32"), FileKey(tmp_path / "nowhere")),
        # without a login private keys are not seen
        "no secret key 'aes-32'": TokenKey(MODULE, TokenObject("cryptofs", label="aes-32")),
    }
    for said, key in cases.items():
        with pytest.raises(KeyUnavailable, match=said) as caught:
            key.open((), Type.AEAD, "gcm(aes)", None)
        assert caught.value.errno == errno.ENOKEY
        assert "canary" not in str(caught.value) + repr(caught.value) + repr(key)


def test_pin_is_wiped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bytearray with the PIN is zero after a login, a failed one too."""
    read: list[bytearray] = []
    original = FileKey.read

    def spy(self: FileKey) -> bytearray:
        read.append(original(self))
        return read[-1]

    cut_off: list[bytearray] = []

    def cut(text: bytearray) -> bytearray:
        from cryptofs.keys import secret

        cut_off.append(secret.without_newline(text))
        assert bytes(cut_off[-1]) == PIN.encode()
        return cut_off[-1]

    monkeypatch.setattr(FileKey, "read", spy)
    monkeypatch.setattr("cryptofs.keys.token.without_newline", cut)
    pin = FileKey(place / "pin")
    TokenKey(MODULE, TokenObject("cryptofs", label="aes-32"), pin).open((), Type.AEAD, "gcm(aes)", None).close()
    with pytest.raises(KeyUnavailable):
        TokenKey(MODULE, TokenObject("cryptofs", label="missing"), pin).open((), Type.AEAD, "gcm(aes)", None)
    assert len(read) == len(cut_off) == 2
    assert not any(any(secret) for secret in read + cut_off)


@pytest.fixture
def own(place: Path, tmp_path: Path) -> Iterator["Removable"]:
    """A token of one's own that can be taken out."""
    made = Removable(tmp_path)
    before = os.environ["SOFTHSM2_CONF"]
    os.environ["SOFTHSM2_CONF"] = str(tmp_path / "conf")
    pkcs11.unload(str(MODULE))
    yield made
    pkcs11.unload(str(MODULE))
    os.environ["SOFTHSM2_CONF"] = before


class Removable:
    """A SoftHSM whose token can be taken out, and one with another key of the same label be put in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tokens = directory / "tokens"
        (directory / "conf").write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\n")
        self.pin = directory / "pin"
        self.pin.write_text(PIN)
        self.pin.chmod(0o600)
        self.make()

    def make(self) -> None:
        """A new token with new keys."""
        self.tokens.mkdir()
        new_token(self.directory, "own")
        script = f"""
import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
with pkcs11.lib({str(MODULE)!r}).get_token(token_label="own").open(rw=True, user_pin={PIN!r}) as session:
    session.generate_key(KeyType.AES, 256, label="aes", store=True)
    session.create_object({{
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.GENERIC_SECRET, Attribute.LABEL: "mac",
        Attribute.VALUE: {MAC_KEY!r}, Attribute.TOKEN: True, Attribute.PRIVATE: True, Attribute.SIGN: True,
    }})
"""
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.directory / "conf")}
        subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)

    def take_out(self) -> None:
        """The token is gone."""
        self.tokens.rename(self.directory / "out")
        self.tokens.mkdir()

    def put_back(self) -> None:
        """It is there again."""
        self.tokens.rmdir()
        (self.directory / "out").rename(self.tokens)

    def source(self, label: str = "aes") -> TokenKey:
        """A key of it."""
        return TokenKey(MODULE, TokenObject("own", label=label), FileKey(self.pin))


def skip_the_wait(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the time between two logins pass; gives what it is set to."""
    from cryptofs.engines.pkcs11 import token

    now = [1000.0]
    monkeypatch.setattr(token.time, "monotonic", lambda: now[0])
    return now


def test_token_disappears(own: Removable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was taken out: ENOKEY, `key source gone`. When it is back, what was open goes on by itself: with one
    login, after a wait that grows while it is out.
    """
    now = skip_the_wait(monkeypatch)
    with (
        closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as transform,
        closing(own.source().open((), Type.SKCIPHER, "cbc(aes)", None)) as other,
        closing(own.source("mac").open((), Type.HASH, "hmac(sha256)", None)) as mac,
    ):
        sealed = once(transform, ENCRYPT, b"x", bytes(12))
        digest = once(mac, DIGEST, b"x")
        logins: list[None] = []
        read = FileKey.read
        monkeypatch.setattr(FileKey, "read", lambda self: (logins.append(None), read(self))[1])
        own.take_out()
        for operation, data in ((ENCRYPT, b"x"), (DECRYPT, sealed)):
            with pytest.raises(KeyUnavailable, match="key source gone"):
                once(transform, operation, data, bytes(12))
        own.put_back()
        # the wait of 1 s is not over: a token that is out is not asked with every request
        with pytest.raises(KeyUnavailable, match="the next login is tried in 1 s"):
            once(transform, DECRYPT, sealed, bytes(12))
        assert logins == []
        now[0] += 1.1
        assert once(transform, DECRYPT, sealed, bytes(12)) == b"x"
        assert once(mac, DIGEST, b"x") == digest
        assert len(once(other, ENCRYPT, bytes(32), bytes(16))) == 32
        assert len(in_parts(mac, DIGEST, [bytes(50_000), bytes(50_000)])) == 32
        assert len(logins) == 1
        pkcs11.lib(str(MODULE)).reinitialize()
        assert once(other, ENCRYPT, bytes(16), bytes(16))
        assert once(transform, DECRYPT, sealed, bytes(12)) == b"x"
        # and for a second transform of the same key
        own.take_out()
        with pytest.raises(KeyUnavailable):
            own.source().open((), Type.AEAD, "gcm(aes)", None)
        own.put_back()
        with closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as again:
            assert once(again, DECRYPT, sealed, bytes(12)) == b"x"
        assert once(transform, DECRYPT, sealed, bytes(12)) == b"x"


def test_a_wrong_pin_is_tried_once(own: Removable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PIN that the token refuses is not tried again by itself, however long it takes: tokens lock after a few."""
    now = skip_the_wait(monkeypatch)
    with closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as transform:
        sealed = once(transform, ENCRYPT, b"x", bytes(12))
        own.pin.write_text("another-pin-1")
        reads: list[None] = []
        read = FileKey.read
        monkeypatch.setattr(FileKey, "read", lambda self: (reads.append(None), read(self))[1])
        own.take_out()
        with pytest.raises(KeyUnavailable):
            once(transform, DECRYPT, sealed, bytes(12))
        own.put_back()
        for _ in range(5):
            now[0] += 1000
            with pytest.raises(PinRefused, match="PinIncorrect") as caught:
                once(transform, DECRYPT, sealed, bytes(12))
            assert caught.value.errno == errno.ENOKEY
        assert len(reads) == 1
        # a reload opens its source again, once for each
        with pytest.raises(PinRefused):
            own.source().open((), Type.AEAD, "gcm(aes)", None)
        assert len(reads) == 2
        own.pin.write_text(PIN)
        with closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as again:
            assert once(again, DECRYPT, sealed, bytes(12)) == b"x"
        assert once(transform, DECRYPT, sealed, bytes(12)) == b"x"


def test_another_key_of_the_same_label(own: Removable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another token with the same labels is put in: what was open does not go on with another key."""
    now = skip_the_wait(monkeypatch)
    with closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as transform:
        sealed = once(transform, ENCRYPT, b"x", bytes(12))
        own.tokens.rename(own.directory / "first")
        own.make()
        now[0] += 100
        with pytest.raises(KeyUnavailable, match="the token has another key 'aes' now"):
            once(transform, DECRYPT, sealed, bytes(12))
        with (
            closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as fresh,
            pytest.raises(BadTag),
        ):
            once(fresh, DECRYPT, sealed, bytes(12))
        with pytest.raises(KeyUnavailable, match="another key"):
            once(transform, ENCRYPT, b"x", bytes(12))


def test_a_device_of_a_token(own: Removable, tmp_path: Path) -> None:
    """A reload looks at a token's key, too: one that is out makes it fail, another one's key is taken for new opens.
    A refused PIN ends a start with a status of its own, by which the service knows not to try again.
    """
    config = tmp_path / "cryptofs.toml"
    key = f'key.pkcs11 = "pkcs11:token=own;object=aes?module-path={MODULE}&pin-source=file:{own.pin}"\n'
    config.write_text(f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\n{key}')
    config.chmod(0o600)
    made = Assembly(("openssl",), config)
    before = made.table.devices["d"]
    try:
        assert "new keys" not in made.reload()
        assert made.table.devices["d"] is before
        own.take_out()
        with pytest.raises(KeyUnavailable, match=r"cryptofs.toml:4: devices\.d\.key\.pkcs11: .*no token"):
            made.reload()
        assert made.table.devices["d"] is before
        own.put_back()
        assert "new keys" not in made.reload()
        assert made.table.devices["d"] is before
        own.tokens.rename(own.directory / "first")
        own.make()
        assert made.reload().endswith("; new keys: d")
        assert made.table.devices["d"] is not before
    finally:
        made.close()
    own.pin.write_text("another-pin-1")
    (tmp_path / "mount").mkdir()
    command = [sys.executable, "-m", "cryptofs", "mount", str(tmp_path / "mount"), "--config", str(config)]
    done = subprocess.run(
        [*command, *(["--allow-root"] if os.geteuid() == 0 else [])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 77
    assert "PinIncorrect" in done.stderr
    assert "another-pin-1" not in done.stderr


def test_missing_package(place: Path) -> None:
    """Without python-pkcs11 the error names the extra, and nothing else of the package needs it."""
    script = f"""
import sys
sys.modules["pkcs11"] = None
from pathlib import Path
from cryptofs.algorithms import Type
from cryptofs.errors import KeyUnavailable
from cryptofs.formats.token_uri import TokenObject
from cryptofs.keys import FileKey, TokenKey
import cryptofs.daemon.serve
source = TokenKey(Path({str(MODULE)!r}), TokenObject("cryptofs", label="aes-32"), FileKey(Path({str(place / "pin")!r})))
try:
    source.open((), Type.AEAD, "gcm(aes)", None)
except KeyUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cryptofs[pkcs11]" in done.stdout


# Names of tokens and keys


@pytest.fixture
def named(place: Path) -> Callable[[str], Transform]:
    """Opens gcm(aes) with the key of a URI."""
    pin = FileKey(place / "pin")
    return lambda uri: TokenKey(MODULE, TokenObject.parse(uri), pin).open((), Type.AEAD, "gcm(aes)", None)


@pytest.fixture(scope="module")
def serials(place: Path) -> dict[str, str]:
    """The serial number of each token."""
    return {token.label: token.serial.decode() for token in pkcs11.lib(str(MODULE)).get_tokens() if token.label}


def test_uris(named: Callable[[str], Transform], serials: dict[str, str]) -> None:
    """A token by its label, serial number or model, and a key by its label or id: the same key each time."""
    expected = AESGCM(AES_KEYS[32]).encrypt(bytes(12), b"x", None)
    serial = serials["cryptofs"]
    for uri in (
        "pkcs11:token=cryptofs;object=aes-32",
        f"pkcs11:serial={serial};object=aes-32;type=secret-key",
        f"pkcs11:manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial={serial};object=aes%2d32",
        "pkcs11:token=cryptofs;object=aes-32;id=",
        "pkcs11:token=cryptofs;object=numbered;id=%01%fe",
        "pkcs11:token=cryptofs;id=%01%FE",
    ):
        with closing(named(uri)) as transform:
            assert once(transform, ENCRYPT, b"x", bytes(12)) == expected, uri


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "pkcs11:object=aes-32",
            r"2 tokens match: name the serial, too \(token 'cryptofs' with serial '\w+', .*;",
        ),
        ("pkcs11:model=SoftHSM%20v2;object=aes-32", "2 tokens match: name the serial"),
        ("pkcs11:token=absent", r"no token 'absent' is present \(token 'cryptofs' with serial"),
        ("pkcs11:token=cryptofs;serial=0", "no token 'cryptofs' with serial '0' is present"),
        (
            "pkcs11:token=cryptofs;object=twice",
            r"has 2 of secret key 'twice': name the id, too \(key 'twice' with id ;",
        ),
        ("pkcs11:token=cryptofs", r"of secret key: name the id, too \(.*key 'mac'.*; and \d more\)"),
        ("pkcs11:token=cryptofs;id=%02", "no secret key with id 02"),
        ("pkcs11:token=cryptofs;object=numbered;id=%02", "no secret key 'numbered' with id 02"),
    ],
)
def test_ambiguous_names(named: Callable[[str], Transform], uri: str, said: str) -> None:
    """None or several: ENOKEY, with those that are there."""
    with pytest.raises(KeyUnavailable, match=said):
        named(uri)


def test_one_login_for_all_names_of_a_token(
    named: Callable[[str], Transform], serials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices that name one token differently share its login, which ends with the last of them."""
    logins: list[None] = []
    read = FileKey.read
    monkeypatch.setattr(FileKey, "read", lambda self: (logins.append(None), read(self))[1])
    first = named("pkcs11:token=cryptofs;object=aes-32")
    with closing(named(f"pkcs11:serial={serials['cryptofs']};object=aes-32")) as second:
        assert len(logins) == 1
        first.close()
        assert len(once(second, ENCRYPT, b"x", bytes(12))) == 17
    with closing(named("pkcs11:token=cryptofs;object=aes-32")):
        assert len(logins) == 2


def test_a_token_logs_out(own: Removable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that has logged out by itself: the next request logs in once more, and open messages of others go on."""
    with closing(own.source().open((), Type.AEAD, "gcm(aes)", None)) as transform:
        sealed = once(transform, ENCRYPT, b"x", bytes(12))
        logins: list[None] = []
        read = FileKey.read
        monkeypatch.setattr(FileKey, "read", lambda self: (logins.append(None), read(self))[1])
        for expected in (1, 2):
            log_out()
            assert once(transform, DECRYPT, sealed, bytes(12)) == b"x"
            assert len(logins) == expected


def log_out() -> None:
    """End the login of this process to the only token that is initialised, behind the daemon's back."""
    module = ctypes.CDLL(str(MODULE))
    (token,) = (each for each in pkcs11.lib(str(MODULE)).get_tokens() if each.label)
    session = ctypes.c_ulong()
    # CKF_SERIAL_SESSION
    assert (
        module.C_OpenSession(ctypes.c_ulong(token.slot.slot_id), ctypes.c_ulong(4), None, None, ctypes.byref(session))
        == 0
    )
    assert module.C_Logout(session) == 0
    assert module.C_CloseSession(session) == 0


# New keys


def objects(directory: Path) -> str:
    """The keys in the token, as another program shows them."""
    command = [
        "pkcs11-tool",
        "--module",
        str(MODULE),
        "--token-label",
        "own",
        "--login",
        "--pin",
        PIN,
        "--list-objects",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "SOFTHSM2_CONF": str(directory / "conf")},
    )
    return done.stdout


def made(own: Removable, key: str, *more: str, name: str = "gcm(aes)", type_: str = "aead") -> str:
    """What `cryptofs key new` says of a new key in the token."""
    uri = f"pkcs11:token=own;{key}?module-path={MODULE}&pin-source=file:{own.pin}"
    done = CliRunner().invoke(
        commands, ["key", "new", "--type", type_, "-n", name, "--pkcs11", uri, *more], standalone_mode=False
    )
    return f"{done.output}{done.exception or ''}"


@pytest.mark.skipif(shutil.which("pkcs11-tool") is None, reason="NOT RUN: no pkcs11-tool (package opensc)")
def test_a_key_that_the_token_makes(own: Removable) -> None:
    """Its bytes cannot be taken out, a device can use it at once, and it is never made twice."""
    assert made(own, "object=fresh;id=%01%fe") == ""
    with closing(own.source("fresh").open((), Type.AEAD, "gcm(aes)", None)) as transform:
        sealed = once(transform, ENCRYPT, b"text", bytes(12))
        assert once(transform, DECRYPT, sealed, bytes(12)) == b"text"
    assert made(own, "object=digest", "--size", "64", name="hmac(sha512)", type_="hash") == ""
    shown = re.split("(?=Secret Key Object)", objects(own.directory))
    entries = {label: entry for entry in shown for label in ("fresh", "digest") if f"label:      {label}\n" in entry}
    assert "AES length 32" in entries["fresh"]
    assert "01fe" in entries["fresh"]
    for label, uses in (("fresh", "encrypt, decrypt"), ("digest", "(sign, )?verify")):
        assert re.search(rf"Usage: +{uses}\n", entries[label]), entries[label]
        assert re.search(r"Access: +sensitive, always sensitive, never extract", entries[label]), entries[label]
    before = objects(own.directory)
    for key, why in (
        ("object=fresh", "a secret key 'fresh' already"),
        ("object=other;id=%01%fe", "a secret key with id 01fe already"),
        ("object=aes", "a secret key 'aes' already"),
        ("type=secret-key", "the URI names no key"),
    ):
        assert why in made(own, key)
    assert "EEXIST" in made(own, "object=fresh")
    assert "keys in tokens only for" in made(own, "object=x", name="xts(aes)", type_="skcipher")
    # SoftHSM makes it, and then cannot use it: nothing stays.
    assert "at least 64 bytes" in made(own, "object=short", "--size", "16", name="hmac(sha512)", type_="hash")
    assert objects(own.directory) == before
    # A version of its own beside the first: the label again, with another id.
    assert made(own, "object=fresh;id=%02") == ""
    own.pin.write_text("another-pin-1")
    assert "PinIncorrect" in made(own, "object=y")


def test_two_that_make_one_key(own: Removable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens cannot refuse the second one: what was made too much is destroyed."""
    monkeypatch.setattr(making, "_check_free", lambda session, wanted: None)
    assert "EEXIST" in made(own, "object=aes")
    monkeypatch.undo()
    with closing(own.source("aes").open((), Type.AEAD, "gcm(aes)", None)):
        pass
