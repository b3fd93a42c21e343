"""Errors of the AF_ALG engine: typed, the same as OpenSSL's, and with nothing left open."""

import binascii
import errno
import hashlib
import os
import resource
from collections.abc import Callable

import pytest
from helpers import af_alg_bench
from helpers.af_alg_bench import (
    BIG,
    CATALOGUE,
    DECRYPT,
    DIGEST,
    ENCRYPT,
    GENERATE,
    authenc_key,
    describe,
    kernel,
    once,
    open_,
    part,
    wrong,
)

from cryptofs.algorithms import Description, Facts, KeySizes, Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.engines.base import Transform
from cryptofs.errors import CryptofsError, EngineFault, InvalidValue, KeyMissing, OutOfResources, Overflow, TooLarge
from cryptofs.records import PAYLOAD_MAX, Operation

kernel_engine, engine = af_alg_bench.kernel_engine, af_alg_bench.engine


@kernel
def test_wrong_values(engine: AfAlgEngine) -> None:
    iv = bytes(16)
    with open_(engine, Type.SKCIPHER, "cbc(aes)") as transform:
        assert isinstance(wrong(lambda: once(transform, ENCRYPT, bytes(16), iv)), KeyMissing)
        transform.set_key(bytes(16))
        assert (
            "iv of 15 bytes: cbc(aes) takes 16" in wrong(lambda: once(transform, ENCRYPT, bytes(16), iv[:15])).message
        )
        assert "no iv: cbc(aes) takes 16" in wrong(lambda: once(transform, ENCRYPT, bytes(16))).message
        for odd in (1, 15, 17, 131_073):
            assert f"{odd} bytes: a multiple of 16" in wrong(lambda: once(transform, ENCRYPT, BIG[:odd], iv)).message  # noqa: B023
        assert wrong(lambda: once(transform, DIGEST, b"")).errno == errno.EOPNOTSUPP
        assert len(once(transform, ENCRYPT, bytes(16), iv)) == 16
    with open_(engine, Type.SKCIPHER, "xts(aes)", os.urandom(32)) as transform:
        error = wrong(lambda: once(transform, ENCRYPT, bytes(15), iv))
        assert isinstance(error, InvalidValue)
        assert "message of 15 bytes in blocks of 16: xts(aes) refuses it" in error.message
    with open_(engine, Type.HASH, "sha256") as transform:
        assert "sha256 takes none" in wrong(lambda: transform.set_key(b"k")).message
        assert wrong(lambda: once(transform, DIGEST, b"", iv)).errno == errno.EINVAL


@kernel
def test_wrong_aead_values(engine: AfAlgEngine) -> None:
    description = describe(engine, Type.AEAD, "gcm(aes)")
    for authsize in (0, 3, 5, 17, 1 << 31):
        error = wrong(lambda: engine.open(description, authsize))  # noqa: B023
        assert f"authsize {authsize}: gcm(aes) takes 4 8 12 13 14 15 16 bytes" in error.message
    error = wrong(lambda: engine.open(describe(engine, Type.HASH, "sha256"), 16))
    assert error.errno == errno.EINVAL
    with open_(engine, Type.AEAD, "gcm(aes)", bytes(16)) as transform:
        assert (
            "assoclen 9: the message has 8" in wrong(lambda: once(transform, ENCRYPT, bytes(8), bytes(12), 9)).message
        )
        assert "a tag of 16" in wrong(lambda: once(transform, DECRYPT, bytes(15), bytes(12))).message
        assert wrong(lambda: once(transform, DECRYPT, bytes(16), bytes(12))).errno == errno.EBADMSG
    with open_(engine, Type.AEAD, "rfc4106(gcm(aes))", bytes(20)) as transform:
        error = wrong(lambda: once(transform, ENCRYPT, bytes(30), bytes(8), 15))
        assert (error.errno, "assoclen 15" in error.message) == (errno.EINVAL, True)
    with open_(engine, Type.AEAD, "ccm(aes)", bytes(16)) as transform:
        assert wrong(lambda: once(transform, ENCRYPT, bytes(30), bytes([9] * 16))).errno == errno.EINVAL
        # a length field of 2 bytes
        nonce = b"\1" + bytes(15)
        for size in (65_536, 65_537):
            assert isinstance(wrong(lambda: once(transform, ENCRYPT, bytes(size), nonce)), Overflow)  # noqa: B023
            assert isinstance(wrong(lambda: once(transform, DECRYPT, bytes(size + 16), nonce)), Overflow)  # noqa: B023
        assert len(once(transform, ENCRYPT, bytes(65_535), nonce)) == 65_551


@kernel
def test_message_too_large(engine: AfAlgEngine) -> None:
    for type_, name, key, iv in (
        (Type.SKCIPHER, "xts(aes)", os.urandom(32), bytes(16)),
        (Type.AEAD, "gcm(aes)", bytes(16), bytes(12)),
    ):
        with open_(engine, type_, name, key) as transform:
            error = wrong(lambda: once(transform, ENCRYPT, bytes(2 * PAYLOAD_MAX), iv))  # noqa: B023
            assert isinstance(error, TooLarge)
            assert str(2 * PAYLOAD_MAX) in error.message


@kernel
def test_abandoned_messages(engine: AfAlgEngine) -> None:
    with (
        open_(engine, Type.SKCIPHER, "cbc(aes)", bytes(16)) as cipher,
        open_(engine, Type.HASH, "sha256") as digest,
    ):
        expected = once(cipher, ENCRYPT, bytes(32), bytes(16))
        for _ in range(20):
            message = cipher.start(ENCRYPT, bytes(16), 0)
            part(message, bytes(40), False)
            message.close()
            message.close()
            message = digest.start(DIGEST, None, 0)
            part(message, b"abc", False)
            message.close()
            message.close()
        assert once(cipher, ENCRYPT, bytes(32), bytes(16)) == expected
        assert once(digest, DIGEST, b"") == hashlib.sha256().digest()


@kernel
def test_nothing_follows_the_end(engine: AfAlgEngine) -> None:
    with (
        open_(engine, Type.SKCIPHER, "cbc(aes)", bytes(16)) as cipher,
        open_(engine, Type.SKCIPHER, "chacha20", bytes(32)) as chacha,
        open_(engine, Type.HASH, "sha256") as digest,
    ):
        for transform, operation, iv in (
            (cipher, ENCRYPT, bytes(16)),
            (chacha, ENCRYPT, bytes(16)),
            (digest, DIGEST, None),
        ):
            for data in (bytes(16), b""):
                message = transform.start(operation, iv, 0)
                part(message, data, True)
                with pytest.raises(EngineFault, match="the message has ended"):
                    part(message, bytes(16), True)
                message.close()


@kernel
def test_message_that_outlives_its_transform(engine: AfAlgEngine) -> None:
    transform = engine.open(describe(engine, Type.HASH, "sha256"), None)
    message = transform.start(DIGEST, None, 0)
    transform.close()
    transform.close()
    assert part(message, b"abc", True) == hashlib.sha256(b"abc").digest()
    message.close()


@kernel
def test_out_of_descriptors(engine: AfAlgEngine) -> None:
    description = describe(engine, Type.SKCIPHER, "cbc(aes)")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    transform = engine.open(description, None)
    transform.set_key(bytes(16))
    spare = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
    try:
        while True:
            try:
                spare.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        calls = (
            lambda: engine.open(description, None),
            lambda: engine.describe(Type.HASH, "not-asked-yet"),
            lambda: once(transform, ENCRYPT, bytes(16), bytes(16)),
            AfAlgEngine,
        )
        for call in calls:
            assert isinstance(wrong(call), OutOfResources)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)
    assert len(once(transform, ENCRYPT, bytes(16), bytes(16))) == 16
    transform.close()


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except CryptofsError as error:
        return error.symbol


@kernel
@pytest.mark.parametrize(
    ("type_", "name"),
    # of authenc each digest and each cipher once, the rest is for test_differential
    [
        (type_, name)
        for type_, name in CATALOGUE
        if type_ is not Type.RNG
        and (not name.startswith("authenc(") or name.endswith(",cbc(aes))") or "(hmac(sha256)" in name)
    ],
)
def test_same_answers_as_openssl(engine: AfAlgEngine, type_: Type, name: str) -> None:
    """The same output and the same errno for the same values, right and wrong ones."""
    other = pytest.importorskip("cryptofs.engines.openssl").OpensslEngine()
    ours, theirs = describe(engine, type_, name), other.describe(type_, name)
    if theirs is None:
        pytest.skip(f"OpenSSL does not offer {name}")
    for field in ("name", "block_size", "chunk_size", "iv_size", "key_sizes", "digest_size", "max_authsize"):
        assert getattr(ours, field) == getattr(theirs, field), field
    aead = type_ is Type.AEAD
    for authsize in (None, 0, 1, 4, 8, 12, 16, 17, 32, 33, 64, 65, 1 << 31) if aead else (None, 0, 16):
        transforms = [outcome(lambda: engine.open(ours, authsize)), outcome(lambda: other.open(theirs, authsize))]  # noqa: B023
        try:
            if not all(isinstance(transform, Transform) for transform in transforms):
                assert transforms[0] == transforms[1], f"authsize {authsize}"
                continue
            keys: list[bytes | None] = [
                None,
                *(bytes(range(size)) for size in (0, 1, 4, 16, 17, 20, 24, 28, 32, 64, 65)),
            ]
            if name.startswith("authenc(") and name.endswith("(aes))") and "rfc" not in name:
                keys += [
                    authenc_key(bytes(20), bytes(16)),
                    authenc_key(bytes(20), bytes(15)),
                    authenc_key(b"", bytes(32)),
                ]
            for key in keys:
                if key is not None:
                    answers = [outcome(lambda: transform.set_key(key)) for transform in transforms]  # type: ignore[union-attr]  # noqa: B023
                    assert answers[0] == answers[1], f"key of {len(key)} bytes"
                for size in (0, 1, 12, 15, 16, 17, 31, 32, 40, 64, 100):
                    for iv_size in {ours.iv_size, 17}:
                        iv = bytes([1]) + bytes(iv_size - 1) if iv_size else None
                        for assoclen in (0, 16, 20, 33) if aead else (0, 1):
                            operations = (DIGEST,) if type_ is Type.HASH else (ENCRYPT, DECRYPT)
                            for operation in (*operations, GENERATE):
                                answers = [
                                    outcome(lambda: into_plenty(transform, operation, BIG[:size], iv, assoclen))  # type: ignore[arg-type]  # noqa: B023
                                    for transform in transforms
                                ]
                                assert answers[0] == answers[1], (authsize, key, operation, size, iv_size, assoclen)
        finally:
            for transform in transforms:
                if isinstance(transform, Transform):
                    transform.close()


def into_plenty(transform: Transform, operation: Operation, data: bytes, iv: bytes | None, assoclen: int) -> bytes:
    out = bytearray(len(data) + 200)
    return bytes(out[: transform.once(operation, iv, assoclen, data, memoryview(out))])


def test_no_key_in_messages() -> None:
    secret = b"\xde\xad\xbe\xef" * 5
    transform = object.__new__(type("Bare", (Transform,), {"replace_key": None, "begin": None}))
    Transform.__init__(
        transform, Description.of(Type.SKCIPHER, "cbc(aes)", "af_alg", "x", Facts(key_sizes=KeySizes((16,))))
    )
    text = repr(transform.refuse_key(secret)) + repr(transform)
    assert binascii.hexlify(secret).decode() not in text
    assert repr(secret)[2:-1] not in text
