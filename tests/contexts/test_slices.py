"""Many short requests at once: others have their turn in between, and the order stays."""

import time
from collections.abc import Callable, Iterator

import pytest
from helpers.raw import build_many
from helpers.talking import submit, take

from cryptofs.contexts import Batch, Context, ContextTable, FastWay, Scheduler, scheduler
from cryptofs.engines.opening import open_engines
from cryptofs.errors import Gone, MalformedRecord, TooLarge
from cryptofs.nodes import Pending
from cryptofs.nodes.crypto import CryptoHandle
from cryptofs.records import Attr, Flag, Operation, Record, holds_many, parse_responses


class Sliced(Scheduler):
    """A scheduler whose slices are done when a test says so."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.slices: list[tuple[Callable[[], None], tuple[int, int]]] = []

    @property
    def running(self) -> bool:
        """Always."""
        return True

    def slice(self, work: Callable[[], None], turn: tuple[int, int]) -> None:
        """Keep it."""
        self.slices.append((work, turn))


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CryptoHandle, Sliced]]:
    """An open `crypto`, where two records are many and each takes a slice."""
    made = Sliced()
    table = ContextTable(open_engines(("openssl",)), made)
    context = table.open(7, 7, 1, False)
    submit(
        context, build_many([Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "hmac(sha256)"})])
    )
    take(context, 1 << 20)
    monkeypatch.setattr("cryptofs.nodes.crypto.MANY", 1)
    for module in ("context", "batch"):
        monkeypatch.setattr(f"cryptofs.contexts.{module}.SLICE", -1.0)
    yield CryptoHandle(table, context), made
    table.close_all()


def digests(first: int, count: int) -> list[Record]:
    """Small requests with consecutive ids; parts, so that the fast way leaves them."""
    return [Record(Operation.DIGEST, Flag.MORE, first + each, payload=b"x") for each in range(count)]


def key(byte: bytes, identity: int) -> Record:
    """A control call with a key that is easy to find."""
    return Record(Operation.SET_KEY, id=identity, attributes={Attr.KEY: byte * 40})


def ids(context: Context) -> list[int]:
    """Of the answers that are there."""
    data = take(context, 1 << 20)
    return [each.id for each in parse_responses(data)] if data is not None else []


def written(handle: CryptoHandle, *records: Record) -> tuple[int | Pending, memoryview]:
    """What a write gives at once, and the memory that it came in."""
    data = memoryview(bytearray(build_many(records)))
    return handle.write(0, data), data


def run_all(made: Sliced) -> None:
    """Every slice, and those that follow."""
    while made.slices:
        made.slices.pop(0)[0]()


def test_a_write_is_accepted_and_done_in_slices(sliced: tuple[CryptoHandle, Sliced]) -> None:
    """In its order, one record a slice; what comes meanwhile comes after it, a control call as well."""
    handle, made = sliced
    context = handle.context
    key_first = key(b"k", 0)
    taken, memory = written(handle, key_first, *digests(1, 4))
    assert not isinstance(taken, int)
    assert not any(memory), "keys stay in the buffer of the transport"
    while taken.take() is None:
        ((work, turn),) = made.slices
        assert turn == (7, context.number)
        made.slices.clear()
        assert ids(context) == []
        work()
    assert taken.take() == len(memory)
    assert context.busy
    submit(context, build_many([*digests(10, 2), Record(Operation.INFO, id=12)]))
    order = ids(context)
    while made.slices:
        work, _ = made.slices.pop(0)
        work()
        order += ids(context)
    assert order == [0, 1, 2, 3, 4, 10, 11, 12]
    assert context.exchange.in_flight == 0


def test_a_wrong_record_refuses_all(sliced: tuple[CryptoHandle, Sliced]) -> None:
    """Wherever it stands, nothing before it is done, and no key stays."""
    handle, made = sliced
    wrong = build_many([key(b"k", 1), *digests(2, 3)])[:-1]
    data = memoryview(bytearray(wrong))
    taken = handle.write(0, data)
    assert not isinstance(taken, int)
    run_all(made)
    with pytest.raises(MalformedRecord):
        taken.take()
    assert handle.context.exchange.outstanding == 0
    assert not any(data)
    assert isinstance(handle.context.last_error, MalformedRecord)


def test_a_quota_refuses_all(sliced: tuple[CryptoHandle, Sliced], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it refuses a small write."""
    handle, made = sliced
    monkeypatch.setattr("cryptofs.contexts.exchange.QUEUE_REQUESTS", 3)
    taken, _ = written(handle, *digests(1, 4))
    assert not isinstance(taken, int)
    run_all(made)
    with pytest.raises(TooLarge, match="the queue takes 3"):
        taken.take()
    assert handle.context.exchange.outstanding == 0


@pytest.mark.parametrize("blocked", [False, True], ids=["", "blocked"])
@pytest.mark.parametrize("slices", [1, 3, 6, 8])
def test_a_context_that_closes_between_slices(sliced: tuple[CryptoHandle, Sliced], slices: int, blocked: bool) -> None:
    """Nothing of what waited is done, or counted, any more, and no key of it is left."""
    handle, made = sliced
    taken, _ = written(handle, key(b"k", 9), *digests(0, 4), key(b"l", 10))
    assert isinstance(taken, Batch)
    for _ in range(slices - 1):
        made.slices.pop(0)[0]()
    if blocked and not taken.is_done:
        # by a control call that a worker does: an accepted write then waits for it
        handle.context.block()
    handle.close()
    run_all(made)
    assert not any(taken._data)
    assert handle.context.exchange.bytes == 0
    assert handle.context.transform is None
    if taken.is_done:
        assert taken.take()
    else:
        with pytest.raises(Gone):
            taken.take()


def test_an_interrupted_write_is_not_done(sliced: tuple[CryptoHandle, Sliced]) -> None:
    """A signal before it was accepted: nothing of it is done, now or later."""
    handle, made = sliced
    taken, _ = written(handle, *digests(0, 5))
    assert not isinstance(taken, int)
    taken.give_up()
    run_all(made)
    assert handle.context.exchange.outstanding == 0
    assert ids(handle.context) == []


def test_a_large_write_of_small_requests_is_not_one_go() -> None:
    """The fast way leaves it to the slices."""
    table = ContextTable(open_engines(("openssl",)))
    context = table.open(7, 7, 1, False)
    submit(context, build_many([Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"})]))
    take(context, 1 << 20)
    fast = FastWay(context)
    for count, taken in ((256, True), (257, False)):
        data = memoryview(build_many([Record(Operation.DIGEST, id=each, payload=b"x") for each in range(count)]))
        assert (fast.answer(data) > 0) is taken
        assert holds_many(data, 256) is not taken
    table.close_all()


def test_slices_of_users_take_turns() -> None:
    """A user whose hundred slices wait delays another's by one, and the event loop goes on in between."""
    import trio

    done: list[int] = []
    passes = 0

    async def main() -> None:
        nonlocal passes
        made = scheduler.Scheduler(threads=1)
        made.start()
        for _ in range(100):
            made.slice(lambda: done.append(1), (1, 1))
        made.slice(lambda: done.append(2), (2, 2))
        assert made.pending == 101
        deadline = time.monotonic() + 10
        while len(done) < 101 and time.monotonic() < deadline:
            await trio.lowlevel.checkpoint()
            passes += 1
        assert made.pending == 0
        made.stop()

    trio.run(main)
    assert done.index(2) <= 1
    assert passes > 50
