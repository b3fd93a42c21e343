"""The text form of control calls: what a line means, what is refused, and that no message repeats a key."""

import re

import pytest
from helpers.record_format import DOCUMENT, PRINTABLE, requests
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.errors import CryptofsError, InvalidValue, TooLarge
from cryptofs.records import (
    ATTRIBUTES,
    CONTROL_OPERATIONS,
    Attr,
    Kind,
    Operation,
    Record,
    Value,
    build,
    format_tags,
    parse_line,
    parse_requests,
)
from cryptofs.records.text import LINE_MAX, WORDS_MAX

few = settings(deadline=None, max_examples=100)
WORD = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


def text_of(number: int, value: Value) -> str:
    """An attribute as a word of a line."""
    spec = ATTRIBUTES[number]
    shown = str(value) if isinstance(value, int | str) else "hex:" + bytes(value).hex()
    return f"{spec.word}={shown}"


def fits_a_line(record: Record) -> bool:
    """Whether the record has a text form: no blanks in its values, and not over the largest line."""
    blanks = any(isinstance(value, str) and " " in value for value in record.attributes.values())
    return not blanks and len(line_of(record)) < LINE_MAX


def line_of(record: Record) -> bytes:
    """The line with the same meaning as a control record."""
    words = [record.operation.word] + [text_of(number, value) for number, value in record.attributes.items()]
    return " ".join(words).encode()


control_requests = requests.filter(lambda record: record.operation in CONTROL_OPERATIONS).filter(fits_a_line)


@few
@given(control_requests)
def test_line_and_record_mean_the_same(record: Record) -> None:
    """A line gives what the record with the same attributes gives."""
    bare = Record(record.operation, attributes=record.attributes)
    parsed = parse_line(line_of(record) + b"\n")
    assert parsed == bare
    assert build(parsed) == build(bare)
    assert parse_requests(build(parsed)) == [bare]


@pytest.mark.parametrize("number", sorted(ATTRIBUTES))
def test_every_attribute(number: Attr) -> None:
    """Each attribute by its word, with its largest value."""
    spec = ATTRIBUTES[number]
    largest: dict[Kind, Value] = {
        Kind.TEXT: "~" * spec.largest,
        Kind.BYTES: b"\xfe" * spec.largest,
        Kind.U32: (1 << 32) - 1,
        Kind.U64: (1 << 64) - 1,
    }
    value = largest[spec.kind]
    assert parse_line(f"info {text_of(number, value)}\n".encode()).attributes == {number: value}
    too_large: dict[Kind, str] = {
        Kind.TEXT: "~" * (spec.largest + 1),
        Kind.BYTES: "hex:" + "fe" * (spec.largest + 1),
        Kind.U32: str(1 << 32),
        Kind.U64: str(1 << 64),
    }
    with pytest.raises(InvalidValue, match=spec.word):
        parse_line(f"info {spec.word}={too_large[spec.kind]}\n".encode())


@pytest.mark.parametrize("operation", sorted(CONTROL_OPERATIONS))
def test_every_control_call(operation: Operation) -> None:
    """Each control call by its word; blanks and the final newline do not count."""
    for line in (operation.word, f"  {operation.word}\t \n", f"{operation.word}\r\n"):
        assert parse_line(line.encode()) == Record(operation)


def test_bytes_values() -> None:
    """hex: and text: name the same bytes; an equals sign may stand in a value; empty is empty."""
    for line in (b"set-key key=hex:613d62", b"set-key key=text:a=b", b"set-key key=hex:613D62"):
        assert parse_line(line).attributes == {Attr.KEY: b"a=b"}
    assert parse_line(b"set-key key=hex:").attributes == {Attr.KEY: b""}
    assert parse_line(b"set-key key=text:").attributes == {Attr.KEY: b""}
    assert parse_line(b"set-key key=text:text:hex:").attributes == {Attr.KEY: b"text:hex:"}


def test_integers() -> None:
    """Leading zeros do not change a number, nor hide how large it is."""
    assert parse_line(b"cancel target=007").attributes == {Attr.TARGET: 7}
    assert parse_line(b"cancel target=0").attributes == {Attr.TARGET: 0}
    assert parse_line(b"cancel target=" + b"0" * 5000 + b"7\n").attributes == {Attr.TARGET: 7}
    assert parse_line(b"cancel target=" + b"0" * 5000 + b"\n").attributes == {Attr.TARGET: 0}
    with pytest.raises(InvalidValue, match="ends with a newline"):
        parse_line(b"cancel target=" + b"0" * 5000)


REFUSED = [
    b"",
    b" \n",
    b"frobnicate",
    b"digest",
    b"encrypt iv=hex:00",
    b"Info",
    b"info colour=red",
    b"info Name=sha256",
    b"info name",
    b"info =sha256",
    b"info name =sha256",
    b"info name=a name=a",
    b"set-key key=00",
    b"set-key key=",
    b"set-key key=hex:0",
    b"set-key key=hex:0g",
    b"set-key key=hex:0x00",
    b"set-key key=HEX:00",
    b"set-key key=hex=00",
    b"set-key key=base64:AAAA",
    b"set nonblocking=",
    b"set nonblocking=-1",
    b"set nonblocking=+1",
    b"set nonblocking=1_0",
    b"set nonblocking=0x1",
    b"set nonblocking=1.0",
    b"set nonblocking=4294967296",
    b"set nonblocking=" + b"0" * 30 + b"4294967296",
    b"set nonblocking=" + b"9" * 6000,
    b"cancel target=18446744073709551616",
    b"cancel target=" + b"0" * 21 + b"99999999999999999999",
    b"info\ninfo",
    b"\ninfo\n\ninfo\n",
    b"configure type=hash\nname=sha256",
    "configure type=hash name=caf\xe9".encode(),
    b"info\xff",
    b"info name=a\0b",
    b"info name=a\x7fb",
    b"info name=a\x01b",
]


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line: bytes) -> None:
    """Each rule by itself: EINVAL."""
    with pytest.raises(InvalidValue) as caught:
        parse_line(line)
    assert caught.value.message.isprintable()


def test_largest_line() -> None:
    """The published limit is inclusive, and it is the one of the document."""
    assert f"at most {LINE_MAX:,} bytes" in DOCUMENT.read_text()
    assert parse_line(b"info".ljust(LINE_MAX - 1) + b"\n") == Record(Operation.INFO)
    with pytest.raises(TooLarge):
        parse_line(b"info".ljust(LINE_MAX) + b"\n")


def test_document_lines() -> None:
    """Every line that the document shows is one."""
    section = DOCUMENT.read_text().split("## The control file")[1].split("## Streams")[0]
    shown = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    calls = [call for line in shown for call in re.split(r"\s{2,}", line)]
    assert {parse_line(call.replace("…", "00").encode()).operation for call in calls} == CONTROL_OPERATIONS


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80))
def test_random_lines(line: bytes) -> None:
    """Nothing but CryptofsError comes of random bytes."""
    message = ""
    try:
        parse_line(line)
    except CryptofsError as error:
        message = error.message
    assert message.isprintable()


@settings(deadline=None, max_examples=200)
@given(
    st.text(WORD, min_size=1, max_size=30),
    st.lists(st.sampled_from(("name=a", "=", "key=", "hex:", "set-key ", " ", "\n", "x=", "text:")), max_size=4),
)
def test_any_words(noise: str, pieces: list[str]) -> None:
    """Lines that are nearly right raise nothing else either."""
    try:
        record = parse_line(("configure " + noise.join(pieces)).encode())
    except CryptofsError:
        return
    assert parse_requests(build(record)) == [record]


# What a person may do wrong with a key on the line; {key} is the key, as hexadecimal digits or as text
MISTAKES = (
    "{key}",
    "{key} set-key",
    "key={key}",
    "key=hex:{key}",
    "set-key {key}",
    "set-key hex:{key}",
    "set-key {key}=",
    "set-key {key}=hex:",
    "set-key key={key}",
    "set-key key:{key}",
    "set-key key:hex:{key}",
    "set-key key=hex:{key}z",
    "set-key key=hex:zz{key}",
    "set-key key=text:{key} {key}",
    "set-key key=hex:00 key=hex:{key}",
    "set-key key=hex:{key} key=hex:{key}",
    "set-key Key=hex:{key}",
    "set-key key= hex:{key}",
    "set-key key=hex: {key}",
    "set-key key=base64:{key}",
    "set-keykey=hex:{key}",
    "set-key:{key}",
    "configure type=hash name=sha256 key={key} key={key}",
    "info key=hex:{key} nonblocking=x",
    "set-key key=text:{key}\xe9",
    "set-key\nkey={key}\ninfo",
)


@few
@given(st.sampled_from(MISTAKES), st.binary(min_size=16, max_size=32), st.booleans())
def test_no_message_repeats_a_key(mistake: str, key: bytes, as_text: bool) -> None:
    """However wrong the line is, the error does not tell the key or a part of it."""
    shown = "".join(chr(0x41 + byte % 26) for byte in key) if as_text else key.hex()
    try:
        record = parse_line(mistake.format(key=shown).encode())
    except CryptofsError as error:
        told = str(error)
    else:
        told = repr(record) + format_tags(record.attributes)
    assert not any(shown[at : at + 6] in told for at in range(len(shown) - 5))


def test_mistakes_are_mistakes() -> None:
    """The list above is not of lines that are taken."""
    taken = []
    for mistake in MISTAKES:
        for shown in ("00112233445566778899aabbccddeeff", "CORRECTHORSEBATTERYSTAPLE"):
            try:
                parse_line(mistake.format(key=shown).encode())
            except CryptofsError:
                continue
            taken.append(mistake)
    assert not taken


# Tags


@few
@given(requests)
def test_tags(record: Record) -> None:
    """One line an attribute: its word and its value, hidden where it is secret."""
    lines = format_tags(record.attributes).splitlines()
    assert len(lines) == len(record.attributes)
    for line, (number, value) in zip(lines, record.attributes.items(), strict=True):
        word, _, shown = line.partition(": ")
        assert word == ATTRIBUTES[number].word
        if ATTRIBUTES[number].secret:
            assert shown == "(hidden)"
        elif isinstance(value, int | str):
            assert shown == str(value)
        else:
            assert shown == "hex:" + bytes(value).hex()


@few
@given(st.text(PRINTABLE, max_size=63))
def test_only_the_key_is_secret(text: str) -> None:
    """Just one attribute is hidden, and it is the key."""
    assert [spec for spec in ATTRIBUTES.values() if spec.secret] == [Attr.KEY]
    assert format_tags({Attr.NAME: text, Attr.KEY: text.encode()}) == f"name: {text}\nkey: (hidden)\n"


def test_a_line_of_many_words() -> None:
    """More words than there are attributes are refused before they are taken apart; a line of them took 25 ms."""
    with pytest.raises(InvalidValue, match=f"more than {WORDS_MAX} words"):
        parse_line(b"configure " + b"type=hash " * WORDS_MAX)
    with pytest.raises(InvalidValue, match="given twice"):
        parse_line(b"configure " + b"type=hash " * (WORDS_MAX - 1))
    assert len(ATTRIBUTES) < WORDS_MAX


@given(line=st.text(" \t\n\r\v\fa=", max_size=30))
def test_lines_in_lines(line: str) -> None:
    """A newline between words is refused, one before or behind them is not; white space of any length is skipped."""
    several = "\n" in line.strip()
    with pytest.raises(InvalidValue) as caught:
        parse_line((" " * 1000 + line + "\n" * 1000).encode())
    if line.strip():
        assert ("one line for each write" in caught.value.message) == several
