"""RSA-PSS (RFC 8017) with a device of the algorithm `rsa`, which leaves the padding to its caller.

The kernel has no name for it. The key computes in the device, and its owner allows that with the operation decrypt.
"""

import hashlib
import os
from typing import Any

import click

from ..client import Context
from ..errors import InvalidValue, printable

HASHES = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")
"""Those that it can be used with, the usual one first."""
_ENDS = 0xBC


def hash_for(context: Context, name: str | None) -> str:
    """The hash to use, `name` if it was given.

    Errors: UsageError for a hash that cannot be used, and for an algorithm that has its own padding, or none.
    """
    if context.type != "akcipher" or context.name != "rsa":
        raise click.UsageError(f"--pss: for a device of akcipher rsa; this one is of {context.type} {context.name}")
    if name not in (None, *HASHES):
        raise click.UsageError(f"--hash {printable(name or '')[:40]}: with --pss one of {', '.join(HASHES)}")
    return name or HASHES[0]


def sign(context: Context, digest: bytes, name: str) -> bytes:
    """The signature of a digest by the hash `name`, with a salt of the digest's size. Errors: RequestError,
    InvalidValue for a key that is too small."""
    bits = _public(context).key_size
    return context.decrypt(encoded(digest, name, bits - 1, os.urandom(len(digest))))


def is_signed(context: Context, signature: bytes, digest: bytes, name: str) -> bool:
    """Whether the signature is that of the digest, with a salt of any size. Errors: RequestError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import padding, utils

    method = _method(name)
    scheme = padding.PSS(padding.MGF1(method), padding.PSS.AUTO)
    try:
        _public(context).verify(signature, digest, scheme, utils.Prehashed(method))
    except InvalidSignature:
        return False
    return True


def encoded(digest: bytes, name: str, bits: int, salt: bytes) -> bytes:
    """EMSA-PSS-ENCODE of RFC 8017, 9.1.1, in as many bytes as `bits` need. Errors: InvalidValue."""
    size, hashed = (bits + 7) // 8, _hash(name)
    if size < len(digest) + len(salt) + 2:
        raise InvalidValue(f"an RSA key of {bits + 1} bits is too small for PSS with {name}")
    inner = hashlib.new(hashed, bytes(8) + digest + salt).digest()
    block = (b"\x01" + salt).rjust(size - len(inner) - 1, b"\0")
    mask = _mask(inner, len(block), hashed)
    masked = bytearray(a ^ b for a, b in zip(block, mask, strict=True))
    masked[0] &= 0xFF >> (8 * size - bits)
    return bytes(masked) + inner + bytes([_ENDS])


def _mask(seed: bytes, size: int, hashed: str) -> bytes:
    """MGF1 of RFC 8017, B.2.1."""
    made = b""
    while len(made) < size:
        made += hashlib.new(hashed, seed + (len(made) // len(seed)).to_bytes(4, "big")).digest()
    return made[:size]


def _hash(name: str) -> str:
    """The name that Python's library has for a hash of the kernel's."""
    return name.replace("-", "_")


def _method(name: str) -> Any:
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, _hash(name).upper())()


def _public(context: Context) -> Any:
    """The public half of the device's key. Errors: RequestError."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(context.public_key("der"))
