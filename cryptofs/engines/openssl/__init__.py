"""The OpenSSL engine: the catalogue's algorithms by pyca/cryptography, hashlib, zlib and crc32c.

It gives the bytes and the errnos that the kernel's AF_ALG gives for the same calls. Known differences:
- xts(aes) refuses a key whose halves are equal (EINVAL); the kernel does so in FIPS mode only.
- the state of poly1305 cannot be cloned.
- a refused key leaves a transform with the key it had.
- a seed for stdrng is taken and not used.
It alone serves the public key types, except for RSA keys on the kernel's keyrings: docs/public-key.md.
"""

from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm

from ...algorithms import Description, Type, driver_name, look_up, names, parse_name
from ...errors import CryptofsError
from ...records import Operation
from ..base import Engine, Transform
from . import aead, authenc, groups, hash, libcrypto, skcipher, wrapping
from .rng import OsRandom


class OpensslEngine(Engine):
    """Offers the catalogue's algorithms that this build of OpenSSL has."""

    name = "openssl"

    def __init__(self) -> None:
        self._described: dict[tuple[Type, str], Description | None] = {}
        # now: a daemon that has dropped its rights may not be able to load it
        libcrypto.library()

    def describe(self, type_: Type, name: str) -> Description | None:
        name = _DRIVERS.get((type_, name), name)
        if (type_, name) not in self._described:
            facts = look_up(type_, name)
            if facts is None or type_ not in _SERVED:
                return None
            description = Description.of(type_, name, self.name, driver_name(name, self.name), facts)
            # two threads may both try, and find the same
            self._described[type_, name] = description if _works(description) else None
        return self._described[type_, name]

    def warm_up(self) -> None:
        """Try every name, and compute the finite fields. After that `describe` only looks up."""
        groups.known_primes()
        for type_, name in self.names():
            self.describe(type_, name)

    def open(self, description: Description, authsize: int | None) -> Transform:
        return _build(description, description.choose_authsize(authsize))

    def names(self) -> Iterable[tuple[Type, str]]:
        return [each for each in names() if each[0] in _SERVED]


def _build(description: Description, authsize: int) -> Transform:
    name = parse_name(description.name)
    match description.type:
        case Type.HASH:
            return hash.build(description, name)
        case Type.SKCIPHER:
            return skcipher.build(description, name)
        case Type.AEAD if name.template == "authenc":
            return authenc.build(description, name, authsize)
        case Type.AEAD if description.name in wrapping.BUILDERS:
            return wrapping.BUILDERS[description.name](description, authsize)
        case Type.AEAD:
            return aead.build(description, name, authsize)
        case Type.RNG:
            return OsRandom(description)
    # Only now: they load as long as all the rest, and a program under `cryptofs run` hardly ever needs them.
    from .keypairs import build

    return build(description, name)


_DRIVERS = {(type_, driver_name(name, OpensslEngine.name)): name for type_, name in names()}
_PUBLIC = {Type.AKCIPHER, Type.SIG, Type.KPP}


_TRIALS = {
    Type.HASH: Operation.DIGEST,
    Type.SKCIPHER: Operation.ENCRYPT,
    Type.AEAD: Operation.ENCRYPT,
    Type.RNG: Operation.GENERATE,
}


_SERVED = _TRIALS.keys() | _PUBLIC


def _works(description: Description) -> bool:
    """Whether a first message goes through. Only that shows what a build of OpenSSL leaves out."""
    if description.type in _PUBLIC:
        from .keypairs import works

        return works(description)
    assoclen = 16 if 16 in description.assoclens and description.type is Type.AEAD else 0
    data = b"" if description.type is Type.RNG else bytes(32)
    iv = b"\1" * description.iv_size or None  # 1 is a first byte that ccm accepts.
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
    if parse_name(description.name).template == "authenc":
        return authenc.pack_keys(bytes(16), bytes(range(sizes.smallest - authenc.PREFIX)))
    return bytearray(range(sizes.listed[0] if sizes.listed else sizes.smallest))
