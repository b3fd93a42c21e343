"""Tier three: a model of contexts against the real mount: every accepted request has one answer, and the right one.

The daemon answers when it likes, so the model works in the order of the answers that were read: control calls take
effect in their place and are ready at once, so an answer that comes after a cancel's own was unfinished when the cancel
took effect. That makes every answer exact, cancelled ones too.
"""

import contextlib
import errno
import hashlib
import os
import select
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from helpers.raw import build_many
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cryptofs.records import (
    CONTROL_OPERATIONS,
    PAYLOAD_MAX,
    RECORD_MAX,
    Attr,
    Flag,
    Operation,
    Record,
    Value,
    parse_responses,
)

pytestmark = pytest.mark.mount

CONTEXTS = 3
QUEUE_REQUESTS = 4096
QUEUE_BYTES = 16 * 1024 * 1024
BOUND = 20_000
"""Milliseconds that no answer takes."""
NOISE = os.urandom(PAYLOAD_MAX)

ALGORITHMS = {
    "sha256": ("hash", 0, 0, 1),
    "ctr(aes)": ("skcipher", 16, 16, 16),
    "cbc(des3_ede)": ("skcipher", 24, 8, 8),
    "gcm(aes)": ("aead", 16, 12, 1),
}
"""type, bytes of a key, of an IV, and of what the output of parts comes in."""
KEY_SIZES = {"sha256": (), "ctr(aes)": (16, 24, 32), "cbc(des3_ede)": (24,), "gcm(aes)": (16, 24, 32)}
TAG = 16


@dataclass
class Refused(Exception):
    """The model says: this errno."""

    number: int


@dataclass
class Lane:
    """The message under one id. failure: what its later parts answer."""

    operation: Operation | None = None
    failure: int = 0
    data: bytearray = field(default_factory=bytearray)
    assoclen: int = 0
    iv: bytes = b""
    cipher: Any = None
    held: bytes = b""


@dataclass
class Request:
    """An accepted request that has no answer yet, with its place among all. forgotten: by a reset, with its message."""

    place: int
    record: Record
    cancelled: bool = False
    forgotten: bool = False

    @property
    def last(self) -> bool:
        return not self.record.flags & Flag.MORE


class Model:
    """One context as the protocol describes it, and the descriptor of the real one."""

    def __init__(self, mount: Path, nonblocking: bool, number: int) -> None:
        self.fd = os.open(mount / "crypto", os.O_RDWR | os.O_CLOEXEC | (os.O_NONBLOCK if nonblocking else 0))
        self.number = int(os.pread(self.fd, 64, 0))
        self.directory = mount / "contexts" / str(self.number)
        self.nonblocking = nonblocking
        self.place = 0
        self.name = ""
        self.key = b""
        self.salt = number
        # what was sent and not answered: data requests by id, control calls by theirs
        self.pending: dict[int, deque[Request]] = {}
        self.controls: dict[int, Request] = {}
        self.lanes: dict[int, Lane] = {}
        self.costs: dict[tuple[int, int], deque[int]] = {}
        self.outstanding = 0
        self.bytes = 0
        self.completed = 0
        self.larger_than = 0
        # the state of ids at the end of what was sent, for what is sent next
        self.begun: set[int] = set()
        self.dropped: dict[int, int] = {}

    # What is sent

    @property
    def held(self) -> tuple[int, int]:
        """The least and the most that the daemon may count: what a message kept of parts whose answers are not read yet
        may be dropped already.
        """
        # without a name the answer to configure may be among those that are not read
        if self.name not in ("", "gcm(aes)"):
            return self.bytes, self.bytes
        parts = (request for queue in self.pending.values() for request in queue if not request.last)
        kept = sum(len(lane.data) for lane in self.lanes.values() if not lane.failure)
        return self.bytes - sum(len(part.record.payload) for part in parts), self.bytes + kept

    def accepts(self, records: list[Record], held: int) -> bool:
        """Whether the queue has room, if it holds so much."""
        cost = sum(cost_of(record) for record in records)
        return self.outstanding + len(records) <= QUEUE_REQUESTS and held + cost <= QUEUE_BYTES

    def send(self, records: list[Record]) -> None:
        """Write them, in one write."""
        if not self.nonblocking:
            while not self.accepts(records, max(self.held)):
                self.read(RECORD_MAX)
        possible, certain = (self.accepts(records, held) for held in self.held)
        data = build_many(records)
        try:
            assert os.pwrite(self.fd, data, 0) == len(data)
        except BlockingIOError:
            assert self.nonblocking
            assert not certain, "EAGAIN, and there is room"
            return
        assert possible, "accepted, and there is no room"
        for record in records:
            self.place += 1
            request = Request(self.place, record)
            if record.operation < Operation.ENCRYPT:
                self.controls[record.id] = request
                if record.operation is Operation.RESET:
                    self.begun.clear()
                    self.dropped = {identity: self.place for identity, queue in self.pending.items() if queue}
            else:
                self.pending.setdefault(record.id, deque()).append(request)
                (self.begun.discard if request.last else self.begun.add)(record.id)
            self.costs.setdefault((record.id, record.operation), deque()).append(cost_of(record))
            self.bytes += cost_of(record)
        self.outstanding += len(records)

    def usable(self, identity: int) -> int:
        """The id itself, or another one while requests that a reset dropped are unanswered under it."""
        place = self.dropped.get(identity, 0)
        queue = self.pending.get(identity)
        return identity + 1000 * (1 + self.place) if place and queue and queue[0].place < place else identity

    # What is read

    def read(self, size: int) -> None:
        """One read, and what is wrong with it."""
        try:
            data = os.pread(self.fd, size, 0)
        except BlockingIOError:
            assert self.nonblocking, "EAGAIN on a blocking context"
            assert self.outstanding, "EAGAIN with nothing in flight"
            assert not self.controls, "EAGAIN although the answer to a control call is ready"
            return
        except OSError as error:
            if error.errno != errno.EMSGSIZE or not self.outstanding:
                raise
            self.larger_than = max(self.larger_than, size)
            return
        if not self.outstanding:
            assert data == (b"" if self.name else b"%d\n" % self.number)[:size]
            return
        assert data, f"0 bytes, and {self.outstanding} answers are due"
        assert len(data) <= size
        answers = parse_responses(data)
        if self.larger_than:
            assert int.from_bytes(data[:4], "little") > self.larger_than, "EMSGSIZE lost an answer"
            self.larger_than = 0
        for answer in answers:
            self.take(answer)

    def take(self, answer: Record) -> None:
        """Check one answer."""
        cost = self.costs[(answer.id, answer.operation)].popleft()
        self.outstanding -= 1
        self.bytes -= cost
        self.completed += 1
        if answer.operation < Operation.ENCRYPT:
            request = self.controls.pop(answer.id)
            assert request.record.operation is answer.operation
            assert answer.flags == Flag.RESPONSE
            self.take_control(request, answer)
            return
        queue = self.pending[answer.id]
        request = queue.popleft()
        if not queue:
            del self.pending[answer.id]
        record = request.record
        assert record.operation is answer.operation
        assert answer.flags == Flag.RESPONSE | record.flags
        number, output = self.expected(request)
        assert answer.status == number, f"{answer} instead of errno {number} for {record}"
        assert bytes(answer.payload) == output, f"wrong output for {record}"
        assert bool(number) == bool(answer.attributes.get(Attr.MESSAGE))
        if number or request.last:
            self.lanes.pop(record.id, None)
        if number and not (request.last or request.forgotten):
            self.lanes[record.id] = Lane(failure=number)

    def expected(self, request: Request) -> tuple[int, bytes]:
        """The status and the output of a request that is answered now."""
        try:
            return 0, self.compute(request)
        except Refused as refused:
            return refused.number, b""

    def unfinished(self, place: int) -> list[Request]:
        """What was sent before this place and has no answer."""
        return [request for queue in self.pending.values() for request in queue if request.place < place]

    def take_control(self, request: Request, answer: Record) -> None:
        """Check the answer to a control call, and what it changes."""
        record, status = request.record, answer.status
        before = self.unfinished(request.place)
        operation = record.operation
        if operation is Operation.CONFIGURE:
            name = str(record.attributes[Attr.NAME])
            key: Any = record.attributes.get(Attr.KEY, b"")
            if self.name:
                assert status == errno.EBUSY
            elif len(key) != ALGORITHMS[name][1]:
                assert status == errno.EINVAL
            else:
                assert status == 0
                self.name, self.key = name, key
        elif operation is Operation.CANCEL:
            target: Any = record.attributes[Attr.TARGET]
            mine = [each for each in before if each.record.id == target]
            lane = self.lanes.get(target)
            # whether what a reset has dropped already can be cancelled once more is nobody's business
            if not mine or lane or not all(each.forgotten for each in mine):
                assert status == (0 if mine or lane else errno.ENOENT), f"{answer} with {mine} and {lane}"
            for each in mine:
                each.cancelled = True
            if not mine and lane and not lane.failure:
                self.lanes[target] = Lane(failure=errno.ECANCELED)
        elif not self.name:
            assert status == errno.EBADFD
        elif operation is Operation.RESET:
            assert status == 0
            for each in before:
                each.cancelled = each.forgotten = True
            self.lanes.clear()
        else:
            assert operation is Operation.SET_KEY
            new: Any = record.attributes[Attr.KEY]
            if before or self.lanes:
                assert status == errno.EBUSY
            elif len(new) not in KEY_SIZES[self.name]:
                assert status == errno.EINVAL
            else:
                assert status == 0
                self.key = new

    # What the answers are

    def compute(self, request: Request) -> bytes:
        """The output of a request that is answered now. Errors: Refused."""
        record, attributes = request.record, request.record.attributes
        lane = self.lanes.get(record.id)
        if not self.name:
            raise Refused(errno.EBADFD)
        if request.cancelled:
            raise Refused(errno.ECANCELED)
        if lane and lane.failure:
            raise Refused(lane.failure)
        if lane is None:
            lane = self.lanes[record.id] = self.begin(record)
        elif attributes or lane.operation is not record.operation:
            raise Refused(errno.EINVAL)
        lane.data += record.payload
        if self.name == "gcm(aes)" and len(lane.data) > PAYLOAD_MAX:
            raise Refused(errno.EMSGSIZE)
        if self.name == "sha256":
            return hashlib.sha256(lane.data).digest() if request.last else b""
        if self.name == "gcm(aes)":
            return self.finish_gcm(lane) if request.last else b""
        chunk = ALGORITHMS[self.name][3]
        lane.held += lane.cipher.update(bytes(record.payload))
        if request.last:
            if self.name == "cbc(des3_ede)" and len(lane.data) % chunk:
                raise Refused(errno.EINVAL)
            return lane.held
        given = len(lane.data) - len(lane.held) if self.name == "ctr(aes)" else 0
        ready = len(lane.data) // chunk * chunk - given if self.name == "ctr(aes)" else len(lane.held)
        output, lane.held = lane.held[:ready], lane.held[ready:]
        return output

    def begin(self, record: Record) -> Lane:
        """A new message. Errors: Refused."""
        type_, _, iv_size, _ = ALGORITHMS[self.name]
        if (record.operation is Operation.DIGEST) != (type_ == "hash"):
            raise Refused(errno.EOPNOTSUPP)
        iv: Any = record.attributes.get(Attr.IV, b"")
        assoclen: Any = record.attributes.get(Attr.ASSOCLEN, 0)
        if len(iv) != iv_size or (assoclen and type_ != "aead"):
            raise Refused(errno.EINVAL)
        lane = Lane(record.operation, assoclen=assoclen, iv=bytes(iv))
        if type_ == "skcipher":
            cipher = (
                Cipher(AES(self.key), CTR(lane.iv))
                if self.name == "ctr(aes)"
                else Cipher(TripleDES(self.key), CBC(lane.iv))
            )
            lane.cipher = cipher.encryptor() if record.operation is Operation.ENCRYPT else cipher.decryptor()
        return lane

    def finish_gcm(self, lane: Lane) -> bytes:
        """Output of a gathered message. Errors: Refused."""
        overhead = lane.assoclen + (TAG if lane.operation is Operation.DECRYPT else 0)
        if len(lane.data) < overhead:
            raise Refused(errno.EINVAL)
        assoc, text = bytes(lane.data[: lane.assoclen]), bytes(lane.data[lane.assoclen :])
        if lane.operation is Operation.ENCRYPT:
            return AESGCM(self.key).encrypt(lane.iv, text, assoc)
        try:
            return AESGCM(self.key).decrypt(lane.iv, text, assoc)
        except InvalidTag:
            raise Refused(errno.EBADMSG) from None

    # Looking

    def ready(self, milliseconds: int, events: int = select.POLLIN | select.POLLOUT) -> int:
        """What poll(2) says."""
        poller = select.poll()
        poller.register(self.fd, events)
        return sum(event for _, event in poller.poll(milliseconds))

    def status(self) -> dict[str, str]:
        """The tags of the status file."""
        return dict(line.split(": ", 1) for line in (self.directory / "status").read_text().splitlines())

    def drain(self) -> None:
        """Read everything that is due."""
        while self.outstanding:
            assert self.ready(BOUND, select.POLLIN) == select.POLLIN, f"{self.outstanding} answers never come"
            self.read(RECORD_MAX)


def cost_of(record: Record) -> int:
    """What a request and its answer take of the queue."""
    values: list[Any] = [record.attributes.get(each, b"") for each in (Attr.KEY, Attr.IV)]
    return 2 * (24 + len(record.payload)) + (sum(map(len, values)) if record.operation in CONTROL_OPERATIONS else 0)


@dataclass(frozen=True)
class Item:
    """What a test wants to send, before it is known to which context."""

    kind: str
    identity: int
    size: int
    more: bool
    iv: str
    choice: int


SIZES = st.sampled_from([0, 1, 7, 8, 16, 16, 48, 64, 100, 1000, 4096, 40_000, 40_000, 131_072, 131_072])
ITEMS = st.builds(
    Item,
    kind=st.sampled_from(["data"] * 12 + ["cancel"] * 4 + ["reset", "set-key", "configure"]),
    identity=st.integers(0, 3),
    size=SIZES,
    more=st.booleans(),
    iv=st.sampled_from(["right"] * 12 + ["wrong", "always", "never"]),
    choice=st.integers(0, 15),
)


class Machine(RuleBasedStateMachine):
    """Clients of one mount."""

    mount: Path

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[Model] = []
        self.opened = 0
        self.calls = 1 << 40
        self.sound = True

    @contextlib.contextmanager
    def at(self, index: int) -> Iterator[Model]:
        """One of the contexts; a failure there is the last thing that is looked at."""
        self.sound = False
        yield self.contexts[index % len(self.contexts)]
        self.sound = True

    def record(self, model: Model, item: Item) -> Record:
        """The record of an item on a context."""
        self.calls += 1
        attributes: dict[int, Value] = {}
        name = model.name or list(ALGORITHMS)[item.choice % 4]
        if item.kind == "cancel":
            return Record(Operation.CANCEL, 0, self.calls, 0, {Attr.TARGET: item.identity + 60 * (item.choice == 0)})
        if item.kind == "reset":
            return Record(Operation.RESET, 0, self.calls)
        if item.kind in ("set-key", "configure"):
            size = ALGORITHMS[name][1] + 5 * (item.choice > 11)
            key = hashlib.sha256(b"%d %d" % (model.salt, item.choice)).digest()[:size]
            if item.kind == "set-key":
                return Record(Operation.SET_KEY, 0, self.calls, 0, {Attr.KEY: key or b"key"})
            attributes = {Attr.TYPE: ALGORITHMS[name][0], Attr.NAME: name}
            if key:
                attributes[Attr.KEY] = key
            return Record(Operation.CONFIGURE, 0, self.calls, 0, attributes)
        _, _, iv_size, _ = ALGORITHMS[name]
        operation = Operation.DIGEST
        if (name == "sha256") == (item.choice == 15):
            operation = Operation.DECRYPT if item.choice % 3 == 0 else Operation.ENCRYPT
        identity = model.usable(item.identity)
        size = item.size
        first = identity not in model.begun
        if iv_size and (item.iv == "always" or (first and item.iv != "never")):
            attributes[Attr.IV] = NOISE[item.choice : item.choice + iv_size + (item.iv == "wrong")]
        if name == "gcm(aes)" and first and item.choice % 2:
            attributes[Attr.ASSOCLEN] = item.choice
        if item.more and name == "gcm(aes)":
            size = min(size, 1000)
        if name == "cbc(des3_ede)" and item.choice != 1:
            size -= size % 8
        flags = Flag.MORE if item.more else 0
        return Record(operation, flags, identity, 0, attributes, NOISE[model.salt : model.salt + size])

    # Rules

    @rule(nonblocking=st.booleans(), item=ITEMS)
    def open(self, nonblocking: bool, item: Item) -> None:
        """A new context, mostly configured at once."""
        if len(self.contexts) == CONTEXTS:
            return
        self.opened += 1
        self.contexts.append(Model(self.mount, nonblocking, self.opened))
        if item.choice:
            configure = Item("configure", 0, 0, False, "right", item.choice)
            with self.at(-1) as model:
                model.send([self.record(model, configure)])
                model.drain()

    @precondition(lambda self: self.contexts)
    @rule(index=st.integers(0, 2), writes=st.lists(st.lists(ITEMS, min_size=1, max_size=5), min_size=1, max_size=6))
    def write(self, index: int, writes: list[list[Item]]) -> None:
        """Several writes of one record or several."""
        with self.at(index) as model:
            for items in writes:
                self.write_once(model, items)

    def write_once(self, model: Model, items: list[Item]) -> None:
        """These records in one write, or as many as it takes."""
        records: list[Record] = []
        begun = set(model.begun)
        for item in items:
            records.append(self.record(model, item))
            # what the record before has begun, this one goes on with
            if item.kind == "data":
                (model.begun.add if item.more else model.begun.discard)(records[-1].id)
            elif item.kind == "reset":
                # only what is sent after it can keep clear of the ids that it drops
                break
        model.begun = begun
        while sum(len(record.payload) for record in records) > PAYLOAD_MAX // 2:
            records.pop()
        model.send(records)

    @precondition(lambda self: self.contexts)
    @rule(
        index=st.integers(0, 2),
        work=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([8, 131_072])), min_size=1, max_size=8),
        more=st.booleans(),
        control=st.sampled_from(["cancel", "cancel", "reset", "set-key"]),
        following=ITEMS,
    )
    def interrupt(self, index: int, work: list[tuple[int, int]], more: bool, control: str, following: Item) -> None:
        """Long and short requests, each in a write of its own; a control call that meets them; one request more."""
        with self.at(index) as model:
            for identity, size in work:
                model.send([self.record(model, Item("data", identity, size, more, "right", 2))])
            model.send([self.record(model, Item(control, work[-1][0], 0, False, "right", 1))])
            model.send([self.record(model, following)])

    @precondition(lambda self: any(model.nonblocking and model.name for model in self.contexts))
    @rule(index=st.integers(0, 2), size=st.sampled_from([0, 16, 400_000]))
    def flood(self, index: int, size: int) -> None:
        """Fill the queue until it is refused."""
        with self.at(index) as model:
            if not model.nonblocking or not model.name or (size > 16 and model.name == "cbc(des3_ede)"):
                return
            for _ in range(60):
                item = Item("data", 8, size, False, "right", 2)
                records = [self.record(model, item)] * (2 if size > 16 else 500)
                before = model.outstanding
                model.send(records)
                if model.outstanding == before:
                    return
            raise AssertionError("the queue never fills")

    @precondition(lambda self: self.contexts)
    @rule(index=st.integers(0, 2), size=st.sampled_from([0, 24, 60, 300, 5000, 70_000, RECORD_MAX, RECORD_MAX]))
    def read(self, index: int, size: int) -> None:
        """One read."""
        with self.at(index) as model:
            # a read of nothing never reaches the daemon
            if size:
                model.read(size)

    @precondition(lambda self: self.contexts)
    @rule(index=st.integers(0, 2), wait=st.booleans())
    def poll(self, index: int, wait: bool) -> None:
        """Readable and writable as the model says."""
        with self.at(index) as model:
            if wait and model.outstanding:
                assert model.ready(BOUND, select.POLLIN) == select.POLLIN
            found = model.ready(0)
            rooms = {model.outstanding < QUEUE_REQUESTS and held + 2 * RECORD_MAX <= QUEUE_BYTES for held in model.held}
            assert bool(found & select.POLLOUT) in rooms
            assert not found & ~(select.POLLIN | select.POLLOUT)
            if model.controls or (wait and model.outstanding):
                assert found & select.POLLIN
            if not model.outstanding:
                assert not found & select.POLLIN

    @precondition(lambda self: self.contexts)
    @rule(index=st.integers(0, 2))
    def look(self, index: int) -> None:
        """The status file counts as the model does."""
        with self.at(index) as model:
            status = model.status()
            assert int(status["in-flight"]) + int(status["unread"]) == model.outstanding
            # what is gathered from parts is counted, too
            least, most = model.held
            assert least <= int(status["queue-bytes"]) <= most

    @precondition(lambda self: self.contexts)
    @rule(index=st.integers(0, 2), drained=st.booleans())
    def close(self, index: int, drained: bool) -> None:
        """Close a context, with work in flight or without."""
        with self.at(index) as model:
            if drained:
                self.finish(model)
            os.close(model.fd)
            self.contexts.remove(model)

    def finish(self, model: Model) -> None:
        """Everything is answered, and counted."""
        sent = model.outstanding + model.completed
        model.drain()
        model.read(RECORD_MAX)
        status = model.status()
        assert (status["in-flight"], status["unread"]) == ("0", "0")
        # nothing is pending, so that this is what messages keep
        assert int(status["queue-bytes"]) == model.held[1]
        assert int(status["completed"]) == model.completed == sent
        assert not model.pending
        assert not model.controls
        assert int(status["open-messages"]) == len(model.lanes)

    def teardown(self) -> None:
        """Drain and count what is still open."""
        try:
            if self.sound:
                for model in self.contexts:
                    self.finish(model)
        finally:
            for model in self.contexts:
                os.close(model.fd)


def test_contexts_against_a_model(mount: Path) -> None:
    """Random clients: what they are answered is what the protocol says, byte for byte and errno for errno."""

    class Here(Machine):
        pass

    Here.mount = mount
    run_state_machine_as_test(
        Here,
        settings=settings(
            deadline=None,
            max_examples=25,
            stateful_step_count=40,
            derandomize=False,
            database=None,
            # smaller is not worth minutes here: what is answered when is another run's own
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
