"""The AF_ALG engine under test: its messages whole and in parts, and hashlib and pyca as its references."""

import gc
import hashlib
import hmac
import itertools
import os
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
from hypothesis import HealthCheck, settings

from cryptofs.algorithms import Description, KeySizes, Type, names
from cryptofs.engines.af_alg import AfAlgEngine, sockets
from cryptofs.engines.base import Message, Transform
from cryptofs.errors import CryptofsError, EngineFault
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


def wrong(call: Callable[[], object]) -> CryptofsError:
    with pytest.raises(CryptofsError) as caught:
        call()
    assert type(caught.value) is not EngineFault, caught.value
    return caught.value
