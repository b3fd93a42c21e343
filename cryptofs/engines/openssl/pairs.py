"""Key pairs: how the keys of each algorithm come in, are made, and go out.

What a key is taken for is told by its form: DER by its structure, the kernel's own encodings by their sizes, which no
DER of the same algorithm has.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ...errors import InvalidValue
from ...records import Buffer
from . import der
from .keys import keep, wipe

FAILURES = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm, InvalidSignature)
"""What pyca raises for keys that are none, or not of the kind."""


class Pair:
    """A key pair; private is None where only the public half is known. It prints nothing of itself."""

    __slots__ = ("private", "public")

    def __init__(self, private: Any, public: Any) -> None:
        self.private = private
        self.public = public


class Keys(ABC):
    """The keys of one algorithm. spelled: in words, what would do."""

    spelled: str
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

    @abstractmethod
    def export(self, public: Any, as_der: bool) -> bytes:
        """A public key in the kernel's encoding, or as DER of a SubjectPublicKeyInfo."""

    def choose(self, bits: int | None) -> int:
        """The size of a key to make. Errors: InvalidValue."""
        if bits is None:
            return self.sizes[0] if self.sizes else 0
        if bits not in self.sizes:
            takes = " ".join(map(str, self.sizes))
            raise InvalidValue(f"key-bits {bits}: {takes or 'this algorithm has keys of one size'}")
        return bits


_ALGORITHMS = tuple(
    map(
        bytes.fromhex,
        (
            *("2a864886f70d010101", "2a8648ce3d0201", "2b656e", "2b6570"),  # RSA, curves, X25519, Ed25519
            *("608648016503040311", "608648016503040312", "608648016503040313"),  # ML-DSA
            *("608648016503040402", "608648016503040403"),  # ML-KEM
        ),
    )
)


def _check_algorithm(key: Buffer) -> None:
    """Errors: ValueError for a PKCS#8 or SubjectPublicKeyInfo of an algorithm that is not served by these keys.

    To load some of them takes up to a second: of a finite field the library would find out whether it is a good one.
    """
    body, _ = der.read(memoryview(key), der.SEQUENCE)
    if len(body) and body[0] == der.INTEGER:
        _, body = der.read(body, der.INTEGER)
    if len(body) and body[0] == der.SEQUENCE:
        algorithm, _ = der.read(body, der.SEQUENCE)
        if der.read(algorithm, der.OID)[0] not in _ALGORITHMS:
            raise ValueError("a key of another algorithm")


def load_der(key: bytearray, private: Any, public: Any) -> Pair:
    """A key in DER of the pyca classes given. Errors: those of FAILURES."""
    _check_algorithm(key)
    try:
        # validation takes up to 0.3 seconds and would hold up everybody; RsaKeys tries the key instead
        loaded: Any = serialization.load_der_private_key(key, None, unsafe_skip_rsa_key_validation=True)
    except FAILURES:
        return Pair(None, load_public_der(key, public))
    if not isinstance(loaded, private):
        raise ValueError("a key of another algorithm")
    return Pair(loaded, loaded.public_key())


def load_public_der(key: Any, public: Any) -> Any:
    """A public key in DER of the pyca class given. Errors: those of FAILURES."""
    _check_algorithm(key)
    loaded = serialization.load_der_public_key(key)
    if not isinstance(loaded, public):
        raise ValueError("a key of another algorithm")
    return loaded


def export_der(public: Any) -> bytes:
    """DER of a SubjectPublicKeyInfo."""
    exported: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return exported


class RsaKeys(Keys):
    """RSA keys, of the sizes that the kernel takes."""

    taken = (1024, 1536, 2048, 3072, 4096)
    sizes = (3072, 2048, 4096)
    spelled = (
        "an RSAPrivateKey, RSAPublicKey, PKCS#8 or SubjectPublicKeyInfo in DER with a modulus of "
        f"{', '.join(map(str, taken))} bits"
    )

    def load(self, key: bytearray) -> Pair:
        unsigned = _with_unsigned_integers(key)
        try:
            return self.load_strict(unsigned)
        finally:
            wipe(unsigned)

    def load_strict(self, key: bytearray) -> Pair:
        """A key whose integers are DER's own. Errors: those of FAILURES."""
        pair = load_der(key, rsa.RSAPrivateKey, rsa.RSAPublicKey)
        self._check(pair.public)
        if pair.private is not None:
            # parts that do not belong together give a signature that is none
            trial = os.urandom(32)
            signature = pair.private.sign(trial, padding.PKCS1v15(), utils.NoDigestInfo())
            pair.public.verify(signature, trial, padding.PKCS1v15(), utils.NoDigestInfo())
        return pair

    def _check(self, public: rsa.RSAPublicKey) -> None:
        numbers = public.public_numbers()
        if public.key_size not in self.taken or not numbers.n & 1 or not numbers.e & 1:
            raise ValueError("a modulus of another size, or an even one")

    def load_public(self, key: Buffer) -> Any:
        public = load_public_der(_with_unsigned_integers(key), rsa.RSAPublicKey)
        self._check(public)
        return public

    def generate(self, bits: int) -> Pair:
        private = rsa.generate_private_key(65537, bits)
        return Pair(private, private.public_key())

    def export(self, public: Any, as_der: bool) -> bytes:
        if as_der:
            return export_der(public)
        exported: bytes = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        return exported


def _with_unsigned_integers(key: Buffer) -> bytearray:
    """An RSA key in DER with its numbers as DER has them: positive, with 00 before a first bit.

    The kernel reads numbers as unsigned, and keys that were written for it may lack that 00. Errors: ValueError.
    """
    view = memoryview(key)
    body, behind = der.read(view, der.SEQUENCE)
    if len(behind):
        raise ValueError("something behind the key")
    if len(body) and body[0] == der.SEQUENCE:
        _, bits = der.read(body, der.SEQUENCE)
        inner, rest = der.read(bits, der.BIT_STRING)
        if rest or not len(inner) or inner[0]:
            raise ValueError("no SubjectPublicKeyInfo")
        return der.enclose(
            der.SEQUENCE, body[: -len(bits)], der.enclose(der.BIT_STRING, b"\0", _with_unsigned_integers(inner[1:]))
        )
    version, rest = der.read(body, der.INTEGER)
    if len(rest) and rest[0] == der.SEQUENCE:
        _, secret = der.read(rest, der.SEQUENCE)
        inner, attributes = der.read(secret, der.OCTET_STRING)
        wrapped = der.enclose(der.OCTET_STRING, _with_unsigned_integers(inner))
        return der.enclose(der.SEQUENCE, body[: -len(secret)], wrapped, attributes)
    numbers = [der.integer(version)]
    while len(rest):
        number, rest = der.read(rest, der.INTEGER)
        numbers.append(der.integer(number))
    return der.enclose(der.SEQUENCE, *numbers)


_CURVES: dict[str, tuple[ec.EllipticCurve, bytes]] = {
    "nist-p256": (ec.SECP256R1(), bytes.fromhex("06082a8648ce3d030107")),
    "nist-p384": (ec.SECP384R1(), bytes.fromhex("06052b81040022")),
}
_POINT = b"\x04"
_KPP_ECDH = 2


class EcKeys(Keys):
    """Keys of a curve. agrees: of ecdh, whose private keys the kernel takes raw and whose points it leaves bare."""

    def __init__(self, curve: str, agrees: bool) -> None:
        self._curve, self._oid = _CURVES[curve]
        self.size = (self._curve.key_size + 7) // 8
        self._agrees = agrees
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
            return Pair(private, private.public_key())
        if len(key) in (2 * size, 2 * size + 1):
            return Pair(None, self.load_public(key))
        pair = load_der(key, ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)
        self._check(pair.public)
        return pair

    def _wrap(self, scalar: bytearray) -> bytearray:
        version = bytes([der.INTEGER, 1, 1])
        # the version is 1, the curve is told by the parameters
        return der.enclose(der.SEQUENCE, version, der.enclose(der.OCTET_STRING, scalar), der.enclose(0xA0, self._oid))

    def _check(self, public: Any) -> None:
        if public.curve.name != self._curve.name:
            raise ValueError("a key of another curve")

    def load_public(self, key: Buffer) -> Any:
        if len(key) == 2 * self.size and self._agrees:
            return ec.EllipticCurvePublicKey.from_encoded_point(self._curve, _POINT + bytes(key))
        if len(key) == 2 * self.size + 1 and key[0] == _POINT[0]:
            return ec.EllipticCurvePublicKey.from_encoded_point(self._curve, bytes(key))
        public = load_public_der(key, ec.EllipticCurvePublicKey)
        self._check(public)
        return public

    def generate(self, bits: int) -> Pair:
        private = ec.generate_private_key(self._curve)
        return Pair(private, private.public_key())

    def export(self, public: Any, as_der: bool) -> bytes:
        if as_der:
            return export_der(public)
        point: bytes = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return point[1:] if self._agrees else point


def _packed_head(size: int) -> bytes:
    """How the kernel's packed ECDH secret begins: type, size of all, size of the key, in the machine's order."""
    return b"".join(value.to_bytes(2, "little") for value in (_KPP_ECDH, size + 6, size))


class RawKeys(Keys):
    """Keys that are plain bytes: of curve25519, ed25519, ML-KEM and ML-DSA.

    private, public: pyca's classes. from_private: makes a private key of private_size bytes. tail: a private key is
    followed by its public key.
    """

    def __init__(
        self,
        private: Any,
        public: Any,
        from_private: Callable[[Any], Any],
        sizes: tuple[int, int],
        tail: bool = False,
    ) -> None:
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
            pair = Pair(private, private.public_key())
            if self._tail and pair.public.public_bytes_raw() != key[self.private_size :]:
                raise ValueError("a public key that is not the private one's")
            return pair
        if len(key) == self.public_size:
            return Pair(None, self.load_public(key))
        return load_der(key, self._private, self._public)

    def load_public(self, key: Buffer) -> Any:
        if len(key) == self.public_size:
            return self._public.from_public_bytes(bytes(key))
        return load_public_der(key, self._public)

    def generate(self, bits: int) -> Pair:
        private = self._private.generate()
        return Pair(private, private.public_key())

    def export(self, public: Any, as_der: bool) -> bytes:
        if as_der:
            return export_der(public)
        raw: bytes = public.public_bytes_raw()
        return raw
