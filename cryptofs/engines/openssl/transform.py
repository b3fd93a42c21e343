"""The common part of this engine's akcipher, sig and kpp transforms: a key pair, and how it is set, made and
returned."""

from typing import Any

from ...algorithms import Description
from ...errors import InvalidValue, KeyMissing
from ...records import Attr, Buffer, Operation
from ..base import Answer, Operands
from ..public import PublicKeyTransform, operand, wants_der
from ..rsa_key import WrongPart
from .keys import keep, wipe
from .pairs import FAILURES, Keys, Pair

KEY_OPERATIONS = frozenset({Operation.GENERATE_KEY, Operation.PUBLIC_KEY})


class PairTransform(PublicKeyTransform):
    """A transform whose key is a pair of `keys`. quick: making a new key takes microseconds."""

    def __init__(self, description: Description, keys: Keys, operations: frozenset[Operation], quick: bool) -> None:
        self.operations = operations | KEY_OPERATIONS
        self.streamed = frozenset(
            each for each in self.operations if each.row.stream and (quick or not each.row.makes_key)
        )
        super().__init__(description)
        self.keys = keys
        self.slow_keys = keys.slow
        self._pair: Pair | None = None

    def replace_key(self, key: Buffer) -> None:
        held = keep(key)
        try:
            self._pair = self.keys.load(held)
        except WrongPart as error:
            raise InvalidValue(f"key of {len(key)} bytes: {error}") from None
        except FAILURES:
            raise InvalidValue(f"key of {len(key)} bytes: {self.description.name} takes {self.keys.spelled}") from None
        finally:
            wipe(held)

    def perform(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        if operation is Operation.GENERATE_KEY:
            bits: Any = operands.get(Attr.KEY_BITS)
            as_der, chosen = wants_der(operands), self.keys.choose(bits)
            self._pair = self.keys.generate(chosen)
            return self.keys.export(self._pair.public, as_der), {}
        if operation is Operation.PUBLIC_KEY:
            return self.keys.export(self.public, wants_der(operands)), {}
        return self.compute(operation, operands, data)

    def compute(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        """One of the operations other than those on the key itself."""
        raise NotImplementedError

    @property
    def public(self) -> Any:
        """The public key. Errors: KeyMissing."""
        if self._pair is None:
            raise KeyMissing(f"{self.description.name} has no key yet: set-key or generate-key gives one")
        return self._pair.public

    def private(self, operation: Operation) -> Any:
        """The private key. Errors: KeyMissing."""
        if self._pair is None or self._pair.private is None:
            raise KeyMissing(f"{operation.word}: {self.description.name} has no private key, only the public half")
        return self._pair.private

    def peer(self, operation: Operation, operands: Operands, data: Buffer) -> Any:
        """The peer's public key, from an attribute or the payload. Errors: InvalidValue."""
        key = operand(operation, operands, Attr.PEER_KEY, data)
        try:
            return self.keys.load_public(key)
        except FAILURES:
            raise InvalidValue(
                f"peer-key of {len(key)} bytes: {self.description.name} takes a public key: {self.keys.spelled}"
            ) from None

    def close(self) -> None:
        self.keyed = False
        self._pair = None
