"""Contexts without a mount: control calls, messages, failures, streams and quotas; with toys and with OpenSSL."""

import errno
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_engine import CANARY, FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from test_records import table_of

from cryptofs import exchange
from cryptofs.algorithms import Type
from cryptofs.contexts import STREAM_BUFFER, Context, ContextTable, Device, DeviceSettings, Workers, table
from cryptofs.contexts import context as context_module
from cryptofs.contexts import stream as stream_module
from cryptofs.contexts.control import CONTROLS
from cryptofs.engines import open_engines
from cryptofs.engines.base import OPERATIONS, resolve
from cryptofs.errors import (
    BadTag,
    Busy,
    CryptofsError,
    EngineFault,
    InvalidValue,
    MalformedRecord,
    NotConfigured,
    NotOffered,
    OverQuota,
    TooLarge,
    WouldBlock,
)
from cryptofs.policy import Policy, Rule
from cryptofs.records import (
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Flag,
    Operation,
    Record,
    build,
    build_many,
    parse_responses,
)

MORE = int(Flag.MORE)
KEY = bytes(range(32))
CONFIGURE, SET_KEY, INFO, RESET = Operation.CONFIGURE, Operation.SET_KEY, Operation.INFO, Operation.RESET
CANCEL, CLONE, SET = Operation.CANCEL, Operation.CLONE, Operation.SET
ENCRYPT, DECRYPT, DIGEST, GENERATE = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE
COMPRESS, DECOMPRESS = Operation.COMPRESS, Operation.DECOMPRESS
BOMB = zlib.compress(bytes(PAYLOAD_MAX + 1))

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


class HandWorkers(Workers):
    """Workers whose work is done when a test says so, in the order that it says."""

    def __init__(self) -> None:
        super().__init__(threads=2)
        self.given: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []

    @property
    def running(self) -> bool:
        """Always."""
        return True

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None], user: int = 0) -> None:
        """Keep it."""
        self.given.append((work, done))

    def do(self, index: int = 0) -> None:
        """Do one piece of work and hand it back."""
        work, done = self.given.pop(index)
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
        self.workers = HandWorkers()
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
        data = self.context.take(RECORD_MAX)
        return parse_responses(data) if data is not None else []

    def send(self, *records: Record) -> None:
        """One write."""
        self.context.submit(build_many(records))

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


# Every errno of every operation

Scenario = Callable[[Bench], Record]


def iv_words(client: Client, wanted: bool = True) -> dict[str, Any]:
    """A good IV as an attribute, if it is wanted."""
    return {"iv": client.iv} if wanted else {}


def failing(kind: str | None, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """One request on a fresh context."""
    return lambda bench: bench.client(kind).ask(operation, payload, **words)


def with_iv(kind: str, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """One request with a good IV on a fresh context."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        return client.ask(operation, payload, iv=client.iv, **words)

    return scenario


def after(kind: str, first: dict[str, Any], operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """One request behind a part that opened a message; iv=True stands for a good one."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        opening = dict(first)
        if opening.get("iv"):
            opening["iv"] = client.iv
        opened = client.ask(opening.pop("operation"), more=True, **opening)
        assert opened.status == 0
        return client.ask(operation, payload, **words)

    return scenario


def configuring(**words: Any) -> Scenario:
    """A configure by itself."""
    return lambda bench: bench.client().ask(CONFIGURE, **words)


def configuring_kind(kind: str, **words: Any) -> Scenario:
    """A configure of one kind of the family."""
    return lambda bench: bench.client().configure(kind, **words)


def keyless(kind: str, operation: Operation, iv: bool) -> Scenario:
    """A message before a key."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        assert client.configure(kind).status == 0
        return client.ask(operation, bytes(16), **iv_words(client, iv))

    return scenario


def burning(kind: str, fuse: str, operation: Operation, iv: bool = False, **words: Any) -> Scenario:
    """A toy that fails with an exception."""

    def scenario(bench: Bench) -> Record:
        bench.family = "fake"
        client = bench.client(kind)
        bench.fake.fuses = {fuse}
        try:
            return client.ask(operation, **iv_words(client, iv), **words)
        finally:
            bench.fake.fuses = set()

    return scenario


def burning_control(fuse: str, configured: bool) -> Scenario:
    """A toy that fails in configure or set-key."""

    def scenario(bench: Bench) -> Record:
        bench.family = "fake"
        client = bench.client("mac") if configured else bench.client()
        bench.fake.fuses = {fuse}
        try:
            return client.ask(SET_KEY, key=KEY) if configured else client.configure("mac", key=KEY)
        finally:
            bench.fake.fuses = set()

    return scenario


def over_quota(kind: str, operation: Operation, iv: bool = False) -> Scenario:
    """One open message more than there may be."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        words: dict[str, Any] = {"iv": client.iv} if iv else {}
        for identity in range(exchange.OPEN_MESSAGES):
            client.ok(operation, bytes(16), id=identity, more=True, **words)
        return client.ask(operation, bytes(16), id=exchange.OPEN_MESSAGES, more=True, **words)

    return scenario


def cancelled(kind: str, operation: Operation, iv: bool = False) -> Scenario:
    """A later part of a cancelled message."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        client.ok(operation, bytes(16), id=7, more=True, **iv_words(client, iv))
        client.ok(CANCEL, id=8, target=7)
        return client.ask(operation, bytes(16), id=7)

    return scenario


def gathered(kind: str, operation: Operation) -> Scenario:
    """A message over PAYLOAD_MAX that must be whole."""

    def scenario(bench: Bench) -> Record:
        client = bench.client(kind)
        client.ok(operation, bytes(PAYLOAD_MAX), id=7, more=True, iv=client.iv)
        return client.ask(operation, bytes(16), id=7)

    return scenario


def special(name: str, key_size: int, operation: Operation, payload: bytes, iv: bytes, **words: Any) -> Scenario:
    """A message of an AEAD of OpenSSL's by its name."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        assert client.ask(CONFIGURE, type="aead", name=name, key=KEY[:key_size]).status == 0
        return client.ask(operation, payload, iv=iv, **words)

    return scenario


def clone_over_quota(bench: Bench) -> Record:
    """A clone where as many messages are open as may be."""
    client = bench.client("hash")
    for number in range(1, 4):
        client.ask(DIGEST, b"x", id=number, more=True)
    return client.ask(CLONE, id=9, target=1)


def forbidden_meanwhile(bench: Bench) -> Record:
    """A key for a name that the kernel does not let anybody have any more."""
    client = bench.client("mac")
    assert client.context.transform is not None

    def refuse(key: object) -> None:
        raise NotOffered("no longer")

    client.context.transform.replace_key = refuse  # type: ignore[method-assign]
    return client.ask(SET_KEY, key=KEY)


def denied(bench: Bench) -> Record:
    """A name that the policy does not allow."""
    bench.table.policy = Policy(Rule(frozenset()))
    return bench.client().ask(CONFIGURE, type="hash", name=FAMILIES[bench.family]["hash"])


def of_device(kind: str, allowed: Operation, operation: Operation, payload: bytes = b"", /, **words: Any) -> Scenario:
    """A request on a context of a device that allows one operation."""

    def scenario(bench: Bench) -> Record:
        type_, name = Type(TYPES.get(kind, "skcipher")), FAMILIES[bench.family][kind]
        found = resolve(bench.table.engines, type_, name)
        assert found is not None
        transform = found[0].open(found[1], None)
        transform.set_key(KEY)
        device = Device(DeviceSettings("toy", type_, name, frozenset({allowed})), transform)
        context = bench.table.open_device(device, 1000, 1000, 1, False)
        # the key goes with its last context
        device.retire()
        return Client(bench, context).ask(operation, payload, **words)

    return scenario


def clone_of_device(bench: Bench) -> Record:
    """The state of a device's message, wanted in a context that is not the device's."""
    other = bench.client("mac")
    return of_device("mac", DIGEST, CLONE, target=1, context=other.context.number)(bench)


def busy_key(bench: Bench) -> Record:
    """set-key while the stream carries a message."""
    client = bench.client("mac")
    stream = client.context.stream
    stream.feed_nowait(stream.attach(False, True), b"x")
    return client.ask(SET_KEY, key=KEY)


def forged(in_parts: bool) -> Scenario:
    """A wrong tag."""

    def scenario(bench: Bench) -> Record:
        client = bench.client("aead")
        sealed = bytearray(client.ok(ENCRYPT, b"secret text", iv=client.iv))
        sealed[-1] ^= 1
        if not in_parts:
            return client.ask(DECRYPT, bytes(sealed), iv=client.iv)
        assert client.ok(DECRYPT, bytes(sealed[:5]), more=True, iv=client.iv) == b""
        return client.ask(DECRYPT, bytes(sealed[5:]))

    return scenario


def cloning(source: str, other_kind: str | None, /, uid: int = 1000, **words: Any) -> Scenario:
    """A clone of the open message 7 into another context."""

    def scenario(bench: Bench) -> Record:
        client, other = bench.client(source), bench.client(other_kind, uid)
        opening = {"iv": client.iv} if client.iv_size else {}
        operation = DIGEST if source in ("hash", "mac") else ENCRYPT
        client.ok(operation, bytes(16), id=7, more=True, **opening)
        return client.ask(CLONE, **({"id": 8, "target": 7, "context": other.context.number} | words))

    return scenario


def cloning_stream(fed: bool, busy: bool) -> Scenario:
    """A clone of the stream's message into another context's stream."""

    def scenario(bench: Bench) -> Record:
        client, other = bench.client("hash"), bench.client("hash")
        for each, begins in ((client, fed), (other, busy)):
            if begins:
                each.context.stream.feed_nowait(each.context.stream.attach(False, True), b"x")
        return client.ask(CLONE, context=other.context.number)

    return scenario


AESTEXT: dict[str, Any] = {"type": "skcipher", "name": "cbc(aes)"}
OPEN_DIGEST: dict[str, Any] = {"operation": DIGEST}
OPEN_ENCRYPT: dict[str, Any] = {"operation": ENCRYPT, "iv": True}

# the public key operations, by the engine that has them
PUBLIC_OPERATIONS = [operation for operation in Operation if operation >= Operation.SIGN]
_ED25519_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def public_key(type_: str, name: str, key: bytes | None, operation: Operation, /, **words: Any) -> Scenario:
    """A public key operation that fails on a context of its own."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        given = {} if key is None else {"key": key}
        client.ask(CONFIGURE, type=type_, name=name, engine="openssl", **given)
        rest = dict(words)
        if rest.pop("generated", False):
            client.ok(Operation.GENERATE_KEY)
        return client.ask(operation, rest.pop("payload", b""), **rest)

    return scenario


def cancelled_operation(operation: Operation) -> Scenario:
    """A later part of a cancelled message of a public key operation."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        client.ask(CONFIGURE, type="sig", name="ed25519", engine="openssl")
        client.ok(Operation.GENERATE_KEY)
        client.ok(operation, b"x", id=7, more=True)
        client.ok(CANCEL, id=8, target=7)
        return client.ask(operation, b"y", id=7)

    return scenario


def burning_operation(operation: Operation) -> Scenario:
    """A public key operation whose engine fails in a way of its own."""

    def scenario(bench: Bench) -> Record:
        client = bench.client()
        client.ask(CONFIGURE, type="sig", name="ed25519", engine="openssl")
        assert client.context.transform is not None

        def burn(*arguments: object) -> Any:
            raise RuntimeError(CANARY)

        client.context.transform.operate = burn  # type: ignore[method-assign]
        return client.ask(operation, b"x")

    return scenario


TABLE: list[tuple[Operation, str, Scenario]] = [
    # any: what does not belong, and before configure
    *[(operation, "EINVAL", failing(None, operation, message="x")) for operation in CONTROLS],
    *[
        (operation, "EINVAL", failing("hash", operation, b"payload"))
        for operation in CONTROLS
        if operation != CONFIGURE
    ],
    *[(operation, "EINVAL", failing("hash", operation, more=True)) for operation in CONTROLS if operation != CONFIGURE],
    *[(operation, "EINVAL", failing("stream", operation, key=KEY)) for operation in (ENCRYPT, DECRYPT)],
    *[(operation, "EINVAL", with_iv("stream", operation, length=1)) for operation in (ENCRYPT, DECRYPT)],
    (DIGEST, "EINVAL", failing("hash", DIGEST, key=KEY)),
    (DIGEST, "EINVAL", failing("hash", DIGEST, length=1)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, target=1)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, iv=b"x")),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, assoclen=1)),
    (SET_KEY, "EBADFD", failing(None, SET_KEY, key=KEY)),
    (CLONE, "EBADFD", failing(None, CLONE, target=1)),
    *[(op, "EBADFD", failing(None, op)) for op in (RESET, ENCRYPT, DECRYPT, DIGEST, GENERATE, COMPRESS, DECOMPRESS)],
    # configure
    (CONFIGURE, "EBUSY", failing("hash", CONFIGURE, type="hash", name="sha256")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="nosuch")),
    (CONFIGURE, "ENOENT", configuring(type="skcipher", name="sha256")),
    (CONFIGURE, "ENOENT", configuring_kind("hash", engine="nosuch")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="sha256", engine="fake")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="toysum", engine="openssl")),
    (CONFIGURE, "ENOENT", configuring_kind("hash", driver="nosuch")),
    (CONFIGURE, "ENOENT", configuring(type="hash", name="sha256", driver="sha1-openssl")),
    (CONFIGURE, "EINVAL", configuring(type="hash")),
    (CONFIGURE, "EINVAL", configuring(name="sha256")),
    (CONFIGURE, "EINVAL", failing(None, CONFIGURE, b"x", **AESTEXT)),
    (CONFIGURE, "EINVAL", configuring(**AESTEXT, more=True)),
    (CONFIGURE, "EINVAL", configuring(**AESTEXT, length=1)),
    (CONFIGURE, "EINVAL", configuring(type="cipher", name="cbc(aes)")),
    (CONFIGURE, "EINVAL", configuring(type="skcipher", name="cbc(aes")),
    (CONFIGURE, "EINVAL", configuring(type="skcipher", name="")),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=bytes(15))),
    (CONFIGURE, "EINVAL", configuring_kind("aead", key=b"")),
    (CONFIGURE, "EINVAL", configuring_kind("hash", key=KEY)),
    (CONFIGURE, "EINVAL", configuring_kind("aead", key=KEY, authsize=3)),
    (CONFIGURE, "EINVAL", configuring_kind("aead", key=KEY, authsize=17)),
    (CONFIGURE, "EINVAL", configuring_kind("hash", authsize=16)),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=KEY, iv=bytes(15))),
    (CONFIGURE, "EINVAL", configuring_kind("hash", iv=bytes(1))),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=KEY, assoclen=1)),
    (CONFIGURE, "EINVAL", configuring_kind("blocks", key=KEY, operation="digest")),
    (CONFIGURE, "EINVAL", configuring_kind("hash", operation="nosuch")),
    (CONFIGURE, "EIO", burning_control("describe", False)),
    (CONFIGURE, "EIO", burning_control("open", False)),
    (CONFIGURE, "EIO", burning_control("set_key", False)),
    # set-key, info, reset, set
    (SET_KEY, "EINVAL", failing("mac", SET_KEY)),
    (SET_KEY, "EINVAL", failing("blocks", SET_KEY, key=bytes(31))),
    (SET_KEY, "EINVAL", failing("hash", SET_KEY, key=KEY)),
    (SET_KEY, "EBUSY", after("mac", OPEN_DIGEST, SET_KEY, key=KEY)),
    (SET_KEY, "EBUSY", busy_key),
    (SET_KEY, "EIO", burning_control("set_key", True)),
    (INFO, "EINVAL", failing("hash", INFO, target=1)),
    (RESET, "EINVAL", failing("blocks", RESET, iv=bytes(15))),
    (RESET, "EINVAL", failing("blocks", RESET, operation="generate")),
    (RESET, "EINVAL", failing("blocks", RESET, assoclen=1)),
    (SET, "EINVAL", failing("hash", SET)),
    (SET, "EINVAL", failing("hash", SET, nonblocking=2)),
    # cancel, clone
    (CANCEL, "EINVAL", failing("hash", CANCEL)),
    (CANCEL, "ENOENT", failing("hash", CANCEL, target=1)),
    (CANCEL, "ENOENT", failing(None, CANCEL, target=1)),
    (CLONE, "ENOENT", failing("hash", CLONE, target=1)),
    (CLONE, "ENOENT", failing("hash", CLONE, target=1, context=99)),
    (CLONE, "ENOENT", cloning("hash", "hash", uid=1001)),
    (CLONE, "ENOENT", cloning("hash", None)),
    (CLONE, "ENOENT", cloning("hash", "hash", target=6)),
    (CLONE, "ENOENT", cloning_stream(fed=False, busy=False)),
    (CLONE, "EINVAL", cloning("hash", "mac")),
    (CLONE, "EINVAL", failing("hash", CLONE)),
    (CLONE, "EBUSY", after("hash", OPEN_DIGEST, CLONE, id=1, target=1)),
    (CLONE, "EBUSY", cloning_stream(fed=True, busy=True)),
    (CLONE, "EOPNOTSUPP", cloning("stream", "stream")),
    (CLONE, "EOPNOTSUPP", cloning("aead", "aead")),
    # operations of other types, keys
    *[(op, "EOPNOTSUPP", failing("hash", op, iv=bytes(16))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EOPNOTSUPP", failing("hash", op, more=True)) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EOPNOTSUPP", failing(kind, op)) for kind in ("stream", "whole", "aead") for op in (DIGEST, GENERATE)],
    (GENERATE, "EOPNOTSUPP", failing("hash", GENERATE, length=1)),
    (DIGEST, "EOPNOTSUPP", failing("rng", DIGEST)),
    (ENCRYPT, "EOPNOTSUPP", failing("rng", ENCRYPT)),
    *[(op, "ENOKEY", keyless(kind, op, True)) for kind in ("stream", "whole", "aead") for op in (ENCRYPT, DECRYPT)],
    (DIGEST, "ENOKEY", keyless("mac", DIGEST, False)),
    # sizes
    *[(op, "EINVAL", failing(kind, op, bytes(16))) for kind in ("stream", "aead") for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", failing("blocks", op, bytes(16), iv=bytes(15))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", failing("blocks", op, bytes(16), iv=bytes(15), more=True)) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("blocks", op, bytes(17))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("whole", op, bytes(15))) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("aead", op, bytes(16), assoclen=17)) for op in (ENCRYPT, DECRYPT)],
    *[(op, "EINVAL", with_iv("stream", op, bytes(16), assoclen=1)) for op in (ENCRYPT, DECRYPT)],
    (DECRYPT, "EINVAL", with_iv("aead", DECRYPT, bytes(15))),
    (DIGEST, "EINVAL", failing("hash", DIGEST, iv=b"x")),
    (GENERATE, "EINVAL", failing("rng", GENERATE, b"payload", length=1)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=1, more=True)),
    (GENERATE, "EINVAL", failing("rng", GENERATE, length=PAYLOAD_MAX + 1)),
    (ENCRYPT, "EINVAL", special("rfc4106(gcm(aes))", 20, ENCRYPT, bytes(32), bytes(8), assoclen=12)),
    (ENCRYPT, "EINVAL", special("rfc4309(ccm(aes))", 19, ENCRYPT, bytes(32), bytes(8), assoclen=0)),
    (DECRYPT, "EINVAL", special("rfc4543(gcm(aes))", 20, DECRYPT, bytes(64), bytes(8), assoclen=17)),
    (ENCRYPT, "EINVAL", special("ccm(aes)", 16, ENCRYPT, b"", bytes(16))),
    (ENCRYPT, "EOVERFLOW", special("ccm(aes)", 16, ENCRYPT, bytes(65536), bytes((1, *range(13), 0, 0)))),
    # later parts
    (ENCRYPT, "EINVAL", after("stream", OPEN_ENCRYPT, ENCRYPT, iv=bytes(16))),
    (ENCRYPT, "EINVAL", after("aead", OPEN_ENCRYPT, ENCRYPT, assoclen=0)),
    (DECRYPT, "EINVAL", after("stream", OPEN_ENCRYPT, DECRYPT)),
    (DIGEST, "EINVAL", after("stream", OPEN_ENCRYPT, DIGEST)),
    (ENCRYPT, "EINVAL", after("hash", OPEN_DIGEST, ENCRYPT)),
    *[(op, "EMSGSIZE", gathered(kind, op)) for kind in ("whole", "aead") for op in (ENCRYPT, DECRYPT)],
    (DIGEST, "EDQUOT", over_quota("hash", DIGEST)),
    *[(op, "EDQUOT", over_quota(kind, op, iv=True)) for kind in ("stream", "aead") for op in (ENCRYPT, DECRYPT)],
    (DIGEST, "ECANCELED", cancelled("hash", DIGEST)),
    *[(op, "ECANCELED", cancelled(kind, op, iv=True)) for kind in ("stream", "whole") for op in (ENCRYPT, DECRYPT)],
    # the engine
    (DIGEST, "EIO", burning("hash", "begin", DIGEST)),
    (DIGEST, "EIO", burning("hash", "begin", DIGEST, more=True)),
    (DIGEST, "EIO", burning("hash", "digest", DIGEST)),
    *[(op, "EIO", burning("stream", "update", op, iv=True)) for op in (ENCRYPT, DECRYPT)],
    (ENCRYPT, "EIO", burning("whole", "crypt", ENCRYPT, iv=True)),
    (GENERATE, "EIO", burning("rng", "fill", GENERATE, length=8)),
    # policy and devices
    (CONFIGURE, "EACCES", denied),
    (SET_KEY, "ENOENT", forbidden_meanwhile),
    (SET_KEY, "EACCES", of_device("mac", DIGEST, SET_KEY, key=KEY)),
    (CLONE, "EACCES", clone_of_device),
    (CLONE, "EDQUOT", clone_over_quota),
    (ENCRYPT, "EACCES", of_device("blocks", DECRYPT, ENCRYPT, bytes(16))),
    (DECRYPT, "EACCES", of_device("blocks", ENCRYPT, DECRYPT, bytes(32))),
    (ENCRYPT, "EINVAL", of_device("blocks", ENCRYPT, ENCRYPT, bytes(16), iv=bytes(16))),
    (DECRYPT, "EINVAL", of_device("blocks", DECRYPT, DECRYPT, bytes(7))),
    (DECRYPT, "EBADMSG", forged(in_parts=False)),
    (DECRYPT, "EBADMSG", forged(in_parts=True)),
    # compression
    (CONFIGURE, "EINVAL", configuring_kind("packer", level=10)),
    (CONFIGURE, "EINVAL", configuring_kind("packer", key=KEY)),
    (CONFIGURE, "EINVAL", configuring_kind("packer", authsize=16)),
    (CONFIGURE, "EINVAL", configuring_kind("hash", level=1)),
    (CONFIGURE, "ENOENT", configuring(type="compression", name="842")),
    (CONFIGURE, "ENOENT", configuring(type="compression", name="zstd", engine="openssl")),
    (COMPRESS, "EOPNOTSUPP", failing("hash", COMPRESS)),
    (DECOMPRESS, "EOPNOTSUPP", failing("rng", DECOMPRESS)),
    (ENCRYPT, "EOPNOTSUPP", failing("packer", ENCRYPT)),
    (COMPRESS, "EINVAL", failing("packer", COMPRESS, iv=b"x")),
    (COMPRESS, "EINVAL", failing("packer", COMPRESS, length=1)),
    (DECOMPRESS, "EINVAL", failing("packer", DECOMPRESS, BOMB, length=PAYLOAD_MAX + 1)),
    (DECOMPRESS, "EINVAL", failing("packer", DECOMPRESS, more=True, length=1)),
    (DECOMPRESS, "EINVAL", failing("packer", DECOMPRESS)),
    (DECOMPRESS, "EMSGSIZE", failing("packer", DECOMPRESS, BOMB)),
    (DECOMPRESS, "EMSGSIZE", failing("packer", DECOMPRESS, zlib.compress(bytes(9)), length=8)),
    # public keys
    *[(op, "EINVAL", failing("hash", op, length=1)) for op in PUBLIC_OPERATIONS],
    *[(op, "EBADFD", failing(None, op)) for op in PUBLIC_OPERATIONS],
    *[(op, "EOPNOTSUPP", failing("hash", op)) for op in PUBLIC_OPERATIONS],
    *[(op, "EINVAL", failing("hash", op, more=True)) for op in PUBLIC_OPERATIONS if op is not Operation.SIGN],
    *[
        (op, "ENOKEY", public_key("sig", "ed25519", None, op))
        for op in (Operation.SIGN, Operation.VERIFY, Operation.PUBLIC_KEY)
    ],
    (Operation.AGREE, "ENOKEY", public_key("kpp", "curve25519", None, Operation.AGREE, peer_key=bytes(32))),
    (Operation.DECAPSULATE, "ENOKEY", public_key("kpp", "mlkem768", None, Operation.DECAPSULATE, payload=bytes(1088))),
    (Operation.ENCAPSULATE, "ENOKEY", public_key("kpp", "mlkem768", None, Operation.ENCAPSULATE)),
    (Operation.SIGN, "ENOKEY", public_key("sig", "ed25519", _ED25519_PUBLIC, Operation.SIGN)),
    (Operation.VERIFY, "EINVAL", public_key("sig", "ed25519", _ED25519_PUBLIC, Operation.VERIFY)),
    (
        Operation.VERIFY,
        "EKEYREJECTED",
        public_key("sig", "ed25519", _ED25519_PUBLIC, Operation.VERIFY, signature=bytes(64)),
    ),
    (
        Operation.GENERATE_KEY,
        "EBUSY",
        public_key("sig", "ed25519", None, Operation.GENERATE_KEY, generated=True),
    ),
    (Operation.SIGN, "ECANCELED", cancelled_operation(Operation.SIGN)),
    *[(op, "EIO", burning_operation(op)) for op in PUBLIC_OPERATIONS],
]


@pytest.mark.parametrize(
    ("operation", "symbol", "scenario"),
    TABLE,
    ids=[f"{operation.word}-{symbol}-{index}" for index, (operation, symbol, _) in enumerate(TABLE)],
)
def test_errno(
    operation: Operation, symbol: str, scenario: Scenario, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row: the errno, a message for people, no output, and nothing of an engine's exception or a key."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 3)
    response = scenario(bench)
    assert response.operation == operation
    assert symbol_of(response.status) == symbol
    assert not len(response.payload)
    message = response.attributes[Attr.MESSAGE]
    assert isinstance(message, str)
    assert message
    for secret in (CANARY, KEY.hex(), repr(KEY)[2:-1]):
        assert secret not in message


@pytest.mark.parametrize(
    ("operation", "symbol", "scenario"),
    [row for row in TABLE if row[0] not in CONTROLS],
    ids=[f"{row[0].word}-{row[1]}-{index}" for index, row in enumerate(TABLE) if row[0] not in CONTROLS],
)
def test_errno_by_workers(
    operation: Operation, symbol: str, scenario: Scenario, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows when workers compute."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 3)
    monkeypatch.setattr(context_module, "LONG_NS", -1)

    def at_once(work: Callable[[], Any], done: Callable[[Any], None], user: int = 0) -> None:
        done(work())

    monkeypatch.setattr(bench.workers, "submit", at_once)
    response = scenario(bench)
    assert symbol_of(response.status) == symbol
    assert CANARY not in str(response.attributes)


# The table and the document


def operations_of(words: str) -> tuple[set[Operation], bool]:
    """The operations of a row of the document, and whether the row is about each of them or about some."""
    by_word = {operation.word: operation for operation in Operation}
    if words.startswith("any"):
        but = {by_word[word] for word in words.removeprefix("any").removeprefix(" but ").split(", ") if word}
        return set(Operation) - but, True
    return {by_word[word] for word in words.split(", ")}, False


def documented() -> Iterator[tuple[set[Operation], bool, str]]:
    """Each errno of the document's table with its operations."""
    operations: tuple[set[Operation], bool] = set(), False
    for words, symbols, _ in table_of("Errors", "operation"):
        if words:
            operations = operations_of(words)
        for symbol in symbols.split(", "):
            yield *operations, symbol


def test_every_documented_errno_is_provoked() -> None:
    """A row about any operation is tested with each, another row with at least one of its operations."""
    tested = {(operation, symbol) for operation, symbol, _ in TABLE}
    rows = list(documented())
    assert len(rows) > 20
    for operations, each, symbol in rows:
        found = {operation for operation in operations if (operation, symbol) in tested}
        assert found == operations if each else found, f"{symbol} of {operations - found} is not tested"


def test_every_provoked_errno_is_documented() -> None:
    """No operation answers an errno that the document does not name for it."""
    rows = {(operation, symbol) for operations, _, symbol in documented() for operation in operations}
    undocumented = {(op.word, symbol) for op, symbol, _ in TABLE if (op, symbol) not in rows}
    # an engine may fail in any call that reaches it
    assert undocumented <= {("configure", "EIO"), ("set-key", "EIO")}


def test_document_attributes_of_control_calls() -> None:
    """What each control call must have and may have is what the document says."""
    for _, word, attributes, payload, _ in table_of("Operations", "number"):
        operation = next(each for each in Operation if each.word == word)
        names = re.findall(r"([a-z][a-z-]*)(\*?)", re.sub(r"\([^)]*\)", "", attributes))
        given = {Attr[name.upper().replace("-", "_")]: star for name, star in names if name != "none"}
        if operation in CONTROLS:
            call = CONTROLS[operation]
            assert call.required == {attribute for attribute, star in given.items() if star}, word
            assert call.optional == {attribute for attribute, star in given.items() if not star}, word
            assert payload == "none"


# Configure, info, reset, keys


@pytest.mark.parametrize("kind", sorted(FAMILIES["fake"]))
def test_configure_tells_what_serves(bench: Bench, kind: str) -> None:
    """The reply describes the algorithm; info says the same and the queue's bounds."""
    client = bench.client()
    info = client.ask(INFO).attributes
    assert set(info) == {Attr.CONTEXT, Attr.NONBLOCKING, Attr.QUEUE_REQUESTS, Attr.QUEUE_BYTES}
    reply = dict(client.configure(kind).attributes)
    assert reply[Attr.CONTEXT] == client.context.number == info[Attr.CONTEXT]
    assert reply[Attr.NAME] == FAMILIES[bench.family][kind]
    assert reply[Attr.ENGINE] == ("library" if kind == "packer" else bench.family)
    assert reply.get(Attr.LEVEL) == (3 if kind == "packer" else None)
    assert (Attr.AUTHSIZE in reply) == (kind == "aead")
    assert reply.get(Attr.AUTHSIZE, 16) == 16
    reply |= {Attr.NONBLOCKING: 0, Attr.QUEUE_REQUESTS: 4096, Attr.QUEUE_BYTES: 16 * 1024 * 1024}
    assert client.ask(INFO).attributes == reply


def test_configure_by_driver_and_engine(bench: Bench) -> None:
    """What serves can be demanded, and a driver's name names it too."""
    reply = bench.client().configure("hash").attributes
    wanted = {"engine": str(reply[Attr.ENGINE]), "driver": str(reply[Attr.DRIVER])}
    assert bench.client().configure("hash", **wanted).status == 0
    assert bench.client().configure("hash", driver=wanted["driver"]).status == 0
    by_name = bench.client().configure("hash", name=wanted["driver"])
    assert by_name.status == 0
    assert by_name.attributes[Attr.DRIVER] == wanted["driver"]


def test_a_failed_configure_leaves_nothing(bench: Bench) -> None:
    """After one the context is still unconfigured, holds no transform, and can be configured."""
    client = bench.client()
    for words in ({"key": bytes(15)}, {"key": KEY, "iv": b"x"}, {"key": KEY, "operation": "digest"}):
        assert client.configure("blocks", **words).status == errno.EINVAL
        assert client.fails(ENCRYPT, bytes(16), iv=bytes(16)) == "EBADFD"
        assert bench.fake.transforms == []
    assert client.configure("blocks", key=KEY).status == 0


def test_second_configure_changes_nothing(bench: Bench) -> None:
    """EBUSY, and the first one holds."""
    client = bench.client("hash")
    assert client.configure("rng").status == errno.EBUSY
    assert len(client.ok(DIGEST, b"abc")) == 32


def test_set_key(bench: Bench) -> None:
    """A new key replaces the old one between messages; a refused one does not."""
    client, other = bench.client("mac"), bench.client("mac", key=KEY[::-1])
    assert client.fails(SET_KEY, key=bytes(8193 - 1)) == "EINVAL" if bench.family == "fake" else True
    first = client.ok(DIGEST, b"abc")
    client.ok(SET_KEY, key=KEY[::-1])
    assert client.ok(DIGEST, b"abc") == other.ok(DIGEST, b"abc") != first


def test_set_key_when_the_message_has_ended(bench: Bench) -> None:
    """EBUSY lasts as long as the message, failed or not."""
    client = bench.client("mac")
    client.ok(DIGEST, b"a", id=7, more=True)
    assert client.fails(SET_KEY, id=8, key=KEY) == "EBUSY"
    client.ok(CANCEL, id=8, target=7)
    assert client.fails(SET_KEY, id=8, key=KEY) == "EBUSY"
    assert client.fails(DIGEST, id=7) == "ECANCELED"
    client.ok(SET_KEY, id=8, key=KEY)


def test_reset_forgets_messages(bench: Bench) -> None:
    """Open and failed messages are gone; their ids are free, their state is not mixed in."""
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=1, more=True)
    assert client.fails(ENCRYPT, id=2, more=True) == "EOPNOTSUPP"
    client.ok(RESET, id=3)
    assert client.context.exchange.lanes == {}
    assert client.ok(DIGEST, b"b", id=1) == client.ok(DIGEST, b"b", id=2)


def test_set_nonblocking(bench: Bench) -> None:
    """It is told by info and by the status."""
    client = bench.client("hash")
    for value in (1, 0):
        client.ok(SET, nonblocking=value)
        assert client.context.nonblocking == bool(value)
        assert client.ask(INFO).attributes[Attr.NONBLOCKING] == value
        assert f"nonblocking: {value}\n" in client.context.status()


# Messages


def test_parts_equal_the_whole(bench: Bench) -> None:
    """Every kind: a message in parts gives what the whole gives."""
    data = bytes(range(80))
    for kind, operation in (("hash", DIGEST), ("mac", DIGEST), ("stream", ENCRYPT), ("blocks", DECRYPT)):
        client = bench.client(kind)
        words: dict[str, Any] = {"iv": client.iv} if client.iv_size else {}
        whole = client.ok(operation, data, **words)
        parts = [client.ok(operation, data[:23], id=5, more=True, **words), client.ok(operation, data[23:], id=5)]
        assert b"".join(parts) == whole
        assert len(parts[0]) == (16 if words else 0)


def test_aead_there_and_back(bench: Bench) -> None:
    """Associated data is not repeated, the tag follows the ciphertext."""
    client = bench.client("aead", authsize=12)
    sealed = client.ok(ENCRYPT, b"assocplaintext", iv=client.iv, assoclen=5)
    assert len(sealed) == 9 + 12
    assert client.ok(DECRYPT, b"assoc" + sealed, iv=client.iv, assoclen=5) == b"plaintext"
    assert client.fails(DECRYPT, b"asso!" + sealed, iv=client.iv, assoclen=5) == "EBADMSG"


def test_generate(bench: Bench) -> None:
    """As many bytes as asked for, none too."""
    client = bench.client("rng")
    for length in (0, 1, 1000, PAYLOAD_MAX):
        assert len(client.ok(GENERATE, length=length)) == length


def test_messages_are_independent(bench: Bench) -> None:
    """Parts of several messages may be mixed, in one write too; each id is answered in its order."""
    client = bench.client("hash")
    parts = [
        (1, b"a", True),
        (2, b"x", True),
        (1, b"b", True),
        (3, b"whole", False),
        (2, b"y", False),
        (1, b"c", False),
    ]
    client.context.submit(build_many(Record(DIGEST, MORE * more, id, 0, {}, data) for id, data, more in parts))
    answers = client.answers()
    assert [(answer.id, answer.more, answer.status) for answer in answers] == [
        (identity, more, 0) for identity, _, more in parts
    ]
    digests = {answer.id: bytes(answer.payload) for answer in answers if not answer.more}
    expected = {1: b"abc", 2: b"xy", 3: b"whole"}
    assert digests == {identity: hashlib.sha256(data).digest() for identity, data in expected.items()}


@pytest.mark.parametrize("bad", [{"iv": b"x"}, {"operation": ENCRYPT}, {"target": 1}])
def test_a_failed_part_poisons_the_rest(bench: Bench, bad: dict[str, Any]) -> None:
    """Later parts answer the same error, the last one too; then the id is free."""
    client = bench.client("hash")
    client.ok(DIGEST, b"a", more=True)
    words = dict(bad)
    first = client.ask(words.pop("operation", DIGEST), b"b", more=True, **words)
    assert first.status == errno.EINVAL
    for more in (True, True, False):
        later = client.ask(DIGEST, b"c", more=more)
        assert (later.status, later.attributes) == (first.status, first.attributes)
    assert client.ok(DIGEST, b"d") == hashlib.sha256(b"d").digest()


def test_a_first_part_that_fails_poisons_too(bench: Bench) -> None:
    """The tail of a message that never opened is not taken for a message of its own, in one write or in several."""
    client = bench.client("stream")
    assert client.fails(ENCRYPT, b"secret", more=True, iv=b"short") == "EINVAL"
    assert client.fails(ENCRYPT, b"tail", iv=client.iv) == "EINVAL"
    head = Record(ENCRYPT, MORE, 7, 0, {Attr.IV: b"short"}, b"head")
    tail = Record(ENCRYPT, 0, 7, 0, {Attr.IV: client.iv}, b"tail")
    client.context.submit(build_many((head, tail, tail)))
    assert [answer.status for answer in client.answers()] == [errno.EINVAL, errno.EINVAL, 0]


def test_before_configure_poisons_too(bench: Bench) -> None:
    """A message that began before configure does not come to life by it."""
    client = bench.client()
    assert client.fails(DIGEST, b"a", more=True) == "EBADFD"
    client.configure("hash")
    assert client.fails(DIGEST, b"b") == "EBADFD"
    client.ok(DIGEST, b"b")


def test_cancel_of_an_open_message(bench: Bench) -> None:
    """Each later part answers ECANCELED once; another cancel after the last part finds nothing."""
    client = bench.client("stream")
    client.ok(ENCRYPT, b"abc", id=7, more=True, iv=client.iv)
    client.ok(CANCEL, id=8, target=7)
    assert client.fails(ENCRYPT, b"def", id=7, more=True) == "ECANCELED"
    assert client.fails(ENCRYPT, b"ghi", id=7) == "ECANCELED"
    assert client.fails(CANCEL, id=8, target=7) == "ENOENT"
    assert client.ok(ENCRYPT, b"abc", id=7, iv=client.iv)


def test_cancel_does_not_change_why_a_message_failed(bench: Bench) -> None:
    """After a part has failed, every later part is answered with the same error, cancel or not."""
    client = bench.client("hash")
    assert client.fails(ENCRYPT, id=7, more=True) == "EOPNOTSUPP"
    client.ask(CANCEL, id=8, target=7)
    assert client.fails(DIGEST, id=7) == "EOPNOTSUPP"


def test_an_engine_exception(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """EIO without the exception's text, which goes to the log; other messages and later ones are unharmed."""
    bench.family = "fake"
    client = bench.client("mac")
    client.ok(DIGEST, b"other", id=9, more=True)
    client.ok(DIGEST, b"a", id=7, more=True)
    bench.fake.fuses = {"update"}
    response = client.ask(DIGEST, b"b", id=7, more=True)
    bench.fake.fuses = set()
    assert response.status == errno.EIO
    assert CANARY not in str(response.attributes)
    assert CANARY in caplog.text
    assert KEY.hex() not in caplog.text
    assert repr(KEY)[2:-1] not in caplog.text
    assert client.fails(DIGEST, b"c", id=7) == "EIO"
    assert client.ok(DIGEST, b"c", id=7) == hashlib.sha256(KEY + b"c").digest()
    assert client.ok(DIGEST, b"!", id=9) == hashlib.sha256(KEY + b"other!").digest()


@pytest.mark.parametrize("fuse", ["describe", "open", "set_key"])
def test_an_engine_exception_in_configure(bench: Bench, fuse: str) -> None:
    """EIO, answered once, and what stands behind it in the same write is answered too."""
    bench.family = "fake"
    client = bench.client()
    bench.fake.fuses = {fuse}
    attributes: dict[int, Any] = {Attr.TYPE: "hash", Attr.NAME: "hmac(toysum)", Attr.KEY: KEY}
    client.context.submit(build_many((Record(CONFIGURE, 0, 1, 0, attributes), Record(INFO, 0, 2))))
    assert [(answer.id, answer.status) for answer in client.answers()] == [(1, errno.EIO), (2, 0)]
    bench.fake.fuses = set()
    assert client.configure("mac", key=KEY).status == 0


def test_an_engine_exception_in_clone(bench: Bench) -> None:
    """EIO; the original goes on."""
    bench.family = "fake"
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=7, more=True)
    bench.fake.fuses = {"copy"}
    assert client.fails(CLONE, id=8, target=7) == "EIO"
    bench.fake.fuses = set()
    assert client.ok(DIGEST, b"b", id=7) == hashlib.sha256(b"ab").digest()


def test_a_refused_write_does_nothing(bench: Bench) -> None:
    """Nothing of a write with one bad record is done or answered."""
    client = bench.client()
    good = build(Record(CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"}))
    for bad, error in ((b"x", MalformedRecord), (bytes(24), InvalidValue), (bytes(RECORD_MAX), TooLarge)):
        with pytest.raises(error):
            client.context.submit(good + bad)
        assert client.context.transform is None
        assert client.answers() == []


# Clones


def test_clone_into_another_context(bench: Bench) -> None:
    """The copy is open under the clone's own id there; both go on by themselves."""
    client, other = bench.client("hash"), bench.client("hash")
    client.ok(DIGEST, b"common ", id=7, more=True)
    client.ok(CLONE, id=8, target=7, context=other.context.number)
    assert other.ok(DIGEST, b"b", id=8) == hashlib.sha256(b"common b").digest()
    assert client.ok(DIGEST, b"a", id=7) == hashlib.sha256(b"common a").digest()


def test_clone_within_a_context(bench: Bench) -> None:
    """Without a context the copy is in this one; the original may end first."""
    client = bench.client("mac")
    client.ok(DIGEST, b"common ", id=7, more=True)
    client.ok(CLONE, id=8, target=7)
    client.ok(CLONE, id=9, target=8)
    assert client.fails(CLONE, id=9, target=7) == "EBUSY"
    one, two, three = (client.ok(DIGEST, b"end", id=identity) for identity in (7, 9, 8))
    assert one == two == three == client.ok(DIGEST, b"common end")


def test_clone_counts_as_an_open_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quota holds for copies, in the context that gets them."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 2)
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=7, more=True)
    client.ok(CLONE, id=8, target=7)
    assert client.fails(CLONE, id=9, target=7) == "EDQUOT"
    client.ok(DIGEST, id=8)
    client.ok(CLONE, id=9, target=7)


# Workers


def digest_request(identity: int, data: bytes, more: bool = False) -> Record:
    """A part or a whole digest."""
    return Record(DIGEST, MORE * more, identity, 0, {}, data)


def test_long_requests_do_not_hold_up_short_ones(bench: Bench) -> None:
    """What workers do is answered when it is done, in any order; the rest at once."""
    client = bench.client("hash")
    client.slow()
    client.send(digest_request(1, b"one"), digest_request(2, b"two"))
    client.send(digest_request(3, b""))
    assert [answer.id for answer in client.answers()] == [3]
    assert client.context.exchange.in_flight == 2
    told: list[int] = []
    client.context.watch(lambda: told.append(1))
    bench.workers.do(1)
    assert told == [1]
    bench.workers.do()
    assert [(answer.id, bytes(answer.payload)) for answer in client.answers()] == [
        (2, hashlib.sha256(b"two").digest()),
        (1, hashlib.sha256(b"one").digest()),
    ]
    assert client.answers() == []
    assert client.context.exchange.lanes == {}


def test_parts_are_computed_one_after_the_other(bench: Bench) -> None:
    """No part of a message is handed over before the one in front of it is done; two messages of one id neither."""
    client = bench.client("hash")
    client.slow()
    client.send(digest_request(7, b"a", True), digest_request(7, b"b", True), digest_request(7, b"c"))
    client.send(digest_request(7, b"d"))
    for _ in range(4):
        assert len(bench.workers.given) == 1
        bench.workers.do()
    assert bench.workers.given == []
    answers = client.answers()
    assert [answer.more for answer in answers] == [True, True, False, False]
    assert [bytes(answer.payload) for answer in answers if not answer.more] == [
        hashlib.sha256(b"abc").digest(),
        hashlib.sha256(b"d").digest(),
    ]


def test_a_context_takes_no_more_workers_than_there_are(bench: Bench) -> None:
    """The rest of its requests wait with it, so that another context's are not behind them."""
    client, other = bench.client("hash"), bench.client("hash")
    client.slow()
    other.slow()
    client.send(*[digest_request(identity, b"x") for identity in range(10)])
    assert len(bench.workers.given) == bench.workers.threads
    other.send(digest_request(1, b"y"))
    assert len(bench.workers.given) == bench.workers.threads + 1
    while bench.workers.given:
        bench.workers.do(-1)
    assert sorted(answer.id for answer in client.answers()) == list(range(10))
    assert len(other.answers()) == 1


@pytest.mark.parametrize("cancel", [Record(CANCEL, 0, 8, 0, {Attr.TARGET: 7}), Record(RESET, 0, 8)])
def test_what_workers_do_can_be_cancelled(bench: Bench, cancel: Record) -> None:
    """In a worker, on its way back, or behind it on its lane: ECANCELED once each, and no output."""
    client = bench.client("hash")
    client.slow()
    client.send(digest_request(7, b"a", True), digest_request(7, b"b"), digest_request(9, b"other"))
    (work, done), other = bench.workers.given
    result = work()
    client.send(cancel)
    assert [(answer.id, answer.status) for answer in client.answers()] == [(8, 0)]
    done(result)
    bench.workers.given = [other]
    bench.workers.do()
    answers = client.answers()
    last = errno.ECANCELED if cancel.operation == RESET else 0
    assert [(answer.id, answer.status) for answer in answers] == [(7, errno.ECANCELED)] * 2 + [(9, last)]
    assert not any(len(answer.payload) for answer in answers[:2])
    assert client.context.exchange.lanes == {}
    assert client.context.exchange.outstanding == 0


def test_an_id_is_free_after_reset(bench: Bench) -> None:
    """Though a request of the same id is still with a worker: the new one comes after it, as a message of its own."""
    client = bench.client("hash")
    client.slow()
    client.send(digest_request(7, b"old", True))
    client.send(Record(RESET, 0, 8), digest_request(7, b"new"))
    bench.workers.do()
    bench.workers.do()
    answers = [(answer.id, answer.status, bytes(answer.payload)) for answer in client.answers()]
    new = hashlib.sha256(b"new").digest()
    assert answers == [(8, 0, b""), (7, errno.ECANCELED, b""), (7, 0, new)]


def test_nothing_changes_under_a_worker(bench: Bench) -> None:
    """set-key and clone are EBUSY while a part is in flight."""
    client = bench.client("mac")
    client.slow()
    client.send(digest_request(7, b"part", True))
    client.send(Record(SET_KEY, 0, 8, 0, {Attr.KEY: KEY[::-1]}), Record(CLONE, 0, 9, 0, {Attr.TARGET: 7}))
    assert [answer.status for answer in client.answers()] == [errno.EBUSY] * 2
    client.send(Record(RESET, 0, 10), Record(SET_KEY, 0, 11, 0, {Attr.KEY: KEY[::-1]}))
    assert [answer.status for answer in client.answers()] == [0, errno.EBUSY]
    bench.workers.do()
    client.send(Record(SET_KEY, 0, 11, 0, {Attr.KEY: KEY[::-1]}))
    assert [(answer.id, answer.status) for answer in client.answers()] == [(7, errno.ECANCELED), (11, 0)]


def test_close_waits_for_the_workers(bench: Bench) -> None:
    """The transform is closed when the last worker has done with it; no output is kept."""
    client = bench.client("mac")
    client.slow()
    client.send(*[digest_request(identity, b"x", identity < 2) for identity in range(4)], digest_request(0, b"y"))
    bench.table.close(client.context)
    while bench.workers.given:
        assert client.context.transform is not None
        bench.workers.do()
    assert client.context.transform is None
    assert bench.fake.open_runs == 0
    assert all(answer.status == errno.ECANCELED and not len(answer.payload) for answer in client.answers())


def test_a_worker_meets_an_exception(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """EIO as anywhere else."""
    bench.family = "fake"
    client = bench.client("hash")
    client.slow()
    bench.fake.fuses = {"update"}
    client.send(digest_request(1, b"x"), digest_request(2, b"y", True))
    bench.workers.do()
    bench.workers.do()
    answers = client.answers()
    assert [answer.status for answer in answers] == [errno.EIO] * 2
    assert CANARY not in str(answers)
    assert CANARY in caplog.text
    bench.fake.fuses = set()
    assert client.fails(DIGEST, id=2) == "EIO"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=9), st.booleans()), max_size=25),
    st.lists(st.integers(0, 5), max_size=60),
    st.booleans(),
)
def test_workers_in_any_order(parts: list[tuple[int, bytes, bool]], order: list[int], one_write: bool) -> None:
    """Whatever workers finish first, each message's digest is its own and each id is answered in its order."""
    bench = Bench("fake")
    client = bench.client("hash")
    client.slow()
    records = [digest_request(*part) for part in parts]
    for write in [records] if one_write and records else [[record] for record in records]:
        client.send(*write)
        if order and bench.workers.given:
            bench.workers.do(order.pop() % len(bench.workers.given))
    while bench.workers.given:
        bench.workers.do((order.pop() if order else 0) % len(bench.workers.given))
    answers = client.answers()
    assert len(answers) == len(parts)
    for identity in (1, 2, 3):
        expected, gathered = [], b""
        for _, data, more in [part for part in parts if part[0] == identity]:
            gathered += data
            expected.append((0, more, b"" if more else hashlib.sha256(gathered).digest()))
            gathered = gathered if more else b""
        given = [(each.status, each.more, bytes(each.payload)) for each in answers if each.id == identity]
        assert given == expected
    bench.table.close_all()
    assert bench.fake.open_runs == 0


def test_answers_in_kept_buffers_are_not_mixed_up(bench: Bench) -> None:
    """Large answers are built in buffers that are used again; each is given out as it was computed."""
    client = bench.client("stream")
    sizes = [70_000, 300_000, 65_536, 1_000_000, 65_400, 70_001]
    given = []
    for identity, size in enumerate(sizes * 3):
        client.send(Record(ENCRYPT, 0, identity, 0, {Attr.IV: client.iv}, bytes((identity,)) * size))
        bench.workers.finish()
        if identity % 2:
            given += [(answer.id, bytes(answer.payload)) for answer in client.answers() + client.answers()]
    stream = client.ok(ENCRYPT, bytes(max(sizes)), iv=client.iv)
    for identity, data in given:
        wanted = bytes((identity,)) * sizes[identity % 6]
        assert int.from_bytes(data) ^ int.from_bytes(stream[: len(data)]) == int.from_bytes(wanted)
        assert len(data) == len(wanted)
    assert len(given) == 18


# Streams


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


@pytest.mark.parametrize("kind", ["hash", "mac", "stream", "blocks", "whole", "aead"])
def test_stream_is_one_message(bench: Bench, kind: str) -> None:
    """However the writes cut it."""
    client, other = bench.client(kind), bench.client(kind)
    operation = min(OPERATIONS[Type(TYPES.get(kind, "skcipher"))])
    data = bytes(range(48))
    words: dict[str, Any] = {"iv": client.iv} if client.iv_size else {}
    whole = other.ok(operation, data, **words)
    for pieces in ((data,), (data[:1], data[1:20], b"", data[20:]), tuple(bytes((byte,)) for byte in data)):
        client.ok(RESET, **words)
        assert streamed(client, *pieces) == whole


def test_stream_parameters(bench: Bench) -> None:
    """configure and reset say what the stream does."""
    client = bench.client("aead", operation="encrypt", iv=bytes(12), assoclen=5)
    sealed = streamed(client, b"assocplain", b"text")
    assert sealed == client.ok(ENCRYPT, b"assocplaintext", iv=bytes(12), assoclen=5)
    client.ok(RESET, operation="decrypt", iv=bytes(12), assoclen=5)
    assert streamed(client, b"assoc" + sealed) == b"plaintext"


def test_stream_ends_with_the_last_writer(bench: Bench) -> None:
    """A reader waits while any writer is open, and before the first one."""
    stream = bench.client("hash").context.stream
    reader = stream.attach(True, False)
    assert stream.drain_nowait(reader, 100) is None
    one, two = stream.attach(False, True), stream.attach(False, True)
    stream.feed_nowait(one, b"a")
    stream.detach(one)
    assert stream.drain_nowait(reader, 100) is None
    stream.feed_nowait(two, b"b")
    assert not stream.readable
    stream.detach(two)
    stream.detach(two)
    assert stream.readable
    assert drained(stream, reader) == hashlib.sha256(b"ab").digest()


def test_stream_without_a_write(bench: Bench) -> None:
    """A writer that closes at once has fed an empty message."""
    assert streamed(bench.client("hash")) == hashlib.sha256().digest()


@pytest.mark.parametrize("size", [1, 32, 100])
def test_stream_of_a_handle_for_both(bench: Bench, size: int) -> None:
    """The message ends when the program turns to reading; the next begins when it writes again."""
    stream = bench.client("hash").context.stream
    user = stream.attach(True, True)
    for data in (b"first", b"second", b""):
        stream.feed_nowait(user, data[:2])
        stream.feed_nowait(user, data[2:])
        given = bytearray()
        while piece := stream.drain_nowait(user, size):
            given += piece
        assert piece == b""
        assert given == hashlib.sha256(data).digest()
    stream.detach(user)


def test_stream_read_first_on_a_handle_for_both(bench: Bench) -> None:
    """Reading before writing ends an empty message, once."""
    stream = bench.client("hash").context.stream
    user = stream.attach(True, True)
    assert stream.drain_nowait(user, 100) == hashlib.sha256().digest()
    assert stream.drain_nowait(user, 100) == b""
    assert stream.drain_nowait(user, 100) == b""


def test_stream_does_not_end_while_another_feeds(bench: Bench) -> None:
    """A handle for both that turns to reading does not end another writer's message."""
    stream = bench.client("hash").context.stream
    user, writer = stream.attach(True, True), stream.attach(False, True)
    stream.feed_nowait(writer, b"a")
    stream.feed_nowait(user, b"b")
    assert stream.drain_nowait(user, 100) is None
    stream.feed_nowait(writer, b"c")
    stream.detach(writer)
    assert stream.drain_nowait(user, 100) == hashlib.sha256(b"abc").digest()


def test_stream_buffer_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that nobody reads makes the writer wait; nothing of a refused write is taken, and reading makes room."""
    monkeypatch.setattr(stream_module, "STREAM_BUFFER", 64)
    client = bench.client("stream")
    client.ok(RESET, iv=client.iv)
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(64))
    assert not stream.writable
    woken: list[int] = []
    client.context.watch(lambda: woken.append(1))
    for _ in range(2):
        with pytest.raises(WouldBlock, match="64"):
            stream.feed_nowait(writer, b"refused")
    assert stream.bytes_in == 64
    assert not woken
    assert len(stream.drain_nowait(reader, 16) or b"") == 16
    assert woken
    stream.feed_nowait(writer, b"taken")
    stream.detach(writer)
    whole = client.ok(ENCRYPT, bytes(64) + b"taken", iv=client.iv)
    assert drained(stream, reader) == whole[16:]
    assert STREAM_BUFFER == 1024 * 1024


def test_an_iv_serves_one_message(bench: Bench) -> None:
    """The next message needs its own: its first write is EINVAL; so is the first without any."""
    client = bench.client("stream")
    with pytest.raises(InvalidValue):
        streamed(client, b"no iv yet")
    client.ok(RESET, iv=client.iv)
    first = streamed(client, b"message")
    stream = client.context.stream
    writer = stream.attach(False, True)
    for _ in range(2):
        with pytest.raises(InvalidValue, match="iv"):
            stream.feed_nowait(writer, b"message")
    stream.detach(writer)
    client.ok(RESET)
    with pytest.raises(InvalidValue, match="iv"):
        streamed(client, b"message")
    client.ok(RESET, iv=client.iv)
    assert streamed(client, b"message") == first


def test_stream_error_goes_to_the_reader(bench: Bench) -> None:
    """A wrong tag: instead of the end of file the reader gets EBADMSG, once, and status says so."""
    client = bench.client("aead", operation="decrypt", iv=bytes(12))
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(40))
    stream.detach(writer)
    assert stream.readable
    with pytest.raises(BadTag):
        stream.drain_nowait(reader, 100)
    assert stream.drain_nowait(reader, 100) is None
    assert "stream-error: EBADMSG" in client.context.status()


def test_stream_error_on_a_handle_for_both(bench: Bench) -> None:
    """The program that turns to reading gets the error, and then an end of file."""
    client = bench.client("blocks", iv=bytes(16))
    stream = client.context.stream
    user = stream.attach(True, True)
    stream.feed_nowait(user, bytes(15))
    with pytest.raises(InvalidValue):
        stream.drain_nowait(user, 100)
    assert stream.drain_nowait(user, 100) == b""


def test_stream_error_while_writing(bench: Bench) -> None:
    """A write that fails makes later writes fail with the same, until the writer closes; the reader gets it too."""
    client = bench.client("aead", iv=bytes(12))
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(PAYLOAD_MAX))
    for _ in range(2):
        with pytest.raises(TooLarge):
            stream.feed_nowait(writer, b"x")
    stream.detach(writer)
    with pytest.raises(TooLarge):
        stream.drain_nowait(reader, 100)
    client.ok(RESET, iv=bytes(12))
    assert streamed(client, b"x")


@pytest.mark.parametrize("fuse", ["begin", "update", "digest"])
def test_stream_engine_exception(bench: Bench, fuse: str) -> None:
    """The reader gets EIO without the exception's text, it is woken, and the stream can be used again."""
    bench.family = "fake"
    client = bench.client("hash")
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    woken: list[int] = []
    bench.fake.fuses = {fuse}
    if fuse == "digest":
        stream.feed_nowait(writer, b"x")
    else:
        with pytest.raises((EngineFault, RuntimeError)):
            stream.feed_nowait(writer, b"x")
        with pytest.raises(EngineFault) as again:
            stream.feed_nowait(writer, b"x")
        assert CANARY not in str(again.value)
    client.context.watch(lambda: woken.append(1))
    try:
        stream.detach(writer)
    except RuntimeError as error:
        assert fuse == "digest", error  # noqa: PT017 - it may pass to the log, but the reader has to be told
    bench.fake.fuses = set()
    assert woken
    with pytest.raises(EngineFault) as caught:
        stream.drain_nowait(reader, 100)
    assert CANARY not in str(caught.value)
    assert CANARY not in client.context.status()
    assert streamed(client, b"x") == hashlib.sha256(b"x").digest()


def test_stream_reset_drops_all(bench: Bench) -> None:
    """The message, its output and a failure."""
    client = bench.client("stream", iv=bytes(8 if bench.family == "fake" else 16))
    stream = client.context.stream
    writer, reader = stream.attach(False, True), stream.attach(True, False)
    stream.feed_nowait(writer, bytes(40))
    client.ok(RESET, iv=client.iv)
    assert stream.drain_nowait(reader, 100) is None
    assert "stream-waiting: 0\n" in client.context.status()
    stream.feed_nowait(writer, b"new")
    stream.detach(writer)
    assert drained(stream, reader) == client.ok(ENCRYPT, b"new", iv=client.iv)


def test_stream_clone(bench: Bench) -> None:
    """The message under way is copied into the other stream, where it goes on and ends by itself."""
    client, other = bench.client("hash"), bench.client("hash")
    writer = client.context.stream.attach(False, True)
    client.context.stream.feed_nowait(writer, b"common ")
    client.ok(CLONE, context=other.context.number)
    assert streamed(other, b"b") == hashlib.sha256(b"common b").digest()
    client.context.stream.feed_nowait(writer, b"a")
    reader = client.context.stream.attach(True, False)
    client.context.stream.detach(writer)
    assert drained(client.context.stream, reader) == hashlib.sha256(b"common a").digest()


def test_stream_clone_ends_when_read(bench: Bench) -> None:
    """A copy on a handle for both ends when the program turns to reading, written to or not."""
    client, other = bench.client("hash"), bench.client("hash")
    stream = client.context.stream
    stream.feed_nowait(stream.attach(False, True), b"common")
    client.ok(CLONE, context=other.context.number)
    user = other.context.stream.attach(True, True)
    assert other.context.stream.drain_nowait(user, 100) == hashlib.sha256(b"common").digest()
    assert other.context.stream.drain_nowait(user, 100) == b""


def test_stream_of_random_bytes(bench: Bench) -> None:
    """Only read, without end."""
    client = bench.client("rng")
    stream = client.context.stream
    reader, user = stream.attach(True, False), stream.attach(True, True)
    assert stream.readable
    for size in (1, 10, 100_000):
        assert len(stream.drain_nowait(reader, size) or b"") == size
        assert len(stream.drain_nowait(user, size) or b"") == size
    with pytest.raises(InvalidValue, match="only read"):
        stream.feed_nowait(user, b"x")
    stream.detach(user)
    assert len(stream.drain_nowait(reader, 5) or b"") == 5


def test_stream_needs_a_configured_context(bench: Bench) -> None:
    """EBADFD before."""
    with pytest.raises(NotConfigured):
        _ = bench.client().context.stream


def test_stream_failure_does_not_keep_the_data(bench: Bench) -> None:
    """A stream that failed does not grow with each further write."""
    stream = bench.client("stream").context.stream
    writer = stream.attach(False, True)
    lengths = []
    for _ in range(4):
        with pytest.raises(InvalidValue) as caught:
            stream.feed_nowait(writer, bytes(100))
        length, trace = 0, caught.value.__traceback__
        while trace is not None:
            length, trace = length + 1, trace.tb_next
        lengths.append(length)
    assert lengths[-1] == lengths[1]


# Quotas, status, the end


def test_contexts_of_one_user(bench: Bench) -> None:
    """One uid's quota does not touch another's; closing makes room; numbers are not used twice."""
    bench.table.policy = Policy(Rule(contexts=2))
    first, second = bench.client(), bench.client()
    with pytest.raises(OverQuota, match="1000"):
        bench.client()
    bench.client(uid=1001)
    for _ in range(2):
        bench.table.close(first.context)
    third = bench.client()
    assert third.context.number > second.context.number
    with pytest.raises(OverQuota):
        bench.client()
    assert bench.table.get(first.context.number) is None
    assert len(bench.table) == 3


def test_contexts_of_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's own bound."""
    monkeypatch.setattr(table, "CONTEXTS_MAX", 3)
    for uid in range(3):
        bench.client(uid=uid)
    with pytest.raises(OverQuota, match="3"):
        bench.client(uid=7)
    bench.table.close_all()
    bench.client(uid=7)


def test_failed_messages_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that failed and never end do not fill the memory."""
    monkeypatch.setattr(exchange, "OPEN_MESSAGES", 4)
    monkeypatch.setattr(exchange, "UNFINISHED_MESSAGES", 8)
    client = bench.client("hash")
    for identity in range(8):
        assert client.ask(ENCRYPT, id=identity, more=True).status == errno.EOPNOTSUPP
    with pytest.raises(OverQuota, match="8 messages in parts have not ended"):
        client.ask(ENCRYPT, id=8, more=True)
    assert len(client.context.exchange.lanes) == 8
    assert client.ok(DIGEST, id=8), "whole messages go on"
    client.ok(RESET)
    assert client.ask(ENCRYPT, id=8, more=True).status == errno.EOPNOTSUPP


def test_queue(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue refuses whole writes until answers are read."""
    monkeypatch.setattr(exchange, "QUEUE_REQUESTS", 4)
    context = bench.client("hash").context
    record = build(Record(DIGEST))
    context.submit(3 * record)
    with pytest.raises(WouldBlock):
        context.submit(2 * record)
    with pytest.raises(TooLarge):
        context.submit(5 * record)
    context.submit(record)
    assert not context.exchange.writable
    data = context.take(RECORD_MAX)
    assert data is not None
    assert len(parse_responses(data)) == 4
    context.submit(4 * record)


@pytest.mark.parametrize("kind", ["mac", "stream", "aead"])
def test_status_has_no_key(bench: Bench, kind: str) -> None:
    """Neither the status nor the tags of a reply tell the key, in any form."""
    key = b"correct horse battery staple 32b"
    client = bench.client(kind, key=key)
    told = client.context.status() + repr(client.ask(INFO)) + repr(client.ask(SET_KEY, key=key))
    assert "key: (hidden)\n" in told
    for form in (key.decode(), key.hex(), str(list(key))[1:-1], repr(key)[2:-1]):
        assert form not in told
        assert form not in repr(client.context)


def test_status(bench: Bench) -> None:
    """One `tag: value` a line, counters that count."""
    client = bench.client()
    assert "state: unconfigured\n" in client.context.status()
    client.configure("hash")
    client.ok(DIGEST, b"x", more=True)
    client.fails(ENCRYPT, id=2)
    client.context.submit(build(Record(DIGEST, 0, 3)))
    rows = dict(line.split(": ", 1) for line in client.context.status().splitlines())
    assert rows["state"] == "configured"
    assert rows["name"] == FAMILIES[bench.family]["hash"]
    assert rows["engine"] == bench.family
    assert rows["key"] == "(none)"
    assert (rows["open-messages"], rows["completed"], rows["failed"]) == ("1", "4", "1")
    assert (rows["unread"], rows["in-flight"], rows["queue-bytes"]) == ("1", "0", "48")


def test_status_says_whether_a_key_was_set(bench: Bench) -> None:
    """An optional key that was not given is none."""
    client = bench.client()
    assert client.ask(CONFIGURE, type="hash", name="crc32c").status == 0
    assert "key: (none)\n" in client.context.status()
    client.ok(SET_KEY, key=bytes(4))
    assert "key: (hidden)\n" in client.context.status()


def test_watchers_are_called_once(bench: Bench) -> None:
    """A watcher is told of an answer once, or not at all when it was taken back."""
    client = bench.client("hash")
    told: list[str] = []
    client.context.watch(lambda: told.append("one"))
    forget = client.context.watch(lambda: told.append("two"))
    forget()
    forget()
    client.ok(DIGEST)
    client.ok(DIGEST)
    assert told == ["one"]


def test_close(bench: Bench) -> None:
    """The transform and everything that runs are closed, watchers told, counters kept by the table."""
    client = bench.client("mac")
    client.ok(DIGEST, b"x", more=True)
    stream = client.context.stream
    stream.feed_nowait(stream.attach(False, True), b"x")
    told: list[int] = []
    client.context.watch(lambda: told.append(1))
    bench.table.close(client.context)
    client.context.close()
    assert told == [1]
    assert bench.fake.open_runs == 0
    assert bench.fake.transforms == []
    assert client.context.closed
    assert (bench.table.completed, bench.table.failed, bench.table.opened) == (2, 0, 1)
    with pytest.raises(CryptofsError):
        client.context.control(Record(INFO))


def test_busy_is_an_errno_of_its_own() -> None:
    """What a stream that is under way answers to a second message."""
    bench = Bench("fake")
    client, other = bench.client("hash"), bench.client("hash")
    for each in (client, other):
        each.context.stream.feed_nowait(each.context.stream.attach(False, True), b"x")
    with pytest.raises(Busy):
        other.context.stream.adopt(client.context.stream.clone_message())
    bench.table.close_all()
    assert bench.fake.open_runs == 0
