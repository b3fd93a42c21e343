"""The algorithms by their kernel names: sizes of blocks, IVs, keys, digests and tags, in bytes.

Some are here for the kernel's engine alone, which would else have to guess: no library has them.

Sources: the standards that name them, and the kernel's crypto/ directory for what only the kernel defines (the IV
layouts of ccm and the rfc… templates, the key blob of authenc). A guest test compares it with /proc/crypto.
"""

import functools
from collections.abc import Iterator

from .facts import Facts, complete
from .names import ANY_KEY, NO_KEY, KeySizes, Levels, Type
from .public import KEY_SIZES, PUBLIC_NAMES

# By name: block size, digest size.
_DIGESTS = {
    "md5": (64, 16),
    "sha1": (64, 20),
    "sha224": (64, 28),
    "sha256": (64, 32),
    "sha384": (128, 48),
    "sha512": (128, 64),
    "sha512-224": (128, 28),
    "sha512-256": (128, 32),
    "sha3-224": (144, 28),
    "sha3-256": (136, 32),
    "sha3-384": (104, 48),
    "sha3-512": (72, 64),
    "blake2b-160": (128, 20),
    "blake2b-256": (128, 32),
    "blake2b-384": (128, 48),
    "blake2b-512": (128, 64),
    "blake2s-128": (64, 16),
    "blake2s-160": (64, 20),
    "blake2s-224": (64, 28),
    "blake2s-256": (64, 32),
    "sm3": (64, 32),
    "rmd160": (64, 20),
    "md4": (64, 16),
    "streebog256": (64, 32),
    "streebog512": (64, 64),
    "wp256": (64, 32),
    "wp384": (64, 48),
    "wp512": (64, 64),
}
# By the family of a digest that takes a key itself: its largest one.
_KEYED_DIGESTS = {"blake2b": 64, "blake2s": 32}

# By name: block size, key sizes.
_BLOCK_CIPHERS = {
    "aes": (16, KeySizes((16, 24, 32))),
    "camellia": (16, KeySizes((16, 24, 32))),
    "sm4": (16, KeySizes((16,))),
    "des3_ede": (8, KeySizes((24,))),
    "des": (8, KeySizes((8,))),
    "blowfish": (8, KeySizes(smallest=4, largest=56)),
    "cast5": (8, KeySizes(smallest=5, largest=16)),
    "seed": (16, KeySizes((16,))),
}
# By name: levels; the default is the kernel's.
_COMPRESSIONS = {
    "deflate": Levels(1, 9, 6),
    "zlib-deflate": Levels(1, 9, 3),
    "lzo": None,
    "lz4": None,
    "lz4hc": Levels(3, 12, 9),
    "zstd": Levels(1, 19, 3),
}
_AES = KeySizes((16, 24, 32))
_AUTHENC_DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
# By name: block size, IV size, smallest key of the cipher.
_AUTHENC_CIPHERS = {
    "cbc(aes)": (16, 16, 16),
    "cbc(camellia)": (16, 16, 16),
    "cbc(des)": (8, 8, 8),
    "cbc(des3_ede)": (8, 8, 24),
    "cts(cbc(aes))": (16, 16, 16),
    "ctr(aes)": (1, 16, 16),
    "ecb(cipher_null)": (1, 0, 0),
    "rfc3686(ctr(aes))": (1, 8, 20),
}
_GCM_TAGS = (4, 8, 12, 13, 14, 15, 16)
_CCM_TAGS = (4, 6, 8, 10, 12, 14, 16)
_ESP_TAGS = (8, 12, 16)

# Names that neither belong to a template over the tables above nor are one of many.
_SINGLES: dict[tuple[Type, str], Facts] = {
    (Type.HASH, "cmac(des3_ede)"): Facts(8, key_sizes=KeySizes((24,)), digest_size=8),
    # Twice the strength, so that collisions take as long as preimages: a digest has one size here.
    (Type.HASH, "shake128"): Facts(168, digest_size=32),
    (Type.HASH, "shake256"): Facts(136, digest_size=64),
    (Type.HASH, "vmac64(aes)"): Facts(16, key_sizes=KeySizes((16,)), digest_size=8),
    (Type.HASH, "ghash"): Facts(16, key_sizes=KeySizes((16,)), digest_size=16),
    # Its key is the beginning of the message.
    (Type.HASH, "poly1305"): Facts(16, digest_size=16),
    (Type.HASH, "michael_mic"): Facts(8, key_sizes=KeySizes((8,)), digest_size=8),
    (Type.HASH, "xxhash64"): Facts(32, key_sizes=KeySizes((8,), required=False), digest_size=8),
    # The kernel wants a key, and does not look at it.
    (Type.HASH, "digest_null"): Facts(key_sizes=ANY_KEY),
    (Type.HASH, "crct10dif"): Facts(digest_size=2),
    (Type.HASH, "crc64-rocksoft"): Facts(digest_size=8),
    (Type.SKCIPHER, "xts(aes)"): Facts(16, 16, KeySizes((32, 64))),
    (Type.SKCIPHER, "xts(camellia)"): Facts(16, 16, KeySizes((32, 48, 64))),
    (Type.SKCIPHER, "chacha20"): Facts(1, 16, KeySizes((32,))),
    (Type.SKCIPHER, "xchacha20"): Facts(1, 32, KeySizes((32,))),
    (Type.SKCIPHER, "xchacha12"): Facts(1, 32, KeySizes((32,))),
    (Type.SKCIPHER, "adiantum(xchacha12,aes)"): Facts(16, 32, KeySizes((32,))),
    (Type.SKCIPHER, "adiantum(xchacha20,aes)"): Facts(16, 32, KeySizes((32,))),
    (Type.SKCIPHER, "ecb(cipher_null)"): Facts(),
    (Type.SKCIPHER, "xctr(aes)"): Facts(1, 16, _AES),
    (Type.SKCIPHER, "lrw(aes)"): Facts(16, 16, KeySizes((32, 40, 48))),
    (Type.SKCIPHER, "pcbc(aes)"): Facts(16, 16, _AES),
    (Type.SKCIPHER, "kw(aes)"): Facts(8, 8, _AES),
    (Type.AEAD, "gcm-siv(aes)"): Facts(1, 12, _AES, authsizes=(16,)),
    (Type.AEAD, "siv(aes)"): Facts(1, 0, KeySizes((32, 48, 64)), authsizes=(16,)),
    (Type.AEAD, "rfc5297(siv(aes))"): Facts(1, 16, KeySizes((32, 48, 64)), authsizes=(16,)),
    (Type.AEAD, "rfc3394(kw(aes))"): Facts(8, 0, _AES, authsizes=(8,)),
    (Type.AEAD, "kwp(aes)"): Facts(1, 0, _AES, authsizes=(8,)),
    (Type.AEAD, "rfc7539(xchacha20,poly1305)"): Facts(1, 24, KeySizes((32,)), authsizes=(16,)),
    (Type.AEAD, "aegis128"): Facts(1, 16, KeySizes((16,)), authsizes=tuple(range(8, 17))),
    (Type.AEAD, "rfc7539(chacha20,poly1305)"): Facts(1, 12, KeySizes((32,)), authsizes=(16,)),
    (Type.AEAD, "rfc7539esp(chacha20,poly1305)"): Facts(1, 8, KeySizes((36,)), authsizes=(16,)),
}
# What ciphers with blocks of 16 bytes have in common. CCM of SM4 is in no library and no kernel here.
for _cipher in ("aes", "camellia", "sm4"):
    _keys = _BLOCK_CIPHERS[_cipher][1]
    _salted, _shortly_salted = (KeySizes(tuple(size + salt for size in _keys.listed)) for salt in (4, 3))
    _SINGLES |= {
        (Type.HASH, f"cmac({_cipher})"): Facts(16, key_sizes=_keys, digest_size=16),
        (Type.HASH, f"cbcmac({_cipher})"): Facts(16, key_sizes=_keys, digest_size=16),
        # RFC 3566 has keys of 16 bytes alone; nothing bounds those of the kernel's template over another cipher.
        (Type.HASH, f"xcbc({_cipher})"): Facts(
            16, key_sizes=KeySizes((16,)) if _cipher == "aes" else _keys, digest_size=16
        ),
        (Type.SKCIPHER, f"cts(cbc({_cipher}))"): Facts(16, 16, _keys),
        (Type.SKCIPHER, f"rfc3686(ctr({_cipher}))"): Facts(1, 8, _salted),
        (Type.AEAD, f"gcm({_cipher})"): Facts(1, 12, _keys, authsizes=_GCM_TAGS),
        (Type.AEAD, f"rfc4106(gcm({_cipher}))"): Facts(1, 8, _salted, authsizes=_ESP_TAGS),
        (Type.AEAD, f"rfc4543(gcm({_cipher}))"): Facts(1, 8, _salted, authsizes=(16,)),
    }
    if _cipher != "sm4":
        _SINGLES |= {
            # The digest of 32 bytes is a key, which SM4 does not take.
            (Type.SKCIPHER, f"essiv(cbc({_cipher}),sha256)"): Facts(16, 16, _keys),
            (Type.AEAD, f"ccm({_cipher})"): Facts(1, 16, _keys, authsizes=_CCM_TAGS),
            (Type.AEAD, f"rfc4309(ccm({_cipher}))"): Facts(1, 8, _shortly_salted, authsizes=_ESP_TAGS),
        }


def _entries() -> Iterator[tuple[Type, str, Facts]]:
    for digest, (block_size, digest_size) in _DIGESTS.items():
        largest = _KEYED_DIGESTS.get(digest.partition("-")[0], 0)
        keys = KeySizes(smallest=1, largest=largest, required=False) if largest else NO_KEY
        yield Type.HASH, digest, Facts(block_size, key_sizes=keys, digest_size=digest_size)
        yield Type.HASH, f"hmac({digest})", Facts(block_size, key_sizes=ANY_KEY, digest_size=digest_size)
    for checksum in ("crc32", "crc32c"):
        yield Type.HASH, checksum, Facts(key_sizes=KeySizes((4,), required=False), digest_size=4)
    for cipher, (block_size, keys) in _BLOCK_CIPHERS.items():
        yield Type.SKCIPHER, f"ecb({cipher})", Facts(block_size, 0, keys)
        yield Type.SKCIPHER, f"cbc({cipher})", Facts(block_size, block_size, keys)
        for mode in ("ctr", "ofb", "cfb"):
            yield Type.SKCIPHER, f"{mode}({cipher})", Facts(1, block_size, keys)
    for (type_, name), facts in _SINGLES.items():
        yield type_, name, facts
    for cipher, (block_size, iv_size, smallest) in _AUTHENC_CIPHERS.items():
        # The blob: an attribute of 8 bytes with the cipher key's size, the HMAC key (may be empty), the cipher key.
        keys = KeySizes(smallest=8 + smallest, largest=8192)
        for digest in _AUTHENC_DIGESTS:
            tags = tuple(range(1, _DIGESTS[digest][1] + 1))
            yield Type.AEAD, f"authenc(hmac({digest}),{cipher})", Facts(block_size, iv_size, keys, authsizes=tags)
    yield Type.RNG, "stdrng", Facts(key_sizes=KeySizes(smallest=0, largest=8192, required=False))
    for name, levels in _COMPRESSIONS.items():
        yield Type.COMPRESSION, name, Facts(levels=levels)
    for type_, listed in PUBLIC_NAMES.items():
        for name in listed:
            yield type_, name, Facts(key_sizes=KEY_SIZES)


@functools.cache
def _table() -> dict[tuple[Type, str], Facts]:
    # Made when it is first needed: most clients never look anything up.
    return {(type_, name): facts for type_, name, facts in _entries()}


def look_up(type_: Type, name: str) -> Facts | None:
    """The facts of an algorithm by its generic name, or None for one that is not in the catalogue."""
    facts = _table().get((type_, name))
    return None if facts is None else complete(type_, name, facts)


def names() -> Iterator[tuple[Type, str]]:
    """Every name of the catalogue, with its type."""
    return iter(_table())


def standard_names() -> frozenset[tuple[Type, str]]:
    """The profile `standard`: every name of the catalogue that is not weak."""
    found = ((each, look_up(*each)) for each in names())
    return frozenset(each for each, facts in found if facts is not None and not facts.weak)
