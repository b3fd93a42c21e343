"""Control calls that a worker does: what comes meanwhile waits, in its order, and no key stays behind."""

import errno
from collections.abc import Iterator

import pytest
from helpers import context_bench
from helpers.context_bench import CONFIGURE, DIGEST, FAMILIES, INFO, KEY, RESET, SET_KEY, Bench, Client
from helpers.talking import take

from cryptofs.contexts import control
from cryptofs.errors import Gone, InvalidValue
from cryptofs.nodes import Pending
from cryptofs.nodes.control import ControlHandle
from cryptofs.nodes.stream import StreamHandle
from cryptofs.records import RECORD_MAX, Attr, Record, build, parse_responses

bench = context_bench.bench


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytearray]]:
    """Every key takes long; gives the keys that transforms were given."""
    from cryptofs.engines.base import Transform

    keys: list[bytearray] = []
    set_key = Transform.set_key

    def note(self: Transform, key: bytearray) -> None:
        if bytes(key) in (KEY, KEY[::-1]):
            keys.append(key)
        set_key(self, key)

    monkeypatch.setattr(Transform, "slow_keys", True)
    monkeypatch.setattr(Transform, "set_key", note)
    yield keys
    assert not any(map(any, keys)), "a key was not wiped"


def unconfigured(bench: Bench) -> Client:
    """A context, and what configures it as a MAC by a worker."""
    return Client(bench, bench.table.open(7, 7, 1, False))


def mac(bench: Bench, key: bytes = KEY) -> Record:
    """The configure of a MAC."""
    attributes = {Attr.TYPE: "hash", Attr.NAME: FAMILIES[bench.family]["mac"], Attr.KEY: key}
    return Record(CONFIGURE, id=1, attributes=attributes)  # type: ignore[arg-type]


def test_what_comes_meanwhile_waits(bench: Bench) -> None:
    """In the same write and in later ones, data and control calls: each is done in its order."""
    client = unconfigured(bench)
    client.send(mac(bench), Record(DIGEST, id=2, payload=b"x"), Record(INFO, id=3))
    client.send(Record(SET_KEY, id=4, attributes={Attr.KEY: KEY[::-1]}), Record(DIGEST, id=5, payload=b"x"))
    assert len(bench.workers.given) == 1
    assert client.answers() == []
    assert client.context.busy
    bench.workers.do()
    assert [each.id for each in client.answers()] == [1, 2, 3]
    bench.workers.do()
    answers = client.answers()
    assert [(each.id, each.status) for each in answers] == [(4, 0), (5, 0)]
    assert not client.context.busy
    assert client.ok(DIGEST, b"x") == bytes(answers[1].payload)


def test_a_key_that_is_refused(bench: Bench) -> None:
    """The answer says so, and what waited goes on: the context is not configured."""
    client = unconfigured(bench)
    attributes = {Attr.TYPE: "skcipher", Attr.NAME: FAMILIES[bench.family]["blocks"], Attr.KEY: bytes(5)}
    client.send(Record(CONFIGURE, id=1, attributes=attributes), Record(DIGEST, id=2))  # type: ignore[arg-type]
    bench.workers.finish()
    assert [(each.id, each.status) for each in client.answers()] == [(1, errno.EINVAL), (2, errno.EBADFD)]


@pytest.mark.parametrize("done", [False, True])
def test_a_context_that_closes_meanwhile(bench: Bench, done: bool) -> None:
    """Its transform is closed when the worker is done with it, before or after."""
    client = unconfigured(bench)
    client.send(mac(bench), Record(DIGEST, id=2, payload=b"x"))
    if done:
        ((work, hand_back),) = bench.workers.given
        result = work()
        bench.table.close(client.context)
        bench.workers.given.clear()
        hand_back(result)
    else:
        bench.table.close(client.context)
        bench.workers.finish()
    assert client.context.transform is None


def test_keys_that_wait_when_the_context_closes(bench: Bench) -> None:
    """A call that waited for another one is not done, and its key does not stay in the memory."""
    client = unconfigured(bench)
    client.send(mac(bench))
    waiting = Record(SET_KEY, id=2, attributes={Attr.KEY: bytearray(b"k" * 40)})
    assert control.run(client.context, waiting, lambda outcome: None) is None
    kept = waiting.attributes[Attr.KEY]
    assert isinstance(kept, bytearray)
    assert any(kept)
    bench.table.close(client.context)
    assert not any(kept)
    bench.workers.finish()


def test_a_write_on_ctl_waits(bench: Bench) -> None:
    """It returns when the call is done, and then the reply is there; nothing of the key stays where it was written."""
    client = unconfigured(bench)
    handle = ControlHandle(client.context)
    data = memoryview(bytearray(build(mac(bench))))
    taken = handle.write(0, data)
    assert not isinstance(taken, int)
    assert not any(data)
    assert (taken.is_done, taken.take(), handle.read(0, 4096)) == (False, None, b"")
    woken: list[int] = []
    handle.watch(lambda: woken.append(1))
    bench.workers.do()
    assert woken
    assert taken.take() == len(data)
    (reply,) = parse_responses(bytes(handle.read(0, 4096)))
    assert (reply.operation, reply.status) == (CONFIGURE, 0)


def test_a_line_on_ctl_that_fails(bench: Bench) -> None:
    """The write has the errno, the reply the message."""
    client = unconfigured(bench)
    handle = ControlHandle(client.context)
    name = FAMILIES[bench.family]["blocks"]
    taken = handle.write(0, memoryview(bytearray(f"configure type=skcipher name={name} key=hex:0011\n".encode())))
    assert not isinstance(taken, int)
    bench.workers.do()
    with pytest.raises(InvalidValue, match="key of 2 bytes"):
        taken.take()
    assert bytes(handle.read(0, 4096)).startswith(b"error: EINVAL\nmessage: key of 2 bytes")


def test_ctl_of_a_context_that_closes(bench: Bench) -> None:
    """The waiting write fails; it does not hang."""
    client = unconfigured(bench)
    taken = ControlHandle(client.context).write(0, memoryview(bytearray(build(mac(bench)))))
    assert not isinstance(taken, int)
    bench.table.close(client.context)
    with pytest.raises(Gone):
        taken.take()
    bench.workers.finish()


def test_a_stream_waits(bench: Bench) -> None:
    """Its message must not begin under one key and end under another."""
    client = unconfigured(bench)
    client.send(mac(bench))
    bench.workers.finish()
    client.answers()
    client.send(Record(SET_KEY, id=4, attributes={Attr.KEY: KEY[::-1]}))
    stream = StreamHandle(client.context, client.context.stream, 2)
    assert stream.write(0, memoryview(b"text")) == 0
    assert stream.read(0, 100) is None
    bench.workers.finish()
    assert stream.write(0, memoryview(b"text")) == 4
    digest = stream.read(0, 100)
    stream.close()
    client.send(Record(RESET, id=5))
    assert take(client.context, RECORD_MAX) is not None
    assert client.ok(DIGEST, b"text") == digest


def test_pending_is_what_handles_give(bench: Bench) -> None:
    """What ctl gives has all that the transport asks of it."""
    client = unconfigured(bench)
    pending = ControlHandle(client.context).write(0, memoryview(bytearray(build(mac(bench)))))
    assert not isinstance(pending, int)
    asked: Pending = pending
    asked.give_up()
    bench.workers.finish()
    assert asked.is_done
