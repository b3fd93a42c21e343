"""RSA keys taken apart: their numbers, and the bounds that these keep before anything computes with them.

The libraries trust the parts of a key. Montgomery arithmetic with a prime of 31,000 bits takes seconds, whatever the
modulus is, so every part is measured against the modulus first. None of this does arithmetic on large numbers.
"""

import itertools
from collections.abc import Collection, Iterator

from ..records import Buffer
from . import der
from .der import below, bits

MODULUS_BITS = (1024, 1536, 2048, 3072, 4096)
"""Sizes of a modulus that the kernel takes, and so the other engines."""
PUBLIC_BITS = (*MODULUS_BITS, 5120, 6144, 7680, 8192)
"""Sizes that OpenSSL takes in public keys. With a private one, each operation would keep the interpreter for 50 ms."""
EXPONENT_BITS = 64
"""The longest public exponent. OpenSSL takes no longer one with a modulus above 3,072 bits; 65537 has 17 bits."""
_SHARE = 4
"""A prime has at least this part of the modulus's bits: the more unequal the primes, the longer a signature takes."""
_PARTS = 9
_ALGORITHM = bytes.fromhex("2a864886f70d010101")


class WrongPart(ValueError):
    """A part of a key is out of bounds. The message names the part, its size and the bound, never its value."""


class RsaNumbers:
    """The numbers of a key: views of big-endian bytes without leading zeros. `private` is None in a public key.

    private: d, p, q, d mod p-1, d mod q-1 and the inverse of q mod p.
    """

    __slots__ = ("e", "n", "private")

    def __init__(self, n: memoryview, e: memoryview, private: tuple[memoryview, ...] | None) -> None:
        self.n, self.e, self.private = n, e, private

    def encode(self) -> bytearray:
        """The key as DER of an RSAPrivateKey or RSAPublicKey, with integers as DER has them."""
        version = () if self.private is None else (der.integer(b"\0"),)
        numbers = map(der.integer, (self.n, self.e, *(self.private or ())))
        return der.enclose(der.SEQUENCE, *version, *numbers)


def read(key: Buffer, public_bits: Collection[int] = MODULUS_BITS) -> RsaNumbers:
    """The numbers of an RSAPrivateKey, RSAPublicKey, PKCS#8 or SubjectPublicKeyInfo in DER, within bounds.

    public_bits: sizes of a modulus that will do in a public key.

    The kernel reads numbers as unsigned, and keys for it may lack the 00 that DER puts before a first bit that is set.
    So they are read as unsigned here too. The views point into `key`.
    Errors: ValueError for bytes of another form, WrongPart.
    """
    numbers = list(itertools.islice(_integers(_unwrapped(memoryview(key))), _PARTS + 1))
    if len(numbers) == 2:
        found = RsaNumbers(numbers[0], numbers[1], None)
    elif len(numbers) == _PARTS and not bits(numbers[0]):
        _, n, e, *private = numbers
        found = RsaNumbers(n, e, tuple(private))
    else:
        raise ValueError("no key of two primes")
    _check_public(found, public_bits if found.private is None else MODULUS_BITS)
    if found.private is not None:
        _check_private(bits(found.n), found.n, *found.private)
    return found


def read_certificate(key: Buffer) -> RsaNumbers:
    """The numbers of the public key in an X.509 certificate in DER, within bounds.

    Errors: ValueError for bytes of another form, WrongPart.
    """
    rest, _ = der.read(_whole(memoryview(key), der.SEQUENCE), der.SEQUENCE)
    if len(rest) and rest[0] == der.PARAMETERS:  # the version
        _, rest = der.read(rest, der.PARAMETERS)
    # serial number, signature algorithm, issuer, validity, subject
    for tag in (der.INTEGER, *[der.SEQUENCE] * 4):
        _, rest = der.read(rest, tag)
    _, behind = der.read(rest, der.SEQUENCE)
    return read(rest[: len(rest) - len(behind)])


def _unwrapped(view: memoryview) -> memoryview:
    """The numbers' elements, out of PKCS#8 or SubjectPublicKeyInfo if they are in one. Errors: ValueError."""
    body = _whole(view, der.SEQUENCE)
    if len(body) and body[0] == der.SEQUENCE:
        algorithm, bit_string = der.read(body, der.SEQUENCE)
        _check_algorithm(algorithm)
        content = _whole(bit_string, der.BIT_STRING)
        if not len(content) or content[0]:
            raise ValueError("no whole bytes")
        return _whole(content[1:], der.SEQUENCE)
    _, rest = der.read(body, der.INTEGER)
    if not len(rest) or rest[0] != der.SEQUENCE:
        return body
    algorithm, rest = der.read(rest, der.SEQUENCE)
    _check_algorithm(algorithm)
    content, attributes = der.read(rest, der.OCTET_STRING)
    if len(attributes):
        _whole(attributes, der.PARAMETERS)
    return _whole(content, der.SEQUENCE)


def _whole(view: memoryview, tag: int) -> memoryview:
    """The content of an element with nothing behind it. Errors: ValueError."""
    content, rest = der.read(view, tag)
    if len(rest):
        raise ValueError("something behind the element")
    return content


def _check_algorithm(algorithm: memoryview) -> None:
    if der.read(algorithm, der.OID)[0] != _ALGORITHM:
        raise ValueError("a key of another algorithm")


def _integers(elements: memoryview) -> Iterator[memoryview]:
    while len(elements):
        number, elements = der.read(elements, der.INTEGER)
        yield der.magnitude(number)


def _check_public(key: RsaNumbers, taken: Collection[int]) -> None:
    size, exponent = bits(key.n), bits(key.e)
    if size not in taken:
        half = "public" if key.private is None else "private"
        raise WrongPart(f"its modulus has {size} bits: {', '.join(map(str, taken))} bits would do in a {half} key")
    if not key.n[-1] & 1:
        raise WrongPart(f"its modulus of {size} bits is even: it must be odd")
    if not 2 <= exponent <= EXPONENT_BITS:
        raise WrongPart(f"its public exponent has {exponent} bits: 2 to {EXPONENT_BITS}")
    if not key.e[-1] & 1:
        raise WrongPart(f"its public exponent of {exponent} bits is even: it must be odd")


def _check_private(
    size: int,
    n: memoryview,
    d: memoryview,
    p: memoryview,
    q: memoryview,
    dp: memoryview,
    dq: memoryview,
    inverse: memoryview,
) -> None:
    for name, prime in (("first prime", p), ("second prime", q)):
        if not size // _SHARE <= bits(prime) < size:
            bound = f"{size // _SHARE} to {size - 1} with a modulus of {size}"
            raise WrongPart(f"its {name} has {bits(prime)} bits: {bound}")
        if not prime[-1] & 1:
            raise WrongPart(f"its {name} of {bits(prime)} bits is even: it must be odd")
    # a product has as many bits as its factors together, or one less
    if bits(p) + bits(q) - size not in (0, 1):
        raise WrongPart(f"its primes have {bits(p)} and {bits(q)} bits, which do not give a modulus of {size}")
    for name, number, larger, limit in (
        ("private exponent", d, "modulus", n),
        ("first prime's exponent", dp, "first prime", p),
        ("second prime's exponent", dq, "second prime", q),
        ("coefficient", inverse, "first prime", p),
    ):
        if not bits(number) or not below(number, limit):
            raise WrongPart(f"its {name} has {bits(number)} bits: above 0 and below the {larger}, {bits(limit)} bits")
