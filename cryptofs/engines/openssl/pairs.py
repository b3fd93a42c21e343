"""Key pairs: how the keys of each algorithm come in, are made, and go out.

What a key is taken for is told by its form: DER by its structure, the kernel's own encodings by their sizes, which no
DER of the same algorithm has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ...errors import InvalidValue
from ...records import Buffer
from .. import der
from .keys import keep, wipe

FAILURES = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, InvalidSignature)
"""What pyca raises for keys that are none, or not of the kind."""


class Pair:
    """A key pair; private is None where only the public half is known. It prints nothing of itself."""

    __slots__ = ("private", "public")

    def __init__(self, private: Any, public: Any) -> None:
        self.private = private
        self.public = public

    @classmethod
    def of(cls, private: Any) -> "Pair":
        """The pair of one of pyca's private keys."""
        return cls(private, private.public_key())


class Keys(ABC):
    """The keys of one algorithm. spelled: in words, what would do. slow: loading one takes over a millisecond."""

    spelled: str
    slow = False
    sizes: tuple[int, ...] = ()
    """Sizes of a key, bits, that generate takes; the first by default. None where there is no choice."""

    @abstractmethod
    def load(self, key: bytearray) -> Pair:
        """A key as it was set. Errors: those of FAILURES."""

    @abstractmethod
    def load_public(self, key: Buffer) -> Any:
        """A public key, as a peer gives it. Errors: those of FAILURES."""

    @abstractmethod
    def generate(self, bits: int) -> Pair:
        """A new pair."""

    def export(self, public: Any, as_der: bool) -> bytes:
        """A public key in the kernel's encoding, or as DER of a SubjectPublicKeyInfo."""
        return export_der(public) if as_der else self.export_raw(public)

    @abstractmethod
    def export_raw(self, public: Any) -> bytes:
        """A public key in the kernel's encoding."""

    def choose(self, bits: int | None) -> int:
        """The size of a key to make. Errors: InvalidValue."""
        if bits is None:
            return self.sizes[0] if self.sizes else 0
        if bits not in self.sizes:
            takes = " ".join(map(str, self.sizes))
            raise InvalidValue(f"key-bits {bits}: {takes or 'this algorithm has keys of one size'}")
        return bits


@dataclass(frozen=True)
class Kind:
    """What a key in DER must be. algorithm: how the content of its AlgorithmIdentifier begins, the object identifier
    and for a curve the parameters; curve: the parameters of a bare ECPrivateKey, empty where there is no such form;
    private, public: pyca's classes.
    """

    algorithm: bytes
    private: Any
    public: Any
    curve: bytes = b""

    def check(self, key: Buffer) -> None:
        """Errors: ValueError for a key of another algorithm or curve.

        It comes before the library parses the key: for some algorithms that alone takes long, up to a second for a
        finite field, of which it would find out whether it is a good one.
        """
        body, _ = der.read(memoryview(key), der.SEQUENCE)
        bare = False
        if len(body) and body[0] == der.INTEGER:
            _, body = der.read(body, der.INTEGER)
            bare = bool(self.curve) and len(body) > 0 and body[0] == der.OCTET_STRING
        if bare:
            _, body = der.read(body, der.OCTET_STRING)
            found, begin = der.read(body, der.PARAMETERS)[0], self.curve
        else:
            found, begin = der.read(body, der.SEQUENCE)[0], self.algorithm
        if found[: len(begin)] != begin:
            raise ValueError("a key of another algorithm")

    def load(self, key: bytearray) -> Pair:
        """A private or public key. Errors: those of FAILURES."""
        self.check(key)
        try:
            loaded: Any = serialization.load_der_private_key(key, None)
        except FAILURES:
            return Pair(None, self.load_public(key))
        if not isinstance(loaded, self.private):
            raise ValueError("a key of another algorithm")
        return Pair.of(loaded)

    def load_public(self, key: Any) -> Any:
        """A public key. Errors: those of FAILURES."""
        self.check(key)
        loaded = serialization.load_der_public_key(key)
        if not isinstance(loaded, self.public):
            raise ValueError("a key of another algorithm")
        return loaded


def export_der(public: Any) -> bytes:
    """DER of a SubjectPublicKeyInfo."""
    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


_CURVES: dict[str, tuple[ec.EllipticCurve, bytes]] = {
    "nist-p256": (ec.SECP256R1(), bytes.fromhex("06082a8648ce3d030107")),
    "nist-p384": (ec.SECP384R1(), bytes.fromhex("06052b81040022")),
    "nist-p521": (ec.SECP521R1(), bytes.fromhex("06052b81040023")),
}
_EC = bytes.fromhex("06072a8648ce3d0201")
_POINT = b"\x04"
_KPP_ECDH = 2


class EcKeys(Keys):
    """Keys of a curve. agrees: of ecdh, whose private keys the kernel takes raw and whose points it leaves bare."""

    def __init__(self, curve: str, agrees: bool) -> None:
        self._curve, self._oid = _CURVES[curve]
        self.size = (self._curve.key_size + 7) // 8
        self._agrees = agrees
        self._kind = Kind(_EC + self._oid, ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey, self._oid)
        raw = f"{self.size} bytes" if agrees else f"04 and X and Y of {self.size} bytes"
        self.spelled = f"{raw}, or PKCS#8, ECPrivateKey or SubjectPublicKeyInfo in DER, of the curve {curve}"

    def load(self, key: bytearray) -> Pair:
        size = self.size
        packed = len(key) == size + 6 and key[:6] == _packed_head(size)
        if self._agrees and (len(key) == size or packed):
            wrapped = self._wrap(key[-size:])
            try:
                private: Any = serialization.load_der_private_key(wrapped, None)
            finally:
                wipe(wrapped)
            return Pair.of(private)
        if len(key) in (2 * size, 2 * size + 1):
            return Pair(None, self.load_public(key))
        pair = self._kind.load(key)
        self._check(pair.public)
        return pair

    def _wrap(self, scalar: bytearray) -> bytearray:
        version = bytes([der.INTEGER, 1, 1])
        # the version is 1, the curve is told by the parameters
        return der.enclose(
            der.SEQUENCE, version, der.enclose(der.OCTET_STRING, scalar), der.enclose(der.PARAMETERS, self._oid)
        )

    def _check(self, public: Any) -> None:
        if public.curve.name != self._curve.name:
            raise ValueError("a key of another curve")

    def load_public(self, key: Buffer) -> Any:
        if len(key) == 2 * self.size and self._agrees:
            return ec.EllipticCurvePublicKey.from_encoded_point(self._curve, _POINT + bytes(key))
        if len(key) == 2 * self.size + 1 and key[0] == _POINT[0]:
            return ec.EllipticCurvePublicKey.from_encoded_point(self._curve, bytes(key))
        public = self._kind.load_public(key)
        self._check(public)
        return public

    def generate(self, bits: int) -> Pair:
        return Pair.of(ec.generate_private_key(self._curve))

    def export_raw(self, public: Any) -> bytes:
        point: bytes = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return point[1:] if self._agrees else point


def _packed_head(size: int) -> bytes:
    """How the kernel's packed ECDH secret begins: type, size of all, size of the key, in the machine's order."""
    return b"".join(value.to_bytes(2, "little") for value in (_KPP_ECDH, size + 6, size))


class RawKeys(Keys):
    """Keys that are plain bytes: of curve25519, x448, ed25519, ed448, ML-KEM and ML-DSA.

    identifier: the algorithm's, hexadecimal. private, public: pyca's classes. from_private: makes a private key of
    private_size bytes. tail: a private key is followed by its public key.
    """

    def __init__(
        self,
        identifier: str,
        private: Any,
        public: Any,
        from_private: Callable[[Any], Any],
        sizes: tuple[int, int],
        tail: bool = False,
    ) -> None:
        self._kind = Kind(bytes(der.enclose(der.OID, bytes.fromhex(identifier))), private, public)
        self._private, self._public, self._from_private = private, public, from_private
        self.private_size, self.public_size = sizes
        self._tail = tail
        self._whole = self.private_size + (self.public_size if tail else 0)
        behind = " and the public key behind it" if tail else ""
        self.spelled = (
            f"a private key of {self.private_size} bytes{behind}, a public key of {self.public_size}, "
            "or PKCS#8 or SubjectPublicKeyInfo in DER"
        )

    def load(self, key: bytearray) -> Pair:
        if len(key) == self._whole:
            secret = keep(memoryview(key)[: self.private_size])
            try:
                private = self._from_private(secret)
            finally:
                wipe(secret)
            pair = Pair.of(private)
            if self._tail and pair.public.public_bytes_raw() != key[self.private_size :]:
                raise ValueError("a public key that is not the private one's")
            return pair
        if len(key) == self.public_size:
            return Pair(None, self.load_public(key))
        return self._kind.load(key)

    def load_public(self, key: Buffer) -> Any:
        if len(key) == self.public_size:
            return self._public.from_public_bytes(bytes(key))
        return self._kind.load_public(key)

    def generate(self, bits: int) -> Pair:
        return Pair.of(self._private.generate())

    def export_raw(self, public: Any) -> bytes:
        return bytes(public.public_bytes_raw())
