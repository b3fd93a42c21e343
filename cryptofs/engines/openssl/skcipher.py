"""Ciphers without authentication."""

import hmac
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5, SEED, Blowfish, Camellia, TripleDES
from cryptography.hazmat.decrepit.ciphers.modes import CFB, OFB
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

from ...algorithms import Description, Name
from ...errors import InvalidValue
from ...records import Buffer, Operation
from ..kinds import CipherTransform, RunningCipher, WholeTransform
from .cbc import Cbc
from .composed import Counter, Essiv, Pcbc, Rfc3686, Xchacha, Xctr, essiv_salt
from .keys import Keyed, keep, wipe
from .modes import Chacha, Ctr, Cts, Ecb, Fresh, Null, StreamMode, WholeMode, Xts
from .wrapping import KernelWrap

_ENCRYPT = Operation.ENCRYPT
_DECRYPT = Operation.DECRYPT
_BOTH = (_ENCRYPT, _DECRYPT)

# Any: some are annotated to want bytes; they take and keep a bytearray.
_CIPHERS: dict[str, Callable[[Any], BlockCipherAlgorithm]] = {
    "aes": AES,
    "camellia": Camellia,
    "sm4": SM4,
    "des3_ede": TripleDES,
    "des": TripleDES,  # With one key three times.
    "blowfish": Blowfish,
    "cast5": CAST5,
    "seed": SEED,
}
_MODES: dict[str, Callable[[BlockCipherAlgorithm], StreamMode]] = {
    "ecb": Ecb,
    "ofb": lambda algorithm: Fresh(algorithm, OFB),
    "cfb": lambda algorithm: Fresh(algorithm, CFB),
}


class StreamedCipher(Keyed[StreamMode], CipherTransform):
    """A cipher that takes parts."""

    def __init__(self, description: Description, make: Callable[[bytearray], StreamMode], copies: int = 1) -> None:
        """copies: the number of copies of the key that the cipher needs."""
        super().__init__(description)
        self._make = make
        self._copies = copies
        self._iv_size = description.iv_size
        self._block_size = description.block_size

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        secret = keep(key)
        if self._copies == 1:
            return (secret,)
        repeated = secret * self._copies
        wipe(secret)
        return (repeated,)

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
    """CBC, with a fast path for small messages."""

    _core: Cbc

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        if iv is None or len(iv) != self._iv_size or not self.keyed or not data or len(data) % self._block_size:
            return None
        if operation == _ENCRYPT:
            return self._core.short(True, iv, data)
        return self._core.short(False, iv, data) if operation == _DECRYPT else None


class NullCipher(StreamedCipher):
    """ecb(cipher_null), which takes no key."""

    def __init__(self, description: Description) -> None:
        super().__init__(description, lambda _secret: Null())
        self._core = Null()


class WholeCipher(Keyed[WholeMode], WholeTransform):
    """A cipher that takes whole messages."""

    def __init__(self, description: Description, make: Callable[..., WholeMode]) -> None:
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
        # OpenSSL would refuse it at the first encryption. The kernel accepts such keys outside FIPS mode.
        raise InvalidValue(f"key of {len(secret)} bytes: xts(aes) on this engine does not take equal halves")
    return Xts(AES(secret), modes.XTS)


class SaltedCipher(WholeCipher):
    """rfc3686: the key ends with 4 bytes of nonce."""

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        view = memoryview(key)
        return keep(view[:-4]), keep(view[-4:])


class EssivCipher(WholeCipher):
    """essiv: a second key is derived from the first."""

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        return keep(key), essiv_salt(key)


_HAVE_CTR = ("aes", "sm4")


def _make_ctr(cipher: str, secret: bytearray) -> StreamMode:
    algorithm = _CIPHERS[cipher](secret)
    return Ctr(algorithm) if cipher in _HAVE_CTR else Counter(algorithm)


_WHOLE: dict[str, tuple[type[WholeCipher], Callable[..., WholeMode]]] = {
    "xts(aes)": (WholeCipher, _make_xts),
    "essiv(cbc(aes),sha256)": (EssivCipher, lambda secret, salt: Essiv(AES(secret), AES(salt))),
    "essiv(cbc(camellia),sha256)": (EssivCipher, lambda secret, salt: Essiv(Camellia(secret), Camellia(salt))),
    "xctr(aes)": (WholeCipher, lambda secret: Xctr(AES(secret))),
    "pcbc(aes)": (WholeCipher, Pcbc),
    "kw(aes)": (WholeCipher, KernelWrap),
}


def _of_cipher(cipher: str) -> dict[str, tuple[type[WholeCipher], Callable[..., WholeMode]]]:
    """What is the same for every cipher with blocks of 16 bytes."""
    make = _CIPHERS[cipher]
    return {
        f"cts(cbc({cipher}))": (WholeCipher, lambda secret: Cts(make(secret))),
        f"rfc3686(ctr({cipher}))": (SaltedCipher, lambda secret, nonce: Rfc3686(_make_ctr(cipher, secret), nonce)),
    }


for _cipher in ("aes", "camellia", "sm4"):
    _WHOLE |= _of_cipher(_cipher)
_STREAMED: dict[str, Callable[[bytearray], StreamMode]] = {"chacha20": Chacha, "xchacha20": Xchacha}


def build(description: Description, name: Name) -> StreamedCipher | WholeCipher:
    """A transform for a parsed generic name. Errors: KeyError if the name is not served."""
    if description.name in _WHOLE:
        kind, make = _WHOLE[description.name]
        return kind(description, make)
    if description.name == "ecb(cipher_null)":
        return NullCipher(description)
    if description.name in _STREAMED:
        return StreamedCipher(description, _STREAMED[description.name])
    if len(name.arguments) != 1:
        raise KeyError(description.name)
    cipher = name.arguments[0].template
    block = _CIPHERS[cipher]
    copies = 3 if cipher == "des" else 1
    match name.template:
        case "cbc":
            return CbcCipher(description, lambda secret: Cbc(block(secret)), copies)
        case "ctr":
            return StreamedCipher(description, lambda secret: _make_ctr(cipher, secret), copies)
    mode = _MODES[name.template]
    return StreamedCipher(description, lambda secret: mode(block(secret)), copies)
