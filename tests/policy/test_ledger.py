"""The ledger: whatever is charged is released, bounds hold for each user and for all, and some are kept for root."""

import errno
from typing import Any

import pytest
from helpers.context_bench import CLONE, COMPRESS, CONFIGURE, DIGEST, MORE, RESET, SET_KEY, Bench
from helpers.fake_engine import ToyBox
from helpers.talking import perform, submit, take
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cryptofs.contexts import ContextTable
from cryptofs.contexts import exchange as exchange_module
from cryptofs.engines.opening import open_engines
from cryptofs.errors import OverQuota
from cryptofs.policy import Bound, Ledger, Policy, Rule, Thing
from cryptofs.records import Attr, Record, build, parse_responses

BOUNDS = {
    Thing.CONTEXTS: Bound(8, 2, 5),
    Thing.HANDLES: Bound(12, 3, 9),
    Thing.STATE: Bound(20_000, 5000, 9000),
    Thing.KERNEL_KEYS: Bound(4, 1, 2),
}
RULES = (
    Rule(contexts=4, handles=5),
    Rule(contexts=5, handles=9, queue_bytes=9000),
    Rule(contexts=3, requests=2, rate=3),
)
UIDS = (0, 7, 8, 9)


class LedgerMachine(RuleBasedStateMachine):
    """Users under changing rules charge and release everything that there is; the model is a list of what is held."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(BOUNDS)
        self.rules = dict.fromkeys(UIDS, RULES[0])
        self.things: list[tuple[Any, Thing, int]] = []
        self.queued: list[tuple[Any, int, int]] = []
        self.states: list[tuple[Any, int]] = []

    def held(self, thing: Thing, uid: int | None = None) -> int:
        """What the model says."""
        held = sum(amount for usage, each, amount in self.things if each is thing and uid in (None, usage.uid))
        if thing is Thing.STATE:
            held += sum(size for queue, size in self.states if uid in (None, queue.usage.uid))
        return held

    def most(self, thing: Thing, uid: int) -> int:
        """What one more may bring a user to."""
        bound, own = BOUNDS[thing], self.rules[uid]
        per_user = {Thing.CONTEXTS: own.contexts, Thing.HANDLES: own.handles}
        free = bound.most - (bound.reserved if uid else 0) - self.held(thing) + self.held(thing, uid)
        return min(free, per_user.get(thing, bound.per_user if uid else bound.most))

    @rule(uid=st.sampled_from(UIDS), which=st.sampled_from(RULES))
    def change_rule(self, uid: int, which: Rule) -> None:
        """The next open is under this one."""
        self.rules[uid] = which

    @rule(uid=st.sampled_from(UIDS), thing=st.sampled_from(Thing), amount=st.sampled_from((1, 1, 2, 3000)))
    def charge(self, uid: int, thing: Thing, amount: int) -> None:
        """It is counted, or refused and not counted."""
        amount = amount if thing is Thing.STATE else min(amount, 2)
        fits = self.held(thing, uid) + amount <= self.most(thing, uid)
        usage = self.ledger.user(uid, self.rules[uid])
        if not fits:
            with pytest.raises(OverQuota, match="at most"):
                usage.charge(thing, amount)
            return
        usage.charge(thing, amount)
        self.things.append((usage, thing, amount))

    def anchor(self, uid: int) -> Any:
        """A user's queue, as a context has it: while something else of the user is held."""
        return next((usage.queue for usage, _, _ in self.things if usage.uid == uid), None)

    @rule(uid=st.sampled_from(UIDS), requests=st.integers(0, 2), size=st.integers(0, 5000))
    def queue(self, uid: int, requests: int, size: int) -> None:
        """Requests that are accepted."""
        queue = self.anchor(uid)
        if queue is not None and queue.has_room(requests, size):
            queue.check(requests, size)
            queue.charge(requests, size)
            self.queued.append((queue, requests, size))

    @rule(uid=st.sampled_from(UIDS), size=st.integers(1, 6000))
    def open_message(self, uid: int, size: int) -> None:
        """Its state is counted twice, by the queue and as a thing; or not at all."""
        queue = self.anchor(uid)
        if queue is not None:
            try:
                queue.charge_state(size)
            except OverQuota:
                return
            self.states.append((queue, size))

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def close_message(self, data: Any) -> None:
        """In any order."""
        queue, size = self.states.pop(data.draw(st.integers(0, len(self.states) - 1)))
        queue.release_state(size)

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def read(self, data: Any) -> None:
        """In any order."""
        queue, requests, size = self.queued.pop(data.draw(st.integers(0, len(self.queued) - 1)))
        queue.release(requests, size)

    @precondition(lambda self: self.things)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        """Of a user with nothing else, all that was queued goes first, as a context that closes does it."""
        usage, thing, amount = self.things.pop(data.draw(st.integers(0, len(self.things) - 1)))
        if self.anchor(usage.uid) is None:
            self.let_go(usage)
        usage.release(thing, amount)

    def let_go(self, usage: Any) -> None:
        """Read and close all of one user."""
        for queue, requests, size in [each for each in self.queued if each[0].usage is usage]:
            queue.release(requests, size)
        for queue, size in [each for each in self.states if each[0].usage is usage]:
            queue.release_state(size)
        self.queued = [each for each in self.queued if each[0].usage is not usage]
        self.states = [each for each in self.states if each[0].usage is not usage]

    @invariant()
    def counts(self) -> None:
        """Each number is the model's; nothing is negative; a user with nothing is forgotten."""
        for thing in Thing:
            assert self.ledger.held[thing] == self.held(thing)
        for usage in {usage for usage, _, _ in self.things}:
            assert self.ledger._users[usage.uid] is usage
            assert usage.held == {thing: self.held(thing, usage.uid) for thing in Thing}
            metered = usage._metered
            if metered is not None:
                own = [(requests, size) for queue, requests, size in self.queued if queue is metered]
                states = sum(size for queue, size in self.states if queue is metered)
                assert (metered.requests, metered.queue_bytes) == (
                    sum(requests for requests, _ in own),
                    sum(size for _, size in own) + states,
                )
        holding = {usage.uid for usage, _, _ in self.things}
        assert all(uid in holding or usage.rule.rate for uid, usage in self.ledger._users.items())

    def teardown(self) -> None:
        """When all is closed, nothing is counted."""
        while self.things:
            usage, thing, amount = self.things.pop()
            if self.anchor(usage.uid) is None:
                self.let_go(usage)
            usage.release(thing, amount)
        self.counts()
        assert not any(self.ledger.held.values())


LedgerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase


# What contexts count


def compressing(table: ContextTable, name: str, level: int, uid: int = 7) -> Any:
    """A context for messages of one compression."""
    context = table.open(uid, uid, 1, False)
    perform(context, Record(CONFIGURE, attributes={Attr.TYPE: "compression", Attr.NAME: name, Attr.LEVEL: level}))
    return context


def begin(context: Any, identity: int) -> int:
    """A message's first part; returns the answer's status."""
    submit(context, build(Record(COMPRESS, 1, identity, payload=b"x")))
    return int(parse_responses(take(context, 1 << 20))[0].status)


@pytest.mark.parametrize(
    ("name", "level", "least", "most"), [("zstd", 19, 3, 8), ("zstd", 3, 20, 64), ("deflate", 9, 64, 200)]
)
def test_windows_of_compressions_are_bounded(name: str, level: int, least: int, most: int) -> None:
    """A context has some messages open at once, by what their windows and tables take; ending one makes room."""
    table = ContextTable(open_engines(("library",)))
    context = compressing(table, name, level)
    opened = 0
    while not (status := begin(context, opened)):
        opened += 1
    assert status == errno.EDQUOT
    assert least <= opened <= most
    assert context.exchange.state <= exchange_module.STATE_BYTES
    context.exchange.cancel(0)
    assert begin(context, 1000) == 0
    table.close(context)
    assert not any(table.ledger.held.values())


def test_a_users_windows_are_bounded_over_contexts() -> None:
    """By default, and by queue-bytes; other users go on."""
    table = ContextTable(open_engines(("library",)), policy=Policy(Rule(), {9: Rule(queue_bytes=8_000_000)}))
    opened = 0
    for _ in range(6):
        context = compressing(table, "zstd", 19)
        while not begin(context, opened):
            opened += 1
    assert 20 <= opened <= 26
    assert begin(compressing(table, "zstd", 19, 8), 1) == 0
    narrow = compressing(table, "zstd", 19, 9)
    assert [begin(narrow, identity) for identity in (1, 2)] == [0, errno.EDQUOT]
    table.close_all()
    assert not any(table.ledger.held.values())


def test_a_stream_counts_its_window() -> None:
    """From its first write until its message ends."""
    table = ContextTable(open_engines(("library",)))
    context = compressing(table, "zstd", 19)
    stream = context.stream
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"data")
    assert 4_000_000 < table.ledger.held[Thing.STATE] < 8_000_000
    while stream.drain_nowait(user, 4096):
        pass
    assert table.ledger.held[Thing.STATE] == 0
    stream.detach(user)
    table.close(context)


@pytest.mark.parametrize("closes", [False, True], ids=["reset", "close"])
@pytest.mark.parametrize("by_stream", [False, True], ids=["records", "stream"])
def test_a_state_counts_until_the_worker_is_done(by_stream: bool, closes: bool) -> None:
    """A reset, or a close, while a worker has the message: it still exists, so it still counts."""
    bench = Bench("fake")
    client = bench.client("hash")
    client.slow()
    held = bench.table.ledger.held
    if by_stream:
        stream = client.context.stream
        stream.feed_nowait(stream.attach(True, True), b"a")
    else:
        client.send(Record(DIGEST, MORE, 1, 0, {}, b"a"))
    before = held[Thing.STATE]
    assert (len(bench.workers.given), bench.fake.open_runs, before > 0) == (1, 1, True)
    if closes:
        bench.table.close(client.context)
    else:
        client.send(Record(RESET))
    assert (bench.fake.open_runs, held[Thing.STATE]) == (1, before)
    bench.workers.finish()
    assert (bench.fake.open_runs, held[Thing.STATE]) == (0, 0)
    bench.table.close_all()
    assert not any(held.values())


def test_keys_of_the_kernel_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has a share of them. A failed key, a replaced one and a closed context hold nothing."""
    monkeypatch.setattr(ToyBox, "kernel_keys", 1)
    bench = Bench("fake")
    bench.table.ledger.bounds = {**bench.table.ledger.bounds, Thing.KERNEL_KEYS: Bound(4, 1, 2)}
    held = bench.table.ledger.held
    first = bench.client("aead")
    assert first.ask(SET_KEY, key=bytes(16)).status == 0
    assert held[Thing.KERNEL_KEYS] == 1
    second = bench.client("aead", key=bytes(5))
    assert held[Thing.KERNEL_KEYS] == 1
    assert second.configure("aead", key=bytes(16)).status == 0
    third = bench.client("aead")
    assert "uid 1000 has 2 keys in the kernel's keyring: at most 2" in str(third.configure("aead", key=bytes(16)))
    assert third.configure("hash").status == 0
    assert bench.client(uid=8).configure("aead", key=bytes(16)).status == 0
    assert bench.client(uid=9).configure("aead", key=bytes(16)).status == errno.EDQUOT
    superuser = bench.client(uid=0)
    assert superuser.configure("aead", key=bytes(16)).status == 0
    bench.table.close(superuser.context)
    bench.table.close(first.context)
    assert bench.client().configure("aead", key=bytes(16)).status == 0
    bench.table.close_all()
    assert not any(held.values())


def test_a_listing_costs_what_it_shows() -> None:
    """Contexts are found by user and from a number on, whatever was closed meanwhile; root sees all."""
    table = ContextTable(())
    contexts = [table.open(uid, uid, 1, False) for uid in (7, 8, 7, 0, 8, 7)]
    assert [each.number for each in table.seen_by(7, 0)] == [1, 3, 6]
    assert [each.number for each in table.seen_by(7, 1)] == [3, 6]
    table.close(contexts[2])
    assert [each.number for each in table.seen_by(7, 1)] == [6]
    assert [each.number for each in table.seen_by(7, 3)] == [6]
    assert [each.number for each in table.seen_by(0, 2)] == [4, 5, 6]
    assert list(table.seen_by(9, 0)) == []
    table.close_all()
    assert not table._numbers


def test_a_clone_is_counted_by_the_other_context() -> None:
    """The state of a cloned message belongs to where it goes on."""
    bench = Bench("fake")
    client = bench.client("hash")
    client.ok(DIGEST, b"a", id=1, more=True)
    before = bench.table.ledger.held[Thing.STATE]
    assert client.ask(CLONE, id=2, target=1).status == 0
    assert bench.table.ledger.held[Thing.STATE] == 2 * before > 0
    bench.table.close_all()
    assert not any(bench.table.ledger.held.values())
