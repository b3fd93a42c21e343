"""Rules, quotas, accounts and turns, without a mount."""

import os
import subprocess
import threading
import time
from typing import Any

import pytest
from helpers.talking import perform, submit, take

from cryptofs.algorithms import Facts, Type, complete, standard_names
from cryptofs.contexts import ContextTable, FastWay, Scheduler
from cryptofs.contexts.scheduler import Turns
from cryptofs.engines.opening import open_engines
from cryptofs.errors import NotPermitted, OverQuota
from cryptofs.policy import Bound, Ledger, Policy, Rule, Thing
from cryptofs.policy import ledger as policy_module
from cryptofs.policy.rules import supplementary_groups
from cryptofs.records import Attr, Operation, Record, build, parse_responses

OPENSSL = open_engines(("openssl",))
GCM = frozenset({(Type.AEAD, "gcm(aes)"), (Type.HASH, "sha256")})


def table_with(rule: Rule, **more: Any) -> ContextTable:
    """A table whose everybody has this rule."""
    return ContextTable(OPENSSL, None, Policy(rule, **more))


def configure(context: Any, type_: str, name: str, **words: Any) -> dict[int, Any]:
    """Configure a context by a control call."""
    attributes = {Attr.TYPE: type_, Attr.NAME: name}
    if "key" in words:
        attributes[Attr.KEY] = words["key"]
    return perform(context, Record(Operation.CONFIGURE, attributes=attributes))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "weak"),
    [
        ("md5", True),
        ("hmac(md5)", True),
        ("sha1", True),
        ("hmac(sha1)", False),
        ("ecb(aes)", True),
        ("cbc(des3_ede)", True),
        ("crc32c", True),
        ("sha256", False),
        ("gcm(aes)", False),
        ("authenc(hmac(sha1),cbc(aes))", False),
        ("cts(cbc(aes))", False),
        ("rsa", True),
        ("pkcs1(rsa,sha1)", True),
        ("pkcs1(rsa,sha256)", False),
        ("ed25519", False),
        ("zstd", False),
    ],
)
def test_weak(name: str, weak: bool) -> None:
    """What the standard profile leaves out, by the parts of a name."""
    assert complete(Type.HASH, name, Facts()).weak is weak
    assert any(each == name for _, each in standard_names()) is not weak


def test_names() -> None:
    """Only listed names are configured; the refusal names what was asked for, and no engine hears of it."""
    context = table_with(Rule(GCM)).open(7, 7, 1, False)
    with pytest.raises(NotPermitted, match=r"cbc\(aes\)"):
        configure(context, "skcipher", "cbc(aes)", key=bytes(16))
    with pytest.raises(NotPermitted):
        configure(context, "skcipher", "gcm(aes)")
    assert configure(context, "aead", "gcm(aes)", key=bytes(16))[Attr.NAME] == "gcm(aes)"


def test_driver_name_needs_its_own_leave() -> None:
    """An alias of an allowed name is not on the list."""
    driver = OPENSSL[0].describe(Type.AEAD, "gcm(aes)").driver  # type: ignore[union-attr]
    context = table_with(Rule(GCM)).open(7, 7, 1, False)
    with pytest.raises(NotPermitted):
        configure(context, "aead", driver)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can give a process further groups")
def test_which_rule() -> None:
    """A user's own rule comes first, then the first group's that fits, then everybody's."""
    rules = Policy(Rule(contexts=1), {5: Rule(contexts=2)}, {70_000: Rule(contexts=3), 70_001: Rule(contexts=4)})
    with subprocess.Popen(["sleep", "60"], extra_groups=[70_001, 65534]) as process:
        try:
            # 65534 is how groups show that the daemon's user namespace does not have
            assert supplementary_groups(process.pid) == {70_001}
            assert rules.rule(5, 70_000, process.pid).contexts == 2
            assert rules.rule(6, 70_000, process.pid).contexts == 3
            assert rules.rule(6, 1, process.pid).contexts == 4
            assert rules.rule(6, 70_001, 0).contexts == 4
            assert rules.rule(6, 1, 0).contexts == 1
        finally:
            process.kill()


def request(id_: int, size: int = 0) -> bytes:
    """A digest request."""
    return build(Record(Operation.DIGEST, id=id_, payload=bytes(size)))


def hash_context(table: ContextTable, uid: int = 7) -> Any:
    """A configured context."""
    context = table.open(uid, uid, 1, False)
    configure(context, "hash", "sha256")
    return context


@pytest.mark.parametrize("short", [True, False], ids=["short way", "general way"])
def test_requests_over_all_contexts(short: bool) -> None:
    """A user's requests count over all of that user's contexts, whichever way they go, until they are read."""
    table = table_with(Rule(requests=3))
    first, second = hash_context(table), hash_context(table)
    other = hash_context(table, uid=8)

    def send(context: Any, *ids: int) -> None:
        data = b"".join(request(each) for each in ids)
        if not (short and FastWay(context).answer(data)):
            submit(context, data)

    send(first, 1, 2)
    send(second, 3)
    with pytest.raises(OverQuota, match="uid 7: 3 requests wait to be read and 1 more are asked: at most 3"):
        send(second, 4)
    send(other, 1, 2, 3)
    assert len(parse_responses(take(first, 4096))) == 2
    send(second, 4)
    with pytest.raises(OverQuota):
        send(first, 5, 6)
    assert [each.id for each in parse_responses(take(second, 4096))] == [3, 4]
    assert second.exchange.queue.requests == 0
    assert second.exchange.queue.queue_bytes == 0


def test_bytes() -> None:
    """What is queued is bounded in bytes, and given back by closing, too."""
    table = table_with(Rule(queue_bytes=20_000))
    first, second = hash_context(table), hash_context(table)
    submit(first, request(1, 8000))
    with pytest.raises(OverQuota, match="bytes are queued"):
        submit(second, request(1, 8000))
    assert second.exchange.outstanding == 0
    table.close(first)
    submit(second, request(1, 8000))
    assert parse_responses(take(second, 4096))[0].status == 0


def test_gathered_answer_counts() -> None:
    """The answer to a message in parts is charged with its size and given back with it."""
    table = table_with(Rule(queue_bytes=1 << 20))
    context = table.open(7, 7, 1, False)
    configure(context, "aead", "gcm(aes)", key=bytes(16))
    for index in range(4):
        last = index == 3
        attributes = {Attr.IV: bytes(12)} if index == 0 else {}
        record = Record(Operation.ENCRYPT, 0 if last else 1, 5, 0, attributes, bytes(30_000))
        submit(context, build(record))
        if not last:
            take(context, 1 << 20)
    assert context.exchange.queue.queue_bytes > 120_000
    take(context, 1 << 20)
    assert context.exchange.queue.queue_bytes == 0


def test_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many requests a second, over contexts, and closing does not renew it."""
    now = [100.0]
    monkeypatch.setattr(policy_module.time, "monotonic", lambda: now[0])
    table = table_with(Rule(rate=10))
    context = hash_context(table)
    for each in range(10):
        submit(context, request(each))
    with pytest.raises(OverQuota, match="10 a second"):
        submit(context, request(11))
    table.close(context)
    context = hash_context(table)
    with pytest.raises(OverQuota):
        submit(context, request(11))
    now[0] += 0.5
    submit(context, b"".join(request(each) for each in range(5)))
    with pytest.raises(OverQuota):
        submit(context, request(11))
    now[0] += 100
    # more than a second's worth in one write passes when nothing was used before, and is paid off afterwards
    submit(context, b"".join(request(each) for each in range(30)))
    now[0] += 1.5
    with pytest.raises(OverQuota):
        submit(context, request(11))
    now[0] += 1.0
    submit(context, request(11))


def test_contexts() -> None:
    """A rule's bound on open contexts."""
    table = table_with(Rule(contexts=1))
    context = table.open(7, 7, 1, False)
    with pytest.raises(OverQuota, match="uid 7 has 1 contexts: at most 1"):
        table.open(7, 7, 1, False)
    table.close(context)
    table.open(7, 7, 1, False)


def test_a_rule_stays_with_its_contexts() -> None:
    """A new policy holds for new contexts; those that are open keep the names they may use."""
    table = table_with(Rule())
    context = table.open(7, 7, 1, False)
    table.policy = Policy(Rule(frozenset()))
    configure(context, "hash", "sha256")
    with pytest.raises(NotPermitted):
        configure(table.open(7, 7, 1, False), "hash", "sha256")


def test_a_user_is_forgotten() -> None:
    """Nothing is remembered of a user who holds nothing."""
    assert not Rule().counts
    table = table_with(Rule())
    context = table.open(7, 7, 1, False)
    table.close(context)
    assert len(table.ledger) == 0


def test_turns() -> None:
    """The users one after the other, of each user the contexts, and each context's work in its order."""
    turns: Turns[str] = Turns()
    for turn, items in (((1, 10), "abc"), ((1, 11), "xy"), ((2, 20), "d"), ((3, 30), "ef")):
        for item in items:
            turns.put(turn, item)
    assert [turns.take() for _ in range(9)] == ["a", "d", "e", "x", "f", "b", "y", "c", None]


def test_a_turn_that_is_taken_back() -> None:
    """The others' stay, and a user for whom nothing waits any more is forgotten."""
    turns: Turns[str] = Turns()
    for turn, item in (((1, 10), "a"), ((1, 11), "b"), ((2, 20), "c"), ((1, 10), "d")):
        turns.put(turn, item)
    turns.remove((1, 10))
    turns.remove((2, 20))
    assert set(turns.users) == {1}
    assert [turns.take(), turns.take()] == ["b", None]


def test_workers_take_turns() -> None:
    """A user with one computation does not wait for another's hundred."""
    import trio

    done: list[tuple[int, int]] = []
    block = threading.Event()

    async def main() -> None:
        workers = Scheduler(threads=1)
        workers.start()
        workers.submit(lambda: block.wait(10), lambda _: None, (9, 1))
        for index in range(100):
            workers.submit(lambda index=index: (1, index), done.append, (1, 2))
        workers.submit(lambda: (2, 0), done.append, (2, 3))
        block.set()
        deadline = time.monotonic() + 10
        while len(done) < 101 and time.monotonic() < deadline:
            await trio.sleep(0.01)
        workers.stop()

    trio.run(main)
    assert done.index((2, 0)) <= 2
    assert [index for user, index in done if user == 1] == list(range(100))


def test_a_batch_is_all_or_nothing_under_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that was let in is answered whole, also where one of its requests needs the general way."""
    monkeypatch.setattr(policy_module.time, "monotonic", lambda: 100.0)
    table = table_with(Rule(rate=10))
    context = table.open(7, 7, 1, False)
    configure(context, "aead", "gcm(aes)", key=bytes(16))
    requests = [build(Record(Operation.DECRYPT, 0, each, 0, {Attr.IV: bytes(12)}, bytes(40))) for each in range(30)]
    assert FastWay(context).answer(b"".join(requests)) == sum(map(len, requests))
    answers = parse_responses(take(context, 1 << 20))
    assert [each.id for each in answers] == list(range(30))
    assert context.exchange.queue.requests == 0


def test_bounds_are_exact() -> None:
    """What is just within a bound passes, one request or byte more does not."""
    rule = Rule(requests=3, queue_bytes=1000)
    queue = Ledger({thing: Bound(10, 0, 10) for thing in Thing}).user(1000, rule).queue
    queue.charge(1, 400)
    assert queue.has_room(2, 600)
    queue.check(2, 600)
    for requests, size, says in ((3, 600, "1 requests wait .* at most 3"), (2, 601, "400 bytes are .* at most 1000")):
        assert not queue.has_room(requests, size)
        with pytest.raises(OverQuota, match=says):
            queue.check(requests, size)
