"""What hostile contexts are configured as, and what fits each kind: so that a good part of the requests succeeds."""

import zlib
from dataclasses import dataclass, field

import lz4.block
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cryptofs.algorithms import Type, look_up, names
from cryptofs.engines.openssl.authenc import pack_keys
from cryptofs.records import Attr, Operation, Value

CANARY = b"\xca\x11ab1e-s3cret-key"
"""The first 16 bytes of the keys that a hostile client sends: no answer and no log may show it."""
_SEED = CANARY[:16] * 2
_TEXT = b"what is signed and compressed" * 3

SIZES = (0, 1, 15, 16, 17, 32, 48, 64, 100, 256)
"""Bytes of most payloads that are drawn at random."""
_Values = tuple[bytes, ...]


@dataclass(frozen=True)
class Kind:
    """A configuration, the operations that fit it, and values with which they succeed.

    payloads: by operation, besides random ones; operands: by attribute; iv_size, assoclen: bytes, 0 for none.
    """

    configuration: dict[int, Value]
    operations: tuple[Operation, ...]
    iv_size: int = 0
    payloads: dict[Operation, _Values] = field(default_factory=dict)
    operands: dict[Attr, _Values] = field(default_factory=dict)
    assoclen: int = 0


_CRYPT = (Operation.ENCRYPT, Operation.DECRYPT)
_PRESS = (Operation.COMPRESS, Operation.DECOMPRESS)
_SIGN = (Operation.SIGN, Operation.VERIFY, Operation.PUBLIC_KEY)


def _settings(type_: str, name: str, key: bytes | None = None, **more: Value) -> dict[int, Value]:
    values: dict[int, Value] = {Attr.TYPE: type_, Attr.NAME: name}
    if key is not None:
        values[Attr.KEY] = key
    return values | {Attr[word.upper()]: value for word, value in more.items()}


def _deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -11)
    return squeeze.compress(data) + squeeze.flush()


def _compression(name: str, *forms: bytes) -> Kind:
    return Kind(_settings("compression", name), _PRESS, 0, {Operation.DECOMPRESS: forms})


_BOMB = bytes(4_000_000)
"""More than an answer holds, and next to nothing compressed."""
_LARGE = bytes(200_000)

# two primes, so that no key has to be made: a modulus of 1024 bits is the least that is taken
_P = int(
    "f4e683730ffe7e7ccb33754d853200d33f3739fe1db6619f81fe99713c793994"
    "f2764d9aec7e13150195ed44f68eff00d9c5373e315d71c20985966e97e9a643",
    16,
)
_Q = int(
    "c23d046d0aa628afca8e3a2987cdae9f963ebc651d6012d15967d361fafc6b51"
    "9abb3da53818ed2cdb8d68134fc3ed8f5af4158802ad79c1cf024724f38b1253",
    16,
)
RSA_PRIME = _P.to_bytes(64, "big")
"""A part of the RSA key that no answer and no log may show."""


def _rsa_key() -> bytes:
    exponent = rsa.rsa_recover_private_exponent(65_537, _P, _Q)
    remainders = rsa.rsa_crt_dmp1(exponent, _P), rsa.rsa_crt_dmq1(exponent, _Q)
    inverse = rsa.rsa_crt_iqmp(_P, _Q)
    numbers = rsa.RSAPrivateNumbers(_P, _Q, exponent, *remainders, inverse, rsa.RSAPublicNumbers(65_537, _P * _Q))
    return _pkcs8(numbers.private_key())


def _pkcs8(key: rsa.RSAPrivateKey | mldsa.MLDSA44PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


_MLDSA = mldsa.MLDSA44PrivateKey.from_seed_bytes(_SEED)
_ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(_SEED)
_POINT = ec.derive_private_key(7, ec.SECP256R1()).public_key().public_numbers()
_PEER_P256 = _POINT.x.to_bytes(32, "big") + _POINT.y.to_bytes(32, "big")
_PEER_25519 = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
# what agreement must not take: points of small order, and one that is not on the curve
_BAD_POINTS = (bytes(32), b"\x01" + bytes(31), bytes(64), b"\x04" + _PEER_P256[:63] + b"\x00")

KINDS: dict[str, Kind] = {
    "sha256": Kind(_settings("hash", "sha256"), (Operation.DIGEST,)),
    "hmac": Kind(_settings("hash", "hmac(sha256)", CANARY), (Operation.DIGEST,)),
    "cbc": Kind(_settings("skcipher", "cbc(aes)", CANARY[:16]), _CRYPT, 16),
    "ctr": Kind(_settings("skcipher", "ctr(aes)", CANARY[:16]), _CRYPT, 16),
    "xts": Kind(_settings("skcipher", "xts(aes)", CANARY[:16] + bytes(range(16))), _CRYPT, 16),
    "gcm": Kind(_settings("aead", "gcm(aes)", CANARY[:16], authsize=16), _CRYPT, 12),
    "keyless": Kind(_settings("skcipher", "cbc(aes)"), _CRYPT, 16),
    "rng": Kind(_settings("rng", "stdrng"), (Operation.GENERATE,)),
    # weak names, which the policy takes from some
    "md5": Kind(_settings("hash", "md5"), (Operation.DIGEST,)),
    "deflate": _compression("deflate", _deflated(_TEXT), _deflated(_LARGE), _deflated(_BOMB)),
    "zstd": _compression("zstd", *(zstandard.ZstdCompressor().compress(each) for each in (_TEXT, _LARGE, _BOMB))),
    "lz4": _compression("lz4", *(lz4.block.compress(each, store_size=False) for each in (_TEXT, _LARGE, _BOMB))),
    "rsa": Kind(
        _settings("akcipher", "pkcs1pad(rsa)", _rsa_key()),
        (*_CRYPT, Operation.PUBLIC_KEY),
        0,
        {Operation.DECRYPT: (b"\x01" * 128, bytes(127) + b"\x02")},
    ),
    "pkcs1": Kind(
        _settings("sig", "pkcs1(rsa,sha256)", _rsa_key()),
        _SIGN,
        0,
        {Operation.SIGN: (bytes(32),), Operation.VERIFY: (bytes(32),)},
        {Attr.SIGNATURE: (bytes(127) + b"\x03",)},
    ),
    "ed25519": Kind(
        _settings("sig", "ed25519", _SEED + _ED25519.public_key().public_bytes_raw()),
        _SIGN,
        0,
        {Operation.VERIFY: (_TEXT, _TEXT[:-1])},
        {Attr.SIGNATURE: (_ED25519.sign(_TEXT), bytes(64))},
    ),
    "mldsa": Kind(
        _settings("sig", "mldsa44", _pkcs8(_MLDSA)),
        _SIGN,
        0,
        {Operation.VERIFY: (_TEXT, _TEXT[:-1])},
        {Attr.SIGNATURE: (_MLDSA.sign(_TEXT, b"context"), bytes(2420)), Attr.SIGNATURE_CONTEXT: (b"context", b"")},
    ),
    "curve25519": Kind(
        _settings("kpp", "curve25519", _SEED),
        (Operation.AGREE, Operation.PUBLIC_KEY),
        0,
        {Operation.AGREE: (b"", b"", _PEER_25519)},
        {Attr.PEER_KEY: (_PEER_25519, *_BAD_POINTS)},
    ),
    # its keys are made by generate-key
    "ecdh": Kind(
        _settings("kpp", "ecdh-nist-p256"),
        (Operation.GENERATE_KEY, Operation.AGREE, Operation.PUBLIC_KEY),
        0,
        {Operation.AGREE: (b"", b"", _PEER_P256)},
        {Attr.PEER_KEY: (_PEER_P256, *_BAD_POINTS)},
    ),
    "x448": Kind(
        _settings("kpp", "x448"),
        (Operation.GENERATE_KEY, Operation.AGREE, Operation.PUBLIC_KEY),
        0,
        {Operation.AGREE: (b"", b"", bytes(range(56)))},
        {Attr.PEER_KEY: (bytes(range(56)), bytes(56), *_BAD_POINTS)},
    ),
    "mlkem": Kind(
        _settings("kpp", "mlkem768", CANARY[:16] * 4),
        (Operation.ENCAPSULATE, Operation.DECAPSULATE, Operation.PUBLIC_KEY),
        0,
        {Operation.ENCAPSULATE: (b"",), Operation.DECAPSULATE: (b"", b"\x05" * 1088)},
        {Attr.PEER_KEY: (b"\x05" * 1184,), Attr.CIPHERTEXT: (b"\x06" * 1088, bytes(1088))},
    ),
}

_OPERATIONS = {Type.HASH: (Operation.DIGEST,), Type.SKCIPHER: _CRYPT, Type.AEAD: _CRYPT}
_CIPHER_KEYS = {"des3_ede": 24, "cbc(des)": 8, "rfc3686": 20, "cipher_null": 0}
"""Bytes of the cipher's key within that of an authenc, if it is not 16 as for AES."""


def _named(type_: Type, name: str) -> Kind:
    """A kind by what is known of the name: each message has a whole number of blocks, after the associated data."""
    facts = look_up(type_, name)
    assert facts is not None
    sizes = facts.key_sizes
    key = None
    if "authenc(" in name:
        cipher = next((size for part, size in _CIPHER_KEYS.items() if part in name), 16)
        key = bytes(pack_keys(CANARY, bytes(range(cipher))))
    elif sizes.takes_key:
        size = sizes.listed[0] if sizes.listed else max(sizes.smallest, min(16, sizes.largest))
        key = (CANARY[:16] + bytes(range(256)))[:size]
    assoclen = facts.assoclens[0] if type_ is Type.AEAD else 0
    texts = tuple(bytes(assoclen + 48 * count) for count in (1, 0, 2))
    payloads = {Operation.ENCRYPT: texts, Operation.DECRYPT: tuple(text + bytes(facts.max_authsize) for text in texts)}
    return Kind(_settings(type_.value, name, key), _OPERATIONS[type_], facts.iv_size, payloads, {}, assoclen)


NAMED = {f"{type_.value} {name}": _named(type_, name) for type_, name in sorted(names()) if type_ in _OPERATIONS}
"""Every hash, cipher and AEAD that there is, also those that the policy or the machine's engines do not offer."""

PUBLIC_TYPES = ("akcipher", "sig", "kpp")

OPERANDS = {each: each.row.kept for each in Operation if each.row.operands}
"""The attributes that carry an operation's operands, where these are bytes."""

# Devices, as hostile clients see them: configured, with a key that they do not have

_DEVICE_GCM = _settings("aead", "gcm(aes)")
ROTATED = "rotated"
"""The device whose key gets other versions in the run."""

DEVICE_KINDS: dict[str, Kind] = {
    "gcm": Kind(_DEVICE_GCM, _CRYPT),
    "authenc": Kind(
        _settings("aead", "authenc(hmac(sha256),cbc(aes))"), _CRYPT, 0, {Operation.ENCRYPT: (bytes(16), bytes(4096))}
    ),
    "cbc": Kind(_settings("skcipher", "cbc(aes)"), _CRYPT),
    # nonces may be the caller's here
    "ctr": Kind(_settings("skcipher", "ctr(aes)"), _CRYPT, 16),
    "mac": Kind(_settings("hash", "hmac(sha256)"), (Operation.DIGEST,)),
    "drop": Kind(_DEVICE_GCM, _CRYPT),
    ROTATED: Kind(_DEVICE_GCM, _CRYPT),
    "signer": Kind(_settings("sig", "ed25519"), _SIGN, 0, {}, {Attr.SIGNATURE: (bytes(64),)}),
}
"""By the device's name."""

CONTEXT_KINDS = {**KINDS, **NAMED}
ALL_KINDS = {**CONTEXT_KINDS, **{f"device {name}": kind for name, kind in DEVICE_KINDS.items()}}
