"""authenc(hmac(…),…): encrypt, then authenticate the associated data and the ciphertext.

The IV is authenticated only if the caller puts it into the associated data, as IPsec does. The kernel leaves that to
the caller, too.
"""

import hmac
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ...algorithms import Description, Name
from ...errors import InvalidValue
from ...records import Buffer
from .aead import OpensslAead
from .cbc import Cbc
from .composed import Rfc3686, whole_blocks
from .hash import FinalState, keyed_hmac
from .keys import Keyed, keep, wipe
from .modes import Ctr, Cts, Null, WholeMode

_AES_KEYS = (16, 24, 32)


class _Cipher(NamedTuple):
    """A cipher of authenc: the sizes of its key, the function that makes the cipher, what a text is a multiple of, the
    size of the nonce in the key, and how many copies of the key the cipher needs."""

    key_sizes: tuple[int, ...]
    make: Callable[..., WholeMode]
    unit: int = 1
    nonce_size: int = 0
    copies: int = 1


def _cbc(cipher: Any) -> Callable[..., WholeMode]:
    return lambda secret: Cbc(cipher(secret))


_CIPHERS = {
    "cbc(aes)": _Cipher(_AES_KEYS, _cbc(AES), 16),
    "cbc(camellia)": _Cipher(_AES_KEYS, _cbc(Camellia), 16),
    "cbc(des)": _Cipher((8,), _cbc(TripleDES), 8, copies=3),
    "cbc(des3_ede)": _Cipher((24,), _cbc(TripleDES), 8),
    "cts(cbc(aes))": _Cipher(_AES_KEYS, lambda secret: Cts(AES(secret))),
    "ctr(aes)": _Cipher(_AES_KEYS, lambda secret: Ctr(AES(secret))),
    "ecb(cipher_null)": _Cipher((0,), lambda _secret: Null()),
    "rfc3686(ctr(aes))": _Cipher((20, 28, 36), lambda secret, nonce: Rfc3686(Ctr(AES(secret)), nonce), nonce_size=4),
}

# struct rtattr in the machine's byte order; its value is the size of the cipher key, big-endian.
_ATTRIBUTE = struct.Struct("=HH")
_SIZE = struct.Struct(">I")
PREFIX = _ATTRIBUTE.size + _SIZE.size
"""Size of the part of a key blob that defines its structure, bytes."""
_TYPE = 1


def pack_keys(hmac_key: Buffer, cipher_key: Buffer) -> bytearray:
    """The key blob that authenc takes."""
    prefix = _ATTRIBUTE.pack(PREFIX, _TYPE) + _SIZE.pack(len(cipher_key))
    return bytearray(prefix) + hmac_key + cipher_key


class Pair(NamedTuple):
    """The two keyed halves: a kept HMAC, of which copies are used, and the cipher."""

    mac: FinalState
    cipher: WholeMode


class Authenc(Keyed[Pair], OpensslAead):
    """One of the authenc family."""

    def __init__(self, description: Description, authsize: int, digest: str, cipher: str) -> None:
        super().__init__(description, authsize)
        self._digest = digest
        self._cipher = _CIPHERS[cipher]

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        name, size = self.description.name, len(key)
        if size < PREFIX:
            raise self.refuse_key(key)
        length, type_ = _ATTRIBUTE.unpack_from(key)
        (cipher_size,) = _SIZE.unpack_from(key, _ATTRIBUTE.size)
        if length != PREFIX or type_ != _TYPE:
            raise InvalidValue(
                f"key of {size} bytes: {name} takes a blob that begins with an attribute of length {PREFIX}, "
                f"type {_TYPE}"
            )
        if cipher_size not in self._cipher.key_sizes or cipher_size > size - PREFIX:
            raise InvalidValue(
                f"key of {size} bytes with a cipher key of {cipher_size}: {name} takes "
                f"{' '.join(map(str, self._cipher.key_sizes))}, within the blob"
            )
        cut = size - cipher_size
        view = memoryview(key)
        nonce_at = size - self._cipher.nonce_size
        secret = keep(view[cut:nonce_at])
        parts = keep(view[PREFIX:cut]), secret * self._cipher.copies
        wipe(secret)
        return (*parts, keep(view[nonce_at:])) if nonce_at < size else parts

    def make_core(self, *parts: bytearray) -> Pair:
        return Pair(keyed_hmac(self._digest, parts[0]), self._cipher.make(*parts[1:]))

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view) - assoclen
        whole_blocks(size, self._cipher.unit)
        self._core.cipher.encrypt(iv, view[assoclen:], out)
        end = size + self.authsize
        out[size:end] = self._tag(view[:assoclen], out[:size])
        return end

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        cut = len(view) - self.authsize
        # The tag comes first, as in the kernel: a forged message of a wrong length is EBADMSG, not EINVAL.
        if not hmac.compare_digest(self._tag(view[:assoclen], view[assoclen:cut]), view[cut:]):
            raise self.bad_tag()
        whole_blocks(cut - assoclen, self._cipher.unit)
        return self._core.cipher.decrypt(iv, view[assoclen:cut], out)

    def _tag(self, assoc: memoryview, ciphertext: memoryview) -> bytes:
        mac = self._core.mac.copy()
        mac.update(assoc)
        mac.update(ciphertext)
        return mac.finalize()[: self.authsize]


def build(description: Description, name: Name, authsize: int) -> Authenc:
    """A transform for a parsed generic name. Errors: KeyError if the name is not served."""
    return Authenc(description, authsize, name.arguments[0].arguments[0].template, str(name.arguments[1]))
