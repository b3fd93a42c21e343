"""What the kernel composes of a cipher's chains, and what does nothing: by published vectors and by the definitions."""

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from helpers.openssl_bench import ENGINE, cut, once, opened, parts

from cryptofs.algorithms import Type
from cryptofs.engines.openssl.authenc import pack_keys
from cryptofs.engines.openssl.wrapping import WRAPPED_MAX
from cryptofs.errors import BadTag, InvalidValue, TooLarge
from cryptofs.records import Operation

DIGEST, ENCRYPT, DECRYPT = Operation.DIGEST, Operation.ENCRYPT, Operation.DECRYPT
CIPHERS: dict[str, type[AES | Camellia | SM4]] = {"aes": AES, "camellia": Camellia, "sm4": SM4}
SIZES = (0, 1, 15, 16, 17, 32, 1000, 65_536, 65_537)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def ecb(algorithm: BlockCipherAlgorithm, blocks: bytes) -> bytes:
    return Cipher(algorithm, modes.ECB()).encryptor().update(blocks)


def cbc(algorithm: BlockCipherAlgorithm, iv: bytes, data: bytes) -> bytes:
    return Cipher(algorithm, modes.CBC(iv)).encryptor().update(data)


# MACs


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("size", SIZES)
def test_cbcmac_by_its_definition(cipher: str, size: int) -> None:
    """The last block of the chain over the text with zeros behind it; of nothing, zeros."""
    key, data = os.urandom(16), os.urandom(size)
    expected = (bytes(16) + cbc(CIPHERS[cipher](key), bytes(16), data + bytes(-size % 16)))[-16:]
    transform = opened(Type.HASH, f"cbcmac({cipher})", key)
    assert once(transform, DIGEST, data) == expected
    assert parts(transform, DIGEST, cut(data, [1, 16, 17, 65_552])) == expected


def test_cbcmac_is_the_tag_inside_ccm() -> None:
    """SP 800-38C, example 1: the tag is the MAC of the formatted message, encrypted by the first counter block."""
    key, nonce = unhex("404142434445464748494a4b4c4d4e4f"), unhex("10111213141516")
    formatted = unhex("4f1011121314151600000000000000040008000102030405060700000000000020212223") + bytes(12)
    mac = once(opened(Type.HASH, "cbcmac(aes)", key), DIGEST, formatted)
    first = ecb(AES(key), b"\7" + nonce + bytes(8))
    assert bytes(a ^ b for a, b in zip(mac, first, strict=True))[:4] == unhex("4dac255d")


def test_xcbc_and_cmac_of_other_ciphers() -> None:
    """XCBC of a whole block by its definition; CMAC of SM4 the same."""
    key, data = os.urandom(16), os.urandom(32)
    for cipher, algorithm in CIPHERS.items():
        first, second = (ecb(algorithm(key), bytes([n]) * 16) for n in (1, 2))
        last = bytes(a ^ b for a, b in zip(data[16:], second, strict=True))
        expected = cbc(algorithm(first), bytes(16), data[:16] + last)[16:]
        assert once(opened(Type.HASH, f"xcbc({cipher})", key), DIGEST, data) == expected
    zero = int.from_bytes(ecb(SM4(key), bytes(16)))
    subkey = (zero << 1 ^ (0x87 if zero >> 127 else 0)) & ((1 << 128) - 1)
    last = (int.from_bytes(data[16:]) ^ subkey).to_bytes(16)
    assert once(opened(Type.HASH, "cmac(sm4)", key), DIGEST, data) == cbc(SM4(key), bytes(16), data[:16] + last)[16:]


def test_digest_null() -> None:
    """As the kernel's, it wants a key, whatever it is."""
    for key in (b"", b"key"):
        transform = opened(Type.HASH, "digest_null", key)
        assert once(transform, DIGEST, b"text") == b""
        assert parts(transform, DIGEST, [b"te", b"xt"]) == b""


# Ciphers


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key_size", [16, 24, 32])
def test_xctr_by_its_definition(size: int, key_size: int) -> None:
    """The number of the block from 1, little-endian, xored into the IV, and encrypted: the key stream."""
    key, iv, data = os.urandom(key_size), os.urandom(16), os.urandom(size)
    start = int.from_bytes(iv, "little")
    counters = b"".join((start ^ number).to_bytes(16, "little") for number in range(1, -(-size // 16) + 1))
    stream = ecb(AES(key), counters)[:size]
    expected = (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(size)
    transform = opened(Type.SKCIPHER, "xctr(aes)", key)
    assert once(transform, ENCRYPT, data, iv) == expected
    assert parts(transform, DECRYPT, cut(expected, [1, 16, 40_000]), iv) == data


def test_cipher_null() -> None:
    transform = opened(Type.SKCIPHER, "ecb(cipher_null)")
    for operation in (ENCRYPT, DECRYPT):
        assert once(transform, operation, b"text") == b"text"
        assert parts(transform, operation, [b"te", b"", b"xt"]) == b"text"
    with pytest.raises(InvalidValue, match="takes none"):
        transform.set_key(b"key")


@pytest.mark.parametrize("name", ["essiv(cbc(camellia),sha256)", "rfc3686(ctr(sm4))", "cts(cbc(sm4))"])
def test_modes_of_other_ciphers(name: str) -> None:
    """Each by its definition, of two whole blocks."""
    key, data = os.urandom(16), os.urandom(32)
    if name.startswith("essiv"):
        iv = os.urandom(16)
        expected = cbc(Camellia(key), ecb(Camellia(hashlib.sha256(key).digest()), iv), data)
    elif name.startswith("cts"):
        iv = os.urandom(16)
        chained = cbc(SM4(key), iv, data)
        expected = chained[16:] + chained[:16]
    else:
        iv, nonce = os.urandom(8), os.urandom(4)
        stream = ecb(SM4(key), nonce + iv + b"\0\0\0\1" + nonce + iv + b"\0\0\0\2")
        expected = (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(32)
        key += nonce
    transform = opened(Type.SKCIPHER, name, key)
    assert once(transform, ENCRYPT, data, iv) == expected
    assert once(transform, DECRYPT, expected, iv) == data


# authenc


def test_authenc_with_cts_rfc_8009() -> None:
    """Kerberos: a confounder and no plaintext, under IVs of zeros that are authenticated in front."""
    cipher_key, mac_key = unhex("9b197dd1e8c5609d6e67c3e37c62c72e"), unhex("9fda0e56ab2d85e1569a688696c26a6c")
    confounder = unhex("7e5895eaf2672435bad817f545a37148")
    sealed = unhex("ef85fb890bb8472f4dab20394dca781dad877eda39d50c870c0d5a0a8e48c718")
    key = bytes(pack_keys(mac_key, cipher_key))
    transform = opened(Type.AEAD, "authenc(hmac(sha256),cts(cbc(aes)))", key, 16)
    assert once(transform, ENCRYPT, bytes(16) + confounder, bytes(16), 16) == sealed
    assert once(transform, DECRYPT, bytes(16) + sealed, bytes(16), 16) == confounder


@pytest.mark.parametrize("size", [16, 17, 31, 32, 33, 100])
def test_authenc_with_cts_takes_any_length(size: int) -> None:
    key, mac_key, data, iv = os.urandom(16), os.urandom(20), os.urandom(size), os.urandom(16)
    expected = once(opened(Type.SKCIPHER, "cts(cbc(aes))", key), ENCRYPT, data, iv)
    expected += hmac.new(mac_key, b"head" + expected, "sha1").digest()
    transform = opened(Type.AEAD, "authenc(hmac(sha1),cts(cbc(aes)))", bytes(pack_keys(mac_key, key)))
    assert once(transform, ENCRYPT, b"head" + data, iv, 4) == expected
    assert once(transform, DECRYPT, b"head" + expected, iv, 4) == data
    with pytest.raises(InvalidValue, match="at least 16"):
        once(transform, ENCRYPT, b"head" + bytes(15), iv, 4)


def test_authenc_with_des_and_with_nothing() -> None:
    key, mac_key, text, iv = os.urandom(8), os.urandom(20), os.urandom(24), os.urandom(8)
    sealed = cbc(TripleDES(key * 3), iv, text)
    for name, cipher_key, ciphertext, nonce in (
        ("cbc(des)", key, sealed, iv),
        ("ecb(cipher_null)", b"", text, None),
    ):
        transform = opened(Type.AEAD, f"authenc(hmac(sha1),{name})", bytes(pack_keys(mac_key, cipher_key)))
        expected = ciphertext + hmac.new(mac_key, b"head" + ciphertext, "sha1").digest()
        assert once(transform, ENCRYPT, b"head" + text, nonce, 4) == expected
        assert once(transform, DECRYPT, b"head" + expected, nonce, 4) == text
        with pytest.raises(BadTag):
            once(transform, DECRYPT, b"Head" + expected, nonce, 4)


# Wrapping keys


def test_key_wrap_rfc_3394() -> None:
    """The standard's bytes from the AEAD; the kernel's cipher lacks the first 8, which it has in its IV."""
    key, text = bytes(range(16)), unhex("00112233445566778899aabbccddeeff")
    expected = unhex("1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5")
    transform = opened(Type.AEAD, "rfc3394(kw(aes))", key)
    assert once(transform, ENCRYPT, text) == expected
    assert once(transform, DECRYPT, expected) == text
    kernels = opened(Type.SKCIPHER, "kw(aes)", key)
    assert once(kernels, ENCRYPT, text, bytes(8)) == expected[8:]
    assert once(kernels, DECRYPT, expected[8:], expected[:8]) == text
    with pytest.raises(BadTag):
        once(kernels, DECRYPT, expected[8:], bytes(8))


def test_sizes_of_wrapped_keys() -> None:
    """Only so much as a key may have, and with padding any size."""
    wrap, padded = opened(Type.AEAD, "rfc3394(kw(aes))"), opened(Type.AEAD, "kwp(aes)")
    for size in (0, 8, 15, 17):
        with pytest.raises(InvalidValue, match=f"message of {size} bytes: at least 16, in multiples of 8"):
            once(wrap, ENCRYPT, bytes(size))
    for size in (1, 7, 8, 9, 33, WRAPPED_MAX - 1):
        assert once(padded, DECRYPT, once(padded, ENCRYPT, b"k" * size)) == b"k" * size
    for transform in (wrap, padded):
        assert len(once(transform, DECRYPT, once(transform, ENCRYPT, bytes(WRAPPED_MAX)))) == WRAPPED_MAX
        with pytest.raises(TooLarge, match=f"at most {WRAPPED_MAX}"):
            once(transform, ENCRYPT, bytes(WRAPPED_MAX + 8))
        with pytest.raises(InvalidValue, match=r"assoclen 8: .* takes 0"):
            once(transform, ENCRYPT, bytes(32), None, 8)
    with pytest.raises(InvalidValue, match=r"message of 0 bytes: at least 1$"):
        once(padded, ENCRYPT, b"")


# What no kernel has


def test_names_of_our_own() -> None:
    """No IV where a standard has none; the tag of SIV is in front, and even no associated data are a string."""
    key = unhex("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f")
    plain = opened(Type.AEAD, "siv(aes)", key)
    sealed = once(plain, ENCRYPT, b"text")
    assert once(plain, DECRYPT, sealed) == b"text"
    assert len(sealed) == 20
    assert once(plain, ENCRYPT, b"more" + b"text", None, 4) != sealed
    nonced = opened(Type.AEAD, "rfc5297(siv(aes))", key)
    assert once(nonced, ENCRYPT, b"text", bytes(16)) != sealed
    for name, size in (("shake128", 32), ("shake256", 64)):
        digest = getattr(hashlib, f"shake_{name[5:]}")(b"text").digest(size)
        assert once(opened(Type.HASH, name), DIGEST, b"text") == digest
    assert ENGINE.describe(Type.AEAD, "kw(aes)") is None
