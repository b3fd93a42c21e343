"""What the tests of contexts share: toys and OpenSSL, clients of records, workers whose work is done on demand."""

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.fake_engine import FakeEngine
from helpers.raw import build_many
from helpers.talking import submit, take

from cryptofs.contexts import Context, ContextTable, Scheduler
from cryptofs.engines.opening import open_engines
from cryptofs.records import RECORD_MAX, Attr, Flag, Operation, Record, parse_responses

MORE = int(Flag.MORE)
KEY = bytes(range(32))
CONFIGURE, SET_KEY, INFO, RESET = Operation.CONFIGURE, Operation.SET_KEY, Operation.INFO, Operation.RESET
CANCEL, CLONE, SET = Operation.CANCEL, Operation.CLONE, Operation.SET
ENCRYPT, DECRYPT, DIGEST, GENERATE = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE
COMPRESS, DECOMPRESS = Operation.COMPRESS, Operation.DECOMPRESS

FAMILIES = {
    "fake": {
        "hash": "toysum",
        "mac": "hmac(toysum)",
        "stream": "ctr(toy)",
        "blocks": "cbc(toy)",
        "whole": "xts(toy)",
        "aead": "gcm(toy)",
        "rng": "toyrng",
        "packer": "zlib-deflate",
    },
    "openssl": {
        "hash": "sha256",
        "mac": "hmac(sha256)",
        "stream": "ctr(aes)",
        "blocks": "cbc(aes)",
        "whole": "xts(aes)",
        "aead": "gcm(aes)",
        "rng": "stdrng",
        "packer": "zlib-deflate",
    },
}
TYPES = {"hash": "hash", "mac": "hash", "aead": "aead", "rng": "rng", "packer": "compression"}
OPENSSL = open_engines(("openssl", "library"))


def symbol_of(number: int) -> str:
    """An errno's name as the document spells it; Python calls this one by its other name."""
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, "success")


class HandScheduler(Scheduler):
    """A scheduler whose work is done when a test says so, in the order that it says."""

    def __init__(self) -> None:
        super().__init__(threads=2)
        self.given: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        self.users: list[int] = []
        """Whose each of them is."""

    @property
    def running(self) -> bool:
        """Always."""
        return True

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None], turn: tuple[int, int]) -> None:
        """Keep it."""
        self.given.append((work, done))
        self.users.append(turn[0])

    def slice(self, work: Callable[[], None], turn: tuple[int, int]) -> None:
        """Do it at once: how long a slice is depends on the machine."""
        work()

    def do(self, index: int = 0) -> None:
        """Do one piece of work and hand it back."""
        work, done = self.given.pop(index)
        del self.users[index]
        done(work())

    def finish(self) -> None:
        """Do all that there is, and what follows from it."""
        while self.given:
            self.do()


class Bench:
    """A table of contexts, with the toys first and OpenSSL behind them, and one family of names to test with."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.fake = FakeEngine()
        self.workers = HandScheduler()
        self.table = ContextTable((self.fake, *OPENSSL), self.workers)

    def client(self, kind: str | None = None, uid: int = 1000, **words: Any) -> "Client":
        """A context; configured, if a kind is given, with a key if it needs one."""
        client = Client(self, self.table.open(uid, uid, 1, False))
        if kind is not None:
            if kind not in ("hash", "rng", "packer"):
                words.setdefault("key", KEY)
            client.configure(kind, **words)
        return client


class Client:
    """One context, spoken to in records."""

    def __init__(self, bench: Bench, context: Context) -> None:
        self.bench = bench
        self.context = context
        self.iv_size = 0

    def ask(
        self, operation: Operation, payload: bytes = b"", /, *, id: int = 1, more: bool = False, **words: Any
    ) -> Record:
        """One request and its one answer."""
        attributes: dict[int, Any] = {Attr[word.upper()]: value for word, value in words.items()}
        self.send(Record(operation, MORE * more, id, 0, attributes, payload))
        self.bench.workers.finish()
        (response,) = self.answers()
        assert (response.operation, response.id, response.more) == (operation, id, more)
        exchange = self.context.exchange
        assert (exchange.in_flight, exchange.outstanding) == (0, 0)
        assert exchange.bytes == exchange.kept
        return response

    def answers(self) -> list[Record]:
        """All that is ready."""
        data = take(self.context, RECORD_MAX)
        return parse_responses(data) if data is not None else []

    def send(self, *records: Record) -> None:
        """One write."""
        submit(self.context, build_many(records))

    def slow(self) -> None:
        """From now on every request with a payload is for the workers."""
        assert self.context.transform is not None
        self.context.transform.pace = 1e9

    def ok(self, operation: Operation, payload: bytes = b"", /, **words: Any) -> bytes:
        """The payload of a request that must succeed."""
        response = self.ask(operation, payload, **words)
        assert response.status == 0, response
        return bytes(response.payload)

    def fails(self, operation: Operation, payload: bytes = b"", /, **words: Any) -> str:
        """The errno's name of a request that must fail; it has a message and nothing else."""
        response = self.ask(operation, payload, **words)
        assert set(response.attributes) == {Attr.MESSAGE}
        assert response.attributes[Attr.MESSAGE]
        assert not len(response.payload)
        return symbol_of(response.status)

    def configure(self, kind: str, **words: Any) -> Record:
        """Configure with a kind's name in this family."""
        words = {"type": TYPES.get(kind, "skcipher"), "name": FAMILIES[self.bench.family][kind]} | words
        response = self.ask(CONFIGURE, **words)
        if response.status == 0:
            size = response.attributes[Attr.IV_SIZE]
            assert isinstance(size, int)
            self.iv_size = size
        return response

    @property
    def iv(self) -> bytes:
        """An IV that does."""
        return bytes(range(1, self.iv_size + 1))


@pytest.fixture(params=sorted(FAMILIES))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Both families; nothing of the toys is left open."""
    made = Bench(request.param)
    yield made
    made.table.close_all()
    assert made.workers.given == []
    assert made.fake.open_runs == 0
    assert made.fake.transforms == []
    assert len(made.table) == 0


def streamed(client: Client, *pieces: bytes) -> bytes:
    """What a stream gives for these writes, each end of file counted and no more than one."""
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    try:
        for piece in pieces:
            stream.feed_nowait(writer, piece)
        stream.detach(writer)
        return drained(stream, reader)
    finally:
        stream.detach(writer)
        stream.detach(reader)


def drained(stream: Any, reader: Any, size: int = 7) -> bytes:
    """All output up to the one end of file; behind it a reader has to wait."""
    given = bytearray()
    while data := stream.drain_nowait(reader, size):
        given += data
    assert data == b""
    assert stream.drain_nowait(reader, size) is None
    return bytes(given)
