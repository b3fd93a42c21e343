"""What messages in parts keep until they end: it is bounded, counted against the client, and given back."""

import errno
import os
import select
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import configured
from helpers.daemons import SHARED, Daemon, serving
from helpers.raw import Raw
from helpers.talking import perform, submit, take

from cryptofs.algorithms import Type
from cryptofs.contexts import STREAM_BUFFER, Context, ContextTable, Stream
from cryptofs.contexts.exchange import KEPT_BYTES, QUEUE_BYTES
from cryptofs.contexts.work import Task
from cryptofs.devices import Device, DeviceSettings
from cryptofs.devices.streams import StreamTransform
from cryptofs.devices.transform import DeviceTransform
from cryptofs.engines.base import OUT_SLACK, Message, Transform
from cryptofs.engines.opening import open_engines
from cryptofs.engines.pkcs11.hash import TokenMac, TokenMessage
from cryptofs.errors import OverQuota
from cryptofs.formats.sealed import SEGMENT
from cryptofs.policy import Policy, Rule, Thing
from cryptofs.records import (
    DEVICE_OPERATIONS,
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Flag,
    Operation,
    Record,
    build,
    parse_responses,
)

MORE = int(Flag.MORE)
ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
COMPRESS, DECOMPRESS, SIGN = Operation.COMPRESS, Operation.DECOMPRESS, Operation.SIGN
ENGINES = open_engines(("openssl", "library"))


def opened(type_: Type, name: str, key: bytes = b"") -> Transform:
    """A transform of a real engine."""
    for engine in ENGINES:
        description = engine.describe(type_, name)
        if description is not None:
            transform = engine.open(description, None)
            if key:
                transform.set_key(key)
            return transform
    raise AssertionError(name)


def device(type_: Type, name: str, key: bytes) -> Device:
    """A device of it."""
    return Device(DeviceSettings("d", type_, name, DEVICE_OPERATIONS[type_]), {1: opened(type_, name, key)})


def feed(message: Message, data: bytes, last: bool = False) -> bytes:
    """One part; returns its output."""
    out = memoryview(bytearray(message.room(len(data), last) + OUT_SLACK))
    return bytes(out[: message.update(data, last, out)])


# What each kind of message says that it keeps

GATHERING: dict[str, Callable[[], Message]] = {
    "gcm": lambda: opened(Type.AEAD, "gcm(aes)", bytes(16)).start(ENCRYPT, bytes(12), 0),
    "xts": lambda: opened(Type.SKCIPHER, "xts(aes)", bytes(range(64))).start(ENCRYPT, bytes(16), 0),
    "cts": lambda: opened(Type.SKCIPHER, "cts(cbc(aes))", bytes(16)).start(ENCRYPT, bytes(16), 0),
    "lz4": lambda: opened(Type.COMPRESSION, "lz4").start(COMPRESS, None, 0),
    "device": lambda: DeviceTransform(device(Type.AEAD, "gcm(aes)", bytes(16))).start(ENCRYPT, None, 0),
    "device, associated data": lambda: DeviceTransform(device(Type.AEAD, "gcm(aes)", bytes(16))).start(
        DECRYPT, None, 500_000
    ),
    "token": lambda: TokenMessage(TokenMac(SimpleNamespace()), 32),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", GATHERING)
def test_gathered_parts_are_told(kind: str) -> None:
    """Every byte that went in and did not come out."""
    message = GATHERING[kind]()
    for parts in range(1, 4):
        assert feed(message, bytes(20_000)) == b""
        assert message.kept == 20_000 * parts
    message.close()


@pytest.mark.parametrize("type_", ["hash", "skcipher"])
def test_a_running_state_is_not_told(type_: str) -> None:
    """What is computed as it comes keeps nothing that grows."""
    if type_ == "hash":
        message = opened(Type.HASH, "sha256").start(DIGEST, None, 0)
    else:
        message = opened(Type.SKCIPHER, "ctr(aes)", bytes(16)).start(ENCRYPT, bytes(16), 0)
    feed(message, bytes(20_001))
    assert message.kept == 0
    message.close()


def test_a_message_of_a_device_goes_from_head_to_body() -> None:
    """The nonce and the associated data in front, then what the algorithm gathers."""
    made = device(Type.AEAD, "gcm(aes)", bytes(16))
    sealing = DeviceTransform(made).start(ENCRYPT, None, 5)
    sealed = feed(sealing, b"assoc" + bytes(100), True)
    opening = DeviceTransform(made).start(DECRYPT, None, 5)
    feed(opening, b"assoc" + sealed[:7])
    assert opening.kept == 12
    feed(opening, sealed[7:50])
    assert opening.kept == 5 + 50 - 12
    assert feed(opening, sealed[50:], True) == bytes(100)


def test_what_waits_for_room_is_told() -> None:
    """Input of a decompression whose output has no room, and output that is left."""
    data = b"".join(bytes([index % 251]) * 100 for index in range(40_000))
    for name in ("deflate", "zlib-deflate", "zstd"):
        packed = feed(opened(Type.COMPRESSION, name).start(COMPRESS, None, 0), data, True)
        message = opened(Type.COMPRESSION, name).start(DECOMPRESS, None, 0)
        output = feed(message, packed)
        assert 0 < message.kept <= len(packed) + 131_073
        while len(output) < len(data):
            output += feed(message, b"")
        assert output == data
        assert message.kept == 0


def test_a_copied_mac_is_told() -> None:
    """A clone keeps a copy of its own."""
    message = TokenMessage(TokenMac(SimpleNamespace()), 32)  # type: ignore[arg-type]
    feed(message, bytes(100))
    copy = message.clone()
    feed(copy, bytes(50))
    assert (message.kept, copy.kept) == (100, 150)


@pytest.mark.parametrize("name", ["gcm(aes)", "cbc(aes)"])
def test_a_stream_of_a_device_tells_its_segment(name: str) -> None:
    """Less than a segment is held back; padding hides nothing."""
    type_ = Type.AEAD if name == "gcm(aes)" else Type.SKCIPHER
    message = StreamTransform(device(type_, name, bytes(16))).start(ENCRYPT, None, 0)
    feed(message, bytes(SEGMENT + 1000))
    assert message.kept == (1000 if type_ is Type.AEAD else 0)
    message.close()


# Contexts


def held(queue: Any) -> int:
    """Bytes that are counted, without the state of open messages."""
    return int(queue.queue_bytes - queue.usage.held[Thing.STATE])


def table_of(rule: Rule) -> ContextTable:
    """A table whose everybody has this rule."""
    return ContextTable(ENGINES, None, Policy(rule))


def context_of(table: ContextTable, type_: str, name: str, key: bytes = b"", uid: int = 7) -> Context:
    """A configured context."""
    context = table.open(uid, uid, 1, False)
    attributes: dict[int, Any] = {Attr.TYPE: type_, Attr.NAME: name}
    perform(context, Record(Operation.CONFIGURE, attributes=attributes | ({Attr.KEY: key} if key else {})))
    return context


def gcm(table: ContextTable, uid: int = 7) -> Context:
    """The one that most tests use."""
    return context_of(table, "aead", "gcm(aes)", bytes(16), uid)


def ask(context: Context, identity: int, data: bytes, more: bool, operation: Operation = ENCRYPT) -> Record:
    """One part and its answer; the iv comes with the first."""
    first = identity not in context.exchange.lanes and operation is ENCRYPT
    attributes: dict[int, Any] = {Attr.IV: bytes(12)} if first else {}
    submit(context, build(Record(operation, MORE * more, identity, 0, attributes, data)))
    response = take(context, RECORD_MAX)
    assert response is not None
    (answer,) = parse_responses(response)
    return answer


def test_users_hold_what_they_gather() -> None:
    """Over all contexts, until each message ends; and what ends it gives it back."""
    table = table_of(Rule(queue_bytes=1_000_000))
    first, second, other = gcm(table), gcm(table), gcm(table, uid=8)
    queue = first.exchange.queue
    for identity in (1, 2):
        assert ask(first, identity, bytes(250_000), True).status == 0
        assert held(queue) == first.exchange.bytes == 250_000 * identity
    with pytest.raises(OverQuota, match="uid 7: 508192 bytes are queued and 500048 more are asked: at most 1000000"):
        ask(second, 1, bytes(250_000), True)
    assert second.exchange.bytes == 0
    assert ask(other, 1, bytes(400_000), True).status == 0
    # the end of a message: its answer counts until it is read
    answer = ask(first, 1, bytes(100_000), False)
    assert (answer.status, len(answer.payload)) == (0, 350_016)
    assert held(queue) == 250_000
    assert ask(second, 1, bytes(250_000), True).status == 0
    perform(first, Record(Operation.CANCEL, attributes={Attr.TARGET: 2}))
    assert held(queue) == 250_000
    perform(second, Record(Operation.RESET))
    assert held(queue) == 0
    assert ask(second, 1, bytes(300_000), True).status == 0
    table.close(second)
    assert held(queue) == 0


def test_a_message_that_fails_gives_back() -> None:
    """A wrong tag, a part too many, an engine's refusal."""
    table = table_of(Rule(queue_bytes=10_000_000))
    context = gcm(table)
    ask(context, 1, bytes(PAYLOAD_MAX), True)
    assert ask(context, 1, bytes(1), True).status == errno.EMSGSIZE
    assert (context.exchange.bytes, held(context.exchange.queue)) == (0, 0)
    assert ask(context, 1, bytes(1), False).status == errno.EMSGSIZE
    record = Record(DECRYPT, MORE, 2, 0, {Attr.IV: bytes(12)}, bytes(100_000))
    submit(context, build(record))
    take(context, RECORD_MAX)
    assert held(context.exchange.queue) == 100_000
    assert ask(context, 2, b"", False, DECRYPT).status == errno.EBADMSG
    assert (context.exchange.bytes, held(context.exchange.queue)) == (0, 0)


def test_answers_that_are_not_read_count_as_before() -> None:
    """A part is counted twice until its answer is read, whatever of it is kept meanwhile."""
    table = table_of(Rule(queue_bytes=10_000_000))
    context = gcm(table)
    records = [Record(ENCRYPT, MORE, 1, 0, {} if part else {Attr.IV: bytes(12)}, bytes(1000)) for part in range(3)]
    records.append(Record(ENCRYPT, 0, 1, 0, {}, bytes(1000)))
    for count, record in enumerate(records, 1):
        submit(context, build(record))
        assert context.exchange.bytes == held(context.exchange.queue) == count * 2048
    assert context.exchange.kept == 0
    sizes = []
    while (response := take(context, 4100)) is not None:
        sizes.append((len(response), context.exchange.bytes))
    assert sizes == [(3 * 24, 2048 + 3000), (24 + 4016, 0)]


def test_one_context_keeps_so_much() -> None:
    """Beyond KEPT_BYTES a part ends its message with EDQUOT; the others end as ever, and polling finds room."""
    context = gcm(table_of(Rule()))
    fitting = KEPT_BYTES // PAYLOAD_MAX
    for identity in range(1, fitting + 1):
        assert ask(context, identity, bytes(PAYLOAD_MAX), True).status == 0
    answer = ask(context, 99, bytes(PAYLOAD_MAX), True)
    assert answer.status == errno.EDQUOT
    assert f"at most {KEPT_BYTES}" in str(answer.attributes[Attr.MESSAGE])
    assert ask(context, 99, b"", False).status == errno.EDQUOT
    assert context.exchange.bytes == fitting * PAYLOAD_MAX
    assert context.exchange.writable
    for identity in range(1, fitting + 1):
        perform(context, Record(Operation.CANCEL, attributes={Attr.TARGET: identity}))
    assert context.exchange.bytes == 0
    assert ask(context, 98, bytes(1000), True).status == 0
    assert len(ask(context, 98, bytes(1000), False).payload) == 2016


def test_a_clone_is_counted() -> None:
    """A hash keeps nothing that grows, and its clone takes no room either."""
    table = table_of(Rule(queue_bytes=100_000))
    context, other = context_of(table, "hash", "sha256"), context_of(table, "hash", "sha256")
    ask(context, 1, b"abc", True, DIGEST)
    perform(context, Record(Operation.CLONE, id=5, attributes={Attr.TARGET: 1, Attr.CONTEXT: other.number}))
    assert other.exchange.bytes == held(context.exchange.queue) == 0
    assert ask(other, 5, b"", False, DIGEST).payload == ask(context, 1, b"", False, DIGEST).payload


# Streams


def test_a_stream_holds_what_it_gathers() -> None:
    """As records do, and beside them; it is given back when the message ends and its output was read, or by a reset."""
    table = table_of(Rule(queue_bytes=500_000))
    context, other = gcm(table), gcm(table)
    queue = context.exchange.queue
    for drop in (False, True):
        perform(context, Record(Operation.RESET, attributes={Attr.IV: bytes([drop]) * 12}))
        stream = context.stream
        user = stream.attach(True, True)
        for part in range(1, 4):
            stream.feed_nowait(user, bytes(100_000))
            assert held(queue) == 100_000 * part
        with pytest.raises(OverQuota, match="304096 bytes are queued and 250000 more are asked"):
            stream.feed_nowait(user, bytes(250_000))
        with pytest.raises(OverQuota):
            ask(other, 1, bytes(150_000), True)
        if drop:
            stream.reset()
        else:
            output = b""
            while piece := stream.drain_nowait(user, 131_072):
                output += bytes(piece)
                assert held(queue) == 300_016 - len(output)
            assert output == AESGCM(bytes(16)).encrypt(bytes(12), bytes(300_000), None)
        assert held(queue) == 0
        stream.detach(user)
    table.close(context)
    table.close(other)


def test_a_stream_that_is_closed_gives_back() -> None:
    """With its context, in the middle of a message."""
    table = table_of(Rule(queue_bytes=500_000))
    context = gcm(table)
    perform(context, Record(Operation.RESET, attributes={Attr.IV: bytes(12)}))
    user = context.stream.attach(True, True)
    context.stream.feed_nowait(user, bytes(100_000))
    queue = context.exchange.queue
    table.close(context)
    assert held(queue) == 0


def test_what_a_worker_has_of_a_stream_is_counted() -> None:
    """Its input and the room for its output, until the worker is done."""
    table = table_of(Rule(queue_bytes=5_000_000))
    context = gcm(table)
    given: list[tuple[Task, Callable[[Task], None]]] = []

    def offload(task: Task, settle: Callable[[Task], None]) -> bool:
        given.append((task, settle))
        return True

    transform = context.require_transform()
    stream = Stream(transform, context.exchange.queue, context.exchange.tally, offload, lambda: None, STREAM_BUFFER)
    stream.set_parameters(None, bytes(12), None)
    transform.pace = 1e6
    user = stream.attach(True, True)
    stream.feed_nowait(user, bytes(100_000))
    assert held(context.exchange.queue) == 100_000 + OUT_SLACK
    task, settle = given.pop()
    settle(task.compute())
    assert held(context.exchange.queue) == 100_000
    assert stream.drain_nowait(user, 1000) is None
    assert held(context.exchange.queue) == 100_000 + 100_016 + OUT_SLACK
    task, settle = given.pop()
    settle(task.compute())
    assert held(context.exchange.queue) == 100_016
    stream.close()
    assert held(context.exchange.queue) == 0


def test_steps_that_were_dropped_are_let_go() -> None:
    """Who resets a stream again and again while a worker is busy leaves nothing with it that is large or long."""
    context = gcm(table_of(Rule(queue_bytes=5_000_000)))
    given: list[tuple[Task, Callable[[Task], None]]] = []

    def offload(task: Task, settle: Callable[[Task], None]) -> bool:
        given.append((task, settle))
        return True

    transform = context.require_transform()
    transform.pace = 1e6
    stream = Stream(transform, context.exchange.queue, context.exchange.tally, offload, lambda: None, STREAM_BUFFER)
    for count in range(20):
        user = stream.attach(True, True)
        stream.set_parameters(None, count.to_bytes(12), None)
        stream.feed_nowait(user, bytes(100_000))
        assert held(context.exchange.queue) == 100_000 + OUT_SLACK
        stream.reset()
        assert held(context.exchange.queue) == 0
    for task, settle in given:
        task.compute()
        assert task.message is not None
        assert (len(task.data), len(task.out), task.written, task.message.kept) == (0, 0, 0, 0)
        settle(task)
    assert len(given) == 20
    assert not stream.busy


def test_a_debt_of_the_rate_stops_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is paid off is a matter of requests, of which a stream's writes are none."""
    monkeypatch.setattr("cryptofs.policy.ledger.time.monotonic", lambda: 100.0)
    queue = table_of(Rule(rate=10)).open(7, 7, 1, False).exchange.queue
    queue.charge(30, 0)
    queue.check(0, 100)
    with pytest.raises(OverQuota, match="10 a second"):
        queue.check(1, 100)


# Over a mount


@pytest.fixture
def bounded() -> Iterator[Daemon]:
    """A daemon of an unprivileged user, with a rule for everybody."""
    with tempfile.TemporaryDirectory(prefix="cryptofs-test.") as place:
        # pytest's own directories are closed to other users
        directory = Path(place)
        directory.chmod(0o755)
        config = configured(directory, "[policy]\ncontexts = 5\nqueue-bytes = 1_000_000\n")
        who = ("--user", "nobody") if os.geteuid() == 0 else ()
        with serving(directory / "mount", *config, "--engines", "openssl", *SHARED, *who) as daemon:
            yield daemon


class Client(Raw):
    """A context over the mount, of gcm(aes)."""

    def __init__(self, mount: Path, nonblocking: bool = False) -> None:
        super().__init__(mount, os.O_NONBLOCK * nonblocking)
        self.configure("aead", "gcm(aes)", bytes(16))

    def part(self, identity: int, size: int, first: bool = True, more: bool = True) -> int:
        """A part of a message; returns its status or the errno of its write."""
        attributes: dict[int, Any] = {Attr.IV: bytes(12)} if first else {}
        try:
            self.write(Record(ENCRYPT, MORE * more, identity, 0, attributes, bytes(size)))
        except OSError as error:
            return error.errno or -1
        (answer,) = self.answers(1)
        return answer.status

    @property
    def queue_bytes(self) -> int:
        """What status says."""
        return int(self.status()["queue-bytes"])


@pytest.mark.mount
def test_gathered_parts_do_not_fill_the_memory(bounded: Daemon) -> None:
    """250 messages of three large parts each, every empty answer read: the rule's bound holds, over all contexts."""
    clients = [Client(bounded.mountpoint) for _ in range(2)]
    try:
        before = bounded.memory
        taken = 0
        refused = 0
        for identity in range(1, 251):
            for part in range(3):
                status = clients[identity % 2].part(identity, 330_000, first=part == 0)
                assert status in (0, errno.EDQUOT)
                taken += 330_000 * (not status)
                refused += status == errno.EDQUOT
        assert 330_000 <= taken <= 1_000_000
        assert refused >= 745
        assert sum(client.queue_bytes for client in clients) == taken
        assert bounded.memory - before < 20_000_000
        assert "refused=EDQUOT reason='uid " in bounded.log
        # what it has can be ended or dropped, and then there is room again
        for client in clients:
            (client.directory / "ctl").write_text("reset\n")
            assert client.queue_bytes == 0
        assert clients[1].part(1, 330_000) == 0
        assert clients[1].part(1, 100_000, first=False, more=False) == 0
        assert clients[1].queue_bytes == 0
    finally:
        for client in clients:
            os.close(client.fd)
    # closing gives back as well
    again = Client(bounded.mountpoint)
    try:
        assert again.part(1, 330_000) == 0
    finally:
        os.close(again.fd)


@pytest.mark.mount
def test_a_context_full_of_parts_hangs_nobody(mount: Path) -> None:
    """Without a rule: the context's own bound refuses the part that is too much, a poll for room returns, and the
    messages that are open can be ended.
    """
    client = Client(mount, nonblocking=True)
    try:
        statuses = [client.part(identity, PAYLOAD_MAX - 16) for identity in range(1, 21)]
        fitting = KEPT_BYTES // (PAYLOAD_MAX - 16)
        assert statuses == [0] * fitting + [errno.EDQUOT] * (20 - fitting)
        assert client.queue_bytes == fitting * (PAYLOAD_MAX - 16) <= QUEUE_BYTES // 2
        poller = select.poll()
        poller.register(client.fd, select.POLLOUT)
        assert poller.poll(0) == [(client.fd, select.POLLOUT)]
        for identity in range(1, 21):
            status = client.part(identity, 0, first=False, more=False)
            assert status == (0 if identity <= fitting else errno.EDQUOT)
        assert client.queue_bytes == 0
        assert client.part(1, PAYLOAD_MAX - 16) == 0
    finally:
        os.close(client.fd)
