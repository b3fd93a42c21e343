"""Many short requests at once: others have their turn in between, and the order stays."""

import time
from collections.abc import Callable, Iterator

import pytest
from helpers.talking import submit, take

from cryptofs.contexts import Context, ContextTable, FastWay, Scheduler, scheduler
from cryptofs.engines import open_engines
from cryptofs.records import Attr, Operation, Record, build_many, parse_responses


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
def sliced(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Context, Sliced]]:
    """A context whose every request takes a slice."""
    made = Sliced()
    table = ContextTable(open_engines(("openssl",)), made)
    context = table.open(7, 7, 1, False)
    submit(context, build_many([Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"})]))
    while made.slices:
        made.slices.pop()[0]()
    take(context, 1 << 20)
    for module in ("context", "requests"):
        monkeypatch.setattr(f"cryptofs.contexts.{module}.SLICE", -1.0)
    yield context, made
    table.close_all()


def digests(first: int, count: int) -> list[Record]:
    """Small requests with consecutive ids."""
    return [Record(Operation.DIGEST, id=first + each, payload=b"x") for each in range(count)]


def ids(context: Context) -> list[int]:
    """Of the answers that are there."""
    data = take(context, 1 << 20)
    return [each.id for each in parse_responses(data)] if data is not None else []


def test_one_slice_at_a_time(sliced: tuple[Context, Sliced]) -> None:
    """What is over waits for the next slice; what comes meanwhile comes after it, a control call as well."""
    context, made = sliced
    submit(context, build_many(digests(0, 5)))
    assert ids(context) == [0]
    assert context.busy
    later = build_many([*digests(10, 2), Record(Operation.INFO, id=12), *digests(13, 1)])
    assert FastWay(context).answer(memoryview(later)) == 0
    submit(context, later)
    order = []
    while made.slices:
        ((work, turn),) = made.slices
        assert turn == (7, context.number)
        made.slices.clear()
        work()
        order += ids(context)
    assert order == [1, 2, 3, 4, 10, 11, 12, 13]
    assert (context.exchange.in_flight, context.exchange.outstanding, context.exchange.bytes) == (0, 0, 0)
    assert not context.busy


def test_a_context_that_closes_between_slices(sliced: tuple[Context, Sliced]) -> None:
    """Nothing of what waited is done, or counted, any more."""
    context, made = sliced
    submit(context, build_many(digests(0, 5)))
    context.close()
    ((work, _),) = made.slices
    work()
    assert context.exchange.bytes == 0
    assert context.transform is None


def test_a_large_write_of_small_requests_is_not_one_go() -> None:
    """The fast way leaves it to the slices."""
    table = ContextTable(open_engines(("openssl",)))
    context = table.open(7, 7, 1, False)
    submit(context, build_many([Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"})]))
    take(context, 1 << 20)
    fast = FastWay(context)
    assert fast.answer(memoryview(build_many(digests(0, 256)))) > 0
    assert fast.answer(memoryview(build_many(digests(0, 257)))) == 0
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
