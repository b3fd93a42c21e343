"""The OpenSSL engine against independent oracles, in parts, at its bounds and from two threads."""

import hashlib
import hmac
import os
import subprocess
import threading
import zlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, ChaCha20
from helpers.openssl_bench import ENGINE, KEY, SLACK, assoclen_for, cut, key_for, once, opened, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from names.reasons import NO_LIBRARY

from cryptofs.algorithms import Type, driver_name, look_up, names
from cryptofs.algorithms.public import PUBLIC_NAMES
from cryptofs.engines.base import Transform
from cryptofs.engines.openssl.authenc import pack_keys
from cryptofs.errors import BadTag, CryptofsError, InvalidValue, KeyMissing, NotSupported, Overflow, TooLarge
from cryptofs.records import PAYLOAD_MAX, Operation

DIGEST, ENCRYPT, DECRYPT = Operation.DIGEST, Operation.ENCRYPT, Operation.DECRYPT
LACKING = set(NO_LIBRARY)
# the public key types have tests of their own
NOT_HERE = {Type.COMPRESSION, *PUBLIC_NAMES}
OFFERED = [(type_, name) for type_, name in names() if name not in LACKING and type_ not in NOT_HERE]
KEYED_CIPHERS = [
    (type_, name) for type_, name in OFFERED if type_ in (Type.SKCIPHER, Type.AEAD) and name != "ecb(cipher_null)"
]
IV = bytes(range(1, 17))
LONG_IV = bytes(range(1, 33))


def iv_for(transform: Transform) -> bytes | None:
    return LONG_IV[: transform.description.iv_size] or None


def operations(type_: Type) -> list[Operation]:
    return [DIGEST] if type_ is Type.HASH else [ENCRYPT, DECRYPT]


# What is offered


def test_offers_the_catalogue_but_what_openssl_lacks() -> None:
    missing = {name for type_, name in ENGINE.names() if ENGINE.describe(type_, name) is None}
    assert missing == LACKING


def test_unknown_names_are_not_offered() -> None:
    for name in ("cbc(serpent)", "cbc(", "sha256(aes)", ""):
        assert ENGINE.describe(Type.SKCIPHER, name) is None
    assert ENGINE.describe(Type.HASH, "cbc(aes)") is None


@pytest.mark.parametrize(("type_", "name"), OFFERED)
def test_driver_names_lead_to_the_same_description(type_: Type, name: str) -> None:
    description = ENGINE.describe(type_, name)
    assert description is not None
    assert description.driver == driver_name(name, "openssl")
    assert ENGINE.describe(type_, driver_name(name, "openssl")) == description


# Oracles

NO_HASHLIB = ("crc", "cmac", "cbcmac", "xcbc", "poly1305", "shake", "digest_null")
BLAKE2 = {"blake2b": hashlib.blake2b, "blake2s": hashlib.blake2s}


@pytest.mark.parametrize(
    "name", [n for t, n in OFFERED if t is Type.HASH and not any(other in n for other in NO_HASHLIB)]
)
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 1000, 100_000])
def test_digests_are_hashlibs(name: str, size: int) -> None:
    data = os.urandom(size)
    plain = name.removeprefix("hmac(").removesuffix(")")

    def new(message: bytes = b"", key: bytes = b"") -> "hashlib._Hash":
        if plain[:7] in BLAKE2:
            return BLAKE2[plain[:7]](message, digest_size=int(plain[8:]) // 8, key=key)
        return hashlib.new("ripemd160" if plain == "rmd160" else plain.replace("-", "_"), message)

    if name.startswith("hmac("):
        for key in (b"", b"k", os.urandom(64), os.urandom(200), os.urandom(8192)):
            block = new().block_size if plain[:7] in BLAKE2 else None
            if block is None:
                expected = hmac.new(key, data, new).digest()
            else:
                padded = (new(key).digest() if len(key) > block else key).ljust(block, b"\0")
                inner = new(bytes(b ^ 0x36 for b in padded) + data).digest()
                expected = new(bytes(b ^ 0x5C for b in padded) + inner).digest()
            assert once(opened(Type.HASH, name, key), DIGEST, data) == expected
        return
    description = ENGINE.describe(Type.HASH, name)
    unkeyed = ENGINE.open(description, None)
    assert once(unkeyed, DIGEST, data) == new(data).digest()
    if plain[:7] in BLAKE2:
        unkeyed.set_key(b"key")
        assert once(unkeyed, DIGEST, data) == new(data, b"key").digest()


def bitwise_crc(polynomial: int, register: int, data: bytes) -> int:
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (polynomial if register & 1 else 0)
    return register


@given(data=st.binary(max_size=50), key=st.none() | st.binary(min_size=4, max_size=4))
def test_checksums_are_the_kernels(data: bytes, key: bytes | None) -> None:
    for name, polynomial, start, inversion in (("crc32", 0xEDB88320, 0, 0), ("crc32c", 0x82F63B78, ~0, ~0)):
        transform = ENGINE.open(ENGINE.describe(Type.HASH, name), None)
        if key is not None:
            transform.set_key(key)
        register = start if key is None else int.from_bytes(key, "little")
        register = bitwise_crc(polynomial, register & 0xFFFFFFFF, data) ^ (inversion & 0xFFFFFFFF)
        assert once(transform, DIGEST, data) == register.to_bytes(4, "little")


def test_checksums_known() -> None:
    # zlib's and the kernel's crc32 differ by both inversions; 0xe3069283 is crc32c's check value
    crc = opened(Type.HASH, "crc32", b"\xff\xff\xff\xff")
    assert once(crc, DIGEST, b"123456789") == (zlib.crc32(b"123456789") ^ 0xFFFFFFFF).to_bytes(4, "little")
    crc32c = ENGINE.open(ENGINE.describe(Type.HASH, "crc32c"), None)
    assert once(crc32c, DIGEST, b"123456789") == 0xE3069283.to_bytes(4, "little")


@pytest.mark.parametrize("mode", ["cbc", "ctr", "ofb", "cfb"])
@pytest.mark.parametrize("size", [0, 16, 32, 1024, 100_000])
def test_ciphers_are_the_openssl_commands(mode: str, size: int) -> None:
    data, key = os.urandom(size), os.urandom(32)
    command = ["openssl", "enc", f"-aes-256-{mode}", "-K", key.hex(), "-iv", IV.hex(), "-nopad"]
    expected = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
    transform = opened(Type.SKCIPHER, f"{mode}(aes)", key)
    for _ in range(3):  # kept contexts must not remember the message before
        assert once(transform, ENCRYPT, data, IV) == expected
        assert once(transform, DECRYPT, expected, IV) == data


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.booleans(), st.binary(min_size=16, max_size=16), st.integers(min_value=0, max_value=70)),
        max_size=12,
    )
)
def test_kept_cbc_contexts_are_as_new_ones(messages: list[tuple[bool, bytes, int]]) -> None:
    transform = opened(Type.SKCIPHER, "cbc(aes)", KEY[:16])
    for encrypt, iv, blocks in messages:
        data = os.urandom(16 * blocks)
        cipher = Cipher(AES(KEY[:16]), modes.CBC(iv))
        fresh = cipher.encryptor() if encrypt else cipher.decryptor()
        assert once(transform, ENCRYPT if encrypt else DECRYPT, data, iv) == fresh.update(data)


@pytest.mark.parametrize("size", range(16, 81))
def test_cts_is_cs3(size: int) -> None:
    # RFC 3962 defines it by CBC of the padded text, whose last two blocks change places
    data = os.urandom(size)
    padded = data + bytes(-size % 16)
    chained = Cipher(AES(KEY[:32]), modes.CBC(IV)).encryptor().update(padded)
    expected = (chained[:-32] + chained[-16:] + chained[-32:-16])[:size] if size > 16 else chained
    transform = opened(Type.SKCIPHER, "cts(cbc(aes))", KEY[:32])
    assert once(transform, ENCRYPT, data, IV) == expected
    assert once(transform, DECRYPT, expected, IV) == data


def test_cts_rfc_3962() -> None:
    transform = opened(Type.SKCIPHER, "cts(cbc(aes))", b"chicken teriyaki")
    text = b"I would like the General Gau's Chicken, please,"
    expected = "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5"
    assert once(transform, ENCRYPT, text, bytes(16)).hex() == expected


@pytest.mark.parametrize("left", [1, 2, 3])
def test_chacha20_counter_wraps_without_touching_the_nonce(left: int) -> None:
    nonce = bytes(range(12))
    iv = (0x1_0000_0000 - left).to_bytes(4, "little") + nonce

    def block(counter: int) -> bytes:
        iv = (counter & 0xFFFFFFFF).to_bytes(4, "little") + nonce
        return Cipher(ChaCha20(KEY[:32], iv), None).encryptor().update(bytes(64))

    expected = b"".join(block(0x1_0000_0000 - left + number) for number in range(6))[:350]
    transform = opened(Type.SKCIPHER, "chacha20", KEY[:32])
    for size in (64 * left - 1, 64 * left, 64 * left + 1, 350):
        assert once(transform, ENCRYPT, bytes(size), iv) == expected[:size]
    for step in (1, 64, 100, 192):
        assert parts(transform, DECRYPT, cut(bytes(350), list(range(0, 350, step))), iv) == expected


@pytest.mark.parametrize("size", [0, 1, 16, 1000, 100_000])
@pytest.mark.parametrize("assoclen", [0, 1, 20])
def test_gcm_chacha_and_ccm_are_pycas(size: int, assoclen: int) -> None:
    text, assoc, key = os.urandom(size), os.urandom(assoclen), os.urandom(32)
    for name, iv, box, authsize in (
        ("gcm(aes)", IV[:12], AESGCM(key), 16),
        ("gcm(aes)", IV[:12], AESGCM(key), 13),
        ("gcm(aes)", IV[:12], AESGCM(key), 4),
        ("rfc7539(chacha20,poly1305)", IV[:12], ChaCha20Poly1305(key), 16),
        ("ccm(aes)", b"\x03" + IV[:11] + bytes(4), AESCCM(key, 8), 8),
    ):
        nonce = iv[1:12] if name == "ccm(aes)" else iv
        expected = box.encrypt(nonce, text, assoc)
        expected = expected[: size + authsize]
        transform = opened(Type.AEAD, name, key, authsize)
        assert once(transform, ENCRYPT, assoc + text, iv, assoclen) == expected
        assert once(transform, DECRYPT, assoc + expected, iv, assoclen) == text


@pytest.mark.parametrize("assoclen", [16, 20])
def test_ipsec_forms(assoclen: int) -> None:
    text, assoc = os.urandom(100), os.urandom(assoclen)
    key, iv = os.urandom(16), os.urandom(8)
    short = assoc[:-8]
    salt4, salt3 = os.urandom(4), os.urandom(3)
    gmac = AESGCM(key).encrypt(salt4 + iv, b"", assoc + text)
    for name, salt, expected in (
        ("rfc4106(gcm(aes))", salt4, AESGCM(key).encrypt(salt4 + iv, text, short)),
        ("rfc4309(ccm(aes))", salt3, AESCCM(key).encrypt(salt3 + iv, text, short)),
        ("rfc4543(gcm(aes))", salt4, text + gmac),
    ):
        transform = opened(Type.AEAD, name, key + salt)
        assert once(transform, ENCRYPT, assoc + text, iv, assoclen) == expected
        assert once(transform, DECRYPT, assoc + expected, iv, assoclen) == text
        other = assoc[:-8] + bytes(8)  # the copy of the IV
        if name.startswith("rfc4543"):
            with pytest.raises(BadTag):
                once(transform, DECRYPT, other + expected, iv, assoclen)
        else:
            assert once(transform, DECRYPT, other + expected, iv, assoclen) == text


@pytest.mark.parametrize("digest", ["sha1", "sha224", "sha256", "sha384", "sha512"])
def test_authenc_is_cbc_then_hmac(digest: str) -> None:
    text, assoc, mac_key, key = os.urandom(64), os.urandom(5), os.urandom(20), os.urandom(24)
    ciphertext = Cipher(AES(key), modes.CBC(IV)).encryptor().update(text)
    tag = hmac.new(mac_key, assoc + ciphertext, digest).digest()
    for authsize in (len(tag), 12, 1):
        name = f"authenc(hmac({digest}),cbc(aes))"
        transform = opened(Type.AEAD, name, bytes(pack_keys(mac_key, key)), authsize)
        expected = ciphertext + tag[:authsize]
        assert once(transform, ENCRYPT, assoc + text, IV, 5) == expected
        assert once(transform, DECRYPT, assoc + expected, IV, 5) == text


def test_rng_fills_all_and_differs() -> None:
    transform = opened(Type.RNG, "stdrng", b"seed")
    first, second = memoryview(bytearray(1000)), memoryview(bytearray(1000))
    assert transform.once(Operation.GENERATE, None, 0, b"", first) == 1000
    assert transform.once(Operation.GENERATE, None, 0, b"", second) == 1000
    assert first != second
    assert len(set(first)) > 100
    with pytest.raises(InvalidValue):
        transform.set_key(bytes(8193))
    with pytest.raises(InvalidValue):
        transform.once(Operation.GENERATE, None, 0, b"x", first)


# Parts


@settings(max_examples=8)
@given(
    blocks=st.integers(min_value=1, max_value=20), cuts=st.lists(st.integers(min_value=0, max_value=330), max_size=6)
)
@pytest.mark.parametrize(("type_", "name"), [offer for offer in OFFERED if offer[0] is not Type.RNG])
def test_every_split_gives_the_whole(type_: Type, name: str, blocks: int, cuts: list[int]) -> None:
    transform = opened(type_, name)
    ragged = type_ is Type.HASH or transform.description.block_size == 1
    # of poly1305 the first 32 bytes are the key
    data = os.urandom(16 * blocks + (5 if ragged else 0) + 32 * (name == "poly1305"))
    assoclen = assoclen_for(type_, name)
    data = bytes(assoclen) + data
    iv = iv_for(transform)
    expected = once(transform, operations(type_)[0], data, iv, assoclen)
    assert parts(transform, operations(type_)[0], cut(data, cuts), iv, assoclen) == expected
    assert parts(transform, operations(type_)[0], [*cut(data, cuts), b""], iv, assoclen) == expected
    # what kw(aes) gives cannot be turned back: the check value is not in it
    if type_ is not Type.HASH and name != "kw(aes)":
        sealed = bytes(assoclen) + expected
        assert parts(transform, DECRYPT, cut(sealed, cuts), iv, assoclen) == data[assoclen:]


@pytest.mark.parametrize("name", [name for type_, name in OFFERED if type_ is Type.HASH and name != "poly1305"])
def test_clones_go_their_own_ways(name: str) -> None:
    transform = opened(Type.HASH, name)
    message = transform.start(DIGEST, None, 0)
    out = memoryview(bytearray(64 + SLACK))
    message.update(b"one", False, out)
    clone = message.clone()
    message.update(b"two", False, out)
    assert out[: clone.update(b"three", True, out)] == once(transform, DIGEST, b"onethree")
    assert out[: message.update(b"", True, out)] == once(transform, DIGEST, b"onetwo")


def test_cipher_messages_have_no_clones() -> None:
    with pytest.raises(NotSupported):
        opened(Type.SKCIPHER, "ctr(aes)").start(ENCRYPT, IV, 0).clone()


def test_a_message_given_up_leaves_no_trace() -> None:
    for name in ("ecb(aes)", "cbc(aes)", "ctr(aes)", "chacha20"):
        transform = opened(Type.SKCIPHER, name)
        iv = iv_for(transform)
        expected = once(transform, ENCRYPT, bytes(64), iv)
        message = transform.start(ENCRYPT, iv, 0)
        message.update(bytes(23), False, memoryview(bytearray(64)))
        message.close()
        assert once(transform, ENCRYPT, bytes(64), iv) == expected


def test_two_open_messages_do_not_mix() -> None:
    for name in ("ecb(aes)", "cbc(aes)", "ctr(aes)", "chacha20", "ofb(aes)"):
        transform = opened(Type.SKCIPHER, name)
        iv = iv_for(transform)
        data = os.urandom(128)
        expected = once(transform, ENCRYPT, data, iv)
        messages = [transform.start(ENCRYPT, iv, 0) for _ in range(2)]
        outputs = [b"", b""]
        for half in (data[:64], data[64:]):
            for number, message in enumerate(messages):
                out = memoryview(bytearray(200))
                outputs[number] += out[: message.update(half, False, out)]
                assert once(transform, ENCRYPT, data, iv) == expected
        assert outputs == [expected, expected]
        for message in messages:
            message.close()


# Bounds


def refused(error: type[CryptofsError], words: str, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(error) as caught:
        call(*arguments)
    assert words in caught.value.message
    assert caught.value.errno == error.errno


@pytest.mark.parametrize(("type_", "name"), OFFERED)
def test_wrong_key_sizes_name_the_right_ones(type_: Type, name: str) -> None:
    transform = opened(type_, name)
    sizes = transform.description.key_sizes
    for size in (0, 1, 15, 17, 33, 65, 8193):
        if sizes.admits(size) and sizes.takes_key and "authenc(" not in name:
            continue
        with pytest.raises(InvalidValue) as caught:
            transform.set_key(b"Q" * size)
        assert f"key of {size} bytes" in caught.value.message
        assert "QQ" not in str(caught.value)


def test_a_refused_key_changes_nothing() -> None:
    transform = opened(Type.SKCIPHER, "xts(aes)", KEY[:32])
    before = once(transform, ENCRYPT, bytes(32), IV)
    refused(InvalidValue, "xts(aes) takes 32 64 bytes", transform.set_key, bytes(31))
    refused(InvalidValue, "equal halves", transform.set_key, bytes(64))
    assert once(transform, ENCRYPT, bytes(32), IV) == before


@pytest.mark.parametrize(
    "blob",
    [
        bytes(24),
        pack_keys(b"", bytes(15)) + b"1",
        pack_keys(b"", bytes(32))[:-1],
        b"\x0c\0" + pack_keys(b"", bytes(32))[2:],
        b"\x08\0\x02\0" + pack_keys(b"", bytes(32))[4:],
    ],
)
def test_bad_authenc_blobs(blob: bytes) -> None:
    transform = opened(Type.AEAD, "authenc(hmac(sha1),cbc(aes))")
    refused(InvalidValue, f"key of {len(blob)} bytes", transform.set_key, blob)


def test_authenc_takes_an_empty_hmac_key() -> None:
    transform = opened(Type.AEAD, "authenc(hmac(sha1),cbc(aes))", bytes(pack_keys(b"", KEY[:16])))
    sealed = once(transform, ENCRYPT, bytes(32), IV, 0)
    assert sealed[32:] == hmac.new(b"", sealed[:32], "sha1").digest()


@pytest.mark.parametrize(("type_", "name"), KEYED_CIPHERS)
def test_wrong_ivs_operations_and_lack_of_a_key(type_: Type, name: str) -> None:
    transform = opened(type_, name)
    size = transform.description.iv_size
    message = bytes(64)
    with pytest.raises(InvalidValue) as caught:
        once(transform, ENCRYPT, message, bytes(size + 1))
    assert f"iv of {size + 1} bytes: {name} takes {size or 'no'} bytes" in caught.value.message
    if size:
        refused(InvalidValue, "no iv", once, transform, ENCRYPT, message)
    refused(NotSupported, "digest", once, transform, DIGEST, message, iv_for(transform))
    unkeyed = ENGINE.open(ENGINE.describe(type_, name), None)
    refused(KeyMissing, "no key yet", once, unkeyed, ENCRYPT, message, iv_for(unkeyed))
    if type_ is Type.SKCIPHER:
        refused(InvalidValue, "no associated data", once, transform, ENCRYPT, message, iv_for(transform), 1)
    transform.close()
    transform.close()
    refused(KeyMissing, "no key yet", once, transform, ENCRYPT, message, iv_for(transform))


def test_lengths_of_messages() -> None:
    for name in ("cbc(aes)", "ecb(aes)"):
        transform = opened(Type.SKCIPHER, name)
        iv = iv_for(transform)
        refused(InvalidValue, "message of 17 bytes: a multiple of 16", once, transform, ENCRYPT, bytes(17), iv)
        refused(InvalidValue, "message of 17 bytes", parts, transform, ENCRYPT, [bytes(3), bytes(14)], iv)
        assert once(transform, ENCRYPT, b"", iv) == b""
    for name in ("xts(aes)", "cts(cbc(aes))"):
        transform = opened(Type.SKCIPHER, name)
        for size in (0, 1, 15):
            refused(InvalidValue, f"message of {size} bytes: at least 16", once, transform, ENCRYPT, bytes(size), IV)
        refused(InvalidValue, "message of 15 bytes", parts, transform, DECRYPT, [bytes(7), bytes(8)], IV)
        refused(TooLarge, f"{PAYLOAD_MAX}", parts, transform, ENCRYPT, [bytes(PAYLOAD_MAX), bytes(1)], IV)
    for name in ("ctr(aes)", "ofb(aes)", "cfb(aes)", "chacha20"):
        assert once(opened(Type.SKCIPHER, name), DECRYPT, b"", IV) == b""
        assert parts(opened(Type.SKCIPHER, name), DECRYPT, [b""], IV) == b""


def test_authenc_lengths_after_the_tag() -> None:
    transform = opened(Type.AEAD, "authenc(hmac(sha256),cbc(aes))", bytes(pack_keys(b"k", KEY[:16])))
    refused(InvalidValue, "text of 17 bytes: a multiple of 16", once, transform, ENCRYPT, bytes(17), IV)
    refused(BadTag, "tag of 32 bytes", once, transform, DECRYPT, bytes(17 + 32), IV)
    right = bytes(17) + hmac.new(b"k", bytes(17), "sha256").digest()
    refused(InvalidValue, "text of 17 bytes", once, transform, DECRYPT, right, IV)


def test_bounds_of_aeads() -> None:
    ccm = opened(Type.AEAD, "ccm(aes)")
    for first in (0, 8, 255):
        refused(InvalidValue, f"first byte {first}", once, ccm, ENCRYPT, b"", bytes([first]) + bytes(15))
    two = b"\1" + bytes(15)
    assert len(once(ccm, ENCRYPT, bytes(65535), two)) == 65551
    refused(Overflow, "message of 65536 bytes: at most 65535", once, ccm, ENCRYPT, bytes(65536), two)
    refused(Overflow, "message of 65536 bytes", once, ccm, DECRYPT, bytes(65552), two)
    for name in ("rfc4106(gcm(aes))", "rfc4309(ccm(aes))", "rfc4543(gcm(aes))"):
        transform = opened(Type.AEAD, name)
        for assoclen in (0, 8, 12, 17, 24):
            refused(InvalidValue, f"assoclen {assoclen}", once, transform, ENCRYPT, bytes(64), IV[:8], assoclen)
    gcm = opened(Type.AEAD, "gcm(aes)")
    refused(InvalidValue, "assoclen 5: the message has 4 bytes", once, gcm, ENCRYPT, bytes(4), IV[:12], 5)
    refused(InvalidValue, "message of 20 bytes: at least", once, gcm, DECRYPT, bytes(20), IV[:12], 5)


@pytest.mark.parametrize("name", [name for type_, name in OFFERED if type_ is Type.AEAD])
def test_tag_sizes(name: str) -> None:
    description = ENGINE.describe(Type.AEAD, name)
    assert ENGINE.open(description, None).authsize == description.max_authsize
    sizes = look_up(Type.AEAD, name).authsizes
    for authsize in range(80):
        if authsize in sizes:
            assert ENGINE.open(description, authsize).authsize == authsize
        else:
            refused(InvalidValue, f"authsize {authsize}: {name} takes {sizes[0]}", ENGINE.open, description, authsize)


def test_tags_only_for_aeads() -> None:
    description = ENGINE.describe(Type.SKCIPHER, "cbc(aes)")
    refused(InvalidValue, "takes no tag", ENGINE.open, description, 16)
    assert ENGINE.open(description, 0).authsize == 0


@pytest.mark.parametrize("name", [name for type_, name in OFFERED if type_ is Type.AEAD])
def test_forged_messages_give_nothing_out(name: str) -> None:
    for authsize in {look_up(Type.AEAD, name).authsizes[0], look_up(Type.AEAD, name).authsizes[-1]}:
        transform = opened(Type.AEAD, name, authsize=max(authsize, 4))
        iv = iv_for(transform)
        text = b"attack at dawn! " * 4
        assoclen = assoclen_for(Type.AEAD, name)
        assoc = bytes(assoclen)
        sealed = assoc + once(transform, ENCRYPT, assoc + text, iv, assoclen)
        # the IV's place in associated data is not looked at
        for at in (16 if "essiv" in name else 0, 16, len(sealed) - 1):
            forged = bytearray(sealed)
            forged[at] ^= 1
            out = memoryview(bytearray(len(forged) + SLACK))
            with pytest.raises(BadTag) as caught:
                transform.once(DECRYPT, iv, assoclen, memoryview(forged), out)
            assert caught.value.symbol == "EBADMSG"
            assert bytes(out) == bytes(len(out))
        assert once(transform, DECRYPT, sealed, iv, assoclen) == text  # and the transform is as good as before


# Threads


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (Type.HASH, "sha256"),
        (Type.HASH, "hmac(sha256)"),
        (Type.HASH, "cmac(aes)"),
        (Type.SKCIPHER, "cbc(aes)"),
        (Type.SKCIPHER, "ctr(aes)"),
        (Type.SKCIPHER, "ecb(aes)"),
        (Type.SKCIPHER, "xts(aes)"),
        (Type.SKCIPHER, "chacha20"),
        (Type.AEAD, "gcm(aes)"),
        (Type.AEAD, "authenc(hmac(sha256),cbc(aes))"),
    ],
)
def test_two_threads_on_one_transform(type_: Type, name: str) -> None:
    transform = opened(type_, name)
    iv = iv_for(transform)
    operation = operations(type_)[0]
    # large ones let go of the GIL, small ones do not
    inputs = [os.urandom(size) for size in (16, 1024, 65536, 262144)]
    expected = [once(opened(type_, name), operation, data, iv) for data in inputs]
    wrong: list[str] = []

    def work(seed: int) -> None:
        for turn in range(60):
            number = (turn * 7 + seed) % len(inputs)
            if once(transform, operation, inputs[number], iv) != expected[number]:
                wrong.append(f"turn {turn}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Keys


def secrets_of(transform: Transform) -> list[bytearray]:
    return list(getattr(transform, "_parts", ()))


@pytest.mark.parametrize(("type_", "name"), KEYED_CIPHERS)
def test_keys_are_wiped(type_: Type, name: str) -> None:
    transform = opened(type_, name)
    first = secrets_of(transform)
    assert first
    assert any(any(secret) for secret in first)
    transform.set_key(key_for(type_, name))
    assert not any(any(secret) for secret in first)
    second = secrets_of(transform)
    transform.close()
    assert not any(any(secret) for secret in second)
    assert not hasattr(transform, "_core")


@pytest.mark.parametrize(("type_", "name"), OFFERED)
def test_no_key_in_a_repr(type_: Type, name: str) -> None:
    transform = opened(type_, name)
    key = key_for(type_, name)
    seen = [transform, transform.description, *vars(transform).values()]
    text = " ".join(f"{thing!r} {thing!s}" for thing in seen if not isinstance(thing, tuple))
    if key is not None:
        assert key.hex() not in text
        assert repr(key)[2:20] not in text
