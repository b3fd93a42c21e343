"""ecb, cbc and ctr in a token, in pieces that are chained here.

A cipher operation of PKCS#11 in parts would occupy a session until its client continues. So each piece is a complete
operation, with the IV that continues the piece before: the last block of ciphertext for cbc, the counter for ctr.
"""

import struct
from typing import Any

import pkcs11
from pkcs11 import Mechanism

from ...algorithms import Description
from ...errors import EngineFault
from ...records import Buffer, Operation
from ..kinds import CipherTransform, RunningCipher
from .token import TokenKey, fault
from .transform import TokenTransform

PIECE = 65_536
"""Largest piece that is handed to a token at once, bytes: a multiple of the block."""

_BLOCK = 16
_COUNTERS = 1 << 128


class _Ecb:
    """Blocks do not depend on each other."""

    mechanism = Mechanism.AES_ECB

    def __init__(self, iv: Buffer | None, encrypts: bool) -> None:
        return

    def parameter(self) -> Any:
        return None

    def fits(self, size: int) -> int:
        return size

    def move_on(self, before: bytes, after: bytes) -> None:
        return


class _Cbc(_Ecb):
    """The next IV is the last block of ciphertext."""

    mechanism = Mechanism.AES_CBC

    def __init__(self, iv: Buffer | None, encrypts: bool) -> None:
        self._iv = bytes(iv or b"")
        self._encrypts = encrypts

    def parameter(self) -> Any:
        return self._iv

    def move_on(self, before: bytes, after: bytes) -> None:
        self._iv = (after if self._encrypts else before)[-_BLOCK:]


class _Ctr(_Ecb):
    """The IV is the counter, big-endian in 16 bytes. A token refuses to go past its end, so a piece ends there."""

    mechanism = Mechanism.AES_CTR

    def __init__(self, iv: Buffer | None, encrypts: bool) -> None:
        self._counter = int.from_bytes(iv or b"", "big")

    def parameter(self) -> Any:
        # CK_AES_CTR_PARAMS: how many bits count, and the first block
        return struct.pack("@L16s", 128, self._counter.to_bytes(_BLOCK, "big"))

    def fits(self, size: int) -> int:
        return min(size, (_COUNTERS - self._counter) * _BLOCK)

    def move_on(self, before: bytes, after: bytes) -> None:
        self._counter = (self._counter + len(before) // _BLOCK) % _COUNTERS


CHAINS: dict[str, type[_Ecb]] = {"ecb": _Ecb, "cbc": _Cbc, "ctr": _Ctr}
"""How the pieces of a message are chained, by template."""


class TokenCipherRun:
    """A cipher message on its way."""

    def __init__(self, key: TokenKey, chain: _Ecb, encrypts: bool, name: str) -> None:
        self._compute = key.encrypt if encrypts else key.decrypt
        self._chain = chain
        self._name = name

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view)
        chain = self._chain
        done = 0
        while done < size:
            piece = bytes(view[done : done + chain.fits(min(PIECE, size - done))])
            try:
                result = self._compute(piece, chain.mechanism, chain.parameter())
            except pkcs11.PKCS11Error as error:
                raise fault(error, f"message of {size} bytes with {self._name}") from None
            if len(result) != len(piece):
                raise EngineFault(f"{self._name}: of {len(piece)} bytes {len(result)} came out of the token")
            out[done : done + len(piece)] = result
            chain.move_on(piece, result)
            done += len(piece)
        return size

    def close(self) -> None:
        return


class TokenCipher(TokenTransform, CipherTransform):
    """A cipher of a token."""

    def __init__(self, description: Description, key: TokenKey, template: str) -> None:
        super().__init__(description, key)
        self._chain = CHAINS[template]

    def begin_cipher(self, operation: Operation, iv: Buffer | None) -> RunningCipher:
        encrypts = operation is Operation.ENCRYPT
        return TokenCipherRun(self._key, self._chain(iv, encrypts), encrypts, self.description.name)
