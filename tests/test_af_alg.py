"""The AF_ALG engine against hashlib and pyca, on a kernel that has AF_ALG.

Most of it needs such a kernel: `scripts/guest .venv/bin/python -m pytest tests/test_af_alg.py`.
"""

import binascii
import errno
import gc
import hashlib
import hmac
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import crc32c
import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.decrepit.ciphers.modes import CFB, OFB
from cryptography.hazmat.primitives import cmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryptofs.algorithms import ANY_KEY, NO_KEY, Description, KeySizes, Type, look_up, names
from cryptofs.engines.af_alg import MISS_SECONDS, AfAlgEngine, proc_crypto, sockets
from cryptofs.engines.base import Message, Transform
from cryptofs.errors import (
    BadTag,
    CryptofsError,
    EngineFault,
    InvalidValue,
    KeyMissing,
    NotOffered,
    NotSupported,
    OutOfResources,
    Overflow,
    TooLarge,
)
from cryptofs.records import PAYLOAD_MAX, Operation

ENCRYPT, DECRYPT, DIGEST, GENERATE = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE
# compressions and public keys are not AF_ALG's
AF_ALG_TYPES = (Type.HASH, Type.SKCIPHER, Type.AEAD, Type.RNG)
CATALOGUE = [each for each in names() if each[0] in AF_ALG_TYPES]
# by the references below; the others are compared with the OpenSSL engine, or must give back what they encrypted
REFERENCED = [
    (type_, name)
    for type_, name in CATALOGUE
    if type_ is Type.RNG
    or (name.startswith("authenc(") and name.endswith("cbc(aes))") and "md5" not in name)
    or name
    in {
        *("crc32", "crc32c", "cmac(aes)", "xts(aes)", "cts(cbc(aes))", "chacha20"),
        *("gcm(aes)", "ccm(aes)", "rfc4106(gcm(aes))", "rfc4309(ccm(aes))", "rfc4543(gcm(aes))"),
        "rfc7539(chacha20,poly1305)",
        *(f"{mode}({cipher})" for mode in ("ecb", "cbc", "ctr", "ofb", "cfb") for cipher in ("aes", "camellia")),
        *(f"{mode}({cipher})" for mode in ("ecb", "cbc", "ctr", "ofb", "cfb") for cipher in ("sm4", "des3_ede")),
        *(
            form.format(digest)
            for form in ("{}", "hmac({})")
            for digest in ("md5", "sha1", "sha224", "sha256", "sha384")
        ),
        *(form.format(digest) for form in ("{}", "hmac({})") for digest in ("sha512", "sha3-224", "sha3-256", "sm3")),
        *(form.format(digest) for form in ("{}", "hmac({})") for digest in ("sha3-384", "sha3-512", "blake2b-160")),
        *(
            form.format(digest)
            for form in ("{}", "hmac({})")
            for digest in ("blake2b-256", "blake2b-384", "blake2b-512")
        ),
    }
]
SIZES = (1, 15, 16, 17, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 131073, 212992, 262144, PAYLOAD_MAX)
BIG = os.urandom(PAYLOAD_MAX)

kernel = pytest.mark.af_alg
few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def kernel_engine() -> AfAlgEngine:
    engine = AfAlgEngine()
    if engine.available:
        engine.warm_up()
    return engine


@pytest.fixture
def engine(kernel_engine: AfAlgEngine) -> Iterator[AfAlgEngine]:
    """The engine; whatever the test opens must be closed when it ends."""
    if not kernel_engine.available:
        pytest.skip("NO AF_ALG IN THIS KERNEL: run it by scripts/guest")
    gc.collect()
    before = descriptors()
    yield kernel_engine
    assert descriptors() == before, "descriptors leak"


def describe(engine: AfAlgEngine, type_: Type, name: str) -> Description:
    description = engine.describe(type_, name)
    if description is None:
        pytest.skip(f"this kernel does not offer {name}")
    return description


def open_(
    engine: AfAlgEngine, type_: Type, name: str, key: bytes | None = None, authsize: int | None = None
) -> "closing[Transform]":
    transform = engine.open(describe(engine, type_, name), authsize)
    try:
        if key is not None:
            transform.set_key(key)
    except BaseException:
        transform.close()
        raise
    return closing(transform)


def once(transform: Transform, operation: Operation, data: bytes, iv: bytes | None = None, assoclen: int = 0) -> bytes:
    out = bytearray(transform.room(operation, len(data)) + 8)
    size = transform.once(operation, iv, assoclen, data, memoryview(out))
    assert out[size:] == bytes(len(out) - size), "written beyond its output"
    return bytes(out[:size])


def part(message: Message, data: bytes, last: bool) -> bytes:
    out = bytearray(message.room(len(data), last))
    return bytes(out[: message.update(data, last, memoryview(out))])


def in_parts(
    transform: Transform,
    operation: Operation,
    parts: list[bytes],
    iv: bytes | None = None,
    assoclen: int = 0,
    ended: bool = True,
) -> bytes:
    """The message in parts; ended: the last part carries data, else an empty one follows."""
    with closing(transform.start(operation, iv, assoclen)) as message:
        gone = [part(message, data, ended and index == len(parts) - 1) for index, data in enumerate(parts)]
        if not ended or not parts:
            gone.append(part(message, b"", True))
    return b"".join(gone)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def largest_whole() -> int:
    """The largest message that must go whole which this kernel takes from root, bytes: half a one on old kernels."""
    optmem = int(Path("/proc/sys/net/core/optmem_max").read_text())
    return PAYLOAD_MAX if optmem >= sockets.OPTMEM_ENOUGH else 524_288


### References

HASHLIB = {"sha3-224": "sha3_224", "sha3-256": "sha3_256", "sha3-384": "sha3_384", "sha3-512": "sha3_512"}
CIPHERS = {
    "aes": algorithms.AES,
    "camellia": Camellia,
    "sm4": algorithms.SM4,
    "des3_ede": TripleDES,
}


def digest_maker(name: str) -> Callable[..., "hashlib._Hash"]:
    if name.startswith("blake2b-"):
        return lambda data=b"", key=b"": hashlib.blake2b(data, digest_size=int(name[8:]) // 8, key=key)
    return lambda data=b"": hashlib.new(HASHLIB.get(name, name), data)


def reference_hash(name: str, key: bytes, data: bytes) -> bytes:
    if name == "crc32":
        seed = int.from_bytes(key or bytes(4), "little")
        return (~zlib.crc32(data, ~seed & 0xFFFFFFFF) & 0xFFFFFFFF).to_bytes(4, "little")
    if name == "crc32c":
        seed = int.from_bytes(key or b"\xff" * 4, "little")
        return crc32c.crc32c(data, ~seed & 0xFFFFFFFF).to_bytes(4, "little")
    if name.startswith("hmac("):
        return hmac.new(key, data, digest_maker(name[5:-1])).digest()
    if name == "cmac(aes)":
        mac = cmac.CMAC(algorithms.AES(key))
        mac.update(data)
        return mac.finalize()
    maker = digest_maker(name)
    return (maker(data, key) if key else maker(data)).digest()


MODES: dict[str, Callable[[bytes], modes.Mode]] = {
    "ecb": lambda iv: modes.ECB(),
    "cbc": modes.CBC,
    "ctr": modes.CTR,
    "xts": modes.XTS,
    "ofb": OFB,
    "cfb": CFB,
}


def cts(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Ciphertext stealing as in RFC 3962 (CS3), from CBC."""
    encrypted = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor().update(data + bytes(-len(data) % 16))
    if len(data) <= 16:
        return encrypted
    tail = len(data) % 16 or 16
    return encrypted[:-32] + encrypted[-16:] + encrypted[-32:-16][:tail]


def reference_cipher(name: str, key: bytes, iv: bytes, data: bytes) -> bytes:
    if name == "cts(cbc(aes))":
        return cts(key, iv, data)
    if name == "chacha20":
        return Cipher(algorithms.ChaCha20(key, iv), None).encryptor().update(data)
    mode, _, cipher = name.rstrip(")").partition("(")
    if mode == "ctr":
        # not every cipher has a CTR mode in OpenSSL
        size, start = len(iv), int.from_bytes(iv, "big")
        counters = ((start + index) % (1 << 8 * size) for index in range(-(-len(data) // size)))
        stream = reference_cipher(f"ecb({cipher})", key, b"", b"".join(c.to_bytes(size, "big") for c in counters))
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream[: len(data)], "big")).to_bytes(len(data), "big")
    encryptor = Cipher(CIPHERS[cipher](key), MODES[mode](iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def authenc_key(authentication: bytes, encryption: bytes) -> bytes:
    """The key blob of authenc: an rtattr with the big-endian size of the cipher's key, then both keys."""
    return b"\x08\0\x01\0" + len(encryption).to_bytes(4, "big") + authentication + encryption


def reference_aead(name: str, key: bytes, iv: bytes, aad: bytes, text: bytes, authsize: int) -> bytes:
    if name.startswith("authenc("):
        inner = name[len("authenc(hmac(") :].partition(")")[0]
        sealed = Cipher(algorithms.AES(key[-16:]), modes.CBC(iv)).encryptor().update(text)
        return sealed + hmac.new(key[8:-16], aad + sealed, inner).digest()[:authsize]
    if name == "rfc7539(chacha20,poly1305)":
        return ChaCha20Poly1305(key).encrypt(iv, text, aad)
    if name == "ccm(aes)":
        return AESCCM(key, authsize).encrypt(iv[1 : 16 - 1 - iv[0]], text, aad)
    if name == "rfc4309(ccm(aes))":
        return AESCCM(key[:-3], authsize).encrypt(key[-3:] + iv, text, aad[:-8])
    if name == "rfc4543(gcm(aes))":
        return text + AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"", aad + text)
    if name == "rfc4106(gcm(aes))":
        key, iv, aad = key[:-4], key[-4:] + iv, aad[:-8]
    sealed = AESGCM(key).encrypt(iv, text, aad)
    return sealed[: len(sealed) - 16 + authsize]


def some_key(type_: Type, name: str, sizes: KeySizes, size: int | None = None) -> bytes:
    if name.startswith("authenc("):
        return authenc_key(os.urandom(20), os.urandom(16))
    return os.urandom(size if size is not None else (sizes.listed or (32,))[0])


def some_iv(name: str, size: int) -> bytes | None:
    if not size:
        return None
    # ccm: 2 bytes of length, or the 4 that a megabyte needs
    return bytes([3]) + os.urandom(11) + bytes(4) if name.startswith("ccm(") else os.urandom(size)


def some_aad(name: str, iv: bytes) -> bytes:
    # of the rfc4… names the associated data ends with the IV and has 16 or 20 bytes
    return os.urandom(8) + iv if name.startswith("rfc4") else os.urandom(21)


### What is offered, and the catalogue against the kernel


@kernel
def test_offered(engine: AfAlgEngine) -> None:
    offered = {name for type_, name in CATALOGUE if engine.describe(type_, name)}
    missing = {name for _, name in CATALOGUE} - offered
    print(f"\n{os.uname().release} offers {len(offered)}; not: {' '.join(sorted(missing))}")
    assert {"sha256", "hmac(sha256)", "cbc(aes)", "xts(aes)", "gcm(aes)", "stdrng"} <= offered


@kernel
@pytest.mark.parametrize(("type_", "name"), CATALOGUE)
def test_catalogue_is_right(engine: AfAlgEngine, type_: Type, name: str) -> None:
    description = describe(engine, type_, name)
    facts = look_up(type_, name)
    assert facts is not None
    assert (description.type, description.name, description.engine) == (type_, name, "af_alg")
    with sockets.bind(type_, name) as bound:  # type: ignore[union-attr]
        entry = proc_crypto.find(proc_crypto.read(), type_, name)
        assert entry is not None
        assert description.driver == entry.driver
        if type_ is not Type.RNG:
            assert facts.block_size == entry.block_size
        assert facts.iv_size == entry.iv_size
        assert facts.digest_size == entry.digest_size
        assert facts.max_authsize == entry.max_authsize
        if type_ is Type.SKCIPHER:
            assert facts.chunk_size == description.chunk_size
            assert (facts.key_sizes.listed or (facts.key_sizes.smallest,))[0] == entry.min_key
            assert (facts.key_sizes.listed or (facts.key_sizes.largest,))[-1] == entry.max_key
        accepted = [size for size in range(65) if sockets.set_key(bound, bytes(range(size)), name)]
        expected = [size for size in range(65) if facts.key_sizes.takes_key and facts.key_sizes.admits(size)]
        if name.startswith("authenc("):
            assert not accepted  # only a blob does
        elif name.startswith("blake2b-"):
            assert accepted in (expected, [0, *expected])  # to newer kernels an empty key is none
        elif name == "xcbc(aes)":
            assert accepted in ([16], [16, 24, 32])  # RFC 3566 has AES-128 alone, and so have newer kernels
        elif name == "xts(aes)":
            assert accepted == [32, 48, 64]  # no standard has XTS with AES-192
        else:
            assert accepted == expected
        if type_ is Type.AEAD:
            sizes = [size for size in range(65) if sockets.set_authsize(bound, size, name)]
            assert sizes == list(facts.authsizes)


### Equality


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.HASH])
@few
@given(
    data=st.binary(max_size=500),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    keyed=st.booleans(),
    ended=st.booleans(),
)
def test_hashes(engine: AfAlgEngine, name: str, data: bytes, cuts: list[int], keyed: bool, ended: bool) -> None:
    sizes = describe(engine, Type.HASH, name).key_sizes
    key = some_key(Type.HASH, name, sizes) if sizes.takes_key and (sizes.required or keyed) else b""
    with open_(engine, Type.HASH, name, key or None) as transform:
        expected = reference_hash(name, key, data)
        assert once(transform, DIGEST, data) == expected
        assert in_parts(transform, DIGEST, cut(data, cuts), ended=ended) == expected
        assert once(transform, DIGEST, data) == expected


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.SKCIPHER])
@few
@given(
    data=st.binary(min_size=16, max_size=500),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    pick=st.integers(0, 2),
    ended=st.booleans(),
)
def test_ciphers(engine: AfAlgEngine, name: str, data: bytes, cuts: list[int], pick: int, ended: bool) -> None:
    description = describe(engine, Type.SKCIPHER, name)
    listed = description.key_sizes.listed
    key = some_key(Type.SKCIPHER, name, description.key_sizes, listed[pick % len(listed)])
    if description.chunk_size:
        data = data[: len(data) - len(data) % description.block_size]
    iv = some_iv(name, description.iv_size)
    with open_(engine, Type.SKCIPHER, name, key) as transform:
        expected = reference_cipher(name, key, iv or b"", data)
        assert once(transform, ENCRYPT, data, iv) == expected
        assert in_parts(transform, ENCRYPT, cut(data, cuts), iv, ended=ended) == expected
        assert in_parts(transform, DECRYPT, cut(expected, cuts), iv, ended=ended) == data
        assert once(transform, DECRYPT, expected, iv) == data


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.AEAD])
@few
@given(
    text=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 500), max_size=3),
    pick=st.integers(0, 20),
    ended=st.booleans(),
)
def test_aeads(engine: AfAlgEngine, name: str, text: bytes, cuts: list[int], pick: int, ended: bool) -> None:
    description = describe(engine, Type.AEAD, name)
    facts = look_up(Type.AEAD, name)
    assert facts is not None
    authsize = facts.authsizes[pick % len(facts.authsizes)]
    listed = description.key_sizes.listed
    key = some_key(Type.AEAD, name, description.key_sizes, listed[pick % len(listed)] if listed else None)
    text = text[: len(text) - len(text) % description.block_size]
    iv = some_iv(name, description.iv_size)
    assert iv is not None
    aad = some_aad(name, iv)
    with open_(engine, Type.AEAD, name, key, authsize) as transform:
        sealed = reference_aead(name, key, iv, aad, text, authsize)
        assert once(transform, ENCRYPT, aad + text, iv, len(aad)) == sealed
        assert in_parts(transform, ENCRYPT, cut(aad + text, cuts), iv, len(aad), ended) == sealed
        assert in_parts(transform, DECRYPT, cut(aad + sealed, cuts), iv, len(aad), ended) == text
        spoilt = bytearray(aad + sealed)
        spoilt[-1] ^= 1
        out = bytearray(b"\xff" * len(text))
        with pytest.raises(BadTag):
            transform.once(DECRYPT, iv, len(aad), bytes(spoilt), memoryview(out))
        assert out == bytes(len(text)), "the text is given out although its tag is wrong"
        assert once(transform, DECRYPT, aad + sealed, iv, len(aad)) == text


@kernel
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["cbc(aes)", "ctr(aes)", "xts(aes)", "chacha20"])
def test_cipher_sizes(engine: AfAlgEngine, name: str, size: int) -> None:
    if name == "cbc(aes)":
        size = max(size - size % 16, 16)
    if name == "xts(aes)":
        size = min(max(size, 16), largest_whole())
    key, iv, data = os.urandom(32), bytes(4) + os.urandom(12), BIG[:size]
    with open_(engine, Type.SKCIPHER, name, key) as transform:
        expected = reference_cipher(name, key, iv, data)
        assert once(transform, ENCRYPT, data, iv) == expected
        assert in_parts(transform, DECRYPT, cut(expected, [7, 70_000, 300_001]), iv) == data
        # where the pages of the output begin decides how the kernel cuts it
        out = bytearray(size + 8192)
        at = -id(out) % 7 + 1001
        assert transform.once(ENCRYPT, iv, 0, memoryview(data), memoryview(out)[at : at + size]) == size
        assert out[at : at + size] == expected


@kernel
@pytest.mark.parametrize("name", [name for type_, name in REFERENCED if type_ is Type.SKCIPHER])
def test_ciphers_chain(engine: AfAlgEngine, name: str) -> None:
    """Parts at every kind of border: of blocks, chunks, pages and pieces."""
    description = describe(engine, Type.SKCIPHER, name)
    key = os.urandom(description.key_sizes.listed[0])
    # the counter of a counting mode runs over within the message
    iv = (b"\xff" * description.iv_size)[:-1] + b"\xf0" if description.iv_size else None
    if name == "chacha20":
        iv = b"\0\xf8\xff\xff" + os.urandom(12)
    data = BIG[:300_000] if name != "chacha20" else BIG[: 2048 * 64]
    with open_(engine, Type.SKCIPHER, name, key) as transform:
        expected = reference_cipher(name, key, iv or b"", data)
        assert once(transform, ENCRYPT, data, iv) == expected
        for cuts in ([64, 128], [16, 48, 4096], [63, 65, 70_000, 70_001], [131_072], [131_071, 262_145]):
            assert in_parts(transform, ENCRYPT, cut(data, cuts), iv) == expected
            assert in_parts(transform, DECRYPT, cut(expected, cuts), iv, ended=False) == data


@kernel
@pytest.mark.parametrize(("name", "counter_at"), [("chacha20", 0), ("xchacha20", 24), ("xchacha12", 24)])
def test_chacha_counter_runs_over(engine: AfAlgEngine, name: str, counter_at: int) -> None:
    """In parts as in one piece, where the kernel counts itself."""
    iv = bytearray(os.urandom(describe(engine, Type.SKCIPHER, name).iv_size))
    iv[counter_at : counter_at + 4] = (0xFFFF_FFFF - 100).to_bytes(4, "little")
    data = BIG[:100_000]
    with open_(engine, Type.SKCIPHER, name, bytes(range(32))) as transform:
        once(transform, ENCRYPT, b"first", bytes(iv))
        whole = once(transform, ENCRYPT, data, bytes(iv))
        assert (
            in_parts(transform, ENCRYPT, cut(data, [1, 64, 100 * 64, 101 * 64, 102 * 64, 99_999]), bytes(iv)) == whole
        )
        assert in_parts(transform, DECRYPT, [whole], bytes(iv)) == data


@kernel
@pytest.mark.parametrize("size", [0, *SIZES])
def test_gcm_sizes(engine: AfAlgEngine, size: int) -> None:
    key, iv = os.urandom(16), os.urandom(12)
    for assoclen in {0, 13, min(size, 70_001)}:
        total = min(size + assoclen, largest_whole() - 16)
        data = BIG[: max(total, assoclen)]
        with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
            sealed = AESGCM(key).encrypt(iv, data[assoclen:], data[:assoclen])
            assert once(transform, ENCRYPT, data, iv, assoclen) == sealed
            assert once(transform, DECRYPT, data[:assoclen] + sealed, iv, assoclen) == data[assoclen:]


@kernel
def test_gcm_of_the_largest_message(engine: AfAlgEngine) -> None:
    key, iv = os.urandom(16), os.urandom(12)
    with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
        data = BIG[: largest_whole()]
        assert once(transform, ENCRYPT, data, iv) == AESGCM(key).encrypt(iv, data, None)


@kernel
@pytest.mark.parametrize("size", SIZES)
def test_hash_sizes(engine: AfAlgEngine, size: int) -> None:
    data = BIG[:size]
    with open_(engine, Type.HASH, "sha256") as transform:
        expected = hashlib.sha256(data).digest()
        assert once(transform, DIGEST, data) == expected
        assert in_parts(transform, DIGEST, cut(data, [1, 70_000, 200_003])) == expected


### Empty messages


@kernel
def test_empty_messages(engine: AfAlgEngine) -> None:
    with open_(engine, Type.HASH, "sha256") as transform:
        assert once(transform, DIGEST, b"") == hashlib.sha256().digest()
        assert in_parts(transform, DIGEST, []) == hashlib.sha256().digest()
        assert in_parts(transform, DIGEST, [b"", b""]) == hashlib.sha256().digest()
    for name in ("xts(aes)", "cts(cbc(aes))"):
        with open_(engine, Type.SKCIPHER, name, os.urandom(32)) as transform:
            assert (
                "message of 0 bytes in blocks of 16" in wrong(lambda: once(transform, ENCRYPT, b"", bytes(16))).message
            )
            assert len(once(transform, ENCRYPT, bytes(16), bytes(16))) == 16
    for name in ("cbc(aes)", "ctr(aes)", "lrw(aes)"):
        with open_(engine, Type.SKCIPHER, name, os.urandom(32)) as transform:
            assert once(transform, ENCRYPT, b"", bytes(16)) == b""
            assert in_parts(transform, ENCRYPT, [b"", b""], bytes(16)) == b""
    key, iv = os.urandom(16), os.urandom(12)
    with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
        for aad in (b"", b"data"):
            sealed = AESGCM(key).encrypt(iv, b"", aad)
            assert once(transform, ENCRYPT, aad, iv, len(aad)) == sealed
            assert once(transform, DECRYPT, aad + sealed, iv, len(aad)) == b""
            with pytest.raises(BadTag):
                once(transform, DECRYPT, aad + sealed[:-1] + bytes([sealed[-1] ^ 1]), iv, len(aad))


### Keys, clones, drivers


@kernel
def test_clone(engine: AfAlgEngine) -> None:
    with (
        open_(engine, Type.HASH, "hmac(sha256)", b"key") as transform,
        closing(transform.start(DIGEST, None, 0)) as first,
        closing(first.clone()) as untouched,
    ):
        part(first, b"abc", False)
        with closing(first.clone()) as second:
            part(first, b"def", False)
            assert part(second, b"xyz", True) == hmac.digest(b"key", b"abcxyz", "sha256")
        assert part(first, b"", True) == hmac.digest(b"key", b"abcdef", "sha256")
        assert part(untouched, b"later", True) == hmac.digest(b"key", b"later", "sha256")


@kernel
def test_only_hashes_are_cloned(engine: AfAlgEngine) -> None:
    with (
        open_(engine, Type.SKCIPHER, "cbc(aes)", bytes(16)) as transform,
        closing(transform.start(ENCRYPT, bytes(16), 0)) as message,
        pytest.raises(NotSupported),
    ):
        message.clone()


@kernel
@pytest.mark.parametrize("wrong", [b"", bytes(15), bytes(17), bytes(33)])
def test_rekey(engine: AfAlgEngine, wrong: bytes) -> None:
    data, iv = bytes(range(48)), bytes(16)
    with open_(engine, Type.SKCIPHER, "cbc(aes)") as transform:
        for key in (b"0" * 16, b"1" * 32):
            transform.set_key(key)
            assert once(transform, ENCRYPT, data, iv) == reference_cipher("cbc(aes)", key, iv, data)
        with pytest.raises(InvalidValue, match=f"key of {len(wrong)} bytes: cbc.aes. takes 16 24 32 bytes"):
            transform.set_key(wrong)
        # as with every engine a refused key leaves the old one
        assert once(transform, ENCRYPT, data, iv) == reference_cipher("cbc(aes)", key, iv, data)


@kernel
def test_rekey_refused_by_the_kernel_alone(engine: AfAlgEngine) -> None:
    name, iv = "authenc(hmac(sha256),cbc(aes))", bytes(16)
    key = authenc_key(b"a" * 32, b"e" * 16)
    with open_(engine, Type.AEAD, name, key, 12) as transform:
        expected = reference_aead(name, key, iv, b"", bytes(32), 12)
        assert once(transform, ENCRYPT, bytes(32), iv) == expected
        with pytest.raises(InvalidValue, match="key of 60 bytes") as caught:
            transform.set_key(b"secret" * 10)
        assert "secret" not in str(caught.value)
        assert once(transform, ENCRYPT, bytes(32), iv) == expected
        transform.set_key(authenc_key(b"b" * 32, b"f" * 16))
        assert len(once(transform, ENCRYPT, bytes(32), iv)) == 44


@kernel
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda key: memoryview(bytearray(key))])
def test_kinds_of_buffers(engine: AfAlgEngine, kind: Callable[[bytes], bytes]) -> None:
    key, iv, data = os.urandom(16), os.urandom(16), os.urandom(64)
    with open_(engine, Type.SKCIPHER, "cbc(aes)", kind(key)) as transform:
        out = bytearray(64)
        assert transform.once(ENCRYPT, kind(iv), 0, kind(data), memoryview(out)) == 64
        assert out == reference_cipher("cbc(aes)", key, iv, data)


@kernel
def test_optional_key(engine: AfAlgEngine) -> None:
    with open_(engine, Type.HASH, "crc32c") as transform:
        assert once(transform, DIGEST, b"abc") == reference_hash("crc32c", b"", b"abc")
        transform.set_key(b"seed")
        assert once(transform, DIGEST, b"abc") == reference_hash("crc32c", b"seed", b"abc")


@kernel
def test_driver_on_demand(engine: AfAlgEngine) -> None:
    generic = describe(engine, Type.SKCIPHER, "cbc(aes)")
    by_driver = engine.describe(Type.SKCIPHER, generic.driver)
    assert by_driver is not None
    assert (by_driver.name, by_driver.driver, by_driver.chunk_size) == ("cbc(aes)", generic.driver, 16)
    key, iv, data = os.urandom(16), os.urandom(16), os.urandom(64)
    with open_(engine, Type.SKCIPHER, generic.driver, key) as transform:
        assert in_parts(transform, ENCRYPT, cut(data, [5]), iv) == reference_cipher("cbc(aes)", key, iv, data)
        transform.set_key(key)
        assert once(transform, ENCRYPT, data, iv) == reference_cipher("cbc(aes)", key, iv, data)
    sha256 = describe(engine, Type.HASH, "sha256")
    assert describe(engine, Type.HASH, sha256.driver).name == "sha256"


@kernel
def test_names_without_a_reference(engine: AfAlgEngine) -> None:
    """Whatever the kernel offers must work by what is found out of it: decrypting gives the text back."""
    more = [
        (Type.SKCIPHER, name)
        for name in ("adiantum(xchacha12,aes)", "lrw(aes)", "essiv(cbc(aes),sha256)", "hctr2(aes)", "arc4", "ecb(arc4)")
    ] + [(Type.AEAD, "authencesn(hmac(sha256),cbc(aes))"), (Type.HASH, "xcbc(aes)"), (Type.HASH, "rmd160")]
    tried = []
    for type_, name in [*engine.names(), *more]:
        description = engine.describe(type_, name)
        if description is None or (type_, name) in REFERENCED or type_ is Type.RNG or name in ("poly1305", "kw(aes)"):
            continue
        if name.startswith(("seqiv(", "echainiv(")):
            continue  # they make the IV themselves, into the output, and want it in the input to decrypt
        sizes = description.key_sizes
        if sizes == ANY_KEY and not name.startswith("hmac("):
            continue  # its keys are nothing that can be guessed: structures, or 1,072 bytes
        key = os.urandom(sizes.listed[-1] if sizes.listed else min(sizes.largest, 64)) if sizes.takes_key else None
        iv = b"\3" + os.urandom(description.iv_size - 1) if description.iv_size else None
        if name.startswith("authenc("):
            key = authenc_key(os.urandom(20), os.urandom(24 if "des3_ede" in name else 20 if "rfc3686" in name else 16))
        assoclen = 16 if name.startswith("rfc") and type_ is Type.AEAD else 0
        assoc = BIG[:assoclen]
        with open_(engine, type_, name, key) as transform:
            tried.append(name)
            if type_ is Type.HASH:
                assert in_parts(transform, DIGEST, [b"abc", b"d" * 500]) == once(transform, DIGEST, b"abc" + b"d" * 500)
                continue
            sealed = once(transform, ENCRYPT, assoc + BIG[:4096], iv, assoclen)
            assert once(transform, DECRYPT, assoc + sealed, iv, assoclen) == BIG[:4096], name
            given_ = in_parts(transform, ENCRYPT, cut(assoc + BIG[:4096], [64, 100, 1000]), iv, assoclen)
            assert given_ == sealed, name
    print("\ntried:", *tried)
    assert tried


@kernel
def test_probed_key_sizes(engine: AfAlgEngine) -> None:
    expected = {
        (Type.HASH, "rmd160"): NO_KEY,
        (Type.HASH, "hmac(rmd160)"): ANY_KEY,
        (Type.HASH, "cmac(twofish)"): KeySizes((16, 24, 32)),
        (Type.SKCIPHER, "ecb(cipher_null)"): NO_KEY,
        (Type.SKCIPHER, "adiantum(xchacha12,serpent)"): KeySizes((32,)),
        (Type.SKCIPHER, "lrw(camellia)"): KeySizes((32, 40, 48)),
        (Type.SKCIPHER, "cbc(twofish)"): KeySizes((16, 24, 32)),
        (Type.SKCIPHER, "ofb(cast6)"): KeySizes((16, 20, 24, 28, 32)),
        (Type.AEAD, "gcm(twofish)"): KeySizes((16, 24, 32)),
    }
    offered = {key: engine.describe(*key) for key in expected}
    found = {key: found.key_sizes for key, found in offered.items() if found is not None}
    assert found == {key: expected[key] for key in found}


@kernel
def test_names(engine: AfAlgEngine) -> None:
    listed = list(engine.names())
    assert len(listed) == len(set(listed))
    assert set(CATALOGUE) <= set(listed)
    assert not any(name.startswith("__") for _, name in listed)


### Random numbers


@kernel
def test_random(engine: AfAlgEngine) -> None:
    with open_(engine, Type.RNG, "stdrng") as transform:
        for size in (0, 1, 127, 128, 129, 10_000):
            out = bytearray(size)
            assert transform.once(GENERATE, None, 0, b"", memoryview(out)) == size
            assert size < 32 or len(set(out)) > 16
        transform.set_key(b"a seed" * 10)
        out = bytearray(64)
        with closing(transform.start(GENERATE, None, 0)) as message:
            assert message.update(b"", True, memoryview(out)) == 64
        assert any(out)


### Errors


def wrong(call: Callable[[], object]) -> CryptofsError:
    with pytest.raises(CryptofsError) as caught:
        call()
    assert type(caught.value) is not EngineFault, caught.value
    return caught.value


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


### Threads and privileges


@kernel
def test_two_threads_on_one_transform(engine: AfAlgEngine) -> None:
    key = os.urandom(16)
    failures: list[BaseException] = []
    with (
        open_(engine, Type.SKCIPHER, "ctr(aes)", key) as cipher,
        open_(engine, Type.HASH, "sha256") as digest,
    ):

        def work(seed: int) -> None:
            try:
                for round_ in range(60):
                    data = BIG[seed * 1000 : seed * 1000 + 3000 * (round_ % 5) + 5]
                    iv = bytes([seed, round_]) + bytes(14)
                    expected = reference_cipher("ctr(aes)", key, iv, data)
                    assert once(cipher, ENCRYPT, data, iv) == expected
                    assert in_parts(cipher, ENCRYPT, cut(data, [9, 2000]), iv) == expected
                    assert in_parts(digest, DIGEST, cut(data, [9])) == hashlib.sha256(data).digest()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


UNPRIVILEGED = """
import json, os, sys
from cryptofs.algorithms import Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.errors import CryptofsError
from cryptofs.records import Operation
os.setgroups([]); os.setgid(65534); os.setuid(65534)
engine = AfAlgEngine()
result = {}
for type_, name, key, iv in (
    (Type.SKCIPHER, "xts(aes)", bytes(range(32)), bytes(16)),
    (Type.AEAD, "gcm(aes)", bytes(range(16)), bytes(12)),
    (Type.SKCIPHER, "cbc(aes)", bytes(range(16)), bytes(16)),
):
    description = engine.describe(type_, name)
    if description is None:
        continue
    transform = engine.open(description, None)
    transform.set_key(key)
    answers = []
    for size in map(int, sys.argv[1:]):
        out = bytearray(size + 16)
        try:
            done = transform.once(Operation.ENCRYPT, iv, 0, bytes(size), memoryview(out))
            answers.append([done, out[:done].hex()])
        except CryptofsError as error:
            answers.append([error.symbol, error.message])
    result[name] = answers
    transform.close()
print(json.dumps(result))
"""


def unprivileged(*sizes: int) -> dict[str, list[list[object]]]:
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, *map(str, sizes)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@kernel
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_without_privileges(engine: AfAlgEngine) -> None:
    answers = unprivileged(16, 212_992, PAYLOAD_MAX)
    assert answers, "nothing is offered to an unprivileged process"
    for name, given_ in answers.items():
        print(f"\nunprivileged {name}:", *(answer[0] for answer in given_))
        with open_(engine, Type.AEAD if name == "gcm(aes)" else Type.SKCIPHER, name) as transform:
            transform.set_key(bytes(range(32 if name == "xts(aes)" else 16)))
            for size, (done, text) in zip((16, 212_992, PAYLOAD_MAX), given_, strict=True):
                if done == "EMSGSIZE":
                    assert str(size) in str(text)
                    assert name != "cbc(aes)"
                else:
                    iv = bytes(transform.description.iv_size)
                    assert str(text) == once(transform, ENCRYPT, bytes(size), iv).hex()


@pytest.fixture
def sysctl() -> Iterator[Callable[[str, int], None]]:
    """Sets a kernel parameter until the test ends; in a guest only, for it is everybody's."""
    if not os.environ.get("CRYPTOFS_GUEST"):
        pytest.skip("changes kernel parameters: only in a guest")
    before: dict[Path, str] = {}

    def change(name: str, value: int) -> None:
        path = Path("/proc/sys", name)
        before.setdefault(path, path.read_text())
        path.write_text(str(value))

    yield change
    for path, value in before.items():
        path.write_text(value)


@kernel
def test_small_buffers(engine: AfAlgEngine, sysctl: Callable[[str, int], None]) -> None:
    for name in ("wmem_max", "rmem_max"):
        sysctl(f"net/core/{name}", 212_992)
    sizes = (212_992, 421_888, 421_889, PAYLOAD_MAX)
    for name, answers in unprivileged(*sizes).items():
        print(f"\nwmem_max 212992, {name}:", *(answer[0] for answer in answers))
        tag = 16 if name == "gcm(aes)" else 0
        assert answers[0][0] == sizes[0] + tag
        assert answers[1][0] == sizes[1] + tag
        for size, (done, text) in zip(sizes[2:], answers[2:], strict=True):
            if name == "cbc(aes)":
                assert done == size or size % 16
            else:
                assert done == "EMSGSIZE"
                assert f"message of {size} bytes" in str(text)
                assert "at most 421888" in str(text)
    # root may pass over the limit
    with open_(engine, Type.AEAD, "gcm(aes)", bytes(16)) as transform:
        size = largest_whole()
        assert len(once(transform, ENCRYPT, BIG[:size], bytes(12))) == size + 16


@kernel
def test_small_defaults(engine: AfAlgEngine, sysctl: Callable[[str, int], None]) -> None:
    """Buffers of less than a piece: the pieces become smaller."""
    for name in ("wmem_max", "rmem_max", "wmem_default", "rmem_default"):
        sysctl(f"net/core/{name}", 20_000)
    for name, answers in unprivileged(PAYLOAD_MAX).items():
        assert answers[0][0] == (PAYLOAD_MAX if name == "cbc(aes)" else "EMSGSIZE"), answers[0]


@kernel
@pytest.mark.parametrize("allowed", [20_480, 10_240, 4_096])
def test_small_optmem(engine: AfAlgEngine, sysctl: Callable[[str, int], None], allowed: int) -> None:
    """Never a short or a wrong result: the right one, or EMSGSIZE (ENFILE where not even small ones fit)."""
    key, iv = bytes(range(16)), bytes(12)
    with open_(engine, Type.AEAD, "gcm(aes)", key) as transform:
        sysctl("net/core/optmem_max", allowed)
        for size in (16, 65_536, 131_072, 262_144, 524_288, PAYLOAD_MAX):
            expected = AESGCM(key).encrypt(iv, BIG[:size], None)
            refusal = None
            try:
                assert once(transform, ENCRYPT, BIG[:size], iv) == expected
            except (TooLarge, OutOfResources) as error:
                refusal = error
            print(f"\noptmem_max {allowed}, {size}: {refusal or 'done'}")
            assert refusal is None or isinstance(refusal, TooLarge) == (size > 131_072)
            assert refusal is None or size <= 131_072 or f"optmem_max ({allowed})" in refusal.message


### Descriptions that are refused; these need no AF_ALG


class RefusedSocket:
    """A socket whose bind fails; it counts the closes."""

    closed = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def bind(self, address: object) -> None:
        raise OSError(self.number, "refused")

    def close(self) -> None:
        RefusedSocket.closed += 1


def working_engine(monkeypatch: pytest.MonkeyPatch) -> AfAlgEngine:
    with monkeypatch.context() as patch:
        patch.setattr("cryptofs.engines.af_alg._available", lambda: True)
        return AfAlgEngine()


@pytest.mark.parametrize("number", sorted(sockets.NOT_OFFERED))
def test_refusal_means_the_next_engine(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse() -> socket.socket:
        raise OSError(number, "refused")

    engine = working_engine(monkeypatch)
    monkeypatch.setattr(sockets, "open_socket", refuse)
    assert engine.describe(Type.SKCIPHER, "cbc(aes)") is None
    dead = AfAlgEngine()
    assert not dead.available
    assert dead.describe(Type.SKCIPHER, "cbc(aes)") is None
    assert list(dead.names()) == []
    dead.warm_up()

    engine = working_engine(monkeypatch)
    before = RefusedSocket.closed
    monkeypatch.setattr(sockets, "open_socket", lambda: RefusedSocket(number))
    assert engine.describe(Type.SKCIPHER, "cbc(aes)") is None
    assert RefusedSocket.closed == before + 1
    with pytest.raises(NotOffered):
        engine.open(Description(Type.SKCIPHER, "cbc(aes)", "af_alg", "x", chunk_size=16), None)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EMFILE, OutOfResources),
        (errno.ENFILE, OutOfResources),
        (errno.ENOMEM, OutOfResources),
        (errno.EIO, EngineFault),
    ],
)
def test_other_errors_are_errors(monkeypatch: pytest.MonkeyPatch, number: int, kind: type[CryptofsError]) -> None:
    def fail() -> socket.socket:
        raise OSError(number, "fails")

    engine = working_engine(monkeypatch)
    monkeypatch.setattr(sockets, "open_socket", fail)
    with pytest.raises(kind, match=errno.errorcode[number]):
        engine.describe(Type.SKCIPHER, "cbc(aes)")
    with pytest.raises(kind):
        AfAlgEngine()


def test_refusals_are_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = working_engine(monkeypatch)
    now = 100.0
    asked: list[str] = []
    monkeypatch.setattr("cryptofs.engines.af_alg.time.monotonic", lambda: now)
    monkeypatch.setattr(sockets, "bind", lambda type_, name: asked.append(name))
    for _ in range(3):
        assert engine.describe(Type.HASH, "nothing") is None
    assert asked == ["nothing"]
    now += MISS_SECONDS + 1
    assert engine.describe(Type.HASH, "nothing") is None
    assert asked == ["nothing", "nothing"]
    for number in range(3000):
        engine.describe(Type.HASH, f"nothing{number}")
    assert len(engine._cache) == 1024


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b", "caf\u00e9", "a\nb"])
def test_impossible_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert working_engine(monkeypatch).describe(Type.HASH, name) is None


@kernel
@pytest.mark.parametrize(
    "name", ["sha256", "cbc(cbc(aes))", "cbc(aes", "cbc()", "xts(ecb(aes))", "cryptd(cbc(aes))", "aes", "x" * 63]
)
def test_names_that_the_kernel_refuses(engine: AfAlgEngine, name: str) -> None:
    assert engine.describe(Type.SKCIPHER, name) is None


### /proc/crypto

SAMPLE = """\
name         : cbc(aes)
driver       : cbc-aes-generic
module       : kernel
priority     : 100
refcnt       : 1
selftest     : passed
internal     : no
type         : skcipher
async        : no
blocksize    : 16
min keysize  : 16
max keysize  : 32
ivsize       : 16
chunksize    : 16
walksize     : 16

name         : cbc(aes)
driver       : cbc-aes-fast
module       : aesni_intel
priority     : 400
selftest     : passed
internal     : no
type         : skcipher
blocksize    : 16
min keysize  : 16
max keysize  : 32
ivsize       : 16

name         : cbc(aes)
driver       : __cbc-aes-hidden
priority     : 500
selftest     : passed
internal     : yes
type         : skcipher
blocksize    : 16

name         : cbc(aes)
driver       : cbc-aes-broken
priority     : 900
selftest     : failed
internal     : no
type         : skcipher

name         : gcm(aes)
driver       : generic-gcm-aes
priority     : 400
selftest     : passed
internal     : no
type         : aead
blocksize    : 1
ivsize       : 12
maxauthsize  : 16
geniv        : <none>

name         : sha256
driver       : sha256-lib
priority     : 300
selftest     : passed
internal     : no
type         : shash
blocksize    : 64
digestsize   : 32

name         : sha256
driver       : sha256-async
priority     : 100
type         : ahash
blocksize    : 64
digestsize   : 32

name         : arc4
driver       : arc4-generic
priority     : 100
type         : lskcipher
blocksize    : 1
min keysize  : 1
max keysize  : 256
ivsize       : 0

name         : stdrng
driver       : drbg_nopr_hmac_sha512
priority     : 201
type         : rng
seedsize     : 0

name         : rsa
driver       : rsa-generic
type         : akcipher

name         : aes
driver       : aes-lib
type         : cipher
blocksize    : 16
"""


def test_proc_crypto_sample() -> None:
    entries = proc_crypto.parse(SAMPLE)
    assert [entry.driver for entry in entries] == [
        "cbc-aes-generic",
        "cbc-aes-fast",
        "generic-gcm-aes",
        "sha256-lib",
        "sha256-async",
        "arc4-generic",
        "drbg_nopr_hmac_sha512",
    ]
    assert entries[0] == proc_crypto.Entry(
        Type.SKCIPHER, "cbc(aes)", "cbc-aes-generic", 100, block_size=16, iv_size=16, min_key=16, max_key=32
    )

    def found(type_: Type, name: str) -> str | None:
        entry = proc_crypto.find(entries, type_, name)
        return entry and entry.driver

    assert found(Type.SKCIPHER, "cbc(aes)") == "cbc-aes-fast"
    assert found(Type.SKCIPHER, "cbc-aes-generic") == "cbc-aes-generic"
    assert found(Type.HASH, "sha256") == "sha256-lib"
    assert found(Type.AEAD, "cbc(aes)") is None
    assert found(Type.SKCIPHER, "__cbc-aes-hidden") is None
    assert found(Type.RNG, "stdrng") == "drbg_nopr_hmac_sha512"
    gcm = proc_crypto.find(entries, Type.AEAD, "gcm(aes)")
    assert gcm is not None
    assert (gcm.iv_size, gcm.max_authsize, gcm.block_size) == (12, 16, 1)


@pytest.mark.parametrize("text", ["", "\n\n\n", "nonsense", "name : x\ntype : shash\nblocksize : -1\npriority : many"])
def test_proc_crypto_of_any_form(text: str) -> None:
    for entry in proc_crypto.parse(text):
        assert (entry.name, entry.block_size, entry.priority) == ("x", 1, 0)


def test_proc_crypto_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(proc_crypto, "PATH", tmp_path / "none")
    assert proc_crypto.read() == []


@kernel
def test_without_proc_crypto(engine: AfAlgEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the catalogue knows still works; of anything else the sizes are unknown, so it is not offered."""
    monkeypatch.setattr(proc_crypto, "PATH", tmp_path / "none")
    blind = AfAlgEngine()
    assert blind.describe(Type.SKCIPHER, "cbc(twofish)") is None
    key, iv = os.urandom(16), os.urandom(16)
    with open_(blind, Type.SKCIPHER, "cbc(aes)", key) as transform:
        assert transform.description.chunk_size == 16
        assert once(transform, ENCRYPT, bytes(32), iv) == reference_cipher("cbc(aes)", key, iv, bytes(32))


def test_no_key_in_messages() -> None:
    secret = b"\xde\xad\xbe\xef" * 5
    transform = object.__new__(type("Bare", (Transform,), {"replace_key": None, "begin": None}))
    Transform.__init__(transform, Description(Type.SKCIPHER, "cbc(aes)", "af_alg", "x", key_sizes=KeySizes((16,))))
    text = repr(transform.refuse_key(secret)) + repr(transform)
    assert binascii.hexlify(secret).decode() not in text
    assert repr(secret)[2:-1] not in text
