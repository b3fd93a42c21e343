"""Key agreement, and the key encapsulation of ML-KEM."""

import os
import struct
import threading
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x448, x25519

from ...algorithms import Description, Name
from ...errors import InvalidValue
from ...records import Attr, Buffer, Operation
from .. import der
from ..base import Answer, Operands
from ..public import operand
from . import groups, libcrypto
from .keys import keep, wipe
from .pairs import EcKeys, Keys, Pair, RawKeys
from .transform import PairTransform


class Agreement(PairTransform):
    """A transform that agrees on a secret with a peer."""

    def __init__(self, description: Description, keys: Keys) -> None:
        super().__init__(description, keys, frozenset({Operation.AGREE}), quick=True)

    def compute(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        private = self.private(operation)
        peer = self.peer(operation, operands, data)
        try:
            return self.exchange(private, peer), {}
        except ValueError:
            # a point of small order: what comes out would be known to everybody
            raise InvalidValue(f"peer-key: {self.description.name} gives no secret with it") from None

    def exchange(self, private: Any, peer: Any) -> bytes:
        """The secret. Errors: ValueError for a peer's key that gives none."""
        return bytes(private.exchange(peer))


class EcAgreement(Agreement):
    """Agreement on the NIST curves: the secret is the X of the shared point."""

    def exchange(self, private: Any, peer: Any) -> bytes:
        return bytes(private.exchange(ec.ECDH(), peer))


class Encapsulation(PairTransform):
    """ML-KEM: the public key makes a secret and a ciphertext. The private key gets the secret from that."""

    def __init__(self, description: Description, keys: Keys, ciphertext_size: int) -> None:
        super().__init__(description, keys, frozenset({Operation.ENCAPSULATE, Operation.DECAPSULATE}), quick=True)
        self._ciphertext_size = ciphertext_size

    def keyless(self, operation: Operation) -> bool:
        return operation is Operation.ENCAPSULATE

    def compute(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        if operation is Operation.ENCAPSULATE:
            public = self.peer(operation, operands, b"") if Attr.PEER_KEY in operands else self.public
            secret, ciphertext = public.encapsulate()
            return secret, {Attr.CIPHERTEXT: ciphertext}
        ciphertext = operand(operation, operands, Attr.CIPHERTEXT, data)
        if len(ciphertext) != self._ciphertext_size:
            raise InvalidValue(
                f"ciphertext of {len(ciphertext)} bytes: {self.description.name} has {self._ciphertext_size}"
            )
        secret = self.private(operation).decapsulate(ciphertext)
        return secret, {}


# Finite fields

_DH = bytes.fromhex("06092a864886f70d010301")
_PACKED = struct.Struct("<HHIII")
_EXPONENT = 64
"""Bytes of a new private exponent: twice the strength of the largest group, and more."""


class DhSecret:
    """A private exponent and its group. The library's key is made when it is first used, which for the largest group
    takes 0.2 seconds: a worker does it, not who sets the key."""

    def __init__(self, prime: bytes, exponent: bytearray) -> None:
        self.prime = prime
        self._exponent = exponent
        self._native: libcrypto.NativeKey | None = None
        self._lock = threading.Lock()

    def native(self) -> libcrypto.NativeKey:
        """The library's key. Errors: ValueError."""
        with self._lock:
            if self._native is None:
                secret = der.enclose(der.OCTET_STRING, der.integer(self._exponent))
                version = bytes([der.INTEGER, 1, 0])
                encoded = der.enclose(der.SEQUENCE, version, _parameters(self.prime), secret)
                try:
                    self._native = libcrypto.NativeKey.parse(encoded, private=True)
                finally:
                    wipe(encoded)
                wipe(self._exponent)
            return self._native

    def __del__(self) -> None:
        wipe(self._exponent)


def _parameters(prime: bytes) -> bytes:
    group = der.enclose(der.SEQUENCE, der.integer(prime), der.integer(bytes([groups.GENERATOR])))
    return bytes(der.enclose(der.SEQUENCE, _DH, group))


class DhKeys(Keys):
    """Keys of a finite field. prime: of the one group, None if the key tells which. Public keys are numbers."""

    def __init__(self, prime: bytes | None) -> None:
        self._prime = prime
        group = "of a group of RFC 7919 or RFC 3526" if prime is None else "of this group"
        sizes = "" if prime is None else ", p and g left out"
        self.spelled = f"the kernel's packed secret{sizes}, or PKCS#8 in DER, {group}"

    def load(self, key: bytearray) -> Pair:
        view = memoryview(key)
        prime, exponent = self._read_packed(view) if key[:2] == b"\1\0" else self._read_pkcs8(view)
        exponent = der.magnitude(exponent)
        value = keep(exponent)
        below = len(value) < len(prime) or (len(value) == len(prime) and value < prime)
        if prime not in groups.known_primes() or not below or not (len(value) > 1 or value > b"\1"):
            wipe(value)
            raise ValueError("another group, or an exponent outside of it")
        secret = DhSecret(prime, value)
        return Pair(secret, secret)

    def _read_packed(self, view: memoryview) -> tuple[bytes, memoryview]:
        if len(view) < _PACKED.size:
            raise ValueError("cut off")
        _, total, *sizes = _PACKED.unpack_from(view)
        key_size, p_size = sizes[:2]
        # the total is of 16 bits, and so may have wrapped
        if _PACKED.size + sum(sizes) != len(view) or total != len(view) or not key_size:
            raise ValueError("sizes that do not add up")
        body = view[_PACKED.size :]
        p, g = body[key_size : key_size + p_size], body[key_size + p_size :]
        return self._group(p, g), body[:key_size]

    def _group(self, p: memoryview, g: memoryview) -> bytes:
        if self._prime is not None and not len(p) and not len(g):
            return self._prime
        prime = bytes(der.magnitude(p))
        if bytes(der.magnitude(g)) != bytes([groups.GENERATOR]) or self._prime not in (None, prime):
            raise ValueError("another group")
        return prime

    def _read_pkcs8(self, view: memoryview) -> tuple[bytes, memoryview]:
        body, _ = der.read(view, der.SEQUENCE)
        _, body = der.read(body, der.INTEGER)
        algorithm, body = der.read(body, der.SEQUENCE)
        prime = self._read_group(algorithm)
        octets, _ = der.read(body, der.OCTET_STRING)
        exponent, _ = der.read(octets, der.INTEGER)
        return prime, exponent

    def _read_group(self, algorithm: memoryview) -> bytes:
        if algorithm[: len(_DH)] != _DH:
            raise ValueError("another algorithm")
        parameters, _ = der.read(algorithm[len(_DH) :], der.SEQUENCE)
        p, rest = der.read(parameters, der.INTEGER)
        g, _ = der.read(rest, der.INTEGER)
        return self._group(p, g)

    def load_public(self, key: Buffer) -> Any:
        """A number in big-endian bytes, or a SubjectPublicKeyInfo: the number without zeros in front."""
        view = memoryview(key)
        largest = len(self._prime) if self._prime is not None else groups.FFDHE_BITS[-1] // 8
        if len(view) > largest or (self._prime is None and key[:1] == b"\x30" and self._is_der(view)):
            algorithm, number = self._read_public(view)
            return self._read_group(algorithm), number
        return None, bytes(der.magnitude(view))

    @staticmethod
    def _read_public(view: memoryview) -> tuple[memoryview, bytes]:
        """The algorithm and the number in a SubjectPublicKeyInfo."""
        body, _ = der.read(view, der.SEQUENCE)
        algorithm, body = der.read(body, der.SEQUENCE)
        bits, _ = der.read(body, der.BIT_STRING)
        number, _ = der.read(bits[1:], der.INTEGER)
        return algorithm, bytes(der.magnitude(number))

    @staticmethod
    def _is_der(view: memoryview) -> bool:
        try:
            body, rest = der.read(view, der.SEQUENCE)
            algorithm, _ = der.read(body, der.SEQUENCE)
        except ValueError:
            return False
        return not len(rest) and algorithm[: len(_DH)] == _DH

    def generate(self, bits: int) -> Pair:
        if self._prime is None:
            names = ", ".join(f"ffdhe{each}(dh)" for each in groups.FFDHE_BITS)
            raise InvalidValue(f"generate-key: dh does not tell the group: one of {names}")
        exponent = bytearray(os.urandom(min(_EXPONENT, len(self._prime) - 1)))
        exponent[0] |= 0x80
        secret = DhSecret(self._prime, exponent)
        return Pair(secret, secret)

    def export(self, public: Any, as_der: bool) -> bytes:
        return bytes(public.native().public()) if as_der else self.export_raw(public)

    def export_raw(self, public: Any) -> bytes:
        _, number = self._read_public(memoryview(public.native().public()))
        return number.rjust(len(public.prime), b"\0")


class DhAgreement(Agreement):
    """Agreement in a finite field: the secret has as many bytes as the prime."""

    def __init__(self, description: Description, keys: DhKeys) -> None:
        if libcrypto.library() is None:
            raise KeyError(description.name)
        super().__init__(description, keys)
        # up to 0.3 seconds, which a stream would take from everybody
        self.streamed = frozenset()

    def exchange(self, private: Any, peer: Any) -> bytes:
        prime, number = peer
        if prime not in (None, private.prime):
            raise ValueError("a key of another group")
        value = bytes(number).rjust(len(private.prime), b"\0")
        one = bytes(len(private.prime) - 1) + b"\1"
        less_one = private.prime[:-1] + bytes([private.prime[-1] - 1])
        if len(value) != len(private.prime) or not one < value < less_one:
            raise ValueError("a number that gives no secret")
        bits = der.enclose(der.BIT_STRING, b"\0", der.integer(value))
        encoded = der.enclose(der.SEQUENCE, _parameters(private.prime), bits)
        native: libcrypto.NativeKey = private.native()
        return native.derive(libcrypto.NativeKey.parse(encoded, private=False)).rjust(len(private.prime), b"\0")


_MLKEM: dict[str, tuple[str, Any, Any, int, int]] = {
    "mlkem768": ("608648016503040402", mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey, 1184, 1088),
    "mlkem1024": ("608648016503040403", mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey, 1568, 1568),
}
_CURVE25519 = RawKeys(
    "2b656e", x25519.X25519PrivateKey, x25519.X25519PublicKey, x25519.X25519PrivateKey.from_private_bytes, (32, 32)
)
_X448 = RawKeys("2b656f", x448.X448PrivateKey, x448.X448PublicKey, x448.X448PrivateKey.from_private_bytes, (56, 56))
_FFDHE_NAMES = {f"ffdhe{bits}": bits for bits in groups.FFDHE_BITS}


def build(description: Description, name: Name) -> PairTransform:
    """A transform for a parsed generic name. Errors: KeyError for a name that is not served."""
    match name:
        case Name("curve25519", ()):
            return Agreement(description, _CURVE25519)
        case Name("x448", ()):
            return Agreement(description, _X448)
        case Name("dh", ()):
            return DhAgreement(description, DhKeys(None))
        case Name(template, (Name("dh", ()),)):
            return DhAgreement(description, DhKeys(groups.ffdhe(_FFDHE_NAMES[template])))
        case Name(template, ()) if template.startswith("ecdh-"):
            return EcAgreement(description, EcKeys(template.removeprefix("ecdh-"), agrees=True))
    identifier, private, public, public_size, ciphertext_size = _MLKEM[str(name)]
    keys = RawKeys(identifier, private, public, private.from_seed_bytes, (64, public_size))
    return Encapsulation(description, keys, ciphertext_size)
