"""Signatures."""

from abc import ABC, abstractmethod
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding
from cryptography.hazmat.primitives.asymmetric.utils import (
    NoDigestInfo,
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from ...algorithms import Description, Name, digest_info
from ...errors import InvalidValue, KeyRejected, SignatureMalformed, TooLarge
from ...records import PAYLOAD_MAX, RECORD_MAX, Attr, Buffer, Operation, Record, Value
from ...records import build as build_record
from ..base import Answer, Operands
from ..public import operand
from . import malformed
from .hash import DIGESTS
from .pairs import EcKeys, Keys, RawKeys
from .rsa import RsaKeys
from .transform import PairTransform

# ECDSA uses the bytes of a digest whatever made them, so any algorithm of the size will do.
_BY_SIZE = {DIGESTS[name].digest_size: DIGESTS[name] for name in ("sha1", "sha224", "sha256", "sha384", "sha512")}


class Scheme(ABC):
    """How a kind of key signs. trial: some data that would do. takes_context: whether a signature is for a context, by
    default the empty one."""

    trial = bytes(32)
    takes_context = False

    def largest(self, context: bytes) -> int:
        """Bytes of data that can be signed, and verified as well."""
        return PAYLOAD_MAX

    @abstractmethod
    def check(self, data: Buffer) -> str | None:
        """Which data would do, in words, if these do not."""

    @abstractmethod
    def sign(self, private: Any, data: Buffer, context: bytes) -> bytes:
        """The signature of a digest or message."""

    @abstractmethod
    def signature_size(self, public: Any) -> int:
        """Bytes of every signature; 0 where they differ, or where another size is a fault of its form."""

    @abstractmethod
    def verify(self, public: Any, signature: bytes, data: Buffer, context: bytes) -> None:
        """Errors: InvalidSignature, or ValueError where it has no form."""

    def malformed(self, public: Any, signature: bytes) -> str | None:
        """What is wrong with the form of a signature that was refused, if anything is."""
        return None


class Pkcs1(Scheme):
    """RSASSA-PKCS1-v1_5 of a digest, or, with the kernel's digest `none`, of any data that there is room for."""

    def __init__(self, digest: str) -> None:
        # described here: the library has not the names of all digests, and none for none
        self._described, self._size = digest_info.describe(digest)
        self.trial = bytes(self._size or 1)

    def check(self, data: Buffer) -> str | None:
        if not self._size:
            # the library signs nothing, but never verifies it
            return None if len(data) else "at least 1 byte"
        return None if len(data) == self._size else f"a digest of {self._size} bytes"

    def sign(self, private: Any, data: Buffer, context: bytes) -> bytes:
        largest = self.signature_size(private) - 11
        if len(data) > largest:
            raise InvalidValue(f"message of {len(data)} bytes: with this key at most {largest}")
        return bytes(private.sign(self._described + bytes(data), padding.PKCS1v15(), NoDigestInfo()))

    def signature_size(self, public: Any) -> int:
        return int(public.key_size + 7) // 8

    def verify(self, public: Any, signature: bytes, data: Buffer, context: bytes) -> None:
        public.verify(signature, self._described + bytes(data), padding.PKCS1v15(), NoDigestInfo())

    def malformed(self, public: Any, signature: bytes) -> str | None:
        return malformed.pkcs1(public, signature, self._described)


class Ecdsa(Scheme):
    """ECDSA of a digest. size: of r and s, bytes, where a signature is r and s; 0 where it is their DER."""

    def __init__(self, size: int) -> None:
        self._size = size

    def check(self, data: Buffer) -> str | None:
        return None if len(data) in _BY_SIZE else f"a digest of {', '.join(map(str, _BY_SIZE))} bytes"

    def sign(self, private: Any, data: Buffer, context: bytes) -> bytes:
        signature: bytes = private.sign(bytes(data), ec.ECDSA(Prehashed(_BY_SIZE[len(data)])))
        if not self._size:
            return signature
        return b"".join(part.to_bytes(self._size, "big") for part in decode_dss_signature(signature))

    def signature_size(self, public: Any) -> int:
        return 2 * self._size

    def verify(self, public: Any, signature: bytes, data: Buffer, context: bytes) -> None:
        if self._size:
            signature = encode_dss_signature(*self._parts(signature))
        public.verify(signature, bytes(data), ec.ECDSA(Prehashed(_BY_SIZE[len(data)])))

    def _parts(self, signature: bytes) -> tuple[int, int]:
        return int.from_bytes(signature[: self._size], "big"), int.from_bytes(signature[self._size :], "big")

    def malformed(self, public: Any, signature: bytes) -> str | None:
        try:
            r, s = self._parts(signature) if self._size else malformed.numbers(signature)
        except ValueError:
            return "it is no DER of r and s"
        return malformed.ecdsa(public, r, s)


class Pure(Scheme):
    """Signatures of messages: Ed25519, Ed448 and ML-DSA. size: of a signature, bytes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def largest(self, context: bytes) -> int:
        # A verify request has the signature and the context in the same record.
        attributes: dict[int, Value] = {Attr.SIGNATURE: bytes(self._size)}
        if context:
            attributes[Attr.SIGNATURE_CONTEXT] = context
        return min(PAYLOAD_MAX, RECORD_MAX - len(build_record(Record(Operation.VERIFY, 0, 0, 0, attributes))))

    def check(self, data: Buffer) -> str | None:
        return None

    def sign(self, private: Any, data: Buffer, context: bytes) -> bytes:
        return bytes(private.sign(data))

    def signature_size(self, public: Any) -> int:
        return self._size

    def verify(self, public: Any, signature: bytes, data: Buffer, context: bytes) -> None:
        public.verify(signature, data)


class MlDsa(Pure):
    """Signatures for a context, whose size, as in the kernel, is a part of their form."""

    takes_context = True

    def sign(self, private: Any, data: Buffer, context: bytes) -> bytes:
        return bytes(private.sign(data, context))

    def verify(self, public: Any, signature: bytes, data: Buffer, context: bytes) -> None:
        public.verify(signature, data, context)

    def signature_size(self, public: Any) -> int:
        return 0

    def malformed(self, public: Any, signature: bytes) -> str | None:
        return malformed.mldsa(signature, self._size)


class Signing(PairTransform):
    """A transform that signs and verifies."""

    def __init__(self, description: Description, keys: Keys, scheme: Scheme, quick: bool) -> None:
        super().__init__(description, keys, frozenset({Operation.SIGN, Operation.VERIFY}), quick)
        self.scheme = scheme
        self.takes_context = scheme.takes_context
        # what hashing a long message takes, nanoseconds a byte
        self.pace = 3.0

    def compute(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        context = operands.get(Attr.SIGNATURE_CONTEXT, b"")
        assert not isinstance(context, int | str)
        context = bytes(context)
        largest = self.scheme.largest(context)
        if len(data) > largest:
            does = f"{self.description.name} signs and verifies at most {largest}"
            raise TooLarge(f"message of {len(data)} bytes: {does}")
        takes = self.scheme.check(data)
        if takes is not None:
            raise InvalidValue(f"payload of {len(data)} bytes: {self.description.name} takes {takes}")
        if operation is Operation.SIGN:
            return self._sign(self.private(operation), data, context), {}
        signature = operand(operation, operands, Attr.SIGNATURE)
        size = self.scheme.signature_size(self.public)
        if size and len(signature) != size:
            raise InvalidValue(f"signature of {len(signature)} bytes: with this key {self.description.name} has {size}")
        try:
            self.scheme.verify(self.public, signature, data, context)
        except (InvalidSignature, ValueError):
            wrong = self.scheme.malformed(self.public, signature)
            if wrong is not None:
                raise SignatureMalformed(f"signature of {len(signature)} bytes: {wrong}") from None
            raise KeyRejected("the signature is not that of this message under this key") from None
        return b"", {}

    def _sign(self, private: Any, data: Buffer, context: bytes) -> bytes:
        try:
            return self.scheme.sign(private, data, context)
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidValue(f"sign: the key is too small for {self.description.name}") from None


_MLDSA: dict[str, tuple[str, Any, Any, int, int]] = {
    "mldsa44": ("608648016503040311", mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey, 1312, 2420),
    "mldsa65": ("608648016503040312", mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey, 1952, 3309),
    "mldsa87": ("608648016503040313", mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey, 2592, 4627),
}
_EDDSA: dict[str, tuple[str, Any, Any, int]] = {
    # bytes of each half of a key, and of each half of a signature
    "ed25519": ("2b6570", ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey, 32),
    "ed448": ("2b6571", ed448.Ed448PrivateKey, ed448.Ed448PublicKey, 57),
}


def build(description: Description, name: Name) -> Signing:
    """A transform for a parsed generic name. Errors: KeyError for a name that is not served."""
    match name:
        case Name("pkcs1" | "pkcs1pad", (Name("rsa", ()), Name(digest, ()))):
            return Signing(description, RsaKeys(), Pkcs1(digest), quick=False)
        case Name("x962", (Name(inner, ()),)):
            return Signing(description, _ec_keys(inner), Ecdsa(0), quick=True)
        case Name("p1363", (Name(inner, ()),)):
            keys = _ec_keys(inner)
            return Signing(description, keys, Ecdsa(keys.size), quick=True)
        case Name(template, ()) if template in _EDDSA:
            identifier, private, public, size = _EDDSA[template]
            eddsa_keys = RawKeys(identifier, private, public, private.from_private_bytes, (size, size), tail=True)
            return Signing(description, eddsa_keys, Pure(2 * size), quick=True)
        case Name(template, ()) if template in _MLDSA:
            identifier, private, public, public_size, signature_size = _MLDSA[template]
            mldsa_keys = RawKeys(identifier, private, public, private.from_seed_bytes, (32, public_size))
            return Signing(description, mldsa_keys, MlDsa(signature_size), quick=True)
        case Name(template, ()):
            return Signing(description, _ec_keys(template), Ecdsa(0), quick=True)
    raise KeyError(str(name))


def _ec_keys(name: str) -> EcKeys:
    if not name.startswith("ecdsa-"):
        raise KeyError(name)
    return EcKeys(name.removeprefix("ecdsa-"), agrees=False)
