"""The text form of control calls and replies: one line of `word key=value …`, and `tag: value` lines."""

from collections.abc import Mapping

from ..errors import CryptofsError, InvalidValue, TooLarge
from ..wiping import from_hexadecimal, wipe
from .attributes import ATTRIBUTE_WORDS, ATTRIBUTES, Kind
from .codec import Buffer, Record, Value, show_value
from .operations import CONTROL_OPERATIONS, OPERATION_WORDS

LINE_MAX = 32_768
"""Largest control line, bytes."""
CUT_LINE = 4096
"""A control line of this size or more must end with a newline."""
WORDS_MAX = 32
"""Most words of a control line: more than the number of attributes, each of which may appear once."""
_DIGITS_MAX = 20
_WORD_MAX = 31


def parse_line(line: Buffer) -> Record:
    """A control line as a request: `configure type=skcipher name=cbc(aes) key=hex:0011`.

    A bytes value is `hex:` and hexadecimal digits, or `text:` and the bytes themselves; integers are decimal.

    Errors: InvalidValue, TooLarge; a message never contains the value of a secret attribute.
    """
    text = bytearray(line)
    try:
        return _parse_text(text)
    finally:
        wipe(text)


def _parse_text(line: bytearray) -> Record:
    if len(line) >= CUT_LINE and not line.endswith(b"\n"):
        # The shell's printf writes a long line in pieces of 4,096 bytes: half a key must not be mistaken for a key.
        raise InvalidValue(f"control line of {len(line)} bytes: one of {CUT_LINE} or more ends with a newline")
    if len(line) > LINE_MAX:
        raise TooLarge(f"control line of {len(line)} bytes: at most {LINE_MAX}")
    if not line.isascii():
        raise InvalidValue("control line: ASCII only")
    # Bytearrays, so that all copies of a key can be wiped. A word too many contains the rest of the line.
    words, stripped = line.split(None, WORDS_MAX), line.strip()
    try:
        return _parse_words(words, b"\n" in stripped)
    finally:
        wipe(stripped, *words)


def _parse_words(words: list[bytearray], several_lines: bool) -> Record:
    if not words:
        raise InvalidValue("control line: empty")
    if several_lines:
        raise InvalidValue("control line: one line for each write")
    if len(words) > WORDS_MAX:
        raise InvalidValue(f"control line of more than {WORDS_MAX} words, which is the maximum")
    operation = OPERATION_WORDS.get(words[0].decode("ascii"))
    if operation not in CONTROL_OPERATIONS:
        known = ", ".join(sorted(operation.word for operation in CONTROL_OPERATIONS))
        raise InvalidValue(f"word 1 is not a control call: one of {known}")
    assert operation is not None
    attributes: dict[int, Value] = {}
    try:
        for at, word in enumerate(words[1:], start=2):
            label, separator, value = word.partition(b"=")
            name = label.decode("ascii") if len(label) <= _WORD_MAX else ""
            spec = ATTRIBUTE_WORDS.get(name)
            if spec is None or not separator:
                # The word itself may be a key whose name was forgotten.
                raise InvalidValue(f"word {at} is not name=value with one of {', '.join(ATTRIBUTE_WORDS)}")
            if spec in attributes:
                raise InvalidValue(f"attribute {name}: given twice")
            try:
                attributes[spec] = _value(name, spec.kind, spec.largest, value)
            finally:
                wipe(value)
    except CryptofsError:
        # A key that was read before an error.
        for parsed in attributes.values():
            if isinstance(parsed, bytearray):
                wipe(parsed)
        raise
    return Record(operation, attributes=attributes)


def _value(name: str, kind: Kind, largest: int, raw: bytearray) -> Value:
    parsed: Value
    if kind is Kind.BYTES:
        parsed = _bytes(name, raw)
        if len(parsed) > largest:
            wipe(parsed)
            raise InvalidValue(f"{name} of {len(parsed)} bytes: at most {largest}")
        return parsed
    value = raw.decode("ascii")
    if kind is Kind.TEXT:
        if not value.isprintable():
            raise InvalidValue(f"{name} {value[:40]!r}: printable ASCII only")
        parsed = value
    else:
        size = 4 if kind is Kind.U32 else 8
        digits = value.lstrip("0") or value[:1]
        if not value.isdecimal() or len(digits) > _DIGITS_MAX or int(digits) >= 1 << 8 * size:
            raise InvalidValue(f"{name} {value[:40]!r}: a decimal number below 2^{8 * size}")
        return int(digits)
    if len(parsed) > largest:
        raise InvalidValue(f"{name} of {len(parsed)} bytes: at most {largest}")
    return parsed


def _bytes(name: str, value: bytearray) -> bytearray:
    scheme, separator, rest = value.partition(b":")
    try:
        if separator and scheme == b"text":
            return bytearray(rest)
        if separator and scheme == b"hex":
            try:
                return from_hexadecimal(rest)
            except ValueError:
                raise InvalidValue(f"{name}: hex: takes an even number of hexadecimal digits") from None
    finally:
        wipe(rest)
    raise InvalidValue(f"{name}: hex:DIGITS or text:CHARACTERS")


def format_tags(attributes: Mapping[int, Value]) -> str:
    """Attributes as `tag: value` lines; secret ones show as (hidden)."""
    return "".join(f"{ATTRIBUTES[number].word}: {show_value(number, value)}\n" for number, value in attributes.items())
