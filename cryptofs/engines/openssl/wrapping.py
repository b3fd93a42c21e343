"""What needs no nonce: AES-KW and AES-KWP, which wrap keys (RFC 3394, RFC 5649), and AES-SIV (RFC 5297).

What comes out has the order of the standards: the check value or the tag stands before the rest. AES-KW comes twice:
also as the kernel's cipher kw(aes), which takes and leaves the check value in its IV.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)

from ...algorithms import Description
from ...errors import BadTag, InvalidValue, TooLarge
from ...records import Buffer, Operation
from .aead import OpensslAead
from .keys import Keyed

WRAPPED_MAX = 16_384
"""Most bytes that are wrapped: twice the largest key. A megabyte takes the interpreter 100 milliseconds."""
_HALF = 8
"""Half a block: what is wrapped is counted in these, and the check value is one."""


def _check_size(size: int, least: int, unit: int, most: int = WRAPPED_MAX) -> None:
    if size > most:
        raise TooLarge(f"message of {size} bytes: at most {most}, because it is meant for keys")
    if size < least or size % unit:
        multiples = f", in multiples of {unit}" if unit > 1 else ""
        raise InvalidValue(f"message of {size} bytes: at least {least}{multiples}")


class _Wrap(NamedTuple):
    """The functions of pyca, and how a text must be: its least size and what it is a multiple of, bytes."""

    wrap: Callable[[Buffer, Buffer], bytes]
    unwrap: Callable[[Buffer, Buffer], bytes]
    least: int
    unit: int


_WRAPS = {
    "rfc3394(kw(aes))": _Wrap(aes_key_wrap, aes_key_unwrap, 2 * _HALF, _HALF),
    "kwp(aes)": _Wrap(aes_key_wrap_with_padding, aes_key_unwrap_with_padding, 1, 1),
}


class KernelWrap:
    """The kernel's cipher kw(aes): the IV brings the check value to decrypt, and is not looked at to encrypt.

    The check value that encrypting makes stays with the kernel, so nobody can unwrap what comes out.
    """

    def __init__(self, secret: bytearray) -> None:
        self._secret = secret

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        size = len(data)
        _check_size(size, 2 * _HALF, _HALF)
        out[:size] = aes_key_wrap(self._secret, data)[_HALF:]
        return size

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        size = len(data)
        _check_size(size, 2 * _HALF, _HALF)
        try:
            out[:size] = aes_key_unwrap(self._secret, bytes(iv) + bytes(data))
        except InvalidUnwrap:
            raise BadTag(f"iv of {_HALF} bytes: it is not this message's") from None
        return size


class Wrapper:
    """The functions under one key."""

    def __init__(self, secret: bytearray, functions: _Wrap) -> None:
        self.wrap = partial(functions.wrap, secret)
        self.unwrap = partial(functions.unwrap, secret)


class KeyWrap(Keyed[Wrapper], OpensslAead):
    """The AEADs rfc3394(kw(aes)) and kwp(aes), which take no associated data."""

    def __init__(self, description: Description, authsize: int) -> None:
        super().__init__(description, authsize)
        self._wrap = _WRAPS[description.name]

    def make_core(self, *parts: bytearray) -> Wrapper:
        return Wrapper(parts[0], self._wrap)

    def room(self, operation: Operation, size: int) -> int:
        # padded to whole halves
        return size + 2 * _HALF

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        _check_size(len(data), self._wrap.least, self._wrap.unit)
        wrapped = self._core.wrap(data)
        out[: len(wrapped)] = wrapped
        return len(wrapped)

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        _check_size(len(data), max(self._wrap.least, _HALF) + _HALF, _HALF, WRAPPED_MAX + _HALF)
        try:
            key = self._core.unwrap(data)
        except InvalidUnwrap:
            raise self.bad_tag() from None
        out[: len(key)] = key
        return len(key)


class Siv(Keyed[AESSIV], OpensslAead):
    """siv(aes), where associated data are always one string, which may be empty, and rfc5297(siv(aes)), where the nonce
    is a second one."""

    def make_core(self, *parts: bytearray) -> AESSIV:
        return AESSIV(parts[0])

    def _strings(self, iv: Buffer, assoc: memoryview) -> list[Buffer]:
        return [assoc, iv] if self._iv_size else [assoc]

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        end = len(view) - assoclen + self.authsize
        self._core.encrypt_into(view[assoclen:], self._strings(iv, view[:assoclen]), out[:end])
        return end

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        view = memoryview(data)
        size = len(view) - assoclen - self.authsize
        try:
            self._core.decrypt_into(view[assoclen:], self._strings(iv, view[:assoclen]), out[:size])
        except InvalidTag:
            out[:size] = bytes(size)
            raise self.bad_tag() from None
        return size


BUILDERS: dict[str, Callable[[Description, int], OpensslAead]] = {
    "rfc3394(kw(aes))": KeyWrap,
    "kwp(aes)": KeyWrap,
    "siv(aes)": Siv,
    "rfc5297(siv(aes))": Siv,
}
