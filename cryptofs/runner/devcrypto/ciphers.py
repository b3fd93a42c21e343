"""The algorithms of cryptodev by its numbers, and what is particular to them there.

A number that cryptodev has for other systems only, or that no kernel serves (ARC4, the tls… composites), is not here:
a session with it is EINVAL, as in cryptodev.
"""

from dataclasses import dataclass

from ...algorithms import Description, Facts, Type
from ...errors import NotSupported
from ...records import Buffer, Operation
from ..backend import Backend, Output, RunHash, RunTransform


@dataclass(frozen=True)
class Cipher:
    """A cipher. streams: cryptodev takes it for a stream cipher, which alone may serve Flag.SRTP."""

    name: str
    type: Type = Type.SKCIPHER
    streams: bool = False


@dataclass(frozen=True)
class Mac:
    """A hash. keyed: cryptodev gives it the session's mac_key."""

    name: str
    keyed: bool = False


NULL_NAME = "ecb(cipher_null)"

CIPHERS = {
    1: Cipher("cbc(des)"),
    2: Cipher("cbc(des3_ede)"),
    3: Cipher("cbc(blowfish)"),
    11: Cipher("cbc(aes)"),
    16: Cipher(NULL_NAME, streams=True),
    21: Cipher("ctr(aes)", streams=True),
    22: Cipher("xts(aes)"),
    23: Cipher("ecb(aes)"),
    24: Cipher("cfb(aes)"),
    25: Cipher("ofb(aes)"),
    50: Cipher("gcm(aes)", Type.AEAD),
    51: Cipher("ccm(aes)", Type.AEAD),
    101: Cipher("cbc(camellia)"),
}
MACS = {
    6: Mac("hmac(md5)", keyed=True),
    7: Mac("hmac(sha1)", keyed=True),
    8: Mac("hmac(rmd160)", keyed=True),
    13: Mac("md5"),
    14: Mac("sha1"),
    18: Mac("hmac(sha256)", keyed=True),
    19: Mac("hmac(sha384)", keyed=True),
    20: Mac("hmac(sha512)", keyed=True),
    102: Mac("rmd160"),
    103: Mac("sha224"),
    104: Mac("sha256"),
    105: Mac("sha384"),
    106: Mac("sha512"),
    107: Mac("hmac(sha224)", keyed=True),
}


def open_cipher(backend: Backend, cipher: Cipher) -> RunTransform:
    """A transform without a key. Errors: NotOffered."""
    return NullCipher() if cipher.name == NULL_NAME else backend.open(cipher.type, cipher.name)


class NullCipher:
    """The kernel's cipher that changes nothing, and takes any key. No library has it."""

    description = Description.of(Type.SKCIPHER, NULL_NAME, "runner", "ecb-cipher_null", Facts())
    authsize = 0
    needs_key = False

    def set_key(self, key: Buffer) -> None:
        return

    def set_authsize(self, size: int) -> None:
        self.description.choose_authsize(size)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer) -> Output:
        return bytes(data)

    def compute(self, operation: Operation, data: Buffer) -> bytes:
        raise NotSupported(f"{NULL_NAME} has no key pair")

    def generate(self, size: int) -> Output:
        raise NotSupported(f"{NULL_NAME} generates nothing")

    def hash(self) -> RunHash:
        raise NotSupported(f"{NULL_NAME} is no hash")

    def close(self) -> None:
        return
