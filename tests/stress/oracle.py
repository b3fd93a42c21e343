"""What the documents say: the construct definition's verdict on bytes, and the errnos of docs/protocol.md."""

import errno
import re
import struct
from pathlib import Path

from helpers.raw import build_many
from helpers.record_format import DOCUMENT, defined_records, meaning_holds, same

from cryptofs.errors import CryptofsError, InvalidValue, MalformedRecord, TooLarge
from cryptofs.records import HEADER_SIZE, OPERATION_WORDS, Record, parse_line, parse_requests

RECORDS_MAX = 4096
_MESSAGE_MAX = 1024
_HEADER = struct.Struct("<IBBHQII")


def acceptable(buffer: bytes) -> bool:
    """Whether one write of these bytes is whole, valid requests, by the construct definition and the document."""
    found = defined_records(buffer)
    return found is not None and len(found) <= RECORDS_MAX and meaning_holds(found, len(buffer))


def check_parser(buffer: bytes, ask: bool) -> tuple[str, str | None]:
    """Parse; returns what came of it (`accepted` or an errno's name) and what is wrong with that, or None.

    ask: compare with the definition, which takes a hundred times as long.
    """
    records: list[Record] | None = None
    try:
        records = parse_requests(buffer)
    except (MalformedRecord, InvalidValue, TooLarge) as error:
        verdict = error.symbol
        if len(error.message) > _MESSAGE_MAX:
            return verdict, f"a message of {len(error.message)} characters"
    except Exception as error:
        return type(error).__name__, f"{type(error).__name__} is no typed error"
    else:
        verdict = "accepted"
        if build_many(records) != buffer:
            return verdict, "what was read is not what was written"
    if ask:
        found = defined_records(buffer)
        expected = found is not None and len(found) <= RECORDS_MAX and meaning_holds(found, len(buffer))
        if expected != (records is not None):
            return verdict, f"the definition says {'accepted' if expected else 'refused'}"
        if expected and not all(map(same, records or (), found or ())):
            return verdict, "the definition reads other values"
    return verdict, None


def check_line(data: bytes) -> tuple[str, str | None]:
    """The same for a control line: what is read from it must stand in a record, too."""
    try:
        record = parse_line(data)
    except CryptofsError as error:
        return error.symbol, None if len(error.message) <= _MESSAGE_MAX else "a message that is too long"
    except Exception as error:
        return type(error).__name__, f"{type(error).__name__} is no typed error"
    again = parse_requests(build_many([record]))[0]
    if (again.operation, {n: v if isinstance(v, int | str) else bytes(v) for n, v in again.attributes.items()}) != (
        record.operation,
        dict(record.attributes),
    ):
        return "accepted", "the line's record is not the record's"
    return "accepted", None


def walk(buffer: bytes | memoryview) -> list[tuple[int, int, int, int, int]]:
    """The records of bytes that are known to be whole: operation, flags, id, status, attributes_size."""
    found = []
    at = 0
    while at < len(buffer):
        size, _, operation, flags, identity, status, attributes_size = _HEADER.unpack_from(buffer, at)
        if size < HEADER_SIZE:
            raise ValueError(f"a record of {size} bytes")
        found.append((operation, flags, identity, status, attributes_size))
        at += size
    if at != len(buffer):
        raise ValueError(f"records of {at} bytes in {len(buffer)}")
    return found


# The tables of errnos


def _numbers(cell: str) -> set[int]:
    # EIO stands for a fault of the engine: no client can bring that about, so here it is a finding
    words = set(re.findall(r"\bE[A-Z0-9]+\b", cell)) - {"EIO"}
    return {getattr(errno, word) for word in words if hasattr(errno, word)}


def _rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table behind a line that begins with `heading`."""
    at = text.index(heading)
    rows = []
    for line in text[at:].splitlines()[1:]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


class Errnos:
    """Which errnos a client may see where; read from the document.

    refused: of writes on `crypto`. by_operation: of answers, by operation number. control: of writes on `ctl`.
    device_open: of opening a device's files.
    """

    def __init__(self, document: Path = DOCUMENT) -> None:
        text = document.read_text()
        self.refused = set().union(*(_numbers(row[0]) for row in _rows(text, "Refused writes on `crypto`")))
        self.by_operation: dict[int, set[int]] = {number: {errno.ENFILE} for number in OPERATION_WORDS.values()}
        words: list[str] = []
        for row in _rows(text, "Statuses of responses"):
            if row[0]:
                words = [word.strip() for word in row[0].split(",")]
            for number in self._operations(words):
                self.by_operation[number] |= _numbers(row[1])
        self.control = self.refused | set().union(*self.by_operation.values()) | {errno.ENODEV}
        self.device_open: set[int] = set()
        call = ""
        for row in _rows(text, "Errnos of the calls themselves"):
            call = row[0] or call
            if "a device's files" in call or "`status`" in call or "making" in call:
                self.device_open |= _numbers(row[1])
        if len(self.refused) < 4 or len(self.device_open) < 4 or len(set().union(*self.by_operation.values())) < 10:
            raise ValueError(f"{document}: its tables of errnos were not understood")

    def operation(self, word: str) -> set[int]:
        """Of an operation by its name."""
        return self.by_operation[OPERATION_WORDS[word]]

    @staticmethod
    def _operations(words: list[str]) -> list[int]:
        if words[0] == "any":
            return [int(each) for each in OPERATION_WORDS.values()]
        if words[0].startswith("any but "):
            excluded = {words[0].removeprefix("any but "), *words[1:]}
            return [int(each) for word, each in OPERATION_WORDS.items() if word not in excluded]
        return [int(OPERATION_WORDS[word]) for word in words if word in OPERATION_WORDS]
