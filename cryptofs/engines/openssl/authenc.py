"""authenc(hmac(…),cbc(aes)): encrypt, then authenticate the associated data and the ciphertext.

The IV is authenticated only where the caller puts it into the associated data, as IPsec does; the kernel leaves it
to the caller too.
"""

import hmac
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ...algorithms import Description, Name
from ...errors import InvalidValue
from ...records import Buffer
from .aead import OpensslAead
from .cbc import Cbc
from .hash import FinalState, keyed_hmac
from .keys import Keyed, keep

_BLOCK = 16
_CIPHER_KEYS = (16, 24, 32)

# struct rtattr in the machine's byte order, whose value is the size of the cipher key, big-endian
_ATTRIBUTE = struct.Struct("=HH")
_SIZE = struct.Struct(">I")
_PREFIX = _ATTRIBUTE.size + _SIZE.size
_TYPE = 1


def pack_keys(hmac_key: Buffer, cipher_key: Buffer) -> bytearray:
    """The key blob that authenc takes."""
    prefix = _ATTRIBUTE.pack(_PREFIX, _TYPE) + _SIZE.pack(len(cipher_key))
    return bytearray(prefix) + hmac_key + cipher_key


class Pair(NamedTuple):
    """The two keyed halves: what copies of the kept HMAC do, and the cipher."""

    mac: FinalState
    cbc: Cbc


class Authenc(Keyed[Pair], OpensslAead):
    """One of the authenc family."""

    def __init__(self, description: Description, authsize: int, digest: str) -> None:
        super().__init__(description, authsize)
        self._digest = digest

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        name, size = self.description.name, len(key)
        if size < _PREFIX:
            raise self.refuse_key(key)
        length, type_ = _ATTRIBUTE.unpack_from(key)
        (cipher_size,) = _SIZE.unpack_from(key, _ATTRIBUTE.size)
        if length != _PREFIX or type_ != _TYPE:
            raise InvalidValue(
                f"key of {size} bytes: {name} takes a blob that begins with an attribute of length {_PREFIX}, "
                f"type {_TYPE}"
            )
        if cipher_size not in _CIPHER_KEYS or cipher_size > size - _PREFIX:
            raise InvalidValue(
                f"key of {size} bytes with a cipher key of {cipher_size}: {name} takes 16 24 32, within the blob"
            )
        cut = size - cipher_size
        return keep(key[_PREFIX:cut]), keep(key[cut:])

    def make_core(self, *parts: bytearray) -> Pair:
        return Pair(keyed_hmac(self._digest, parts[0]), Cbc(AES(parts[1])))

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view) - assoclen
        _whole_blocks(size)
        self._core.cbc.encrypt(iv, view[assoclen:], out)
        end = size + self.authsize
        out[size:end] = self._tag(view[:assoclen], out[:size])
        return end

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        cut = len(view) - self.authsize
        # the tag comes first, as in the kernel: a forged message of a wrong length is EBADMSG, not EINVAL
        if not hmac.compare_digest(self._tag(view[:assoclen], view[assoclen:cut]), view[cut:]):
            raise self.bad_tag()
        _whole_blocks(cut - assoclen)
        return self._core.cbc.decrypt(iv, view[assoclen:cut], out)

    def _tag(self, assoc: memoryview, ciphertext: memoryview) -> bytes:
        mac = self._core.mac.copy()
        mac.update(assoc)
        mac.update(ciphertext)
        return mac.finalize()[: self.authsize]


def _whole_blocks(size: int) -> None:
    if size % _BLOCK:
        raise InvalidValue(f"text of {size} bytes: a multiple of {_BLOCK}")


def build(description: Description, name: Name, authsize: int) -> Authenc:
    """A transform for a parsed generic name. Errors: KeyError for a name that is not served."""
    return Authenc(description, authsize, name.arguments[0].arguments[0].template)
