"""The OpenSSL engine: the catalogue's algorithms by pyca/cryptography, hashlib, zlib and crc32c.

It gives the bytes and the errnos that the kernel's AF_ALG gives for the same calls. Differences that are known:
- xts(aes) refuses a key whose halves are equal (EINVAL); the kernel does so in FIPS mode only.
- the state of poly1305 cannot be cloned.
- a refused key leaves a transform with the key it had.
- a seed for stdrng is taken and not used.
It alone serves the public key types, except for RSA keys on the kernel's keyrings: docs/public-key.md.
"""

from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm

from ...algorithms import Description, Type, look_up, names, parse_name
from ...errors import CryptofsError, InvalidValue
from ...records import Operation
from ..base import Engine, Transform
from . import aead, akcipher, authenc, groups, hash, kpp, libcrypto, sig, skcipher
from .rng import OsRandom
from .trial import pair_works

_DRIVER_SUFFIX = "-openssl"


def driver_of(name: str) -> str:
    """The driver name of a generic one, in the kernel's manner: `cbc-aes-openssl` for `cbc(aes)`."""
    return name.translate(_FLAT) + _DRIVER_SUFFIX


_FLAT = str.maketrans({"(": "-", ",": "-", ")": None})
_DRIVERS = {(type_, driver_of(name)): name for type_, name in names()}


class OpensslEngine(Engine):
    """Offers what the catalogue lists and this build of OpenSSL has."""

    name = "openssl"

    def __init__(self) -> None:
        self._served: dict[Description, bool] = {}
        # now: a daemon that has dropped its rights may not be able to load it
        libcrypto.library()

    def describe(self, type_: Type, name: str) -> Description | None:
        name = _DRIVERS.get((type_, name), name)
        facts = look_up(type_, name)
        if facts is None or type_ not in _SERVED:
            return None
        description = Description(
            type=type_,
            name=name,
            engine=self.name,
            driver=driver_of(name),
            block_size=facts.block_size,
            chunk_size=facts.chunk_size,
            iv_size=facts.iv_size,
            key_sizes=facts.key_sizes,
            digest_size=facts.digest_size,
            max_authsize=facts.max_authsize,
        )
        served = self._served.get(description)
        if served is None:
            # two threads may both try, and find the same
            served = self._served[description] = _works(description)
        return description if served else None

    def warm_up(self) -> None:
        """Try every name, and compute the finite fields: later `describe` only looks up."""
        groups.known_primes()
        for type_, name in self.names():
            self.describe(type_, name)

    def open(self, description: Description, authsize: int | None) -> Transform:
        facts = look_up(description.type, description.name)
        sizes = facts.authsizes if facts else ()
        if authsize is None:
            authsize = description.max_authsize
        elif authsize not in sizes and (sizes or authsize):
            raise InvalidValue(f"authsize {authsize}: {description.name} takes {_spell(sizes)}")
        return _build(description, authsize)

    def names(self) -> Iterable[tuple[Type, str]]:
        return [each for each in names() if each[0] in _SERVED]


def _spell(sizes: tuple[int, ...]) -> str:
    if not sizes:
        return "no tag"
    if len(sizes) > 8:
        return f"{sizes[0]}..{sizes[-1]} bytes"
    return " ".join(map(str, sizes)) + " bytes"


def _build(description: Description, authsize: int) -> Transform:
    name = parse_name(description.name)
    match description.type:
        case Type.HASH:
            return hash.build(description, name)
        case Type.SKCIPHER:
            return skcipher.build(description, name)
        case Type.AEAD if name.template == "authenc":
            return authenc.build(description, name, authsize)
        case Type.AEAD:
            return aead.build(description, name, authsize)
        case Type.RNG:
            return OsRandom(description)
    return _PUBLIC[description.type](description, name)


_PUBLIC = {Type.AKCIPHER: akcipher.build, Type.SIG: sig.build, Type.KPP: kpp.build}


_TRIALS = {
    Type.HASH: Operation.DIGEST,
    Type.SKCIPHER: Operation.ENCRYPT,
    Type.AEAD: Operation.ENCRYPT,
    Type.RNG: Operation.GENERATE,
}


_SERVED = _TRIALS.keys() | _PUBLIC.keys()


def _works(description: Description) -> bool:
    """Whether a first message goes through: what a build of OpenSSL leaves out shows only then."""
    if description.type in _PUBLIC:
        return pair_works(lambda: _PUBLIC[description.type](description, parse_name(description.name)))
    assoclen = 16 if description.type is Type.AEAD else 0
    data = b"" if description.type is Type.RNG else bytes(32)
    iv = b"\1" * description.iv_size or None  # 1 is a first byte that ccm takes
    out = memoryview(bytearray(128))
    try:
        transform = _build(description, description.max_authsize)
        if description.key_sizes.required:
            transform.set_key(_trial_key(description))
        transform.once(_TRIALS[description.type], iv, assoclen, data, out)
        transform.close()
    except (KeyError, ValueError, UnsupportedAlgorithm, CryptofsError):
        return False
    return True


def _trial_key(description: Description) -> bytearray:
    sizes = description.key_sizes
    if description.name.startswith("authenc("):
        return authenc.pack_keys(bytes(16), bytes(range(sizes.smallest - authenc.PREFIX)))
    return bytearray(range(sizes.listed[0] if sizes.listed else sizes.smallest))
