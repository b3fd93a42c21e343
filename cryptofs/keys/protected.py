"""Key files that a passphrase protects.

    head   "cryptofs key 1\n" (15 bytes), the kind of derivation (1 byte: 1, Argon2id), its memory in KiB (32 bits,
           big-endian), passes (8 bits) and lanes (8 bits), salt (16 random bytes), nonce (12 random bytes)
    body   the key by AES-256-GCM, under what Argon2id makes of passphrase and salt; the head is its associated data

What a head asks for is bounded, so that a file cannot take the machine's memory or time.
"""

import os
import struct

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ..errors import InvalidValue, KeyUnavailable
from ..wiping import wipe
from .secret import PROTECTED

MEMORY, PASSES, LANES = 65_536, 3, 4
"""KiB, passes and lanes of new files: the second choice of RFC 9106, for machines that have other work."""
MEMORY_MAX, PASSES_MAX, LANES_MAX = 1 << 20, 16, 16
PASSPHRASE_MIN = 8
"""Bytes of a new passphrase."""

_ARGON2ID = 1
_HEAD = struct.Struct(">15sBIBB16s12s")
_TAG = 16
OVERHEAD = _HEAD.size + _TAG


def protect(key: bytearray, passphrase: bytearray) -> bytearray:
    """The content of a file for a key. Errors: InvalidValue for a short passphrase, KeyUnavailable."""
    if len(passphrase) < PASSPHRASE_MIN:
        raise InvalidValue(f"passphrase of {len(passphrase)} bytes: at least {PASSPHRASE_MIN}")
    head = _HEAD.pack(PROTECTED, _ARGON2ID, MEMORY, PASSES, LANES, os.urandom(16), os.urandom(12))
    made = bytearray(OVERHEAD + len(key))
    view = memoryview(made)
    view[: len(head)] = head
    secret = _derive(head, passphrase)
    try:
        AESGCM(secret).encrypt_into(head[-12:], key, head, view[len(head) :])
    finally:
        wipe(secret)
    return made


def unprotect(data: bytearray, passphrase: bytearray) -> bytearray:
    """The key, for the caller to wipe. Errors: KeyUnavailable, for another passphrase, too; InvalidValue."""
    if len(data) < OVERHEAD:
        raise KeyUnavailable(f"{len(data)} bytes: a protected key has more than {OVERHEAD}")
    head = bytes(data[: _HEAD.size])
    secret = _derive(head, passphrase)
    key = bytearray(len(data) - OVERHEAD)
    try:
        AESGCM(secret).decrypt_into(head[-12:], memoryview(data)[_HEAD.size :], head, key)
    except InvalidTag:
        wipe(key)
        raise KeyUnavailable("the passphrase is another one, or the file was changed") from None
    finally:
        wipe(secret)
    return key


def _derive(head: bytes, passphrase: bytearray) -> bytearray:
    magic, kind, memory, passes, lanes, salt, _ = _HEAD.unpack(head)
    if magic != PROTECTED or kind != _ARGON2ID:
        raise KeyUnavailable("not a protected key of a known form (`cryptofs key new --passphrase` makes them)")
    for what, value, least, most in (
        ("lanes", lanes, 1, LANES_MAX),
        ("passes", passes, 1, PASSES_MAX),
        ("memory", memory, 8 * lanes, MEMORY_MAX),
    ):
        if not least <= value <= most:
            raise InvalidValue(f"{what} {value} in the head of a protected key: {least} to {most}")
    secret = bytearray(32)
    try:
        derivation = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        derivation.derive_into(passphrase, secret)  # type: ignore[arg-type] # it takes every buffer
    except UnsupportedAlgorithm:
        raise KeyUnavailable("this build of the library cryptography has no Argon2id") from None
    except MemoryError:
        raise KeyUnavailable(f"not enough memory for Argon2id, which takes {memory} KiB here") from None
    return secret
