"""Two contexts that are asked the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from helpers.raw import build_many
from helpers.talking import submit, take

from cryptofs.algorithms import Type
from cryptofs.contexts import Context, ContextTable, FastWay
from cryptofs.errors import CryptofsError
from cryptofs.records import ATTRIBUTES, RECORD_MAX, Attr, Operation, Record, parse_responses

# what tells which engine it was, and what is said for people
_IGNORED = frozenset({int(Attr.CONTEXT), int(Attr.ENGINE), int(Attr.DRIVER), int(Attr.MESSAGE)})


@dataclass(frozen=True)
class Answer:
    """One response, or the errno's name of a write that was refused."""

    operation: int
    flags: int
    id: int
    status: int
    attributes: tuple[tuple[int, object], ...]
    payload: bytes
    message: str = field(default="", compare=False)


@dataclass(frozen=True)
class Difference:
    """The first answers in which two engines differ. request: the one that has them, where one can be named."""

    type: Type
    name: str
    key: bytes
    request: Record | None
    answers: tuple[Answer | None, Answer | None]

    def __str__(self) -> str:
        request = self.request
        asked = "?"
        if request is not None:
            words = [f"{ATTRIBUTES[number].word}={_show(value)}" for number, value in request.attributes.items()]
            asked = f"{request.operation.word} {' '.join(words)} flags={request.flags} payload={len(request.payload)}"
        return f"{self.name} (key of {len(self.key)}): {asked}: {' | '.join(map(_tell, self.answers))}"


def _show(value: object) -> object:
    return bytes(value[:40]).hex() or "(empty)" if isinstance(value, bytes | bytearray | memoryview) else value


def _tell(answer: Answer | None) -> str:
    if answer is None:
        return "no answer"
    return f"{answer.status} {answer.message or answer.payload[:32].hex()} ({len(answer.payload)} bytes)"


class Duel:
    """A context of each table; `random` names are compared by the length of what they give."""

    def __init__(self, tables: Sequence[ContextTable], random: bool) -> None:
        self._tables = tables
        self._contexts = [table.open(1000, 1000, 1, False) for table in tables]
        self._random = random

    @property
    def configured(self) -> bool:
        """Whether both contexts are."""
        return all(context.transform is not None for context in self._contexts)

    def close(self) -> None:
        for table, context in zip(self._tables, self._contexts, strict=True):
            table.close(context)

    def write(self, records: Sequence[Record]) -> tuple[list[Answer], tuple[Answer | None, Answer | None] | None]:
        """One write; returns the first context's answers, and the first pair that differs."""
        data = build_many(records)
        ours, theirs = (self._ask(context, data) for context in self._contexts)
        if ours == theirs:
            return ours, None
        for index in range(max(len(ours), len(theirs))):
            pair = (ours[index : index + 1] or [None])[0], (theirs[index : index + 1] or [None])[0]
            if pair[0] != pair[1]:
                return ours, pair
        raise AssertionError("lists that differ have a place where they do")

    def _ask(self, context: Context, data: bytes) -> list[Answer]:
        try:
            # as an open handle does it
            if not FastWay(context).answer(data):
                submit(context, data)
        except CryptofsError as error:
            return [Answer(0, 0, 0, error.errno, (), b"", error.message)]
        answers = []
        while (taken := take(context, RECORD_MAX)) is not None:
            # copied at once: its buffer is free again with the next answer
            answers += [self._answer(record) for record in parse_responses(bytes(taken))]
        assert not context.exchange.outstanding
        return answers

    def _answer(self, record: Record) -> Answer:
        payload = bytes(record.payload)
        if self._random and record.operation is Operation.GENERATE:
            payload = bytes(len(payload))
        attributes = tuple(sorted((n, v) for n, v in record.attributes.items() if n not in _IGNORED))
        message = str(record.attributes.get(Attr.MESSAGE, ""))
        return Answer(record.operation, record.flags, record.id, record.status, attributes, payload, message)
