"""The finite-field Diffie-Hellman groups of RFC 7919 and RFC 3526, computed from how those define them.

A prime of b bits is 2^b - 2^(b-64) - 1 + 2^64 (floor(2^(b-130) c) + x), c being e or pi; the generator is 2. Other
groups are not taken: to find out whether a number is a safe prime takes up to a second, and one that is not would
give keys away.
"""

import functools
from collections.abc import Callable

GENERATOR = 2
_GUARD = 64  # bits that the sums may be wrong by

FFDHE_BITS = (2048, 3072, 4096, 6144, 8192)
_FFDHE = dict(zip(FFDHE_BITS, (560316, 2625351, 5736041, 15705020, 10965728), strict=True))
_MODP = {1536: 741804, 2048: 124476, 3072: 1690314, 4096: 240904, 6144: 929484, 8192: 4743158}


def _e(bits: int) -> int:
    term = total = 1 << (bits + _GUARD)
    divisor = 0
    while term:
        divisor += 1
        term //= divisor
        total += term
    return total >> _GUARD


def _arctan(inverse: int, bits: int) -> int:
    power = (1 << bits) // inverse
    total, divisor, sign = power, 1, 1
    while power:
        power //= inverse * inverse
        divisor, sign = divisor + 2, -sign
        total += sign * (power // divisor)
    return total


def _pi(bits: int) -> int:
    return 4 * (4 * _arctan(5, bits + _GUARD) - _arctan(239, bits + _GUARD)) >> _GUARD


def _prime(bits: int, constant: Callable[[int], int], offset: int) -> bytes:
    value = (1 << bits) - (1 << (bits - 64)) - 1 + ((constant(bits - 130) + offset) << 64)
    return value.to_bytes(bits // 8, "big")


@functools.cache
def ffdhe(bits: int) -> bytes:
    """The prime of a group of RFC 7919, big-endian. Errors: KeyError for a size that it has not."""
    return _prime(bits, _e, _FFDHE[bits])


@functools.cache
def known_primes() -> frozenset[bytes]:
    """The primes of all groups, big-endian."""
    modp = (_prime(bits, _pi, offset) for bits, offset in _MODP.items())
    return frozenset({*map(ffdhe, FFDHE_BITS), *modp})
