"""Public key ciphers: textbook RSA, and RSA with the padding of PKCS#1 v1.5."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding

from ...algorithms import Description, Name
from ...errors import InvalidValue
from ...records import Buffer, Operation
from ..base import Answer, Operands
from ..rsa_key import PUBLIC_BITS
from . import libcrypto, sig
from .pairs import Pair, export_der
from .rsa import RsaKeys
from .transform import PairTransform

_BOTH = frozenset({Operation.ENCRYPT, Operation.DECRYPT})
_LARGEST = max(PUBLIC_BITS) // 8


class Padded(PairTransform):
    """pkcs1pad(rsa): RSAES-PKCS1-v1_5. A ciphertext that is none gives random bytes, so that nobody learns from it."""

    def __init__(self, description: Description) -> None:
        super().__init__(description, RsaKeys(), _BOTH, quick=False)

    def room(self, operation: Operation, size: int) -> int:
        return _LARGEST

    def compute(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        size = (self.public.key_size + 7) // 8
        try:
            if operation is Operation.ENCRYPT:
                if len(data) > size - 11:
                    raise InvalidValue(f"message of {len(data)} bytes: with this key at most {size - 11}")
                return self.public.encrypt(bytes(data), padding.PKCS1v15()), {}
            if len(data) != size:
                raise InvalidValue(f"message of {len(data)} bytes: with this key {size}")
            return self.private(operation).decrypt(bytes(data), padding.PKCS1v15()), {}
        except ValueError:
            raise InvalidValue(f"{operation.word}: the message is not below the modulus") from None


class NativeRsaKeys(RsaKeys):
    """RSA keys within the C library. The pair's public half is pyca's, its private half both."""

    def load_strict(self, key: bytearray, private: bool) -> Pair:
        pair = super().load_strict(key, private)
        return Pair(libcrypto.NativeKey.parse(key, private=True) if private else None, _Public(pair.public))

    def generate(self, bits: int) -> Pair:
        private = libcrypto.NativeKey.generate_rsa(bits)
        return Pair(private, _Public(self.load_public(private.public())))

    def export(self, public: Any, as_der: bool) -> bytes:
        return super().export(public.pyca, as_der)


class _Public:
    def __init__(self, pyca: Any) -> None:
        self.pyca = pyca
        self.native = libcrypto.NativeKey.parse(bytearray(export_der(pyca)), private=False)
        self.size = self.native.size
        modulus: int = pyca.public_numbers().n
        self.largest = (modulus - 2).to_bytes(self.size, "big")


class Textbook(PairTransform):
    """rsa: c = m^e and m = c^d, of numbers in big-endian bytes; the result has as many bytes as the modulus."""

    def __init__(self, description: Description) -> None:
        if libcrypto.library() is None:
            raise KeyError(description.name)
        super().__init__(description, NativeRsaKeys(), _BOTH, quick=False)

    def room(self, operation: Operation, size: int) -> int:
        return _LARGEST

    def compute(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        public: _Public = self.public
        number = bytes(data).lstrip(b"\0").rjust(public.size, b"\0")
        # as bytes of one length compare like the numbers; the kernel wants 1 < m < n - 1, too
        if not bytes(public.size - 1) + b"\1" < number <= public.largest or len(number) != public.size:
            raise InvalidValue(f"message of {len(data)} bytes: a number above 1 and below the modulus less 1")
        key = public.native if operation is Operation.ENCRYPT else self.private(operation)
        try:
            return key.rsa(number, operation is Operation.DECRYPT), {}
        except ValueError:
            raise InvalidValue(f"{operation.word}: the key does not do it") from None


def build(description: Description, name: Name) -> PairTransform:
    """A transform for a parsed generic name. Errors: KeyError for a name that is not served."""
    match name:
        case Name("rsa", ()):
            return Textbook(description)
        case Name("pkcs1pad", (Name("rsa", ()),)):
            return Padded(description)
    return sig.build(description, name)
