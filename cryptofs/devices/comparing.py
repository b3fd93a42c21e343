"""Whether two devices have the same key, without reading either key.

Each answers the same random challenge. That works also for keys that no process can read, on a keyring or in a token.
Nothing that would help to find a key remains: neither challenge nor answer leaves this function.
"""

import hashlib
import os

from ..algorithms import Type
from ..engines.base import OUT_SLACK
from ..errors import CryptofsError, NotPermitted
from ..records import Attr, Operation
from .device import Device
from .versions import Version

_CHALLENGE = 64
"""Bytes: whole blocks of every cipher."""
_LABEL = b"cryptofs key fingerprint 1"
_DIGITS = 16
_PAIRS = (Type.AKCIPHER, Type.SIG, Type.KPP)


def same_keys(one: Device, other: Device) -> dict[int, bool | None]:
    """For each version that both devices have, of one type and algorithm: whether its key is the same.

    None: the keys permit no operation that would show it. A key that fails (its token has gone, for example) counts as
    another one than a key that works.
    """
    theirs = {each.number: each for each in other.versions.all}
    pairs = [(each, theirs[each.number]) for each in one.versions.all if each.number in theirs]
    return {ours.number: _same_key(one, ours, its) for ours, its in pairs}


def _same_key(device: Device, one: Version, other: Version) -> bool | None:
    nonce = os.urandom(device.nonces.size if device.nonces is not None else one.transform.description.iv_size)
    challenge = os.urandom(_CHALLENGE)
    try:
        ours = answer(device, one, nonce, challenge)
        theirs = answer(device, other, nonce, challenge)
    except NotPermitted:
        return None
    except CryptofsError:
        return False
    return ours == theirs


def answer(device: Device, version: Version, nonce: bytes, challenge: bytes) -> bytes:
    """What a version's key makes of a challenge; of a key pair, its public key. Errors: NotPermitted, and others."""
    transform, type_ = version.transform, device.settings.type
    if type_ in _PAIRS:
        return transform.operate(Operation.PUBLIC_KEY, {}, b"")[0]
    if type_ is Type.HASH:
        return _once(version, Operation.DIGEST, None, 0, challenge)
    iv = (device.nonces.iv(nonce) if device.nonces is not None else nonce) or None
    try:
        assoclen = transform.description.assoclens[0] if type_ is Type.AEAD else 0
        return _once(version, Operation.ENCRYPT, iv, assoclen, challenge)
    except NotPermitted:
        # A key in a token may be for decryption only; to decrypt with an AEAD, the challenge would need a tag.
        if type_ is Type.AEAD:
            raise
        return _once(version, Operation.DECRYPT, iv, 0, challenge)


def _once(version: Version, operation: Operation, iv: bytes | None, assoclen: int, challenge: bytes) -> bytes:
    out = bytearray(version.transform.room(operation, len(challenge)) + OUT_SLACK)
    written = version.transform.once(operation, iv, assoclen, challenge, memoryview(out))
    return bytes(out[:written])


def fingerprint(device: Device, version: Version) -> str:
    """Digits that tell keys apart and say nothing about a key: also of a key that no process can read.

    Of a key pair: SHA-256 of the public key (DER). Of every other key: the first 64 bits of SHA-256 of what the key
    makes of a fixed text, under a fixed nonce. It is the same only for the same key and algorithm. Errors:
    NotPermitted, and others.
    """
    if device.settings.type in _PAIRS:
        public = version.transform.operate(Operation.PUBLIC_KEY, {Attr.KEY_FORMAT: "der"}, b"")[0]
        return f"SHA256:{hashlib.sha256(public).hexdigest()}"
    size = device.nonces.size if device.nonces is not None else version.transform.description.iv_size
    made = answer(device, version, bytes(size), _LABEL.ljust(_CHALLENGE, b"\0"))
    return hashlib.sha256(_LABEL + made).hexdigest()[:_DIGITS]
