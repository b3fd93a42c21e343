"""The operations: one row each, with every fact that the other modules need of one.

Adding an operation is a row here, its engine (or its function in `contexts.control`) and its documents; see the recipe
in docs/contributing.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ..algorithms import Type
from ..errors import InvalidValue
from .attributes import ATTRIBUTES, Attr, Kind


@dataclass(frozen=True, kw_only=True)
class Row:
    """The facts of one operation. What a row does not say, the operation does not do."""

    types: frozenset[Type] = frozenset()
    """The types that have it; none have a control call, which concerns the context."""
    required: frozenset[Attr] = frozenset()
    optional: frozenset[Attr] = frozenset()
    payload: bool = False
    """Whether a request may have one."""
    parts: bool = False
    """Whether a message may come in several records."""
    operands: bool = False
    """Whether `Transform.operate` does it: its attributes are operands, and its answer may have attributes, too. A
    client does not send it by ioctl: the answer may be large, and what a signal interrupts cannot be repeated."""
    expands: bool = False
    """Whether the size of the input says nothing about the size of the output."""
    short: bool = False
    """Whether `contexts.fast` may answer it: its only attribute is an iv, and `Transform.room` bounds its output."""
    stream: bool = False
    """Whether a context's stream may do it: a stream has no attributes but iv and assoclen, and nor has its answer."""
    makes_key: bool = False
    """Whether it makes the context's key, so that it needs none."""
    device: bool = False
    """Whether a device may allow it."""
    device_file: bool = False
    """Whether a device has a stream file of its name."""

    allowed: frozenset[Attr] = field(init=False)
    """All attributes that it takes."""
    kept: tuple[Attr, ...] = field(init=False)
    """Those with values of bytes, which lie in the memory of the write: a request that waits keeps a copy."""

    def __post_init__(self) -> None:
        # computed once: `check` is called for each request
        allowed = self.required | self.optional
        object.__setattr__(self, "allowed", allowed)
        object.__setattr__(self, "kept", tuple(sorted(each for each in allowed if each.kind is Kind.BYTES)))


_CIPHERS = frozenset({Type.SKCIPHER, Type.AEAD, Type.AKCIPHER})
_HASHES = frozenset({Type.HASH})
_GENERATORS = frozenset({Type.RNG})
_COMPRESSIONS = frozenset({Type.COMPRESSION})
_SIGNERS = frozenset({Type.AKCIPHER, Type.SIG})
_AGREEMENTS = frozenset({Type.KPP})
_PAIRS = _SIGNERS | _AGREEMENTS

_MESSAGE = frozenset({Attr.IV, Attr.ASSOCLEN})
_KEY_VERSION = frozenset({Attr.KEY_VERSION})
_STREAM = _MESSAGE | {Attr.OPERATION}
_CONFIGURE = frozenset({Attr.KEY, Attr.AUTHSIZE, Attr.ENGINE, Attr.DRIVER, Attr.LEVEL}) | _STREAM
_LENGTH = frozenset({Attr.LENGTH})
_KEY_FORMAT = frozenset({Attr.KEY_FORMAT})
_PEER_KEY = frozenset({Attr.PEER_KEY})
_SIGNATURE_CONTEXT = frozenset({Attr.SIGNATURE_CONTEXT})


def _short(types: frozenset[Type]) -> Row:
    """What most requests are. An empty iv and an assoclen of 0 are the same as none, for a hash, too."""
    return Row(
        types=types,
        optional=_MESSAGE | _KEY_VERSION,
        payload=True,
        parts=True,
        short=True,
        stream=True,
        device=True,
        device_file=True,
    )


def _operand(types: frozenset[Type], attribute: Attr) -> Row:
    """An operation on what an attribute carries or else the payload: a stream has nothing but its payload."""
    optional = frozenset({attribute}) | _KEY_VERSION
    return Row(types=types, optional=optional, payload=True, operands=True, stream=True, device=True)


class Operation(IntEnum):
    """What a record asks for or answers: the table of the operations, by number."""

    CONFIGURE = 1, Row(required=frozenset({Attr.TYPE, Attr.NAME}), optional=_CONFIGURE)
    SET_KEY = 2, Row(required=frozenset({Attr.KEY}))
    INFO = 3, Row()
    RESET = 4, Row(optional=_STREAM)
    CANCEL = 5, Row(required=frozenset({Attr.TARGET}))
    CLONE = 6, Row(optional=frozenset({Attr.CONTEXT, Attr.TARGET}))
    SET = 7, Row(required=frozenset({Attr.NONBLOCKING}))
    ENCRYPT = 16, _short(_CIPHERS)
    DECRYPT = 17, _short(_CIPHERS)
    DIGEST = 18, _short(_HASHES)
    GENERATE = 19, Row(types=_GENERATORS, required=_LENGTH, stream=True)
    COMPRESS = 20, Row(types=_COMPRESSIONS, payload=True, parts=True, expands=True, stream=True)
    DECOMPRESS = 21, Row(types=_COMPRESSIONS, optional=_LENGTH, payload=True, parts=True, expands=True, stream=True)
    SIGN = (
        24,
        Row(
            types=_SIGNERS,
            optional=_SIGNATURE_CONTEXT,
            payload=True,
            parts=True,
            operands=True,
            stream=True,
            device=True,
            device_file=True,
        ),
    )
    VERIFY = (
        25,
        Row(
            types=_SIGNERS,
            required=frozenset({Attr.SIGNATURE}),
            optional=_KEY_VERSION | _SIGNATURE_CONTEXT,
            payload=True,
            operands=True,
            device=True,
        ),
    )
    GENERATE_KEY = (
        26,
        Row(types=_PAIRS, optional=_KEY_FORMAT | {Attr.KEY_BITS}, operands=True, stream=True, makes_key=True),
    )
    AGREE = 27, _operand(_AGREEMENTS, Attr.PEER_KEY)
    PUBLIC_KEY = (
        28,
        Row(types=_PAIRS, optional=_KEY_FORMAT | _KEY_VERSION, operands=True, stream=True, device=True),
    )
    ENCAPSULATE = 29, Row(types=_AGREEMENTS, optional=_PEER_KEY | _KEY_VERSION, operands=True, device=True)
    DECAPSULATE = 30, _operand(_AGREEMENTS, Attr.CIPHERTEXT)

    def __new__(cls, number: int, row: Row) -> "Operation":
        self = int.__new__(cls, number)
        self._value_ = number
        return self

    def __init__(self, number: int, row: Row) -> None:
        self.row = row

    @property
    def word(self) -> str:
        """The operation's name in text: lower case, words joined by a hyphen."""
        return self.name.lower().replace("_", "-")

    def check(self, attributes: Mapping[int, object], size: int, flags: int) -> None:
        """Check the form of a request, or of the first part of a message: what the operation takes, and what it needs.

        size: of the payload; flags: of the record. Errors: InvalidValue.
        """
        facts = self.row
        given = attributes.keys()
        if (
            given <= facts.allowed
            and facts.required <= given
            and (facts.payload or not size)
            and (facts.parts or not flags)
        ):
            return
        for missing in sorted(facts.required - given):
            raise InvalidValue(f"{self.word}: {missing.word} is missing")
        for extra in sorted(given - facts.allowed):
            takes = " and ".join(each.word for each in sorted(facts.allowed))
            raise InvalidValue(f"{self.word} takes no {ATTRIBUTES[extra].word}{takes and f', only {takes}'}")
        if size and not facts.payload:
            raise InvalidValue(f"payload of {size} bytes: {self.word} takes none")
        raise InvalidValue(f"flags {flags:#06x}: {self.word} takes none, it does not come in parts")


def _by_type(operations: Iterable[Operation]) -> dict[Type, frozenset[Operation]]:
    chosen = tuple(operations)
    return {type_: frozenset(each for each in chosen if type_ in each.row.types) for type_ in Type}


OPERATION_NUMBERS = {int(each): each for each in Operation}
OPERATION_WORDS = {each.word: each for each in Operation}
CONTROL_OPERATIONS = frozenset(each for each in Operation if not each.row.types)
OPERATIONS = _by_type(Operation)
"""What each type has."""
STREAM_OPERATIONS = _by_type(each for each in Operation if each.row.stream)
"""What a stream of each type may do, if its algorithm can."""
DEVICE_OPERATIONS = _by_type(each for each in Operation if each.row.device)
"""What a device of each type may allow; nothing where there are no such devices."""
SHORT_OPERATIONS = {number: each for number, each in OPERATION_NUMBERS.items() if each.row.short}
