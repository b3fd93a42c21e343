"""The published algorithms by their kernel names: sizes of blocks, IVs, keys, digests and tags, in bytes.

Sources: the standards that name them, and the kernel's crypto/ directory for what only the kernel defines (the IV
layouts of ccm and the rfc… templates, the key blob of authenc). A guest test compares it with /proc/crypto.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import InvalidValue
from .names import ANY_KEY, NO_KEY, KeySizes, Levels, Name, Type, chunk_size, parse_name
from .public import KEY_SIZES, PUBLIC_NAMES, is_public


@dataclass(frozen=True)
class Facts:
    """What the standards fix of one algorithm; fields as in `Description`."""

    block_size: int = 1
    chunk_size: int = 0
    iv_size: int = 0
    key_sizes: KeySizes = NO_KEY
    digest_size: int = 0
    authsizes: tuple[int, ...] = ()
    levels: Levels | None = None

    @property
    def max_authsize(self) -> int:
        return max(self.authsizes, default=0)


# name: (block size, digest size)
_DIGESTS = {
    "md5": (64, 16),
    "sha1": (64, 20),
    "sha224": (64, 28),
    "sha256": (64, 32),
    "sha384": (128, 48),
    "sha512": (128, 64),
    "sha3-224": (144, 28),
    "sha3-256": (136, 32),
    "sha3-384": (104, 48),
    "sha3-512": (72, 64),
    "blake2b-160": (128, 20),
    "blake2b-256": (128, 32),
    "blake2b-384": (128, 48),
    "blake2b-512": (128, 64),
    "sm3": (64, 32),
}
_CHECKSUMS = ("crc32", "crc32c")

# name: (block size, key sizes)
_BLOCK_CIPHERS = {
    "aes": (16, (16, 24, 32)),
    "camellia": (16, (16, 24, 32)),
    "sm4": (16, (16,)),
    "des3_ede": (8, (24,)),
}
_AES_KEYS = _BLOCK_CIPHERS["aes"][1]
# name: levels; the default is the one that the kernel compresses with
_COMPRESSIONS = {
    "deflate": Levels(1, 9, 6),
    "zlib-deflate": Levels(1, 9, 3),
    "lzo": None,
    "lz4": None,
    "lz4hc": Levels(3, 12, 9),
    "zstd": Levels(1, 19, 3),
}
_AUTHENC_DIGESTS = ("sha1", "sha224", "sha256", "sha384", "sha512")


def look_up(type_: Type, name: str) -> Facts | None:
    """The facts of an algorithm by its generic name, or None for one that is not in the catalogue."""
    try:
        parsed = parse_name(name)
    except InvalidValue:
        return None
    return _LOOK_UPS[type_](parsed)


def _hash(name: Name) -> Facts | None:
    match name:
        case Name(template, ()) if template in _DIGESTS:
            block_size, digest_size = _DIGESTS[template]
            keys = KeySizes(smallest=1, largest=64, required=False) if template.startswith("blake2b") else NO_KEY
            return Facts(block_size, key_sizes=keys, digest_size=digest_size)
        case Name(template, ()) if template in _CHECKSUMS:
            return Facts(key_sizes=KeySizes((4,), required=False), digest_size=4)
        case Name("hmac", (Name(inner, ()),)) if inner in _DIGESTS:
            block_size, digest_size = _DIGESTS[inner]
            return Facts(block_size, key_sizes=ANY_KEY, digest_size=digest_size)
        case Name("cmac", (Name("aes", ()),)):
            return Facts(16, key_sizes=KeySizes(_AES_KEYS), digest_size=16)
    return None


def _skcipher(name: Name) -> Facts | None:
    match name:
        case Name("chacha20", ()):
            return Facts(1, chunk_size(name, 1), 16, KeySizes((32,)))
        case Name("cts", (Name("cbc", (Name("aes", ()),)),)):
            return Facts(16, 0, 16, KeySizes(_AES_KEYS))
        case Name("xts", (Name("aes", ()),)):
            return Facts(16, 0, 16, KeySizes((32, 64)))
        case Name("ecb" | "cbc" | "ctr" | "ofb" | "cfb", (Name(cipher, ()),)) if cipher in _BLOCK_CIPHERS:
            block_size, keys = _BLOCK_CIPHERS[cipher]
            blocks = name.template in ("ecb", "cbc")
            return Facts(
                block_size if blocks else 1,
                chunk_size(name, block_size),
                0 if name.template == "ecb" else block_size,
                KeySizes(keys),
            )
    return None


def _aead(name: Name) -> Facts | None:
    match name:
        case Name("gcm", (Name("aes", ()),)):
            return Facts(1, 0, 12, KeySizes(_AES_KEYS), authsizes=(4, 8, 12, 13, 14, 15, 16))
        case Name("ccm", (Name("aes", ()),)):
            return Facts(1, 0, 16, KeySizes(_AES_KEYS), authsizes=(4, 6, 8, 10, 12, 14, 16))
        case Name("rfc4106", (Name("gcm", (Name("aes", ()),)),)):
            return Facts(1, 0, 8, KeySizes((20, 28, 36)), authsizes=(8, 12, 16))
        case Name("rfc4309", (Name("ccm", (Name("aes", ()),)),)):
            return Facts(1, 0, 8, KeySizes((19, 27, 35)), authsizes=(8, 12, 16))
        case Name("rfc4543", (Name("gcm", (Name("aes", ()),)),)):
            return Facts(1, 0, 8, KeySizes((20, 28, 36)), authsizes=(16,))
        case Name("rfc7539", (Name("chacha20", ()), Name("poly1305", ()))):
            return Facts(1, 0, 12, KeySizes((32,)), authsizes=(16,))
        case Name("authenc", (Name("hmac", (Name(digest, ()),)), Name("cbc", (Name("aes", ()),)))):
            if digest in _AUTHENC_DIGESTS:
                size = _DIGESTS[digest][1]
                # the blob: an attribute of 8 bytes with the cipher key's size, the HMAC key (or none), the cipher key
                return Facts(16, 0, 16, KeySizes(smallest=24, largest=8192), authsizes=tuple(range(1, size + 1)))
    return None


def _rng(name: Name) -> Facts | None:
    return Facts(key_sizes=KeySizes(smallest=0, largest=8192, required=False)) if name == Name("stdrng") else None


def _compression(name: Name) -> Facts | None:
    if name.arguments or name.template not in _COMPRESSIONS:
        return None
    return Facts(levels=_COMPRESSIONS[name.template])


def _public(type_: Type) -> Callable[[Name], Facts | None]:
    return lambda name: Facts(key_sizes=KEY_SIZES) if is_public(type_, name) else None


_LOOK_UPS: dict[Type, Callable[[Name], Facts | None]] = {
    Type.HASH: _hash,
    Type.SKCIPHER: _skcipher,
    Type.AEAD: _aead,
    Type.RNG: _rng,
    Type.COMPRESSION: _compression,
}
_LOOK_UPS |= {type_: _public(type_) for type_ in PUBLIC_NAMES}


def names() -> Iterator[tuple[Type, str]]:
    """Every name of the catalogue, with its type."""
    for digest in _DIGESTS:
        yield Type.HASH, digest
        yield Type.HASH, f"hmac({digest})"
    for checksum in _CHECKSUMS:
        yield Type.HASH, checksum
    yield Type.HASH, "cmac(aes)"
    for cipher in _BLOCK_CIPHERS:
        for mode in ("ecb", "cbc", "ctr", "ofb", "cfb"):
            yield Type.SKCIPHER, f"{mode}({cipher})"
    for name in ("xts(aes)", "cts(cbc(aes))", "chacha20"):
        yield Type.SKCIPHER, name
    for name in ("gcm(aes)", "ccm(aes)", "rfc4106(gcm(aes))", "rfc4309(ccm(aes))", "rfc4543(gcm(aes))"):
        yield Type.AEAD, name
    yield Type.AEAD, "rfc7539(chacha20,poly1305)"
    for digest in _AUTHENC_DIGESTS:
        yield Type.AEAD, f"authenc(hmac({digest}),cbc(aes))"
    yield Type.RNG, "stdrng"
    for name in _COMPRESSIONS:
        yield Type.COMPRESSION, name
    for type_, listed in PUBLIC_NAMES.items():
        for name in listed:
            yield type_, name
