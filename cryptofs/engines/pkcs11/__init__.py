"""Computing in a PKCS#11 token, whose keys never leave it. Needs the package python-pkcs11 (the extra `pkcs11`).

This engine is not among those that serve any name: it serves what one key in one token can do. Differences to the
other engines:
- its transforms are keyed from the beginning, and set-key is EOPNOTSUPP;
- an operation that the key's attributes do not allow is EACCES;
- a token may take hmac keys of certain sizes only (SoftHSM: not shorter than the digest);
- a hash message that is longer than 64 KiB cannot be cloned, and 16 of them may be under way with a key.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pkcs11
from pkcs11 import KeyType, Mechanism

from ...algorithms import Description, Type, driver_name, look_up, parse_name
from ...errors import InvalidValue, KeyUnavailable, NotOffered
from ...formats.token_uri import TokenObject
from ..base import Engine, Transform
from .aead import TokenGcm
from .cipher import TokenCipher
from .hash import TokenHmac
from .making import new_key
from .token import Pin, Token, TokenKey, fault

__all__ = ["TokenEngine", "made_key"]


@dataclass(frozen=True)
class _Served:
    """A name: the mechanism that a token must have, and the types of keys that do."""

    mechanism: Mechanism
    key_types: tuple[KeyType, ...]


_AES = (KeyType.AES,)
_SERVED = {
    (Type.SKCIPHER, "ecb(aes)"): _Served(Mechanism.AES_ECB, _AES),
    (Type.SKCIPHER, "cbc(aes)"): _Served(Mechanism.AES_CBC, _AES),
    (Type.SKCIPHER, "ctr(aes)"): _Served(Mechanism.AES_CTR, _AES),
    (Type.AEAD, "gcm(aes)"): _Served(Mechanism.AES_GCM, _AES),
    (Type.HASH, "hmac(sha256)"): _Served(Mechanism.SHA256_HMAC, (KeyType.GENERIC_SECRET, KeyType.SHA256_HMAC)),
    (Type.HASH, "hmac(sha384)"): _Served(Mechanism.SHA384_HMAC, (KeyType.GENERIC_SECRET, KeyType.SHA384_HMAC)),
    (Type.HASH, "hmac(sha512)"): _Served(Mechanism.SHA512_HMAC, (KeyType.GENERIC_SECRET, KeyType.SHA512_HMAC)),
}


class TokenEngine(Engine):
    """What one key in a token can do. It and each of its transforms hold on to the token until they are closed."""

    name = "pkcs11"

    def __init__(self, module: str, wanted: TokenObject, pin: Pin) -> None:
        """module: path of the PKCS#11 library; wanted: the secret key and its token.

        pin: asked for each login; it is kept for one that is needed later. Errors: KeyUnavailable, PinRefused.
        """
        self._wanted = wanted
        self._token = Token.open(module, wanted, pin)
        self._mechanisms = self._token.mechanisms

    def close(self) -> None:
        """Let go of the token; transforms that are open keep it."""
        self._token.release()

    def describe(self, type_: Type, name: str) -> Description | None:
        served = _SERVED.get((type_, name))
        facts = look_up(type_, name)
        if served is None or facts is None or served.mechanism not in self._mechanisms:
            return None
        return Description.of(type_, name, self.name, driver_name(name, self.name), facts)

    def open(self, description: Description, authsize: int | None) -> Transform:
        """See Engine. Errors: also KeyUnavailable, InvalidValue for a key of another type or size."""
        authsize = description.choose_authsize(authsize)
        token = self._token.hold()
        try:
            key = TokenKey(token, self._wanted, _SERVED[description.type, description.name].mechanism)
        except BaseException:
            token.release()
            raise
        try:
            return self._build(description, key, authsize)
        except BaseException:
            key.close()
            raise

    def _build(self, description: Description, key: TokenKey, authsize: int) -> Transform:
        served = _SERVED[description.type, description.name]
        if key.type not in served.key_types:
            takes = ", ".join(kind.name for kind in served.key_types)
            raise InvalidValue(f"key of type {key.type.name}: {description.name} takes {takes}")
        match description.type:
            case Type.HASH:
                if key.may_sign:
                    _try_to_sign(key, served.mechanism, description)
                return TokenHmac(description, key, served.mechanism)
            case Type.AEAD:
                return TokenGcm(description, key, authsize)
            case _:
                return TokenCipher(description, key, parse_name(description.name).template)

    def is_slow(self, type_: Type, name: str) -> bool:
        """A token may be at the other end of a bus."""
        return (type_, name) in _SERVED

    def names(self) -> Iterable[tuple[Type, str]]:
        return [place for place, served in _SERVED.items() if served.mechanism in self._mechanisms]


@contextmanager
def made_key(module: str, wanted: TokenObject, pin: Pin, type_: Type, name: str, size: int) -> Iterator[None]:
    """Have a token make a key for an algorithm; it goes again if the block fails. Errors: those of `new_key`."""
    served = _SERVED.get((type_, name))
    if served is None:
        known = ", ".join(name for _, name in _SERVED)
        raise NotOffered(f"{type_} {name!r}: a device has keys in tokens only for {known}")
    with new_key(module, wanted, pin, served.key_types[0], size):
        yield


def _try_to_sign(key: TokenKey, mechanism: Mechanism, description: Description) -> None:
    """Which sizes of hmac keys a token takes shows only in use: modules differ in how they state them."""
    try:
        key.sign(b"", mechanism)
    except pkcs11.KeySizeRange:
        raise InvalidValue(
            f"key of a wrong size: for {description.name} this token wants one of at least "
            f"{description.digest_size} bytes"
        ) from None
    except pkcs11.PKCS11Error as error:
        refused = fault(error, f"{key.wanted.key} in the token")
        raise KeyUnavailable(refused.message) from None
