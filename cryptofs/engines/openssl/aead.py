"""Authenticated encryption, apart from authenc.

A box seals under one key with a nonce and associated data. The classes after the boxes define how each of the kernel's
algorithms gets these from the IV, the end of the key (the salt) and the associated data.
"""

from collections.abc import Callable
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, AESGCMSIV, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

from ...algorithms import Description, Name
from ...errors import InvalidValue, Overflow
from ...records import Buffer, Operation
from ..kinds import AeadTransform
from .composed import derive_subkey
from .keys import Keyed, keep, wipe
from .modes import Chacha

_ENCRYPT = Operation.ENCRYPT
_DECRYPT = Operation.DECRYPT
_BOTH = (_ENCRYPT, _DECRYPT)
_FULL_TAG = 16


class Box(Protocol):
    """An AEAD under one key; `out` is 16 bytes longer than needed."""

    def seal(self, nonce: Buffer, assoc: memoryview, text: memoryview, out: memoryview) -> None:
        """Write ciphertext and tag."""

    def unseal(self, nonce: Buffer, assoc: memoryview, sealed: memoryview, size: int, out: memoryview) -> None:
        """Write the `size` bytes of text. Errors: pyca's InvalidTag; `out` may then contain text that must not be given
        out."""


class Sm4GcmBox:
    """GCM of SM4, RFC 8998, on a context for each message. Tags have any length from 4 bytes."""

    cipher: Callable[[Any], BlockCipherAlgorithm] = SM4

    def __init__(self, secret: bytearray, authsize: int) -> None:
        self._algorithm = type(self).cipher(secret)
        self._authsize = authsize

    def seal(self, nonce: Buffer, assoc: memoryview, text: memoryview, out: memoryview) -> None:
        context = Cipher(self._algorithm, modes.GCM(bytes(nonce))).encryptor()
        context.authenticate_additional_data(assoc)
        size = context.update_into(text, out)
        context.finalize()
        out[size : size + self._authsize] = context.tag[: self._authsize]

    def unseal(self, nonce: Buffer, assoc: memoryview, sealed: memoryview, size: int, out: memoryview) -> None:
        mode = modes.GCM(bytes(nonce), bytes(sealed[size:]), min_tag_length=self._authsize)
        context = Cipher(self._algorithm, mode).decryptor()
        context.authenticate_additional_data(assoc)
        context.update_into(sealed[:size], out)
        context.finalize()


class GcmBox(Sm4GcmBox):
    """GCM of AES, in one call where pyca has one."""

    cipher = AES

    def __init__(self, secret: bytearray, authsize: int) -> None:
        super().__init__(secret, authsize)
        self.aead = AESGCM(secret)

    def seal(self, nonce: Buffer, assoc: memoryview, text: memoryview, out: memoryview) -> None:
        # A shorter tag is the beginning of the full one.
        self.aead.encrypt_into(nonce, text, assoc, out[: len(text) + _FULL_TAG])

    def unseal(self, nonce: Buffer, assoc: memoryview, sealed: memoryview, size: int, out: memoryview) -> None:
        if self._authsize == _FULL_TAG:
            self.aead.decrypt_into(nonce, sealed, assoc, out[:size])
        else:
            super().unseal(nonce, assoc, sealed, size, out)


class CcmBox:
    """CCM: the bytes of 15 that the nonce leaves count the text."""

    def __init__(self, secret: bytearray, authsize: int) -> None:
        self._ccm = AESCCM(secret, authsize)
        self._authsize = authsize

    def seal(self, nonce: Buffer, assoc: memoryview, text: memoryview, out: memoryview) -> None:
        _check_counter(nonce, len(text))
        self._ccm.encrypt_into(nonce, text, assoc, out[: len(text) + self._authsize])

    def unseal(self, nonce: Buffer, assoc: memoryview, sealed: memoryview, size: int, out: memoryview) -> None:
        _check_counter(nonce, size)
        self._ccm.decrypt_into(nonce, sealed, assoc, out[:size])


def _check_counter(nonce: Buffer, size: int) -> None:
    counter = 15 - len(nonce)
    if size >> 8 * counter:
        raise Overflow(f"message of {size} bytes: at most {(1 << 8 * counter) - 1} with a nonce of {len(nonce)}")


class FullTagBox:
    """An AEAD of pyca's whose nonce is the IV, and whose tag has one size: ChaCha20-Poly1305, AES-GCM-SIV."""

    def __init__(self, aead: ChaCha20Poly1305 | AESGCMSIV) -> None:
        self.aead = aead

    def seal(self, nonce: Buffer, assoc: memoryview, text: memoryview, out: memoryview) -> None:
        self.aead.encrypt_into(nonce, text, assoc, out[: len(text) + _FULL_TAG])

    def unseal(self, nonce: Buffer, assoc: memoryview, sealed: memoryview, size: int, out: memoryview) -> None:
        self.aead.decrypt_into(nonce, sealed, assoc, out[:size])


class XchachaBox:
    """XChaCha20-Poly1305: each nonce gives a key of its own, and the last 8 of its bytes are that key's nonce."""

    def __init__(self, secret: bytearray, authsize: int) -> None:
        self._chacha = Chacha(secret)

    def _box(self, nonce: Buffer) -> tuple[FullTagBox, bytes]:
        subkey = derive_subkey(self._chacha, bytes(nonce[:16]))
        try:
            return FullTagBox(ChaCha20Poly1305(subkey)), bytes(4) + bytes(nonce[16:])
        finally:
            wipe(subkey)

    def seal(self, nonce: Buffer, assoc: memoryview, text: memoryview, out: memoryview) -> None:
        box, rest = self._box(nonce)
        box.seal(rest, assoc, text, out)

    def unseal(self, nonce: Buffer, assoc: memoryview, sealed: memoryview, size: int, out: memoryview) -> None:
        box, rest = self._box(nonce)
        box.unseal(rest, assoc, sealed, size, out)


class OpensslAead(AeadTransform):
    """The fast path to `crypt`, common to all of this engine's AEADs."""

    def __init__(self, description: Description, authsize: int) -> None:
        super().__init__(description, authsize)
        self._iv_size = description.iv_size

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        if iv is None or len(iv) != self._iv_size or not self.keyed or operation not in _BOTH:
            self.check(operation, iv, assoclen)
        return self.crypt(operation, iv, assoclen, data, out)


class BoxTransform(Keyed[Box], OpensslAead):
    """A box whose nonce is the IV, and whose tag covers all associated data, unless a subclass overrides that."""

    def __init__(self, description: Description, authsize: int, box: Callable[[bytearray, int], Box]) -> None:
        super().__init__(description, authsize)
        self._box = box

    def make_core(self, *parts: bytearray) -> Box:
        return self._box(parts[0], self.authsize)

    def nonce(self, iv: Buffer) -> Buffer:
        """The nonce for an IV. Errors: InvalidValue."""
        return iv

    def covered(self, assoclen: int) -> int:
        """Number of bytes of the associated data that the tag covers."""
        return assoclen

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        self._core.seal(self.nonce(iv), view[: self.covered(assoclen)], view[assoclen:], out)
        return len(view) - assoclen + self.authsize

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view) - assoclen - self.authsize
        assoc = view[: self.covered(assoclen)]
        try:
            self._core.unseal(self.nonce(iv), assoc, view[assoclen:], size, out)
        except InvalidTag:
            out[:size] = bytes(size)
            raise self.bad_tag() from None
        return size


class PlainTransform(BoxTransform):
    """gcm, gcm-siv and rfc7539."""

    _core: GcmBox | FullTagBox

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        # The common case in the fewest steps, 1 us instead of 2.5. All errors take the general path.
        size = len(data) - assoclen
        if operation is _DECRYPT:
            size -= _FULL_TAG
        elif operation is not _ENCRYPT:
            size = -1
        if size < 0 or self.authsize != _FULL_TAG or not self.keyed or iv is None or len(iv) != self._iv_size:
            return super().once(operation, iv, assoclen, data, out)
        assoc = None
        if assoclen:
            view = memoryview(data)
            assoc, data = view[:assoclen], view[assoclen:]
        if operation is _ENCRYPT:
            return self._core.aead.encrypt_into(iv, data, assoc, out[: size + _FULL_TAG])
        try:
            return self._core.aead.decrypt_into(iv, data, assoc, out[:size])
        except InvalidTag:
            out[:size] = bytes(size)
            raise self.bad_tag() from None

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        if iv is None or len(iv) != self._iv_size or not self.keyed or self.authsize != _FULL_TAG:
            return None
        if operation == _ENCRYPT:
            return self._core.aead.encrypt(iv, data, None)
        if operation != _DECRYPT or len(data) < _FULL_TAG:
            return None
        try:
            return self._core.aead.decrypt(iv, data, None)
        except InvalidTag:
            return None


class CcmTransform(BoxTransform):
    """ccm: the IV is the first counter block. Its first byte is the counter's length minus one; its end is the
    counter."""

    def nonce(self, iv: Buffer) -> Buffer:
        if not 1 <= iv[0] <= 7:
            raise InvalidValue(f"iv with the first byte {iv[0]}: 1 to 7, the length of ccm's counter less one")
        return iv[1 : 15 - iv[0]]


class SaltedTransform(BoxTransform):
    """The form of IPsec: the key ends with a salt that begins the nonce."""

    salt_size: int

    def split(self, key: Buffer) -> tuple[bytearray, ...]:
        cut = len(key) - self.salt_size
        return keep(key[:cut]), keep(key[cut:])

    def nonce(self, iv: Buffer) -> Buffer:
        return self._parts[1] + iv


class EspTransform(SaltedTransform):
    """rfc4106, rfc4309 and rfc7539esp: the associated data ends with a copy of the IV, which the tag does not cover."""

    salt_size = 4

    def covered(self, assoclen: int) -> int:
        return assoclen - 8


class EspCcmTransform(EspTransform):
    """rfc4309: the same with 3 bytes of salt."""

    salt_size = 3


class GmacTransform(SaltedTransform):
    """rfc4543: everything is authenticated and nothing is encrypted."""

    salt_size = 4

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view) - assoclen
        self._core.seal(self.nonce(iv), view, _NOTHING, out[size:])
        out[:size] = view[assoclen:]
        return size + self.authsize

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        cut = len(view) - self.authsize
        try:
            self._core.unseal(self.nonce(iv), view[:cut], view[cut:], 0, out)
        except InvalidTag:
            raise self.bad_tag() from None
        out[: cut - assoclen] = view[assoclen:cut]
        return cut - assoclen


def _chacha_box(secret: bytearray, authsize: int) -> FullTagBox:
    return FullTagBox(ChaCha20Poly1305(secret))


_NOTHING = memoryview(b"")

_BUILDERS: dict[str, tuple[type[BoxTransform], Callable[[bytearray, int], Box]]] = {
    "gcm(aes)": (PlainTransform, GcmBox),
    "gcm(sm4)": (BoxTransform, Sm4GcmBox),
    "ccm(aes)": (CcmTransform, CcmBox),
    "rfc4106(gcm(aes))": (EspTransform, GcmBox),
    "rfc4106(gcm(sm4))": (EspTransform, Sm4GcmBox),
    "rfc4309(ccm(aes))": (EspCcmTransform, CcmBox),
    "rfc4543(gcm(aes))": (GmacTransform, GcmBox),
    "rfc4543(gcm(sm4))": (GmacTransform, Sm4GcmBox),
    "gcm-siv(aes)": (PlainTransform, lambda secret, _authsize: FullTagBox(AESGCMSIV(secret))),
    "rfc7539(chacha20,poly1305)": (PlainTransform, _chacha_box),
    "rfc7539(xchacha20,poly1305)": (BoxTransform, XchachaBox),
    "rfc7539esp(chacha20,poly1305)": (EspTransform, _chacha_box),
}


def build(description: Description, name: Name, authsize: int) -> BoxTransform:
    """A transform for a generic name. Errors: KeyError for a name that is not served."""
    transform, box = _BUILDERS[description.name]
    return transform(description, authsize, box)
