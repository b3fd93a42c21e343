"""Devices, sealed files and what users hold, without a mount: every byte of a file, every path of an account."""

import contextlib
import errno
from os import dup
from pathlib import Path
from typing import Any

import pytest
import trio
from helpers.context_bench import HandScheduler
from helpers.fake_engine import FakeEngine, toy
from helpers.talking import perform, submit, take
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.algorithms import Description, Facts, Type
from cryptofs.algorithms.catalogue import look_up, names
from cryptofs.client import files
from cryptofs.config import ConfigError
from cryptofs.contexts import Context, ContextTable, FastWay
from cryptofs.daemon import serve as daemon
from cryptofs.daemon.assembly import Assembly
from cryptofs.daemon.logs import Logs, Standard
from cryptofs.daemon.service import KEY_PREFIX
from cryptofs.devices import Device, DeviceSettings
from cryptofs.devices import device as device_module
from cryptofs.devices.nonces import SHORT_NONCE, Nonces
from cryptofs.engines.base import Transform
from cryptofs.engines.opening import open_engines
from cryptofs.errors import CryptofsError, InvalidValue, KeyUnavailable, NoSuchTarget, NotPermitted, OverQuota
from cryptofs.formats import sealed
from cryptofs.keys import FileKey
from cryptofs.nodes import Caller, Tree
from cryptofs.nodes.base import Directory, File, Node
from cryptofs.nodes.devices import DeviceStreamHandle
from cryptofs.policy import Policy, Rule, Thing
from cryptofs.records import Attr, Operation, Record, Value, build, parse_responses

ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
BOTH = frozenset({ENCRYPT, DECRYPT})
OPENSSL = open_engines(("openssl",))
ME = Caller(1000, 1000, 1)


def transform_of(type_: Type, name: str, key: bytes) -> Transform:
    """OpenSSL's, with its key."""
    description = OPENSSL[0].describe(type_, name)
    assert description is not None
    transform = OPENSSL[0].open(description, None)
    transform.set_key(key)
    return transform


def gcm(**more: Any) -> Device:
    """A device of gcm(aes)."""
    return Device(
        DeviceSettings("d", Type.AEAD, "gcm(aes)", BOTH, **more), {1: transform_of(Type.AEAD, "gcm(aes)", bytes(32))}
    )


def table_with(*devices: Device, rule: Rule | None = None, **more: Any) -> ContextTable:
    """A table that has these devices."""
    table = ContextTable(OPENSSL, policy=Policy(rule or Rule()), **more)
    table.devices = {device.settings.name: device for device in devices}
    return table


# Sealed files


def through_stream(device: Device, operation: Operation, data: bytes, step: int = 1 << 20) -> bytes:
    """Data through a device's stream, as a program with one descriptor sends it."""
    table = table_with(device)
    context = table.open_device(device, 1000, 1000, 1, False, as_stream=True)
    stream = context.stream
    stream.set_parameters(operation, None, None)
    user = stream.attach(True, True)
    try:
        for at in range(0, len(data), step):
            stream.feed_nowait(user, data[at : at + step])
        pieces = []
        while piece := stream.drain_nowait(user, 1000):
            pieces.append(bytes(piece))
        return b"".join(pieces)
    finally:
        table.close(context)


SMALL = 64


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of a few bytes, so that every byte of a file of several can be tried."""
    monkeypatch.setattr(sealed, "SEGMENT", SMALL)


def fails(device: Device, data: bytes, step: int = 1 << 20) -> None:
    """Check that a file does not open."""
    with pytest.raises(CryptofsError) as caught:
        through_stream(device, DECRYPT, data, step)
    assert caught.value.errno == errno.EBADMSG, caught.value


PLAIN = bytes(range(200))
FULL = SMALL + 12 + 16


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL, 200])
def test_round_trip(size: int, step: int) -> None:
    """Any length, cut anywhere."""
    device = gcm()
    file = through_stream(device, ENCRYPT, PLAIN[:size], step)
    assert len(file) == 32 + size + (size // SMALL + 1) * 28
    assert through_stream(device, DECRYPT, file, step) == PLAIN[:size]
    assert device.messages == size // SMALL + 1


@pytest.mark.usefixtures("small_segments")
def test_every_flipped_bit() -> None:
    """Of header, identity, nonces, text and tags."""
    device = gcm()
    file = bytearray(through_stream(device, ENCRYPT, PLAIN))
    for bit in range(8 * len(file)):
        file[bit // 8] ^= 1 << bit % 8
        fails(device, bytes(file))
        file[bit // 8] ^= 1 << bit % 8
    assert through_stream(device, DECRYPT, bytes(file)) == PLAIN


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("size", [200, 2 * SMALL])
def test_every_cut_and_addition(size: int) -> None:
    """A beginning of a file, a file with something behind it, a file with something taken out."""
    device = gcm()
    file = through_stream(device, ENCRYPT, PLAIN[:size])
    for cut in range(len(file)):
        fails(device, file[:cut], 50)
    for extra in (b"x", bytes(28), bytes(FULL), file[32:], file, file[-28:]):
        fails(device, file + extra)
    for at in range(len(file)):
        fails(device, file[:at] + file[at + 1 :])


@pytest.mark.usefixtures("small_segments")
def test_every_order_of_segments() -> None:
    """Segments swapped, repeated, left out, or out of another file of the same device."""
    device = gcm()
    file, other = through_stream(device, ENCRYPT, PLAIN), through_stream(device, ENCRYPT, PLAIN)
    header, segments = file[:32], [file[at : at + FULL] for at in range(32, len(file), FULL)]
    others = [other[at : at + FULL] for at in range(32, len(other), FULL)]
    count = len(segments)
    assert count == 4
    chosen = [*segments, *others]
    tried = 0
    for a in range(8):
        for b in range(8):
            for c in range(8):
                for d in (3, 7):
                    if (a, b, c, d) not in ((0, 1, 2, 3), (4, 5, 6, 7)):
                        fails(device, header + chosen[a] + chosen[b] + chosen[c] + chosen[d])
                        tried += 1
    assert tried == 1022
    fails(device, header + b"".join(others))
    fails(device, header + b"".join(segments[:3]))
    fails(device, header + b"".join(segments[1:]))


def test_a_record_is_no_file_and_other_keys_open_nothing() -> None:
    """Neither what records make nor what another key made."""
    device = gcm()
    fails(device, bytes(32) + bytes(28))
    file = through_stream(device, ENCRYPT, PLAIN)
    other = Device(device.settings, {1: transform_of(Type.AEAD, "gcm(aes)", bytes([1]) * 32)})
    fails(other, file)


def test_the_client_has_the_same_nonces() -> None:
    """The bytes before each segment, also of names that only a kernel serves."""
    for type_, name in names():
        if type_ is not Type.AEAD:
            continue
        facts = look_up(type_, name)
        assert facts is not None
        if facts.block_size > 1 or facts.iv_size < SHORT_NONCE:
            continue

        class Like:
            pass

        like: Any = Like()
        like.name, like.iv_size = name, facts.iv_size
        description = Description.of(type_, name, "any", "any", facts)
        assert files.nonce_size(like) == Nonces(description).size


# What can be declared


def described(type_: Type, name: str, block_size: int, iv_size: int) -> Device:
    """A device of an algorithm that only some kernels have."""
    transform = toy({Type.AEAD: "gcm(toy)"}.get(type_, "ctr(toy)"))
    transform.description = Description.of(
        type_, name, "fake", name, Facts(block_size, iv_size, transform.description.key_sizes, authsizes=(16,))
    )
    return Device(DeviceSettings("d", type_, name, BOTH), {1: transform})


@pytest.mark.parametrize(
    ("type_", "name", "block_size", "iv_size"),
    [
        (Type.AEAD, "rfc4106(gcm(aes))", 1, 8),
        (Type.SKCIPHER, "rfc3686(ctr(aes))", 1, 8),
        (Type.SKCIPHER, "ctr(des3_ede)", 1, 8),
        (Type.SKCIPHER, "salsa20", 1, 8),
    ],
)
def test_nonces_too_short_to_be_drawn(type_: Type, name: str, block_size: int, iv_size: int) -> None:
    """With 64 bits two of some hundred million messages share a keystream: such devices are refused."""
    with pytest.raises(InvalidValue, match="too short"):
        described(type_, name, block_size, iv_size)


def test_nonces_long_enough() -> None:
    """An iv of a mode that is no key stream may be shorter."""
    nonces = described(Type.SKCIPHER, "cbc(des3_ede)", 8, 8).nonces
    assert nonces is not None
    assert nonces.size == 8


def one_way(type_: Type, name: str, iv_size: int, operation: Operation, caller: bool, block_size: int = 1) -> Device:
    """A device that allows one operation."""
    both = described(type_, name, block_size, iv_size)
    settings = DeviceSettings("d", type_, name, frozenset({operation}), caller_nonce=caller)
    return Device(settings, {1: both.transform})


@pytest.mark.parametrize(
    ("type_", "name", "iv_size", "operation", "caller", "allowed"),
    [
        (Type.AEAD, "gcm(aes)", 12, ENCRYPT, False, True),
        (Type.AEAD, "gcm(aes)", 12, DECRYPT, False, True),
        (Type.AEAD, "gcm(aes)", 12, DECRYPT, True, True),
        (Type.AEAD, "gcm(aes)", 12, ENCRYPT, True, False),
        (Type.SKCIPHER, "ctr(aes)", 16, ENCRYPT, False, True),
        (Type.SKCIPHER, "ctr(aes)", 16, ENCRYPT, True, False),
        (Type.SKCIPHER, "ctr(aes)", 16, DECRYPT, False, False),
        (Type.SKCIPHER, "ctr(aes)", 16, DECRYPT, True, False),
        (Type.SKCIPHER, "ecb(arc4)", 0, ENCRYPT, False, False),
        (Type.SKCIPHER, "ecb(arc4)", 0, DECRYPT, False, False),
    ],
)
def test_one_operation_that_is_both(
    type_: Type, name: str, iv_size: int, operation: Operation, caller: bool, allowed: bool
) -> None:
    """What encrypts under a nonce that the program gives also decrypts: it is not declared as one way only."""
    if allowed:
        one_way(type_, name, iv_size, operation, caller)
    else:
        with pytest.raises(InvalidValue, match="both operations"):
            one_way(type_, name, iv_size, operation, caller)


def test_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with short nonces serves so many messages, whichever way they go; then it only decrypts."""
    monkeypatch.setattr(device_module, "MESSAGES_MAX", 3)
    device = gcm()
    table = table_with(device)
    context = table.open_device(device, 1000, 1000, 1, False)

    def send(*payloads: bytes, operation: Operation = ENCRYPT) -> list[Record]:
        data = b"".join(build(Record(operation, id=index, payload=each)) for index, each in enumerate(payloads))
        if not FastWay(context).answer(data):
            submit(context, data)
        answers: list[Record] = []
        while (piece := take(context, 1 << 20)) is not None:
            answers += parse_responses(bytes(piece))
        return answers

    first = send(b"a", b"b")
    assert [each.status for each in first] == [0, 0]
    assert [each.status for each in send(b"c", b"d")] == [0, errno.EDQUOT]
    for size in (1, 10_000, 100_000):
        (refused,) = send(bytes(size))
        assert refused.status == errno.EDQUOT
        assert "3 messages under one key: at most 3" in str(refused.attributes[Attr.MESSAGE])
    (answer,) = send(bytes(first[0].payload), operation=DECRYPT)
    assert bytes(answer.payload) == b"a"
    with pytest.raises(OverQuota):
        through_stream(device, ENCRYPT, b"x")
    table.close_all()


def test_a_retired_device_lives_as_long_as_its_contexts() -> None:
    """The key goes with the last of them, and once only."""
    device = gcm()
    closed: list[int] = []
    close = device.transform.close
    device.transform.close = lambda: (closed.append(1), close())[1]  # type: ignore[method-assign]
    table = table_with(device)
    contexts = [table.open_device(device, 1000, 1000, 1, False) for _ in range(3)]
    device.retire()
    for context in contexts:
        assert not closed
        table.close(context)
        table.close(context)
    assert closed == [1]


# The tree


def walk(tree: Tree, *path: str) -> Node:
    """The node at a path."""
    node = tree.node(1)
    for name in path:
        assert isinstance(node, Directory)
        node = node.lookup(name, ME)
    return node


def opened(node: Node, flags: int = 2) -> Any:
    """Open it."""
    assert isinstance(node, File)
    return node.open(flags, ME)


def test_a_new_declaration_is_another_file() -> None:
    """What was looked up, or is known by its inode, before a reload does not open the device that came with it."""
    old, new = gcm(uid=1000), gcm(uid=1000)
    table = table_with(old)
    tree = Tree(table)
    nodes = [
        walk(tree, "devices", "d"),
        *(walk(tree, "devices", "d", file) for file in ("crypto", "encrypt", "status")),
    ]
    opened(nodes[1]).close()
    table.devices = {"d": new}
    for node in nodes:
        with pytest.raises(NoSuchTarget):
            tree.node(node.inode)
    for node in nodes[1:3]:
        with pytest.raises(NoSuchTarget):
            opened(node)
    again = walk(tree, "devices", "d", "crypto")
    assert again.inode not in {node.inode for node in nodes}
    assert tree.node(again.inode).inode == again.inode
    table.devices = {}
    with pytest.raises(NoSuchTarget):
        walk(tree, "devices", "d")
    # however often it is declared again, nothing accumulates, and no inode comes twice
    seen = set()
    for _ in range(100):
        table.devices = {"d": gcm(uid=1000)}
        seen.add(walk(tree, "devices", "d", "crypto").inode)
    assert len(seen) == 100
    assert len(tree._devices._devices) == 1


def test_a_private_device_is_its_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon itself looks, whatever the mount checks."""
    device = gcm(uid=1001)
    tree = Tree(table_with(device))
    for file in ("crypto", "encrypt", "decrypt"):
        with pytest.raises(NotPermitted, match="uid 1000 may not"):
            opened(walk(tree, "devices", "d", file))


def test_a_devices_group_is_the_kernels_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that its group may open is not kept from the group: who is in it the kernel knows."""
    tree = Tree(table_with(gcm(uid=1001, mode=0o660)))
    for file in ("crypto", "encrypt", "decrypt"):
        opened(walk(tree, "devices", "d", file)).close()


@pytest.mark.parametrize("name", ["gcm(aes)", "ccm(aes)", "rfc7539(chacha20,poly1305)"])
def test_every_byte_of_a_nonce_is_drawn(name: str) -> None:
    """Two are never alike, and none of their bytes is always the same."""
    description = OPENSSL[0].describe(Type.AEAD, name)
    assert description is not None
    made = [Nonces(description).make() for _ in range(64)]
    assert len(set(made)) == 64
    assert all(len(set(column)) > 1 for column in zip(*made, strict=True))
    assert {len(each) for each in made} == {SHORT_NONCE}


class Asked(FakeEngine):
    """Which names came to an engine."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def describe(self, type_: Type, name: str) -> Description | None:
        """Note it."""
        self.asked.append(name)
        return super().describe(type_, name)


def test_denied_names_reach_no_engine() -> None:
    """Asking a kernel for a name may load a module: not by name, not by driver, not by looking it up."""
    engine = Asked()
    table = ContextTable((engine,), policy=Policy(Rule(frozenset({(Type.HASH, "toysum")}))))
    tree = Tree(table)
    context = table.open(1000, 1000, 1, False)
    wanted: list[dict[int, Value]] = [
        {Attr.TYPE: "hash", Attr.NAME: "denied"},
        {Attr.TYPE: "hash", Attr.NAME: "toysum-fake"},
        {Attr.TYPE: "skcipher", Attr.NAME: "toysum"},
        {Attr.TYPE: "hash", Attr.NAME: "toysum", Attr.DRIVER: "denied-driver"},
    ]
    for attributes in wanted:
        with pytest.raises(NotPermitted):
            perform(context, Record(Operation.CONFIGURE, attributes=attributes))
    for name in ("denied", "toysum-fake", "hmac(toysum)", "denied-driver"):
        with pytest.raises(NoSuchTarget):
            walk(tree, "algorithms", "hash", name)
    assert set(engine.asked) <= {"toysum"}
    walk(tree, "algorithms", "hash", "toysum")
    perform(context, Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "toysum"}))
    table.close_all()


# Streams that cannot go on


def test_a_quota_ends_the_message() -> None:
    """Else what was written before would be sealed as if it were the whole."""
    device = gcm(uid=1000)
    table = table_with(device, rule=Rule(queue_bytes=300_000))
    handle = DeviceStreamHandle(table, device, ENCRYPT, 2, ME)
    assert handle.write(0, memoryview(bytes(100_000))) == 100_000
    assert handle.write(0, memoryview(bytes(100_000))) == 100_000
    with pytest.raises(OverQuota, match="bytes are queued"):
        handle.write(0, memoryview(bytes(130_000)))
    with pytest.raises(OverQuota):
        handle.write(0, memoryview(b"x"))
    got = 0
    read: CryptofsError | None = None
    while read is None and got < 1 << 20:
        try:
            got += len(handle.read(0, 100_000) or b"")
        except OverQuota as error:
            read = error
    assert read is not None
    assert 0 < got < 200_000 + 1000
    handle.close()
    assert len(table) == 0


def test_small_pieces_are_joined() -> None:
    """What waits to be read is bounded by its bytes, not by how often they were written."""
    device = Device(
        DeviceSettings("d", Type.SKCIPHER, "ctr(aes)", BOTH), {1: transform_of(Type.SKCIPHER, "ctr(aes)", bytes(32))}
    )
    data = bytes(300_000)
    file = through_stream(device, ENCRYPT, data, step=16)
    assert through_stream(device, DECRYPT, file, step=17) == data


# A descriptor that was handed over


def test_a_handed_descriptor_is_for_its_file_only(tmp_path: Path) -> None:
    """A reload that names another file must not go on with the old one's key under the new one's name."""
    for name, byte in (("one", 1), ("two", 2)):
        (tmp_path / name).write_bytes(bytes([byte]) * 32)
        (tmp_path / name).chmod(0o600)
    config = tmp_path / "config"

    def declare(name: str) -> None:
        config.write_text(f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "{tmp_path / name}"\n')
        config.chmod(0o600)

    declare("one")
    with (tmp_path / "one").open("rb") as opened_before:
        (tmp_path / "one").rename(tmp_path / "moved")
        made = Assembly(("openssl",), config, {KEY_PREFIX + "d": dup(opened_before.fileno())})
        file = through_stream(made.table.devices["d"], ENCRYPT, PLAIN)
        declare("two")
        made.reload()
        fails(made.table.devices["d"], file)
        declare("gone")
        with pytest.raises(KeyUnavailable, match="key source gone"):
            made.reload()
        fails(made.table.devices["d"], file)
        made.close()


def test_a_reload_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that were opened before the one that failed are closed again, those that were open stay."""
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    config = tmp_path / "config"
    opened_keys: list[Transform] = []
    read = FileKey.open

    def open_(self: FileKey, *arguments: Any) -> Transform:
        transform = read(self, *arguments)
        opened_keys.append(transform)
        transform.closed = 0  # type: ignore[attr-defined]
        close = transform.close

        def counted() -> None:
            transform.closed += 1  # type: ignore[attr-defined]
            close()

        transform.close = counted  # type: ignore[method-assign]
        return transform

    monkeypatch.setattr(FileKey, "open", open_)

    def declare(*devices: str) -> None:
        section = '[devices.{}]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "{}"\n'
        keys = {name: tmp_path / ("gone" if name == "bad" else "key") for name in devices}
        config.write_text("".join(section.format(name, key) for name, key in keys.items()))
        config.chmod(0o600)

    declare("a")
    made = Assembly(("openssl",), config)
    declare("a", "b", "bad", "c")
    for _ in range(3):
        with pytest.raises(KeyUnavailable, match=r"config:12: devices\.bad\.key\.file: key source gone"):
            made.reload()
    assert list(made.table.devices) == ["a"]
    # at each reload the key of `a` is asked for again, and compared
    assert [each.closed for each in opened_keys] == [0] + [1, 1] * 3  # type: ignore[attr-defined]
    declare("a", "b")
    made.reload()
    made.close()
    assert all(each.closed == 1 for each in opened_keys)  # type: ignore[attr-defined]


# What users hold

IDS = st.integers(1, 4)
SIZES = st.sampled_from([0, 16, 64, 3000, 20_000, 60_000])
USERS = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("open"), USERS, st.sampled_from(["hash", "aead", "device", "stream", "bare"])),
    st.tuples(
        st.just("send"),
        st.integers(0, 7),
        st.lists(
            st.tuples(st.sampled_from([ENCRYPT, DECRYPT, DIGEST]), IDS, st.booleans(), SIZES), min_size=1, max_size=5
        ),
    ),
    st.tuples(st.just("take"), st.integers(0, 7), st.sampled_from([10, 5000, 1 << 20])),
    st.tuples(st.just("work"), st.integers(0, 7), st.booleans()),
    st.tuples(
        st.just("control"), st.integers(0, 7), st.sampled_from([Operation.RESET, Operation.CANCEL, Operation.INFO])
    ),
    st.tuples(st.just("feed"), st.integers(0, 7), SIZES),
    st.tuples(st.just("drain"), st.integers(0, 7), SIZES),
    st.tuples(st.just("give up"), st.integers(0, 7), st.none()),
    st.tuples(st.just("slow"), st.integers(0, 7), st.booleans()),
    st.tuples(st.just("burn"), st.sampled_from(["update", "crypt", "begin", "digest"]), st.booleans()),
    st.tuples(st.just("close"), st.integers(0, 7), st.none()),
    st.tuples(st.just("rule"), st.sampled_from([0, 6, 50]), st.sampled_from([0, 70_000, 400_000])),
)


class Held:
    """Two users with contexts, and what the accounts must say of them."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.workers = HandScheduler()
        description = self.engine.describe(Type.AEAD, "gcm(toy)")
        assert description is not None
        transform = self.engine.open(description, None)
        transform.set_key(bytes(16))
        self.device = Device(DeviceSettings("d", Type.AEAD, "gcm(toy)", BOTH), {1: transform})
        self.table = ContextTable((self.engine,), self.workers, Policy(Rule(requests=6, queue_bytes=400_000)))
        self.contexts: list[Context] = []
        self.closing: list[Context] = []
        """Closed while a worker had a message of theirs, which counts until it is done."""

    def context(self, index: int) -> Context | None:
        """One of those that are open."""
        return self.contexts[index % len(self.contexts)] if self.contexts else None

    def open(self, uid: int, kind: str) -> None:
        """A context."""
        if kind in ("device", "stream"):
            context = self.table.open_device(self.device, uid, uid, 1, False, as_stream=kind == "stream")
        else:
            context = self.table.open(uid, uid, 1, False)
            names: dict[str, dict[int, Value]] = {
                "hash": {Attr.TYPE: "hash", Attr.NAME: "toysum"},
                "aead": {Attr.TYPE: "aead", Attr.NAME: "gcm(toy)", Attr.KEY: bytes(16)},
            }
            if kind in names:
                perform(context, Record(Operation.CONFIGURE, attributes=names[kind]))
        self.contexts.append(context)

    def step(self, what: str, one: Any, two: Any) -> None:
        """Do one thing; what is refused is refused."""
        if what == "open":
            self.open(one, two)
        elif what == "rule":
            self.table.policy = Policy(Rule(requests=one, queue_bytes=two))
        elif what == "burn":
            (self.engine.fuses.add if two else self.engine.fuses.discard)(one)
        elif what == "work":
            if self.workers.given:
                self.workers.do(one % len(self.workers.given))
        elif (context := self.context(one)) is not None:
            self.on(context, what, two)

    def on(self, context: Context, what: str, value: Any) -> None:
        """The same, with a context."""
        if what == "send":
            records = [
                Record(operation, 1 if more else 0, id_, 0, {}, bytes(size)) for operation, id_, more, size in value
            ]
            data = b"".join(map(build, records))
            if not FastWay(context).answer(data):
                submit(context, data)
        elif what == "take":
            take(context, value)
        elif what == "control":
            target: dict[int, Value] = {Attr.TARGET: 1} if value is Operation.CANCEL else {}
            perform(context, Record(value, attributes=target))
        elif what in ("feed", "drain"):
            stream = context.stream
            user = next(iter(stream._users), None) or stream.attach(True, True)
            if what == "feed":
                stream.feed_nowait(user, bytes(value))
            else:
                stream.drain_nowait(user, value)
        elif what == "give up":
            context.stream.give_up()
        elif what == "slow":
            if context.transform is not None:
                context.transform.pace = 1e6 if value else 0.0
        elif what == "close":
            self.contexts.remove(context)
            self.closing.append(context)
            self.table.close(context)

    def check(self) -> None:
        """The ledger says what the contexts hold."""
        self.closing = [each for each in self.closing if each._running]
        for usage in self.table.ledger._users.values():
            mine = [each for each in (*self.contexts, *self.closing) if each.queue.usage is usage]
            assert usage.held[Thing.CONTEXTS] == sum(not each.closed for each in mine)
            assert usage.held[Thing.STATE] == sum(map(self.state_of, mine))
            queue = usage._metered
            if queue is not None:
                counting = [each for each in mine if each.exchange.queue is queue]
                assert queue.requests == sum(each.exchange.outstanding for each in counting)
                flows = [each._stream._flow for each in counting if each._stream is not None]
                held = sum(flow.waiting + flow._kept for flow in flows) + sum(map(self.state_of, counting))
                held += sum(kept for flow in flows for kept, _ in flow._dropped.values())
                assert queue.queue_bytes == sum(each.exchange.bytes for each in counting) + held
        for context in self.contexts:
            self.check_kept(context)

    @staticmethod
    def state_of(context: Context) -> int:
        """What a context's open messages hold, as they say themselves."""
        messages = [lane.message for lane in context.exchange.lanes.values()]
        if context._stream is not None:
            messages.append(context._stream._flow._message)
        counted = context.exchange.state + (context._stream._flow._state_size if context._stream is not None else 0)
        assert counted == sum(message.state for message in messages if message is not None) or context._running
        dropped = context._stream._flow._dropped.values() if context._stream is not None else ()
        return counted + sum(state for _, state in dropped)

    @staticmethod
    def check_kept(context: Context) -> None:
        """What messages keep is counted with them, and with the context: that and what waits to be read is all."""
        exchange, stream = context.exchange, context._stream
        lanes = exchange.lanes.values()
        assert exchange.kept == sum(lane.kept for lane in lanes)
        # one that a worker has is looked at when it comes back
        assert all(lane.kept == (lane.message.kept if lane.message else 0) for lane in lanes if not lane.jobs)
        unread = sum(cost for _, cost in exchange._ready) + sum(job.cost for lane in lanes for job in lane.jobs)
        forgotten = exchange.bytes - exchange.kept - unread
        assert forgotten == 0 or exchange.in_flight > sum(len(lane.jobs) for lane in lanes)
        if stream is not None and stream._flow._task is None:
            message = stream._flow._message
            assert stream._flow._kept == (message.kept if message is not None else 0)

    def end(self) -> None:
        """Close everything, in the middle of whatever goes on."""
        users = [context.queue.usage for context in self.contexts]
        self.table.close_all()
        self.contexts.clear()
        self.engine.fuses.clear()
        self.workers.finish()
        assert not any(held for each in users for held in each.held.values())
        queues = [each._metered for each in users if each._metered is not None]
        assert not any(queue.requests or queue.queue_bytes for queue in queues)
        assert not any(self.table.ledger.held.values())
        assert len(self.table.ledger) == 0
        assert self.device.users == 0
        self.device.retire()
        assert not self.engine.transforms
        assert self.engine.open_runs == 0


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_what_users_hold(steps: list[tuple[str, Any, Any]]) -> None:
    """Whatever is sent, cancelled, failed, left unread or closed: what is held is what is counted, and at the end
    nothing is.
    """
    held = Held()
    held.open(0, "device")
    held.open(1, "hash")
    try:
        for step in steps:
            with contextlib.suppress(CryptofsError):
                held.step(*step)
            held.check()
    finally:
        held.engine.fuses.clear()
        held.end()


def test_the_ledger_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above finds a ledger that forgets."""
    held = Held()
    held.open(0, "hash")
    held.on(held.contexts[0], "send", [(DIGEST, 1, False, 16)])
    held.check()
    held.contexts[0].exchange.queue.requests -= 1
    with pytest.raises(AssertionError):
        held.check()
    held.contexts[0].exchange.queue.requests += 1
    held.end()


def test_a_reload_that_breaks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw, such as a module that the daemon's user may not load, ends neither daemon nor policy."""
    config = tmp_path / "config"
    config.write_text("[policy]\ncontexts = 3\n")
    config.chmod(0o600)
    made = Assembly(("openssl",), config)

    def broken() -> None:
        raise ModuleNotFoundError("No module named 'pkcs11'")

    monkeypatch.setattr(made, "_load", broken)
    trio.run(daemon._reload, made, Logs(Standard()), trio.Lock(), None)
    assert "the old configuration stays: ModuleNotFoundError: No module named 'pkcs11'" in caplog.text
    assert made.table.policy.everybody.contexts == 3


def test_a_configuration_that_comes_later(tmp_path: Path) -> None:
    """The usual file need not be there at the start; a reload finds it, and one that has gone changes nothing."""
    config = tmp_path / "config"
    made = Assembly(("openssl",), config, may_lack=True)
    assert made.with_audit is None
    assert "no configuration file" in made.reload()
    config.write_text("[policy]\ncontexts = 3\n[daemon]\naudit = false\n")
    config.chmod(0o600)
    assert made.reload() == "configuration: 0 devices, 0 rules of users and groups"
    assert made.with_audit is False
    config.unlink()
    assert "the old configuration stays" in made.reload()
    assert made.table.policy.everybody.contexts == 3
    with pytest.raises(ConfigError, match="No such file"):
        Assembly(("openssl",), config)
