"""CIOCKEY: what the project's public key types can do of it. cryptodev-linux itself has none of its operations.

Numbers are little-endian in the program's memory, as in the BSDs and OCF.
"""

import struct
from collections.abc import Callable, Sequence

from ...algorithms import Type
from ...engines import der
from ...errors import InvalidValue, NotOffered
from ...records import Buffer, Operation
from ...wiping import wipe
from ..backend import Backend, RunTransform
from .numbers import KEY, KEY_PARAMETER, U32
from .session import Plan

_NUMBER_MAX = 1024
_INPUTS, _OUTPUTS = 3, 1
"""Of each operation here."""
_STATUS_AT = 4
_PACKED = struct.Struct("<HHIII")
_GENERATOR = b"\2"


def _power(transform: RunTransform, base: bytearray, exponent: bytearray, modulus: bytearray) -> bytes:
    """CRK_MOD_EXP: the public operation of RSA."""
    transform.set_key(der.enclose(der.SEQUENCE, der.integer(modulus), der.integer(exponent)))
    return transform.compute(Operation.ENCRYPT, base)


def _agree(transform: RunTransform, exponent: bytearray, peer: bytearray, prime: bytearray) -> bytes:
    """CRK_DH_COMPUTE_KEY: the secret shared with a peer."""
    sizes = (len(exponent), len(prime), len(_GENERATOR))
    size = _PACKED.size + sum(sizes)
    # In one piece, because a buffer that grows leaves copies.
    key = bytearray(size)
    _PACKED.pack_into(key, 0, 1, size, *sizes)
    at = _PACKED.size
    for part in (exponent, prime, _GENERATOR):
        key[at : at + len(part)] = part
        at += len(part)
    try:
        transform.set_key(key)
    finally:
        wipe(key)
    return transform.compute(Operation.AGREE, peer)


_Compute = Callable[[RunTransform, bytearray, bytearray, bytearray], bytes]
_OPERATIONS: dict[int, tuple[Type, str, _Compute]] = {
    0: (Type.AKCIPHER, "rsa", _power),
    4: (Type.KPP, "dh", _agree),
}
"""By their numbers, which are those of their bits in the features, too."""


def features(backend: Backend) -> int:
    """What CIOCASYMFEAT tells."""
    found = 0
    for number, (type_, name, _) in _OPERATIONS.items():
        try:
            backend.describe(type_, name)
        except NotOffered:
            continue
        found |= 1 << number
    return found


def plan_key(backend: Backend, argument: int, structure: Buffer) -> Plan:
    """CIOCKEY. Errors: InvalidValue."""
    number, _, inputs, outputs, _ = KEY.unpack_from(structure)
    if number not in _OPERATIONS:
        raise InvalidValue(f"operation {number}: one of {', '.join(map(str, _OPERATIONS))}")
    if (inputs, outputs) != (_INPUTS, _OUTPUTS):
        raise InvalidValue(f"{inputs} inputs and {outputs} outputs: operation {number} has {_INPUTS} and {_OUTPUTS}")
    parameters = list(KEY_PARAMETER.iter_unpack(structure[KEY.size :]))[: _INPUTS + _OUTPUTS]
    pieces = [(pointer, (bits + 7) // 8) for pointer, bits, _ in parameters]
    for _, size in pieces:
        if not 0 < size <= _NUMBER_MAX:
            raise InvalidValue(f"number of {size} bytes: 1 to {_NUMBER_MAX}")
    type_, name, compute = _OPERATIONS[number]
    target = pieces.pop()

    def run(given: Sequence[Buffer]) -> list[Buffer]:
        numbers = [bytearray(reversed(each)) for each in given]
        transform = backend.open(type_, name)
        try:
            result = compute(transform, *numbers).lstrip(b"\0")
        finally:
            transform.close()
            wipe(*numbers)
        if len(result) > target[1]:
            raise InvalidValue(f"room for {target[1]} bytes: the result has {len(result)}")
        return [result[::-1].ljust(target[1], b"\0"), U32.pack(0)]

    return Plan(pieces, [target, (argument + _STATUS_AT, U32.size)], run, secret=True)
