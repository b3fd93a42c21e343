"""Whether two devices have the same key, without reading either key.

Each answers the same random challenge. That works also for keys that no process can read, on a keyring or in a token.
Nothing that would help to find a key remains: neither challenge nor answer leaves this function.
"""

import os

from ..algorithms import Type
from ..engines.base import OUT_SLACK
from ..errors import CryptofsError, NotPermitted
from ..records import Operation
from .device import Device

_CHALLENGE = 64
"""Bytes: whole blocks of every cipher."""
_PAIRS = (Type.AKCIPHER, Type.SIG, Type.KPP)


def same_key(one: Device, other: Device) -> bool | None:
    """Whether two devices of one type and algorithm have the same key.

    None: the keys permit no operation that would show it. A device that fails (its token has gone, for example) counts
    as having another key than one that works.
    """
    nonce = os.urandom(one.nonces.size if one.nonces is not None else one.transform.description.iv_size)
    challenge = os.urandom(_CHALLENGE)
    try:
        ours = _answer(one, nonce, challenge)
        theirs = _answer(other, nonce, challenge)
    except NotPermitted:
        return None
    except CryptofsError:
        return False
    return ours == theirs


def _answer(device: Device, nonce: bytes, challenge: bytes) -> bytes:
    transform, type_ = device.transform, device.settings.type
    if type_ in _PAIRS:
        return transform.operate(Operation.PUBLIC_KEY, {}, b"")[0]
    if type_ is Type.HASH:
        return _once(device, Operation.DIGEST, None, 0, challenge)
    iv = (device.nonces.iv(nonce) if device.nonces is not None else nonce) or None
    try:
        assoclen = transform.description.assoclens[0] if type_ is Type.AEAD else 0
        return _once(device, Operation.ENCRYPT, iv, assoclen, challenge)
    except NotPermitted:
        # A key in a token may be for decryption only; to decrypt with an AEAD, the challenge would need a tag.
        if type_ is Type.AEAD:
            raise
        return _once(device, Operation.DECRYPT, iv, 0, challenge)


def _once(device: Device, operation: Operation, iv: bytes | None, assoclen: int, challenge: bytes) -> bytes:
    out = bytearray(device.transform.room(operation, len(challenge)) + OUT_SLACK)
    written = device.transform.once(operation, iv, assoclen, challenge, memoryview(out))
    return bytes(out[:written])
