"""What workers compute for contexts: in any order, cancelled, cut short by the end, and never mixed up."""

import contextlib
import errno
import gc
import hashlib

import pytest
from helpers import context_bench
from helpers.context_bench import CANCEL, CLONE, DECRYPT, DIGEST, ENCRYPT, KEY, MORE, RESET, SET_KEY, Bench, streamed
from helpers.fake_engine import CANARY
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.errors import CryptofsError
from cryptofs.records import Attr, Record

bench = context_bench.bench


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


def test_failures_leave_nothing_to_the_garbage_collector(bench: Bench) -> None:
    """A failed request, part, key or stream lets go of its data at once: an error and its frames hold each other."""
    clients = {kind: bench.client(kind) for kind in ("hash", "blocks", "aead")}
    slow = bench.client("hash")
    slow.slow()
    gc.collect()
    gc.disable()
    try:
        for identity in range(20):
            clients["blocks"].fails(ENCRYPT, bytes(4097), iv=bytes(16))
            clients["aead"].fails(DECRYPT, bytes(4096), iv=clients["aead"].iv)
            clients["hash"].fails(DIGEST, bytes(4096), iv=bytes(5))
            slow.fails(ENCRYPT, bytes(4096), id=identity)
            clients["blocks"].fails(SET_KEY, key=bytes(5))
            clients["blocks"].fails(ENCRYPT, bytes(7), more=True, id=100 + identity)
            clients["blocks"].fails(ENCRYPT, bytes(7), id=100 + identity)
            with contextlib.suppress(CryptofsError):
                streamed(clients["aead"], bytes(4096))
            clients["aead"].ok(RESET)
        assert gc.collect() < 60, gc.get_stats()
    finally:
        gc.enable()
