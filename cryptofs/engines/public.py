"""Public key transforms: the common part of the types akcipher, sig and kpp on every engine."""

import threading
import time
from abc import abstractmethod
from collections.abc import Mapping

from ..algorithms import Description
from ..errors import Busy, InvalidValue, KeyMissing, NotSupported
from ..records import ATTRIBUTES, Attr, Buffer, Operation
from .base import Answer, Operands
from .kinds import WholeMessage, WholeTransform

RAW, DER = "raw", "der"
FORMATS = (RAW, DER)
"""Allowed values of key-format: the kernel's own encoding of a public key, or DER of a SubjectPublicKeyInfo."""

OUTPUT_MAX = 5120
"""Most bytes of an answer: an ML-DSA-87 signature has 4,627."""

# before anything was measured: so long that workers do it
_FIRST_COSTS = {
    Operation.DECRYPT: 3e6,
    Operation.SIGN: 3e6,
    Operation.AGREE: 3e6,
    Operation.DECAPSULATE: 3e6,
    Operation.GENERATE_KEY: 1e9,
}
_FIRST_COST = 5e5


class PublicKeyTransform(WholeTransform):
    """One public key algorithm, with a key pair or the public half of one.

    operations: those it serves. streamed: those of them that a raw stream may ask for. Streams are computed in the
    event loop, so operations that take longer than some milliseconds are left out.
    """

    operations: frozenset[Operation] = frozenset()
    streamed: frozenset[Operation] = frozenset()
    takes_context = False
    """Whether its signatures are for a context, which `signature-context` names."""
    costs: dict[Operation, float]

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._generating = threading.Lock()
        self._reset_costs()

    def _reset_costs(self) -> None:
        self.costs = {each: _FIRST_COSTS.get(each, _FIRST_COST) for each in self.operations}

    def set_key(self, key: Buffer) -> None:
        # not by its size: keys come in several forms, of which the error tells
        self.replace_key(key)
        self.keyed = self.key_set = True
        self._reset_costs()

    def check(self, operation: Operation, iv: Buffer | None, assoclen: int) -> None:
        description = self.description
        if operation not in self.operations:
            does = ", ".join(each.word for each in sorted(self.operations))
            raise NotSupported(f"{operation.word}: {description.type} {description.name} does {does}")
        if not (self.keyed or operation.row.makes_key or self.keyless(operation)):
            raise KeyMissing(f"{description.name} has no key yet: set-key or generate-key gives one")
        if iv is not None or assoclen:
            raise InvalidValue(f"{operation.word}: {description.name} has neither iv nor associated data")

    def keyless(self, operation: Operation) -> bool:
        """Whether an operation works without a key of the context."""
        return False

    def note_pace(self, size: int, nanoseconds: int) -> None:
        """The pace does not apply; `costs` does."""

    def room(self, operation: Operation, size: int) -> int:
        return OUTPUT_MAX

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> WholeMessage:
        if operation not in self.streamed:
            raise InvalidValue(f"{operation.word}: {self.description.name} does it for a whole record only")
        return WholeMessage(self, operation, iv, assoclen)

    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        payload, _ = self.operate(operation, {}, data)
        out[: len(payload)] = payload
        return len(payload)

    def operate(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        self.check(operation, None, 0)
        if len(data) and not operation.row.payload:
            # a stream's, which has no record that was checked
            raise InvalidValue(f"payload of {len(data)} bytes: {operation.word} takes none")
        if Attr.SIGNATURE_CONTEXT in operands and not self.takes_context:
            raise InvalidValue(f"signature-context: {self.description.name} takes none")
        began = time.perf_counter_ns()
        if operation.row.makes_key:
            answer = self._generate_once(operands, data)
        else:
            answer = self.perform(operation, operands, data)
        self.costs[operation] += (time.perf_counter_ns() - began - self.costs[operation]) / 4
        return answer

    def _generate_once(self, operands: Operands, data: Buffer) -> Answer:
        # Two workers may be here at once, and a key in use must not be replaced.
        with self._generating:
            if self.keyed:
                raise Busy(f"generate-key: {self.description.name} has a key already")
            answer = self.perform(Operation.GENERATE_KEY, operands, data)
            self.keyed = self.key_set = True
        return answer

    @abstractmethod
    def perform(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        """One of `operations`; generate-key sets the key itself."""


def operand(operation: Operation, operands: Mapping[int, object], attribute: Attr, data: Buffer = b"") -> bytes:
    """The operand from its attribute, or else from the payload: a stream has only a payload.

    Errors: InvalidValue if neither or both are given.
    """
    value = operands.get(attribute)
    if value is None:
        if not len(data):
            raise InvalidValue(f"{operation.word}: {ATTRIBUTES[attribute].word} is missing")
        return bytes(data)
    if len(data):
        raise InvalidValue(f"{operation.word}: {ATTRIBUTES[attribute].word} and a payload: one of them")
    assert isinstance(value, bytes | bytearray | memoryview)
    return bytes(value)


def wants_der(operands: Mapping[int, object]) -> bool:
    """Whether the public key is requested as DER. Errors: InvalidValue for an unknown key-format."""
    format_ = operands.get(Attr.KEY_FORMAT, RAW)
    if format_ not in FORMATS:
        raise InvalidValue(f"key-format {format_!r}: one of {', '.join(FORMATS)}")
    return format_ == DER
