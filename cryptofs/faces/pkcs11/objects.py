"""The objects of the token: a private and a public key for each key pair that devices have."""

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ...algorithms import digest_info
from ..keys import RSA_ANY_DIGEST, DeviceKey, DeviceKeys
from .numbers import EC, PRIVATE_KEY, PUBLIC_KEY, RSA, Attribute, Error, Sign


class Refusal(Exception):
    """A call that fails. Its text is for the log."""

    def __init__(self, error: Error, why: str = "") -> None:
        super().__init__(f"{error.name}: {why}" if why else error.name)
        self.error = error


_ECDSA = {
    form.format(f"ecdsa-nist-{curve}"): form != "p1363({})"
    for curve in ("p256", "p384", "p521")
    for form in ("{}", "x962({})", "p1363({})")
}
"""Names that sign, and whether the signature comes in DER."""
DIGESTS = {Sign.SHA256_RSA_PKCS: "sha256", Sign.SHA384_RSA_PKCS: "sha384", Sign.SHA512_RSA_PKCS: "sha512"}
"""Mechanisms that hash the message themselves."""
_RSA = [f"pkcs1(rsa,{digest})" for digest in ("none", *DIGESTS.values())]
"""Names that sign a digest. With `none`, they sign a description of any digest, and the digest."""
_RSA_DECRYPT = "pkcs1pad(rsa)"
ALGORITHMS = {**dict.fromkeys([*_ECDSA, *_RSA], "sign"), _RSA_DECRYPT: "decrypt"}
"""Names of devices' algorithms, and what the token uses them for."""

_CURVES = {
    "secp256r1": bytes.fromhex("06082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("06052b81040022"),
    "secp521r1": bytes.fromhex("06052b81040023"),
}
"""CKA_EC_PARAMS: the curve's object identifier."""

_SECRET = frozenset(Attribute(number) for number in (0x011, *range(0x123, 0x129)))


@dataclass
class KeyPair:
    """One key pair, and its devices by the names of their algorithms."""

    public: bytes
    devices: dict[str, DeviceKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        key = load_der_public_key(self.public)
        if isinstance(key, rsa.RSAPublicKey):
            self.is_rsa, self._half = True, 0
            self.size = (key.key_size + 7) // 8
            """Bytes of a signature, and of a ciphertext."""
            numbers = key.public_numbers()
            self._facts: dict[int, bytes | int] = {
                Attribute.KEY_TYPE: RSA,
                Attribute.MODULUS: numbers.n.to_bytes(self.size, "big"),
                Attribute.PUBLIC_EXPONENT: numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big"),
            }
            self._public_facts: dict[int, bytes | int] = {Attribute.MODULUS_BITS: key.key_size}
            return
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self.is_rsa, self._half = False, (key.key_size + 7) // 8
        self.size = 2 * self._half
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self._facts = {Attribute.KEY_TYPE: EC, Attribute.EC_PARAMS: _CURVES[key.curve.name]}
        self._public_facts = {Attribute.EC_POINT: _octet_string(point)}

    def attributes(self, kind: int) -> Mapping[int, bytes | int]:
        """The attributes of the public or the private key."""
        is_private = kind == PRIVATE_KEY
        signs = any(ALGORITHMS[name] == "sign" for name in self.devices)
        return {
            **dict.fromkeys(_FALSE, 0),
            Attribute.CLASS: kind,
            Attribute.TOKEN: 1,
            Attribute.LABEL: min(key.device for key in self.devices.values()).encode(),
            Attribute.ID: hashlib.sha256(self.public).digest()[:8],
            Attribute.SENSITIVE: int(is_private),
            Attribute.ALWAYS_SENSITIVE: int(is_private),
            Attribute.NEVER_EXTRACTABLE: int(is_private),
            Attribute.SIGN: int(is_private and signs),
            Attribute.DECRYPT: int(is_private and _RSA_DECRYPT in self.devices),
            **self._facts,
            **({} if is_private else self._public_facts),
        }

    # What its devices compute

    def check_sign(self, mechanism: Sign) -> None:
        """Errors: Refusal if no device of the pair can do this."""
        if self.is_rsa == (mechanism is Sign.ECDSA):
            raise Refusal(Error.KEY_TYPE_INCONSISTENT, f"{self.label}: {mechanism.name}")
        if mechanism in DIGESTS:
            self._rsa_device(DIGESTS[mechanism])
        elif not any(ALGORITHMS[name] == "sign" for name in self.devices):
            raise Refusal(Error.KEY_FUNCTION_NOT_PERMITTED, f"{self.label} does not sign")

    def sign(self, keys: DeviceKeys, mechanism: Sign, data: bytes) -> bytes:
        """The signature of a digest (with its description for RSA_PKCS). Errors: Refusal, OSError."""
        if mechanism is Sign.ECDSA:
            name, key = next(iter(self.devices.items()))
            with keys.open(key) as context:
                signature = context.sign(data)
            if not _ECDSA[name]:
                return signature
            return b"".join(number.to_bytes(self._half, "big") for number in decode_dss_signature(signature))
        if mechanism is Sign.RSA_PKCS:
            digest = next((name for name in DIGESTS.values() if _describes(name, data)), "none")
            data = data.removeprefix(digest_info.describe(digest)[0])
        else:
            digest = DIGESTS[mechanism]
        name, key = self._rsa_device(digest)
        if name == RSA_ANY_DIGEST:
            data = digest_info.describe(digest)[0] + data
        with keys.open(key) as context:
            return context.sign(data)

    def _rsa_device(self, digest: str) -> tuple[str, DeviceKey]:
        for name in (f"pkcs1(rsa,{digest})", RSA_ANY_DIGEST):
            if name in self.devices:
                return name, self.devices[name]
        raise Refusal(Error.KEY_FUNCTION_NOT_PERMITTED, f"{self.label}: no device signs with {digest}")

    def check_decrypt(self) -> None:
        """Errors: Refusal if no device of the pair decrypts."""
        if _RSA_DECRYPT not in self.devices:
            raise Refusal(Error.KEY_FUNCTION_NOT_PERMITTED, f"{self.label} does not decrypt")

    def decrypt(self, keys: DeviceKeys, data: bytes) -> bytes:
        """A message that was encrypted with PKCS #1 padding. Errors: OSError."""
        with keys.open(self.devices[_RSA_DECRYPT]) as context:
            return context.decrypt(data)

    @property
    def label(self) -> str:
        """The names of its devices."""
        return " ".join(sorted(key.device for key in self.devices.values()))


_FALSE = (
    *(Attribute.PRIVATE, Attribute.ENCRYPT, Attribute.WRAP, Attribute.UNWRAP, Attribute.SIGN_RECOVER, Attribute.VERIFY),
    *(Attribute.VERIFY_RECOVER, Attribute.DERIVE, Attribute.EXTRACTABLE, Attribute.LOCAL, Attribute.MODIFIABLE),
    Attribute.ALWAYS_AUTHENTICATE,
)


def is_secret(kind: int, attribute: int) -> bool:
    """Whether an attribute belongs to the half of a key that nobody reads."""
    return kind == PRIVATE_KEY and attribute in _SECRET


def pairs(keys: DeviceKeys) -> list[KeyPair]:
    """The key pairs of the devices that the user may use now. Errors: OSError if the mount does not answer."""
    found: dict[bytes, KeyPair] = {}
    for key in keys.find(ALGORITHMS):
        found.setdefault(key.public, KeyPair(key.public)).devices.setdefault(key.algorithm, key)
    return list(found.values())


def error_of(error: OSError) -> Error:
    """What a program hears of a request that the mount refused."""
    match error.errno:
        case errno.EINVAL | errno.EMSGSIZE:
            return Error.DATA_LEN_RANGE
        case errno.EBADMSG:
            return Error.ENCRYPTED_DATA_INVALID
        case errno.ENOKEY | errno.ENOENT | errno.ENOTCONN | errno.ECONNABORTED:
            return Error.DEVICE_REMOVED
        case errno.EACCES | errno.EPERM:
            return Error.KEY_FUNCTION_NOT_PERMITTED
    return Error.DEVICE_ERROR


def _describes(digest: str, data: bytes) -> bool:
    head, size = digest_info.describe(digest)
    return data.startswith(head) and len(data) == len(head) + size


def _octet_string(data: bytes) -> bytes:
    size = bytes([len(data)]) if len(data) < 0x80 else bytes([0x81, len(data)])
    return b"\4" + size + data


OBJECT_KINDS = (PUBLIC_KEY, PRIVATE_KEY)
