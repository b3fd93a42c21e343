"""The protocol state of one context: lanes, admission, answers; by hand, and against a model."""

import errno
import gc
import weakref
from collections import Counter, deque
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cryptofs.contexts import exchange as module
from cryptofs.contexts.exchange import Exchange
from cryptofs.contexts.lanes import Job, Lane, cost_of
from cryptofs.contexts.table import ContextTable
from cryptofs.errors import Cancelled, CryptofsError, InvalidValue, NoSuchTarget, OverQuota, TooLarge, WouldBlock
from cryptofs.policy import Thing
from cryptofs.policy.rules import Rule
from cryptofs.records import HEADER_SIZE, PAYLOAD_MAX, RECORD_MAX, Attr, Flag, Operation, Record

MORE = int(Flag.MORE)


class Running:
    """A message on a lane; it knows whether it was closed. gathers: whether it keeps what it is given."""

    state = 40

    def __init__(self, gathers: bool = False) -> None:
        self.closed = 0
        self.gathers = gathers
        self.kept = 0

    def close(self) -> None:
        """Counted."""
        self.closed += 1


def queue_of(rule: Rule) -> Any:
    """Where a user under this rule is counted."""
    return ContextTable(()).ledger.user(7, rule).queue


def held(queue: Any) -> int:
    """Bytes that are counted, without the state of open messages."""
    return int(queue.queue_bytes - queue.usage.held[Thing.STATE])


def request(identity: int, more: bool = False, payload: bytes = b"", length: int | None = None) -> Record:
    """A request of this id."""
    attributes: dict[int, Any] = {} if length is None else {Attr.LENGTH: length}
    return Record(Operation.DIGEST, MORE if more else 0, identity, 0, attributes, payload)


def perform(exchange: Exchange, job: Job, fails: CryptofsError | None = None, answer: bytes = b"") -> Job | None:
    """Run a lane's first job as its contract says; the answer is the errno's name, or `ok`. Odd ids gather."""
    lane, last = job.lane, not job.record.more
    error = Cancelled("cancelled") if job.cancelled else lane.failure or fails
    if error is None and not last:
        if lane.message is None:
            exchange.open_lane()
            exchange.hold(lane, Running(gathers=bool(job.record.id % 2)))
            lane.operation = job.record.operation
        if lane.message.gathers:
            lane.message.kept += len(job.record.payload)
        error = exchange.over_kept(lane)
    if error is not None:
        exchange.fail(lane, error, last)
    elif last:
        if lane.message is not None:
            lane.message.close()
        lane.message = lane.operation = None
    told = errno.errorcode[error.errno] if error else "ok"
    return exchange.finish(job, answer or f"{job.record.id} {told};".encode(), error is not None)


def enter(exchange: Exchange, *records: Record) -> list[Job]:
    """Admit and enqueue."""
    exchange.admit(records)
    return [exchange.enqueue(record) for record in records]


def run(exchange: Exchange, record: Record, fails: CryptofsError | None = None) -> bytes:
    """One request from admission to its answer, which is read."""
    (job,) = enter(exchange, record)
    assert perform(exchange, job, fails) is None
    answer = exchange.take(100)
    assert answer is not None
    return bytes(answer)


BAD = InvalidValue("bad")


# The state table


def test_none_and_a_whole_message() -> None:
    """(none), part without MORE: a message of its own, and no lane is left."""
    exchange = Exchange(queue_of(Rule()))
    assert run(exchange, request(7)) == b"7 ok;"
    assert exchange.lanes == {}
    assert run(exchange, request(7), BAD) == b"7 EINVAL;"
    assert exchange.lanes == {}


def test_none_and_a_part() -> None:
    """(none), part with MORE: opens a message."""
    exchange = Exchange(queue_of(Rule()))
    assert run(exchange, request(7, more=True)) == b"7 ok;"
    assert exchange.lanes[7].is_open
    assert exchange.lanes[7].message is not None


def test_open_and_a_part() -> None:
    """OPEN, part with MORE: the same message goes on."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(7, more=True))
    message = exchange.lanes[7].message
    assert run(exchange, request(7, more=True)) == b"7 ok;"
    assert exchange.lanes[7].message is message


def test_open_and_the_last_part() -> None:
    """OPEN, part without MORE: the message ends."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(7, more=True))
    message = exchange.lanes[7].message
    assert run(exchange, request(7)) == b"7 ok;"
    assert exchange.lanes == {}
    assert message.closed == 1


@pytest.mark.parametrize("opened", [False, True])
def test_failed(opened: bool) -> None:
    """FAILED: every part answers the same error; the one without MORE ends it, and the id is free again."""
    exchange = Exchange(queue_of(Rule()))
    if opened:
        run(exchange, request(7, more=True))
        message = exchange.lanes[7].message
    assert run(exchange, request(7, more=True), BAD) == b"7 EINVAL;"
    assert exchange.lanes[7].is_open
    assert exchange.lanes[7].message is None
    if opened:
        assert message.closed == 1
    for _ in range(3):
        assert run(exchange, request(7, more=True), TooLarge("another")) == b"7 EINVAL;"
    assert run(exchange, request(7)) == b"7 EINVAL;"
    assert exchange.lanes == {}
    assert run(exchange, request(7)) == b"7 ok;"


def test_the_last_part_fails() -> None:
    """OPEN, the part without MORE fails: the message has ended all the same."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(7, more=True))
    assert run(exchange, request(7), BAD) == b"7 EINVAL;"
    assert exchange.lanes == {}


def test_a_part_waits_for_the_one_before() -> None:
    """One lane runs in order: enqueueing gives jobs, but only the first is at its front."""
    exchange = Exchange(queue_of(Rule()))
    first, second, other = enter(exchange, request(7, more=True), request(7), request(8))
    assert first.lane is second.lane is not other.lane
    assert first.lane.jobs[0] is first
    assert perform(exchange, other) is None
    assert perform(exchange, first) is second
    assert perform(exchange, second) is None
    assert exchange.take(100) == b"8 ok;7 ok;7 ok;"
    assert exchange.lanes == {}


# What ends early


def test_cancel_an_open_message() -> None:
    """No part is in flight: the message is closed, and its later parts answer ECANCELED."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(7, more=True))
    message = exchange.lanes[7].message
    exchange.cancel(7)
    assert message.closed == 1
    assert run(exchange, request(7, more=True)) == b"7 ECANCELED;"
    assert run(exchange, request(7)) == b"7 ECANCELED;"
    with pytest.raises(NoSuchTarget):
        exchange.cancel(7)


def test_cancel_what_waits() -> None:
    """Every accepted part of the id answers ECANCELED, exactly once; other ids do not."""
    exchange = Exchange(queue_of(Rule()))
    jobs = enter(exchange, request(7, more=True), request(8), request(7, more=True), request(7), request(7))
    exchange.cancel(7)
    for job in (jobs[1], jobs[0], jobs[2], jobs[3], jobs[4]):
        perform(exchange, job)
    assert exchange.take(100) == b"8 ok;" + 4 * b"7 ECANCELED;"
    assert exchange.take(100) is None
    assert (exchange.in_flight, exchange.outstanding, exchange.bytes) == (0, 0, 0)
    assert exchange.lanes == {}


def test_cancel_a_failed_message() -> None:
    """It says no other error from then on."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(7, more=True), BAD)
    exchange.cancel(7)
    assert run(exchange, request(7, more=True)) == b"7 EINVAL;"
    assert run(exchange, request(7)) == b"7 EINVAL;"


def test_cancel_nothing() -> None:
    """An id that has nothing unfinished: ENOENT, also while its answer waits to be read."""
    exchange = Exchange(queue_of(Rule()))
    with pytest.raises(NoSuchTarget, match="7"):
        exchange.cancel(7)
    (job,) = enter(exchange, request(7))
    perform(exchange, job)
    with pytest.raises(NoSuchTarget):
        exchange.cancel(7)
    assert exchange.take(100) == b"7 ok;"


def test_reset() -> None:
    """Open and failed messages are forgotten; what is in flight is answered ECANCELED, before what comes later."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(1, more=True))
    run(exchange, request(2, more=True), BAD)
    message = exchange.lanes[1].message
    parts = enter(exchange, request(3, more=True), request(3, more=True))
    exchange.reset()
    assert message.closed == 1
    assert set(exchange.lanes) == {3}
    assert run(exchange, request(2)) == b"2 ok;"
    (again,) = enter(exchange, request(3, more=True))
    assert [perform(exchange, part) for part in parts] == [parts[1], again]
    assert exchange.take(100) == 2 * b"3 ECANCELED;"
    perform(exchange, again)
    assert exchange.take(100) == b"3 ok;"
    assert set(exchange.lanes) == {3}


def test_close() -> None:
    """Nothing is given out any more, and running messages are closed."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(1, more=True))
    message = exchange.lanes[1].message
    done, waiting = enter(exchange, request(2), request(3))
    perform(exchange, done)
    exchange.close()
    assert message.closed == 1
    assert waiting.cancelled
    assert exchange.take(100) is None


def test_a_failure_does_not_keep_the_data() -> None:
    """The error that a failed message remembers holds no frames, and with them no input, however often it is raised."""

    class Data(bytes):
        """Bytes that can be watched."""

    def part(data: Data, failure: CryptofsError | None) -> None:
        (job,) = enter(exchange, request(7, more=True))
        try:
            try:
                raise ValueError(len(data))
            except ValueError:
                raise failure or BAD from None
        except CryptofsError as error:
            exchange.fail(job.lane, error, last=False)
        exchange.finish(job, b"", failed=True)

    class Witness:
        """What a frame holds."""

    exchange = Exchange(queue_of(Rule()))
    seen = []
    for _ in range(3):
        data = Data(b"secret")
        data.witness = Witness()  # type: ignore[attr-defined]
        seen.append(weakref.ref(data.witness))  # type: ignore[attr-defined]
        part(data, exchange.lanes[7].failure if 7 in exchange.lanes else None)
        del data
    gc.collect()
    assert exchange.lanes[7].failure is not None
    assert [ref() for ref in seen] == [None] * 3


# Bounds


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """An exchange that takes four requests or 1,000 bytes, and two open messages."""
    monkeypatch.setattr(module, "QUEUE_REQUESTS", 4)
    monkeypatch.setattr(module, "QUEUE_BYTES", 1000)
    monkeypatch.setattr(module, "OPEN_MESSAGES", 2)
    return Exchange(queue_of(Rule()))


def state(exchange: Exchange) -> tuple[int, int, int]:
    """The accounts."""
    return exchange.in_flight, exchange.outstanding, exchange.bytes


def test_costs() -> None:
    """A request and its answer, and what generate asks for."""
    assert cost_of(request(1)) == 2 * HEADER_SIZE
    assert cost_of(request(1, payload=bytes(100))) == 2 * (HEADER_SIZE + 100)
    assert cost_of(request(1, length=5000)) == 2 * HEADER_SIZE + 5000


def test_one_read_carries_what_one_write_may() -> None:
    """However large the reader's buffer is: a parser of answers refuses more than RECORD_MAX."""
    exchange = Exchange(queue_of(Rule()))
    answer = bytes(4096)
    for job in enter(exchange, *map(request, range(1, 301))):
        perform(exchange, job, answer=answer)
    sizes = [len(exchange.take(2 * RECORD_MAX) or b"") for _ in range(2)]
    assert sizes == [RECORD_MAX // 4096 * 4096, 300 * 4096 - RECORD_MAX // 4096 * 4096]


def test_admission_by_count(small: Exchange) -> None:
    """All or none: what would never fit is EMSGSIZE, what does not fit now EAGAIN."""
    with pytest.raises(TooLarge, match=r"5 requests.* 4"):
        small.admit([request(index) for index in range(5)])
    assert state(small) == (0, 0, 0)
    jobs = enter(small, request(1), request(2), request(3))
    before = state(small)
    with pytest.raises(WouldBlock):
        small.admit([request(4), request(5)])
    assert state(small) == before
    assert small.writable
    jobs += enter(small, request(4))
    assert not small.writable
    for job in jobs:
        perform(small, job)
    assert not small.writable
    with pytest.raises(WouldBlock):
        small.admit([request(6)])
    assert small.take(5) == b"1 ok;"
    assert small.writable
    small.admit([request(6)])


def test_admission_by_bytes(small: Exchange) -> None:
    """The same for bytes; the bound is inclusive."""
    fits = (1000 - 4 * HEADER_SIZE) // 4
    with pytest.raises(TooLarge, match=r"1002 bytes.* 1000"):
        small.admit([request(1, payload=bytes(fits)), request(2, payload=bytes(fits + 1))])
    with pytest.raises(TooLarge):
        small.admit([request(1, length=1000 - 2 * HEADER_SIZE + 1)])
    assert state(small) == (0, 0, 0)
    jobs = enter(small, request(1, payload=bytes(fits)), request(2, payload=bytes(fits)))
    assert small.bytes == 1000
    assert not small.writable
    with pytest.raises(WouldBlock):
        small.admit([request(3)])
    for job in jobs:
        perform(small, job)
    assert small.take(100) == b"1 ok;2 ok;"
    assert state(small) == (0, 0, 0)
    enter(small, request(3, length=1000 - 2 * HEADER_SIZE))


def test_open_messages(small: Exchange) -> None:
    """One more open message is EDQUOT; going on with an open one is not."""
    run(small, request(1, more=True))
    run(small, request(2, more=True))
    with pytest.raises(OverQuota, match="2"):
        small.open_lane()
    run(small, request(1, more=True))
    run(small, request(1))
    small.open_lane()


# What messages keep


def test_what_a_message_keeps_is_counted_until_its_end() -> None:
    """Reading a part's answer gives back what the part does not keep; the last answer gives back the rest."""
    queue = queue_of(Rule(queue_bytes=1 << 20))
    exchange = Exchange(queue)
    for parts in (1, 2, 3):
        run(exchange, request(7, more=True, payload=bytes(100)))
        assert exchange.kept == exchange.bytes == held(queue) == 100 * parts
    (last,) = enter(exchange, request(7, payload=bytes(100)))
    before = exchange.bytes
    perform(exchange, last, answer=bytes(400))
    assert (exchange.kept, exchange.bytes) == (0, before)
    assert held(queue) == before == 300 + cost_of(last.record)
    assert exchange.take(400) == bytes(400)
    assert (*state(exchange), held(queue), queue.requests) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("end", ["fails", "cancel", "reset", "close"])
def test_what_a_message_keeps_is_given_back_at_once(end: str) -> None:
    """However else it ends; its later parts take nothing."""
    queue = queue_of(Rule(queue_bytes=1 << 20))
    exchange = Exchange(queue)
    run(exchange, request(7, more=True, payload=bytes(1000)))
    run(exchange, request(8, more=True, payload=bytes(1000)))
    assert exchange.bytes == held(queue) == 1000
    if end == "fails":
        run(exchange, request(7, more=True), BAD)
        run(exchange, request(7, more=True, payload=bytes(1000)))
    elif end == "cancel":
        exchange.cancel(7)
    elif end == "reset":
        exchange.reset()
    else:
        exchange.close()
    assert (exchange.kept, exchange.bytes, held(queue)) == (0, 0, 0)


def test_a_reset_behind_a_part() -> None:
    """What a part in flight will not keep any more is given back when it is answered."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(7, more=True, payload=bytes(100)))
    (part,) = enter(exchange, request(7, more=True, payload=bytes(50)))
    exchange.reset()
    assert exchange.kept == 100
    perform(exchange, part)
    assert (exchange.kept, exchange.bytes) == (0, cost_of(part.record))


def test_kept_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that would go over the bound ends its message with EDQUOT; others end as they should."""
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    exchange = Exchange(queue_of(Rule()))
    assert run(exchange, request(1, more=True, payload=bytes(600))) == b"1 ok;"
    assert run(exchange, request(3, more=True, payload=bytes(400))) == b"3 ok;"
    assert run(exchange, request(3, more=True, payload=b"x")) == b"3 EDQUOT;"
    assert exchange.kept == 600
    assert run(exchange, request(3)) == b"3 EDQUOT;"
    assert run(exchange, request(1, payload=bytes(2000))) == b"1 ok;"
    assert (exchange.kept, exchange.bytes, exchange.lanes) == (0, 0, {})


def test_kept_bytes_leave_room_for_every_request() -> None:
    """As many as there may be: who polls for room finds it, and the largest request passes, once answers are read."""
    exchange = Exchange(queue_of(Rule()))
    for identity in range(1, 18, 2):
        run(exchange, request(identity, more=True, payload=bytes(PAYLOAD_MAX)))
    assert module.KEPT_BYTES - PAYLOAD_MAX < exchange.kept <= module.KEPT_BYTES
    assert exchange.writable
    run(exchange, request(1, payload=bytes(PAYLOAD_MAX)))


def test_a_queue_that_reading_does_not_empty() -> None:
    """What only the end of messages would make room for is EDQUOT: nobody waits for it in vain."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(1, more=True, payload=bytes(100_000)))
    large = request(2, length=module.QUEUE_BYTES - 2 * HEADER_SIZE)
    with pytest.raises(OverQuota, match=r"messages in parts keep 100000"):
        exchange.admit([large])
    (waiting,) = enter(exchange, request(4))
    with pytest.raises(WouldBlock):
        exchange.admit([large])
    perform(exchange, waiting)
    assert exchange.take(100)
    with pytest.raises(OverQuota):
        exchange.admit([large])
    exchange.cancel(1)
    exchange.admit([large])


def test_adopt() -> None:
    """A cloned message is counted where it goes on, and closed where it would be too much."""
    queue = queue_of(Rule(queue_bytes=150))
    exchange = Exchange(queue)
    for identity, fits in ((1, True), (2, False)):
        message = Running()
        message.kept = 100
        if fits:
            exchange.adopt(identity, Operation.DIGEST, message)
        else:
            with pytest.raises(OverQuota):
                exchange.adopt(identity, Operation.DIGEST, message)
        assert message.closed == (not fits)
        assert (set(exchange.lanes), exchange.kept, held(queue)) == ({1}, 100, 100)
    exchange.reset()
    assert (exchange.bytes, held(queue)) == (0, 0)


# Answers


def ready(*answers: bytes) -> Exchange:
    """An exchange with these answers ready."""
    exchange = Exchange(queue_of(Rule()))
    for index, answer in enumerate(answers):
        (job,) = enter(exchange, request(index))
        perform(exchange, job, answer=answer)
    return exchange


def test_take_gives_as_many_as_fit() -> None:
    """Whole answers only, in their order; what does not fit stays."""
    exchange = ready(b"aaa", b"bb", b"cccc", b"d")
    assert exchange.take(5) == b"aaabb"
    assert exchange.take(4) == b"cccc"
    assert exchange.take(100) == b"d"
    assert exchange.take(100) is None
    assert state(exchange) == (0, 0, 0)


def test_take_does_not_look_past_the_first_that_does_not_fit() -> None:
    """A small answer does not overtake a large one."""
    exchange = ready(b"a", b"bbbb", b"c")
    assert exchange.take(3) == b"a"
    with pytest.raises(TooLarge, match=r"3 bytes.* 4"):
        exchange.take(3)
    assert exchange.outstanding == 2
    assert exchange.take(4) == b"bbbb"


def test_take_with_a_buffer_too_small() -> None:
    """EMSGSIZE as often as tried, nothing is lost."""
    exchange = ready(b"answer")
    for size in (0, 1, 5):
        with pytest.raises(TooLarge):
            exchange.take(size)
        assert exchange.readable
    assert exchange.take(6) == b"answer"
    assert not exchange.readable


def test_take_gives_one_answer_as_it_is() -> None:
    """One answer is not copied."""
    answer = b"a" * 1000
    assert ready(answer).take(1000) is answer
    assert ready(answer, answer).take(1999) is answer


def test_counters() -> None:
    """Completed and failed."""
    exchange = Exchange(queue_of(Rule()))
    run(exchange, request(1))
    run(exchange, request(1), BAD)
    assert (exchange.tally.requests, exchange.tally.failed) == (2, 1)


# Against a model


class Track:
    """What the model knows of one lane: its id, what waits on it, its state (none, open, or an errno's name), and the
    bytes that its message keeps.
    """

    def __init__(self, identity: int, lane: Lane) -> None:
        self.identity = identity
        self.lane = lane
        self.jobs: deque[tuple[int, Job]] = deque()
        self.state = "none"
        self.kept = 0


class ExchangeMachine(RuleBasedStateMachine):
    """Requests of a few ids, run in any lane order, cancelled, reset and read; the model is what the table says."""

    IDS = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            mock.patch.object(module, "QUEUE_REQUESTS", 12),
            mock.patch.object(module, "QUEUE_BYTES", 2000),
            mock.patch.object(module, "KEPT_BYTES", 1000),
            mock.patch.object(Running, "state", 0),
        ]
        for patch in self.patches:
            patch.start()
        self.queue = queue_of(Rule(queue_bytes=1900))
        self.exchange = Exchange(self.queue)
        self.count = 0
        self.current: dict[int, Track] = {}
        self.waiting: list[Track] = []
        self.cancelled: set[int] = set()
        self.last_before_reset: set[int] = set()
        self.expected: deque[tuple[bytes, int]] = deque()
        self.admitted: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.messages: list[Running] = []

    @property
    def pending(self) -> int:
        """Requests that wait to run."""
        return sum(len(track.jobs) for track in self.waiting)

    @property
    def tracks(self) -> list[Track]:
        """The lanes that there are."""
        return list({id(track): track for track in (*self.current.values(), *self.waiting)}.values())

    @property
    def kept(self) -> int:
        """Bytes that messages keep."""
        return sum(track.kept for track in self.tracks)

    @property
    def owed(self) -> int:
        """Bytes of all that is not read, and of what messages keep."""
        jobs = [job for track in self.waiting for _, job in track.jobs]
        return sum(cost_of(job.record) for job in jobs) + sum(cost for _, cost in self.expected) + self.kept

    @rule(parts=st.lists(st.tuples(IDS, st.booleans(), st.integers(0, 300)), min_size=1, max_size=5))
    def write(self, parts: list[tuple[int, bool, int]]) -> None:
        """Admit several requests, all or none."""
        records = [request(identity, more, bytes(size)) for identity, more, size in parts]
        cost = sum(map(cost_of, records))
        before = state(self.exchange)
        fits = self.pending + len(self.expected) + len(records) <= 12 and self.owed + cost <= 2000
        if not fits or self.owed + cost > 1900:
            error = OverQuota if fits or not self.pending + len(self.expected) else WouldBlock
            with pytest.raises(TooLarge if cost > 2000 else error):
                self.exchange.admit(records)
            assert state(self.exchange) == before
            return
        self.exchange.admit(records)
        for record in records:
            self.count += 1
            job = self.exchange.enqueue(record)
            track = self.current.setdefault(record.id, Track(record.id, job.lane))
            assert job.lane is track.lane
            track.jobs.append((self.count, job))
            if track not in self.waiting:
                self.waiting.append(track)
            self.admitted[record.id] += 1

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), fails=st.booleans())
    def run_one(self, data: st.DataObject, fails: bool) -> None:
        """Run the first job of any lane."""
        self.run_first(data.draw(st.sampled_from(self.waiting)), fails)

    def run_first(self, track: Track, fails: bool) -> None:
        """Run it, and work out what its answer must be."""
        serial, job = track.jobs.popleft()
        lane, before = track.lane, track.state
        assert lane.jobs[0] is job
        assert job.cancelled == (serial in self.cancelled)
        told = "ECANCELED" if job.cancelled else before if before.startswith("E") else "EINVAL" if fails else "ok"
        size = len(job.record.payload) if job.record.more and track.identity % 2 else 0
        if told == "ok" and job.record.more and self.kept + size > 1000:
            told = "EDQUOT"
        cost = cost_of(job.record)
        if told == "ok":
            cost += -size if job.record.more else track.kept
            track.kept = track.kept + size if job.record.more else 0
        else:
            track.kept = 0
        answer = f"{track.identity} {serial} {told};".encode()
        following = perform(self.exchange, job, BAD if fails else None, answer)
        if lane.failure is not None:
            assert lane.failure.symbol == told
        if lane.message is not None and lane.message not in self.messages:
            self.messages.append(lane.message)
        track.state = "none" if not job.record.more else "open" if told == "ok" else told
        if serial in self.last_before_reset:
            track.state, track.kept = "none", 0
        self.expected.append((answer, cost))
        assert following is (track.jobs[0][1] if track.jobs else None)
        if not track.jobs:
            self.waiting.remove(track)
            if track.state == "none" and self.current.get(track.identity) is track:
                del self.current[track.identity]

    @rule(identity=IDS)
    def cancel(self, identity: int) -> None:
        """Cancel what is unfinished under an id; why a message has failed does not change by it."""
        track = self.current.get(identity)
        if track is None:
            with pytest.raises(NoSuchTarget):
                self.exchange.cancel(identity)
            return
        self.exchange.cancel(identity)
        self.cancelled |= {serial for serial, _ in track.jobs}
        if not track.jobs and track.state == "open":
            track.state, track.kept = "ECANCELED", 0

    @rule()
    def reset(self) -> None:
        """Drop every unfinished message; what was accepted is still answered, and its id is free after that."""
        self.exchange.reset()
        for track in self.current.values():
            self.cancelled |= {serial for serial, _ in track.jobs}
        self.last_before_reset |= {track.jobs[-1][0] for track in self.current.values() if track.jobs}
        self.current = {identity: track for identity, track in self.current.items() if track.jobs}

    @rule(size=st.integers(0, 60))
    def read(self, size: int) -> None:
        """Take as many answers as fit."""
        if not self.expected:
            assert self.exchange.take(size) is None
            return
        if len(self.expected[0][0]) > size:
            with pytest.raises(TooLarge):
                self.exchange.take(size)
            return
        wanted = b""
        while self.expected and len(wanted) + len(self.expected[0][0]) <= size:
            answer, _ = self.expected.popleft()
            self.answered[int(answer.split()[0])] += 1
            wanted += answer
        assert self.exchange.take(size) == wanted

    @invariant()
    def accounts(self) -> None:
        """What is counted is what the model counts; a lane is kept for what waits or is open, and for nothing else."""
        assert state(self.exchange) == (self.pending, self.pending + len(self.expected), self.owed)
        assert self.exchange.kept == self.kept == sum(track.lane.kept for track in self.tracks)
        assert (self.queue.requests, held(self.queue)) == (self.exchange.outstanding, self.exchange.bytes)
        assert self.exchange.readable == bool(self.expected)
        assert self.exchange.writable == (self.exchange.outstanding < 12 and self.owed <= 1500)
        assert {identity: track.lane for identity, track in self.current.items()} == self.exchange.lanes
        for track in self.current.values():
            assert track.lane.is_open == (track.state != "none")
            assert (track.lane.message is not None) == (track.state == "open")
        running = [track.lane.message for track in (*self.current.values(), *self.waiting)]
        assert all(message.closed == (message not in running) for message in self.messages)

    def teardown(self) -> None:
        """Run and read everything: each request was answered once, and nothing is left."""
        try:
            while self.waiting:
                self.run_first(self.waiting[-1], False)
                self.accounts()
            while self.expected:
                self.read(60)
            assert state(self.exchange) == (0, 0, self.kept)
            assert self.admitted == self.answered
            assert all(track.state != "none" for track in self.current.values())
            for identity in list(self.current):
                self.write([(identity, False, 0)])
                self.run_first(self.current[identity], False)
            assert self.exchange.lanes == {}
            assert all(message.closed == 1 for message in self.messages)
            self.exchange.close()
            assert (self.queue.requests, held(self.queue)) == (0, 0)
        finally:
            for patch in self.patches:
                patch.stop()


ExchangeMachine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
TestExchangeMachine = ExchangeMachine.TestCase


def test_lane_is_open() -> None:
    """A lane with a message or a failure is open."""
    assert not Lane(0).is_open
    assert Lane(0, message=Running()).is_open
    assert Lane(0, failure=BAD).is_open
