"""MACs that neither pyca nor hashlib has in the kernel's form: chains of CBC, and Poly1305 keyed by its message."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.poly1305 import Poly1305

from ...algorithms import Description
from ...errors import KeyMissing, NotSupported
from ...records import Buffer
from ..kinds import HashTransform, RunningHash
from .cbc import Cbc
from .keys import Keyed, keep, wipe
from .modes import Ecb

_BLOCK = 16
_STEP = 65_536
_Cipher = Callable[[Any], BlockCipherAlgorithm]


class XcbcKeys(NamedTuple):
    """The cipher of the chain, and the values to add to a last block that is whole, or padded."""

    cbc: Cbc
    whole: bytearray
    padded: bytearray


class ChainRun(ABC):
    """A CBC of which only the last block counts. What is done to the last block is for `digest` to say, so up to one
    block is held back."""

    def __init__(self, cbc: Cbc) -> None:
        self._cbc = cbc
        self._chain = bytes(_BLOCK)
        self._held = b""

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data)
        if self._held:
            missing = _BLOCK - len(self._held)
            self._held += bytes(view[:missing])
            view = view[missing:]
            if not len(view):
                return
            self._advance(memoryview(self._held))
            self._held = b""
        cut = (len(view) - 1) // _BLOCK * _BLOCK if len(view) else 0
        for begin in range(0, cut, _STEP):
            self._advance(view[begin : min(begin + _STEP, cut)])
        self._held = bytes(view[cut:])

    def _advance(self, blocks: memoryview) -> None:
        size = len(blocks)
        out = memoryview(bytearray(size + _BLOCK))
        self._cbc.encrypt(self._chain, blocks, out)
        self._chain = bytes(out[size - _BLOCK : size])

    @abstractmethod
    def digest(self) -> bytes:
        """The digest of what came so far."""

    def copy(self) -> Self:
        return copy.copy(self)

    def close(self) -> None:
        return


class CbcmacRun(ChainRun):
    """CBC-MAC: zeros fill the last block, and an empty message is not encrypted."""

    def digest(self) -> bytes:
        if self._held:
            self._advance(memoryview(self._held.ljust(_BLOCK, b"\0")))
            self._held = b""
        return self._chain


class Cbcmac(Keyed[Cbc], HashTransform):
    """cbcmac of a cipher."""

    def __init__(self, description: Description, cipher: _Cipher) -> None:
        super().__init__(description)
        self._cipher = cipher

    def make_core(self, *parts: bytearray) -> Cbc:
        return Cbc(self._cipher(parts[0]))

    def begin_hash(self) -> RunningHash:
        return CbcmacRun(self._core)


class XcbcRun(ChainRun):
    """XCBC-MAC, RFC 3566: a value is added to the last block."""

    def __init__(self, keys: XcbcKeys) -> None:
        super().__init__(keys.cbc)
        self._keys = keys

    def digest(self) -> bytes:
        last, mask = self._held, self._keys.whole
        if len(last) < _BLOCK:
            last, mask = (last + b"\x80").ljust(_BLOCK, b"\0"), self._keys.padded
        mixed = int.from_bytes(last) ^ int.from_bytes(mask)
        out = memoryview(bytearray(2 * _BLOCK))
        self._cbc.encrypt(self._chain, mixed.to_bytes(_BLOCK), out)
        return bytes(out[:_BLOCK])


class Xcbc(Keyed[XcbcKeys], HashTransform):
    """xcbc of a cipher."""

    def __init__(self, description: Description, cipher: _Cipher) -> None:
        super().__init__(description)
        self._cipher = cipher

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        secret = keep(key)
        derive = Ecb(self._cipher(secret))
        parts = []
        for number in (1, 2, 3):
            out = bytearray(2 * _BLOCK)
            derive.encrypt(b"", bytes([number]) * _BLOCK, memoryview(out))
            parts.append(out[:_BLOCK])
            wipe(out)
        wipe(secret)
        return tuple(parts)

    def make_core(self, *parts: bytearray) -> XcbcKeys:
        return XcbcKeys(Cbc(self._cipher(parts[0])), parts[1], parts[2])

    def begin_hash(self) -> RunningHash:
        return XcbcRun(self._core)


_POLY_KEY = 32


class PolyRun:
    """Poly1305 as in AF_ALG: the first 32 bytes of the message are the key, the rest is authenticated."""

    def __init__(self) -> None:
        self._key = bytearray()
        self._state: Poly1305 | None = None

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data)
        if self._state is None:
            missing = _POLY_KEY - len(self._key)
            self._key += view[:missing]
            view = view[missing:]
            if len(self._key) < _POLY_KEY:
                return
            self._state = Poly1305(self._key)
            wipe(self._key)
        self._state.update(view)

    def digest(self) -> bytes:
        if self._state is None:
            raise KeyMissing(f"message of {len(self._key)} bytes: its first {_POLY_KEY} are the key of poly1305")
        return self._state.finalize()

    def copy(self) -> "PolyRun":
        raise NotSupported("clone: OpenSSL cannot copy the state of poly1305")

    def close(self) -> None:
        wipe(self._key)
        self._state = None


class Poly(HashTransform):
    """poly1305."""

    def begin_hash(self) -> RunningHash:
        return PolyRun()


class NullRun:
    """A hash without a digest."""

    def update(self, data: Buffer, /) -> None:
        return

    def digest(self) -> bytes:
        return b""

    def copy(self) -> "NullRun":
        return self

    def close(self) -> None:
        return


class Null(HashTransform):
    """digest_null, for which any key will do."""

    def replace_key(self, key: Buffer) -> None:
        return

    def begin_hash(self) -> RunningHash:
        return NullRun()


_CIPHERS: dict[str, _Cipher] = {"aes": AES, "camellia": Camellia, "sm4": SM4}
MACS: dict[str, Callable[[Description], HashTransform]] = {
    **{f"xcbc({name})": partial(Xcbc, cipher=cipher) for name, cipher in _CIPHERS.items()},
    **{f"cbcmac({name})": partial(Cbcmac, cipher=cipher) for name, cipher in _CIPHERS.items()},
    "poly1305": Poly,
    "digest_null": Null,
}
