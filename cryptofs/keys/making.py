"""New keys: random, and of the form and size that an algorithm takes.

A symmetric key is made in a bytearray, which the caller wipes. The library gives a private key as `bytes`, which cannot
be wiped: make keys in a process that ends.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from ..algorithms import Description, Facts, Type, look_up, parse_name
from ..engines.base import Engine, resolve
from ..errors import CryptofsError, EngineFault, InvalidValue, NotOffered, NotSupported
from ..wiping import wipe
from .base import ByteSource
from .protected import protect
from .secret import without_newline
from .token import TokenKey

RSA_BITS = 3072
"""Of a new RSA key, if nobody asks for another size."""
_TRIES = 8
"""Some ciphers refuse a few weak keys."""
_PAIRS = (Type.AKCIPHER, Type.SIG, Type.KPP)
_RTATTR, _KEY_PARAMETERS = 8, 1


def new_key(
    engines: tuple[Engine, ...], type_: Type, name: str, size: int | None = None, bits: int | None = None
) -> bytearray:
    """A new key, which an engine has accepted.

    size: bytes of a symmetric key; None: the largest that the algorithm lists, or as many as its digest has. bits: of
    an RSA key. A private key is DER (PKCS #8). Errors: NotOffered, InvalidValue, NotSupported.
    """
    found = resolve(engines, type_, name)
    if found is None:
        raise NotOffered(f"{type_} {name!r}: no engine offers it here")
    engine, description = found
    if not description.key_sizes.takes_key:
        raise InvalidValue(f"{type_} {name!r}: it takes no key")
    pair = type_ in _PAIRS
    if pair and size is not None:
        raise InvalidValue(f"size {size}: of {name} the key's size is given in bits, or fixed")
    if bits is not None and not (pair and _kind_of_pair(name) == "rsa"):
        raise InvalidValue(f"bits {bits}: only RSA keys have a choice")
    refused: CryptofsError | None = None
    for _ in range(_TRIES):
        key = _new_pair(name, bits) if pair else _new_secret(description, size)
        try:
            with closing(engine.open(description, None)) as transform:
                transform.set_key(key)
        except InvalidValue as error:
            wipe(key)
            if pair or size is not None:
                raise
            refused = error.again()
        except BaseException:
            wipe(key)
            raise
        else:
            return key
    raise EngineFault(f"{type_} {name!r}: every new key was refused: {refused}")


def make_in_token(key: TokenKey, type_: Type, name: str, size: int | None = None) -> None:
    """Have a token make a key, which the algorithm takes. Its bytes never leave the token.

    size: as in `new_key`. Errors: InvalidValue, and those of `TokenKey.make`.
    """
    facts = look_up(type_, name)
    if facts is None:
        raise NotOffered(f"{type_} {name!r}: not a name that is known here")
    if size is not None and not facts.key_sizes.admits(size):
        raise InvalidValue(f"size {size}: {name} takes {facts.key_sizes} bytes")
    key.make(type_, name, _usual_size(facts) if size is None else size)


@dataclass(frozen=True)
class Form:
    """How a key is written. in_digits: hexadecimal, with a newline; passphrase: what protects it, if anything."""

    in_digits: bool = False
    passphrase: ByteSource | None = None

    def __post_init__(self) -> None:
        """Errors: InvalidValue."""
        if self.in_digits and self.passphrase is not None:
            raise InvalidValue("hexadecimal digits: a key that a passphrase protects is raw")

    def of(self, key: bytearray) -> bytearray:
        """The content of a file for a key, which is wiped unless it is that. Errors: InvalidValue, KeyUnavailable."""
        if not self.in_digits and self.passphrase is None:
            return key
        try:
            if self.passphrase is None:
                return bytearray(key.hex().encode() + b"\n")
            passphrase = without_newline(self.passphrase.read())
            try:
                return protect(key, passphrase)
            finally:
                wipe(passphrase)
        finally:
            wipe(key)


@contextmanager
def made_key(
    engines: tuple[Engine, ...], type_: str, name: str, size: int | None, bits: int | None, form: Form
) -> Iterator[bytearray]:
    """The content of a file for a `new_key`, wiped after the block."""
    content = form.of(new_key(engines, Type(type_), name, size, bits))
    try:
        yield content
    finally:
        wipe(content)


def random_bytes(size: int) -> bytearray:
    """Random bytes in memory that can be wiped."""
    made = bytearray(size)
    with open("/dev/urandom", "rb", buffering=0) as source:
        filled = source.readinto(memoryview(made))
    if filled != size:
        raise EngineFault(f"random bytes: the kernel gave {filled} of {size}")
    return made


def _new_secret(description: Description, size: int | None) -> bytearray:
    if size is not None:
        return random_bytes(size)
    parsed = parse_name(description.name)
    if parsed.template == "authenc":
        return _new_authenc(*(str(each) for each in parsed.arguments))
    return random_bytes(_usual_size(description))


def _usual_size(facts: Facts) -> int:
    sizes = facts.key_sizes
    if sizes.listed:
        return max(sizes.listed)
    return min(sizes.largest, max(sizes.smallest, facts.digest_size or 32))


def _new_authenc(mac: str, cipher: str) -> bytearray:
    """The kernel's form: how long the cipher's key is, the MAC's key, the cipher's key."""
    facts, digest = look_up(Type.SKCIPHER, cipher), look_up(Type.HASH, mac)
    if facts is None or digest is None:
        raise NotSupported(f"authenc({mac},{cipher}): the sizes of its keys are not known; give the size")
    cipher_size, mac_size = _usual_size(facts), digest.digest_size
    head = struct.pack("<HH", _RTATTR, _KEY_PARAMETERS) + struct.pack(">I", cipher_size)
    key = random_bytes(len(head) + mac_size + cipher_size)
    memoryview(key)[: len(head)] = head
    return key


def _new_pair(name: str, bits: int | None) -> bytearray:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = _maker(name, bits)()
    return bytearray(private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _kind_of_pair(name: str) -> str:
    """What the keys of a name are for, without the form of its signatures: `rsa`, `ed25519`."""
    parsed = parse_name(name)
    in_form = parsed.template in ("x962", "p1363", "pkcs1", "pkcs1pad")
    return parsed.arguments[0].template if in_form else parsed.template


def _maker(name: str, bits: int | None) -> Callable[[], Any]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa, x448, x25519

    kind = _kind_of_pair(name)
    if kind == "rsa":
        return lambda: rsa.generate_private_key(65_537, RSA_BITS if bits is None else bits)
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    if kind.startswith(("ecdsa-nist-", "ecdh-nist-")):
        return lambda: ec.generate_private_key(curves[kind.rpartition("-")[2]])
    makers: dict[str, Callable[[], Any]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
        "curve25519": x25519.X25519PrivateKey.generate,
        "x448": x448.X448PrivateKey.generate,
        "mldsa44": mldsa.MLDSA44PrivateKey.generate,
        "mldsa65": mldsa.MLDSA65PrivateKey.generate,
        "mldsa87": mldsa.MLDSA87PrivateKey.generate,
        "mlkem768": mlkem.MLKEM768PrivateKey.generate,
        "mlkem1024": mlkem.MLKEM1024PrivateKey.generate,
    }
    if kind not in makers:
        raise NotSupported(f"{name}: this program makes no keys of this algorithm")
    return makers[kind]
