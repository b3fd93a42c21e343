"""MACs that neither pyca nor hashlib has in the kernel's form: XCBC of AES, and Poly1305 keyed by its message."""

from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.poly1305 import Poly1305

from ...errors import KeyMissing, NotSupported
from ...records import Buffer
from ..kinds import HashTransform, RunningHash
from .cbc import Cbc
from .keys import Keyed, keep, wipe
from .modes import Ecb

_BLOCK = 16
_STEP = 65_536


class XcbcKeys(NamedTuple):
    """The cipher of the chain, and the values to add to a last block that is whole, or padded."""

    cbc: Cbc
    whole: bytearray
    padded: bytearray


class XcbcRun:
    """AES-XCBC-MAC, RFC 3566: a CBC whose last block is different, so up to one block is held back."""

    def __init__(self, keys: XcbcKeys, chain: bytes = bytes(_BLOCK), held: bytes = b"") -> None:
        self._keys = keys
        self._chain = chain
        self._held = held

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
        self._keys.cbc.encrypt(self._chain, blocks, out)
        self._chain = bytes(out[size - _BLOCK : size])

    def digest(self) -> bytes:
        last, mask = self._held, self._keys.whole
        if len(last) < _BLOCK:
            last, mask = (last + b"\x80").ljust(_BLOCK, b"\0"), self._keys.padded
        mixed = int.from_bytes(last) ^ int.from_bytes(mask)
        out = memoryview(bytearray(2 * _BLOCK))
        self._keys.cbc.encrypt(self._chain, mixed.to_bytes(_BLOCK), out)
        return bytes(out[:_BLOCK])

    def copy(self) -> "XcbcRun":
        return XcbcRun(self._keys, self._chain, self._held)

    def close(self) -> None:
        return


class Xcbc(Keyed[XcbcKeys], HashTransform):
    """xcbc(aes)."""

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        secret = keep(key)
        derive = Ecb(AES(secret))
        parts = []
        for number in (1, 2, 3):
            out = bytearray(2 * _BLOCK)
            derive.encrypt(b"", bytes([number]) * _BLOCK, memoryview(out))
            parts.append(out[:_BLOCK])
            wipe(out)
        wipe(secret)
        return tuple(parts)

    def make_core(self, *parts: bytearray) -> XcbcKeys:
        return XcbcKeys(Cbc(AES(parts[0])), parts[1], parts[2])

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


MACS: dict[str, type[Xcbc | Poly]] = {"xcbc(aes)": Xcbc, "poly1305": Poly}
