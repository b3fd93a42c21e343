"""Quotas of contexts, what their status shows, and their end."""

import errno
from collections.abc import Callable
from functools import partial

import pytest
from helpers import context_bench
from helpers.context_bench import CONFIGURE, DIGEST, ENCRYPT, FAMILIES, INFO, RESET, SET_KEY, Bench
from helpers.talking import perform, submit, take

from cryptofs.contexts import context as context_module
from cryptofs.contexts import exchange
from cryptofs.errors import Busy, CryptofsError, OverQuota, TooLarge, WouldBlock
from cryptofs.policy import Bound, Policy, Rule, Thing
from cryptofs.records import RECORD_MAX, Record, build, parse_responses

bench = context_bench.bench


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


def test_contexts_of_all(bench: Bench) -> None:
    """The daemon's own bound. The last ones are for root and the daemon's own user."""
    bench.table.ledger.bounds = {**bench.table.ledger.bounds, Thing.CONTEXTS: Bound(4, 1, 16)}
    for uid in range(1, 4):
        bench.client(uid=uid)
    with pytest.raises(OverQuota, match="have 3 contexts: at most 4, 1 of them for root and the daemon's own user"):
        bench.client(uid=7)
    bench.client(uid=0)
    with pytest.raises(OverQuota, match=r"have 4 contexts: at most 4$"):
        bench.client(uid=0)
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
    submit(context, 3 * record)
    with pytest.raises(WouldBlock):
        submit(context, 2 * record)
    with pytest.raises(TooLarge):
        submit(context, 5 * record)
    submit(context, record)
    assert not context.exchange.writable
    data = take(context, RECORD_MAX)
    assert data is not None
    assert len(parse_responses(data)) == 4
    submit(context, 4 * record)


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
    submit(client.context, build(Record(DIGEST, 0, 3)))
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


def test_many_watchers_are_called_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may have thousands of readers on one stream: others have their turn before all of them are woken."""
    monkeypatch.setattr(context_module, "SLICE", -1.0)
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(bench.workers, "slice", lambda work, turn: later.append(work))
    client = bench.client("hash")
    told: list[int] = []
    for number in range(5):
        client.context.watch(partial(told.append, number))
    client.context.changed()
    assert told == [0]
    # what is watched from now on has its own change
    client.context.watch(partial(told.append, 5))
    while later:
        later.pop()()
    assert told == [0, 1, 2, 3, 4]
    client.context.changed()
    assert told[-1] == 5


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
    total = bench.table.tally()
    assert (total.requests, total.failed, bench.table.opened) == (2, 0, 1)
    with pytest.raises(CryptofsError):
        perform(client.context, Record(INFO))


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
