"""Ciphers without authentication."""

import hmac
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.decrepit.ciphers.modes import CFB, OFB
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

from ...algorithms import Description, Name
from ...errors import InvalidValue
from ...records import Buffer, Operation
from ..kinds import CipherTransform, RunningCipher, WholeTransform
from .cbc import Cbc
from .keys import Keyed
from .modes import Chacha, Ctr, Cts, Ecb, Fresh, StreamMode, WholeMode, Xts

_ENCRYPT = Operation.ENCRYPT
_DECRYPT = Operation.DECRYPT
_BOTH = (_ENCRYPT, _DECRYPT)

# Any: some are annotated to want bytes; they take and keep a bytearray
_CIPHERS: dict[str, Callable[[Any], BlockCipherAlgorithm]] = {
    "aes": AES,
    "camellia": Camellia,
    "sm4": SM4,
    "des3_ede": TripleDES,
}
_MODES: dict[str, Callable[[BlockCipherAlgorithm], StreamMode]] = {
    "ecb": Ecb,
    "ctr": Ctr,
    "ofb": lambda algorithm: Fresh(algorithm, OFB),
    "cfb": lambda algorithm: Fresh(algorithm, CFB),
}


class StreamedCipher(Keyed[StreamMode], CipherTransform):
    """A cipher that takes parts."""

    def __init__(self, description: Description, make: Callable[[bytearray], StreamMode]) -> None:
        super().__init__(description)
        self._make = make
        self._iv_size = description.iv_size
        self._block_size = description.block_size

    def make_core(self, *parts: bytearray) -> StreamMode:
        return self._make(*parts)

    def begin_cipher(self, operation: Operation, iv: Buffer | None) -> RunningCipher:
        return self._core.start(iv or b"", operation is _ENCRYPT)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        iv = iv or b""
        if len(iv) != self._iv_size or assoclen or not self.keyed or operation not in _BOTH:
            self.check(operation, iv or None, assoclen)
        if len(data) % self._block_size:
            raise InvalidValue(f"message of {len(data)} bytes: a multiple of {self._block_size}")
        if operation is _ENCRYPT:
            return self._core.encrypt(iv, data, out)
        return self._core.decrypt(iv, data, out)


class CbcCipher(StreamedCipher):
    """CBC, with a short way for small messages."""

    _core: Cbc

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        if iv is None or len(iv) != self._iv_size or not self.keyed or not data or len(data) % self._block_size:
            return None
        if operation == _ENCRYPT:
            return self._core.short(True, iv, data)
        return self._core.short(False, iv, data) if operation == _DECRYPT else None


class WholeCipher(Keyed[WholeMode], WholeTransform):
    """A cipher that takes messages whole."""

    def __init__(self, description: Description, make: Callable[[bytearray], WholeMode]) -> None:
        super().__init__(description)
        self._make = make

    def make_core(self, *parts: bytearray) -> WholeMode:
        return self._make(*parts)

    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        if operation is _ENCRYPT:
            return self._core.encrypt(iv or b"", data, out)
        return self._core.decrypt(iv or b"", data, out)


def _make_xts(secret: bytearray) -> Xts:
    half = len(secret) // 2
    view = memoryview(secret)
    if hmac.compare_digest(view[:half], view[half:]):
        # OpenSSL would refuse at the first encryption; the kernel takes such keys outside FIPS mode
        raise InvalidValue(f"key of {len(secret)} bytes: xts(aes) on this engine takes no equal halves")
    return Xts(AES(secret), modes.XTS)


def _make_cts(secret: bytearray) -> Cts:
    return Cts(AES(secret))


def build(description: Description, name: Name) -> StreamedCipher | WholeCipher:
    """A transform for a parsed generic name. Errors: KeyError for a name that is not served."""
    match name.template:
        case "chacha20":
            return StreamedCipher(description, Chacha)
        case "xts":
            return WholeCipher(description, _make_xts)
        case "cts":
            return WholeCipher(description, _make_cts)
    if name.template == "cbc":
        block = _CIPHERS[name.arguments[0].template]
        return CbcCipher(description, lambda secret: Cbc(block(secret)))
    mode, cipher = _MODES[name.template], _CIPHERS[name.arguments[0].template]
    return StreamedCipher(description, lambda secret: mode(cipher(secret)))
