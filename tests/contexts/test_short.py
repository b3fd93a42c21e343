"""The short way answers what the general way answers, byte for byte, or leaves the request to it."""

import pytest
from helpers.talking import submit, take
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptofs.algorithms import Type, look_up
from cryptofs.contexts import Context, ContextTable, FastWay
from cryptofs.contexts import exchange as state
from cryptofs.engines.opening import open_engines
from cryptofs.records import HEADER_SIZE, Attr, Flag, Operation, Record, build

NAMES = [
    (Type.HASH, "sha256", None),
    (Type.HASH, "hmac(sm3)", b"key"),
    (Type.HASH, "hmac(sha512)", None),
    (Type.SKCIPHER, "cbc(aes)", bytes(range(32))),
    (Type.SKCIPHER, "cbc(des3_ede)", bytes(range(24))),
    (Type.SKCIPHER, "ctr(aes)", bytes(16)),
    (Type.SKCIPHER, "ecb(aes)", bytes(16)),
    (Type.AEAD, "gcm(aes)", bytes(16)),
    (Type.AEAD, "rfc7539(chacha20,poly1305)", bytes(32)),
    (Type.AEAD, "rfc4106(gcm(aes))", bytes(20)),
]
ENGINES = [pytest.param("openssl"), pytest.param("af_alg", marks=pytest.mark.af_alg)]


def configured(table: ContextTable, type_: Type, name: str, key: bytes | None) -> Context:
    """A context of an algorithm."""
    context = table.open(1000, 1000, 1, False)
    attributes = {Attr.TYPE: str(type_), Attr.NAME: name} | ({} if key is None else {Attr.KEY: key})
    submit(context, build(Record(Operation.CONFIGURE, 0, 0, 0, attributes)))
    assert take(context, 4096)
    return context


requests = st.builds(
    Record,
    st.sampled_from(
        [Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST, Operation.GENERATE, Operation.INFO, Operation.RESET]
    ),
    st.sampled_from([0, 0, 0, 0, int(Flag.MORE)]),
    st.integers(0, 2),
    st.just(0),
    st.one_of(
        st.just({}),
        st.sampled_from([8, 12, 16]).flatmap(
            lambda size: st.builds(lambda iv: {Attr.IV: iv}, st.binary(min_size=size, max_size=size))
        ),
        st.just({Attr.IV: bytes(15)}),
        st.just({Attr.ASSOCLEN: 16, Attr.IV: bytes(12)}),
        st.just({Attr.ASSOCLEN: 3}),
        st.just({Attr.LENGTH: 5}),
    ),
    st.one_of(st.binary(max_size=100), st.integers(0, 2100).map(lambda n: bytes(16 * n))),
)  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("type_", "name", "key"), NAMES, ids=[name for _, name, _ in NAMES])
@settings(deadline=None, max_examples=60)
@given(st.lists(requests, max_size=6))
def test_both_ways_agree(engine: str, type_: Type, name: str, key: bytes | None, records: list[Record]) -> None:
    """Two contexts get the same writes, one by each way: every answer is the same, and so is what is counted."""
    engines = open_engines((engine,))
    if look_up(type_, name) is None or engines[0].describe(type_, name) is None:
        pytest.skip(f"this kernel does not offer {name}")
    table = ContextTable(engines)
    try:
        short, general = (configured(table, type_, name, key) for _ in range(2))
        for record in records:
            data = build(record)
            taken = FastWay(short).answer(data)
            assert taken in (0, len(data))
            if not taken:
                submit(short, data)
            submit(general, data)
            first, second = take(short, 1 << 20), take(general, 1 << 20)
            assert first is not None
            assert second is not None
            if record.operation is not Operation.INFO:
                assert bytes(first) == bytes(second)
            for count in ("outstanding", "in_flight", "bytes"):
                assert getattr(short.exchange, count) == getattr(general.exchange, count), count
            for count in ("requests", "failed", "bytes_in", "bytes_out"):
                assert getattr(short.exchange.tally, count) == getattr(general.exchange.tally, count), count
    finally:
        table.close_all()


def test_the_short_way_is_taken() -> None:
    """The requests it is made for go through it: a test of its answers would mean nothing otherwise."""
    table = ContextTable(open_engines(("openssl",)))
    try:
        for type_, name, key in NAMES[:2] + NAMES[3:5] + NAMES[7:9]:
            context = configured(table, type_, name, key)
            description = context.require_transform().description
            operation = Operation.DIGEST if type_ is Type.HASH else Operation.ENCRYPT
            iv = {Attr.IV: bytes(description.iv_size)} if description.iv_size else {}
            data = build(Record(operation, 0, 7, 0, iv, bytes(64)))
            assert FastWay(context).answer(data) == len(data), name
    finally:
        table.close_all()


def test_the_short_way_keeps_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue, an open message and a closed context stop it; nothing is counted then."""
    monkeypatch.setattr(state, "QUEUE_REQUESTS", 2)
    table = ContextTable(open_engines(("openssl",)))
    context = configured(table, Type.HASH, "sha256", None)
    data = build(Record(Operation.DIGEST, 0, 7, 0, {}, b"abc"))
    assert [FastWay(context).answer(data) for _ in range(3)] == [len(data), len(data), 0]
    assert context.exchange.outstanding == 2
    assert len(take(context, 4096) or b"") == 2 * (HEADER_SIZE + 32)
    submit(context, build(Record(Operation.DIGEST, Flag.MORE, 7, 0, {}, b"abc")))
    assert FastWay(context).answer(data) == 0, "it would be taken for a message of its own"
    table.close_all()
    assert FastWay(context).answer(data) == 0
