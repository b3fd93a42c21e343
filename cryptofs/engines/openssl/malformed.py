"""Why a signature was refused: what is wrong with its form, which the kernel tells apart from one of another message.

pyca says of both that they are invalid. These checks come after it has refused, and never accept anything.
"""

import itertools
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ...records import Buffer
from .. import der


def pkcs1(public: Any, signature: bytes, description: bytes) -> str | None:
    """What is wrong with the padding, or with the digest's description in it; None where only the digest differs."""
    try:
        inside = public.recover_data_from_signature(signature, padding.PKCS1v15(), None)
    except (InvalidSignature, ValueError):
        return "its padding is not that of PKCS #1 v1.5 under this key"
    return None if inside.startswith(description) else "what it holds is described as another digest, or not at all"


_ORDERS = {
    "secp256r1": (1 << 256) - 0xFFFFFFFF00000000000000004319055258E8617B0C46353D039CDAAF,
    "secp384r1": (1 << 384) - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
    "secp521r1": (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
"""The orders of the groups, by pyca's names of the curves."""


def numbers(signature: bytes) -> tuple[int, int]:
    """r and s of a signature in DER. Errors: ValueError for one that is not exactly that."""
    body, rest = der.read(memoryview(signature), der.SEQUENCE)
    first, second = der.read(body, der.INTEGER)
    second, more = der.read(second, der.INTEGER)
    r, s = (int.from_bytes(each, "big", signed=True) for each in (first, second))
    if rest or more or r < 0 or s < 0 or encode_dss_signature(r, s) != signature:
        raise ValueError("not in DER")
    return r, s


def ecdsa(public: Any, r: int, s: int) -> str | None:
    """What is wrong with r or s; None where they may be a signature."""
    order = _ORDERS[public.curve.name]
    for name, number in (("r", r), ("s", s)):
        if not 0 < number < order:
            return f"its {name} is not between 0 and the order of {public.curve.name}"
    return None


_MLDSA = {
    # bytes of the challenge, coefficients of z, bits of one, bound of one, hints at most, polynomials with hints
    2420: (32, 4 * 256, 18, (1 << 17) - 78, 80, 4),
    3309: (48, 5 * 256, 20, (1 << 19) - 196, 55, 6),
    4627: (64, 7 * 256, 20, (1 << 19) - 120, 75, 8),
}
"""By the size of a signature; FIPS 204, table 1."""


def mldsa(signature: Buffer, size: int) -> str | None:
    """What is wrong with a signature of ML-DSA, by FIPS 204: its size, a coefficient of z, the hints."""
    if len(signature) != size:
        return f"it has {len(signature)} bytes instead of {size}"
    challenge, count, width, bound, most, polynomials = _MLDSA[size]
    end = size - most - polynomials
    packed = int.from_bytes(signature[challenge:end], "little")
    middle = 1 << (width - 1)
    for _ in range(count // 256):
        # one polynomial at a time: shifting the whole number for each coefficient takes milliseconds
        chunk = packed & ((1 << (256 * width)) - 1)
        packed >>= 256 * width
        for at in range(0, 256 * width, width):
            if abs(middle - (chunk >> at & ((1 << width) - 1))) >= bound:
                return "a coefficient of its z is out of range"
    return None if _hints_are_right(signature[end:], most, polynomials) else "its hints are not in order"


def _hints_are_right(hints: Buffer, most: int, polynomials: int) -> bool:
    """FIPS 204, algorithm 21: positions rise within a polynomial, counts never fall, what is not used is zero."""
    begin = 0
    for index in range(polynomials):
        end = hints[most + index]
        if not begin <= end <= most:
            return False
        positions = list(hints[begin:end])
        if any(later <= earlier for earlier, later in itertools.pairwise(positions)):
            return False
        begin = end
    return not any(hints[begin:most])
