"""Which operation each type of algorithm has."""

from collections.abc import Callable

from ...algorithms import Type
from .aead import AeadOperation
from .bound import Bound
from .hash import HashOperation
from .operation import Accepted
from .rng import RngOperation
from .skcipher import CipherOperation

OPERATIONS: dict[Type, Callable[[Bound], Accepted]] = {
    Type.HASH: HashOperation,
    Type.SKCIPHER: CipherOperation,
    Type.AEAD: AeadOperation,
    Type.RNG: RngOperation,
}
