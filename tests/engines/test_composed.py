"""What the OpenSSL engine composes: published vectors, and the definitions written out the slow way."""

import os

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from helpers.openssl_bench import cut, once, opened, parts

from cryptofs.algorithms import Type
from cryptofs.errors import InvalidValue, KeyMissing, NotSupported
from cryptofs.records import Operation

DIGEST, ENCRYPT, DECRYPT = Operation.DIGEST, Operation.ENCRYPT, Operation.DECRYPT
SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 64, 1000, 65_535, 65_536, 65_537, 200_000)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def ecb(algorithm: AES | Camellia | TripleDES, block: bytes) -> bytes:
    return Cipher(algorithm, modes.ECB()).encryptor().update(block)


def xor(*values: bytes) -> bytes:
    result = 0
    for value in values:
        result ^= int.from_bytes(value, "big")
    return result.to_bytes(len(values[0]), "big")


# XCBC, RFC 3566

XCBC_KEY = bytes(range(16))
XCBC = [
    (0, "75f0251d528ac01c4573dfd584d79f29"),
    (3, "5b376580ae2f19afe7219ceef172756f"),
    (16, "d2a246fa349b68a79998a4394ff7a263"),
    (20, "47f51b4564966215b8985c63055ed308"),
    (32, "f54f0ec8d2b9f3d36807734bd5283fd4"),
    (34, "becbb3bccdb518a30677d5481fb6b4d8"),
]


@pytest.mark.parametrize(("size", "expected"), XCBC)
def test_xcbc_rfc_3566(size: int, expected: str) -> None:
    data = bytes(range(size))
    transform = opened(Type.HASH, "xcbc(aes)", XCBC_KEY)
    assert once(transform, DIGEST, data).hex() == expected
    for at in range(size + 1):
        assert parts(transform, DIGEST, [data[:at], data[at:]]).hex() == expected


@pytest.mark.parametrize("size", SIZES)
def test_xcbc_by_its_definition(size: int) -> None:
    key, data = os.urandom(16), os.urandom(size)
    first, second, third = (ecb(AES(key), bytes([n]) * 16) for n in (1, 2, 3))
    tail = size % 16 or (16 if size else 0)
    last = xor(data[-16:], second) if tail == 16 else xor((data[size - tail :] + b"\x80").ljust(16, b"\0"), third)
    chained = Cipher(AES(first), modes.CBC(bytes(16))).encryptor().update(data[: size - tail] + last)
    transform = opened(Type.HASH, "xcbc(aes)", key)
    assert once(transform, DIGEST, data) == chained[-16:]
    assert parts(transform, DIGEST, cut(data, [1, 16, 17, 65_552, 100_000])) == chained[-16:]


def test_xcbc_clones() -> None:
    transform = opened(Type.HASH, "xcbc(aes)", XCBC_KEY)
    message = transform.start(DIGEST, None, 0)
    out = memoryview(bytearray(64))
    message.update(bytes(range(18)), False, out)
    clone = message.clone()
    for each in (message, clone):
        assert bytes(out[: each.update(bytes(range(18, 32)), True, out)]).hex() == XCBC[4][1]


# Poly1305


def test_poly1305_rfc_8439() -> None:
    key = unhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    data = key + b"Cryptographic Forum Research Group"
    transform = opened(Type.HASH, "poly1305")
    assert once(transform, DIGEST, data).hex() == "a8061dc1305136c6c22b8baf0c0127a9"
    for at in range(len(data)):
        assert parts(transform, DIGEST, [data[:at], b"", data[at:]]).hex() == "a8061dc1305136c6c22b8baf0c0127a9"


@pytest.mark.parametrize("size", [0, 1, 16, 31])
def test_poly1305_wants_its_key(size: int) -> None:
    transform = opened(Type.HASH, "poly1305")
    with pytest.raises(KeyMissing, match=f"message of {size} bytes"):
        once(transform, DIGEST, bytes(size))
    assert len(once(transform, DIGEST, bytes(32))) == 16


def test_poly1305_is_not_cloned() -> None:
    message = opened(Type.HASH, "poly1305").start(DIGEST, None, 0)
    message.update(bytes(40), False, memoryview(bytearray(16)))
    with pytest.raises(NotSupported):
        message.clone()
    message.close()


# Counters


@pytest.mark.parametrize(
    ("cipher", "expected"),
    [
        ("aes", "e4095d4fb7a7b3792d6175a3261311b8"),  # RFC 3686
        ("camellia", "d09dc29a8214619a20877c76db1f0b3f"),  # RFC 5528
    ],
)
def test_rfc_3686_and_5528(cipher: str, expected: str) -> None:
    key = unhex("ae6852f8121067cc4bf7a5765577f39e00000030")
    transform = opened(Type.SKCIPHER, f"rfc3686(ctr({cipher}))", key)
    assert once(transform, ENCRYPT, b"Single block msg", bytes(8)).hex() == expected
    assert once(transform, DECRYPT, unhex(expected), bytes(8)) == b"Single block msg"


@pytest.mark.parametrize(("cipher", "algorithm", "block"), [("camellia", Camellia, 16), ("des3_ede", TripleDES, 8)])
@pytest.mark.parametrize("size", SIZES)
def test_ctr_by_its_definition(cipher: str, algorithm: type[Camellia | TripleDES], block: int, size: int) -> None:
    key, data = os.urandom(24), os.urandom(size)
    # the counter runs over in the second block
    iv = b"\xff" * (block - 1) + b"\xfe"
    start = int.from_bytes(iv, "big")
    count = -(-size // block)
    counters = b"".join(((start + n) % (1 << 8 * block)).to_bytes(block, "big") for n in range(count))
    expected = xor(data, ecb(algorithm(key), counters)[:size]) if size else b""
    transform = opened(Type.SKCIPHER, f"ctr({cipher})", key)
    assert once(transform, ENCRYPT, data, iv) == expected
    assert parts(transform, DECRYPT, cut(expected, [1, 16, 17, 70_000]), iv) == data


# XChaCha20: draft-irtf-cfrg-xchacha, A.3.2


def test_xchacha20_of_the_draft() -> None:
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x57)) + b"\x58"
    text = b'The dhole (pronounced "dole") is also known as the Asiatic wild dog, red dog, and whistling dog.'
    expected = "4559abba4e48c16102e8bb2c05e6947f50a786de162f9b0b7e592a9b53d0d4e98d8d6410d540a1a6375b26d80dace4fab523"
    transform = opened(Type.SKCIPHER, "xchacha20", key)
    given = once(transform, ENCRYPT, text, nonce + (0).to_bytes(8, "little"))
    assert given.hex().startswith(expected)
    # in parts, and from a later block on
    for step in (1, 64, 70):
        iv = nonce + bytes(8)
        assert parts(transform, ENCRYPT, cut(text, list(range(0, len(text), step))), iv) == given
    assert once(transform, DECRYPT, given[64:], nonce + (1).to_bytes(8, "little")) == text[64:]


# ESSIV, PCBC, CTS


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 64, 4097])
@pytest.mark.parametrize("key_size", [16, 24, 32])
def test_essiv_by_its_definition(blocks: int, key_size: int) -> None:
    from hashlib import sha256

    key, iv, data = os.urandom(key_size), os.urandom(16), os.urandom(16 * blocks)
    inner = ecb(AES(sha256(key).digest()), iv)
    expected = Cipher(AES(key), modes.CBC(inner)).encryptor().update(data)
    transform = opened(Type.SKCIPHER, "essiv(cbc(aes),sha256)", key)
    for _ in range(2):
        assert once(transform, ENCRYPT, data, iv) == expected
        assert once(transform, DECRYPT, expected, iv) == data


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 7, 64, 300])
def test_pcbc_by_its_definition(blocks: int) -> None:
    key, iv, data = os.urandom(16), os.urandom(16), os.urandom(16 * blocks)
    expected, chain = b"", iv
    for at in range(0, len(data), 16):
        block = data[at : at + 16]
        sealed = ecb(AES(key), xor(block, chain))
        expected += sealed
        chain = xor(block, sealed)
    transform = opened(Type.SKCIPHER, "pcbc(aes)", key)
    assert once(transform, ENCRYPT, data, iv) == expected
    assert once(transform, DECRYPT, expected, iv) == data


@pytest.mark.parametrize("name", ["essiv(cbc(aes),sha256)", "pcbc(aes)"])
@pytest.mark.parametrize("size", [1, 15, 17, 33])
def test_broken_blocks(name: str, size: int) -> None:
    for operation in (ENCRYPT, DECRYPT):
        with pytest.raises(InvalidValue, match=f"text of {size} bytes"):
            once(opened(Type.SKCIPHER, name), operation, bytes(size), bytes(16))


@pytest.mark.parametrize("size", range(16, 66))
def test_cts_of_camellia(size: int) -> None:
    key, iv, data = os.urandom(32), os.urandom(16), os.urandom(size)
    chained = Cipher(Camellia(key), modes.CBC(iv)).encryptor().update(data + bytes(-size % 16))
    expected = (chained[:-32] + chained[-16:] + chained[-32:-16])[:size] if size > 16 else chained
    transform = opened(Type.SKCIPHER, "cts(cbc(camellia))", key)
    assert once(transform, ENCRYPT, data, iv) == expected
    assert once(transform, DECRYPT, expected, iv) == data


# AEADs


def test_sm4_gcm_rfc_8998() -> None:
    key, iv = unhex("0123456789abcdeffedcba9876543210"), unhex("00001234567800000000abcd")
    assoc = unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    text = b"".join(unhex(pair) * 8 for pair in ("aa", "bb", "cc", "dd", "ee", "ff", "ee", "aa"))
    expected = unhex(
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735d82710ca5c22f0ccfa7cbf93d496ac15"
        "a56834cbcf98c397b4024a2691233b8d83de3541e4c2b58177e065a9bf7b62ec"
    )
    for authsize in (16, 12, 4):
        transform = opened(Type.AEAD, "gcm(sm4)", key, authsize)
        sealed = expected[: len(text) + authsize]
        assert once(transform, ENCRYPT, assoc + text, iv, len(assoc)) == sealed
        assert once(transform, DECRYPT, assoc + sealed, iv, len(assoc)) == text


@pytest.mark.parametrize("assoclen", [8, 9, 16, 40])
def test_rfc7539esp(assoclen: int) -> None:
    key, salt, iv = os.urandom(32), os.urandom(4), os.urandom(8)
    assoc, text = os.urandom(assoclen - 8) + iv, os.urandom(100)
    expected = ChaCha20Poly1305(key).encrypt(salt + iv, text, assoc[:-8])
    transform = opened(Type.AEAD, "rfc7539esp(chacha20,poly1305)", key + salt)
    assert once(transform, ENCRYPT, assoc + text, iv, assoclen) == expected
    assert once(transform, DECRYPT, assoc + expected, iv, assoclen) == text
    with pytest.raises(InvalidValue, match="assoclen 7"):
        once(transform, ENCRYPT, bytes(40), iv, 7)
