"""The transport without a mount: the protocol's structures, waits and their end, ioctls, buffers."""

import errno
import os
import tracemalloc
from typing import Any

import pytest
import trio
from construct import Struct
from helpers.kernel import ALICE, Refused, Rig, run

from cryptofs.fuse import protocol
from cryptofs.fuse.buffers import Buffers
from cryptofs.records import (
    CALL_MAX,
    HEADER_SIZE,
    Attr,
    Flag,
    Operation,
    Record,
    build,
    call_command,
    is_call,
    parse_responses,
)

CONFIGURE = Record(Operation.CONFIGURE, id=1, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"})
ABC = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
LONG = bytes(1_000_000)
"""A digest of these is work for a worker where other clients are busy, too."""


@pytest.fixture
def rig() -> Rig:
    """A tree on the OpenSSL engine, with workers."""
    return Rig(workers=True)


# Structures


@pytest.mark.parametrize(
    ("packer", "definitions"),
    [
        (protocol.HEADER, (protocol.IN_HEADER,)),
        (protocol.OPEN, (protocol.OPEN_IN,)),
        (protocol.RELEASE, (protocol.RELEASE_IN,)),
        (protocol.READ, (protocol.READ_IN,)),
        (protocol.WRITE, (protocol.WRITE_IN,)),
        (protocol.IOCTL, (protocol.IOCTL_IN,)),
        (protocol.POLL, (protocol.POLL_IN,)),
        (protocol.INTERRUPT, (protocol.INTERRUPT_IN,)),
        (protocol.ANSWER, (protocol.OUT_HEADER,)),
        (protocol.FOUND, (protocol.OUT_HEADER, protocol.ENTRY_OUT, protocol.ATTRIBUTES)),
        (protocol.OPENED, (protocol.OUT_HEADER, protocol.OPEN_OUT)),
        (protocol.WRITTEN, (protocol.OUT_HEADER, protocol.WRITE_OUT)),
        (protocol.CONTROLLED, (protocol.OUT_HEADER, protocol.IOCTL_OUT)),
        (protocol.POLLED, (protocol.OUT_HEADER, protocol.POLL_OUT)),
        (protocol.WAKE_UP, (protocol.OUT_HEADER, protocol.POLL_WAKEUP)),
        (protocol.VECTOR, (protocol.IOCTL_VECTOR,)),
        (protocol.CUSE_START, (protocol.CUSE_INIT_IN,)),
        (protocol.CUSE_STARTED, (protocol.OUT_HEADER, protocol.CUSE_INIT_OUT)),
    ],
)
def test_packers_agree_with_construct(packer: Any, definitions: tuple[Any, ...]) -> None:
    """The fast structures read and write what the construct definitions do."""
    whole = Struct(*(subconstruct for definition in definitions for subconstruct in definition.subcons))
    assert packer.size == sum(definition.sizeof() for definition in definitions)
    data = os.urandom(packer.size)
    at = 0
    values: list[int] = []
    for definition in definitions:
        parsed = definition.parse(data[at:])
        values += [value for name, value in parsed.items() if not name.startswith("_")]
        at += definition.sizeof()
    assert packer.unpack(data) == tuple(values)
    assert packer.pack(*values) == data
    assert len(whole.subcons) == len(values)


def test_sizes_are_the_kernels() -> None:
    """As in include/uapi/linux/fuse.h."""
    sizes = {
        "IN_HEADER": 40, "OUT_HEADER": 16, "OPEN_IN": 8, "OPEN_OUT": 16, "RELEASE_IN": 24, "READ_IN": 40,
        "WRITE_IN": 40, "WRITE_OUT": 8, "IOCTL_IN": 32, "IOCTL_OUT": 16, "POLL_IN": 24, "POLL_OUT": 8,
        "INTERRUPT_IN": 8, "POLL_WAKEUP": 8, "ENTRY_OUT": 40, "ATTRIBUTES": 88,
    }  # fmt: skip
    assert {name: getattr(protocol, name).sizeof() for name in sizes} == sizes


def test_call_command() -> None:
    """`_IOWR('c', 0xC0, char[size])`, with any size and nothing else."""
    assert call_command(128) == 0xC080_63C0
    assert call_command(CALL_MAX) == 0xFFFF_63C0
    assert is_call(call_command(1))
    assert not is_call(call_command(1) & ~(1 << 31)), "it gives nothing back"
    assert not is_call(0x5401), "TCGETS"
    assert not is_call(call_command(128) ^ 1)


# Waiting


async def configured(rig: Rig) -> int:
    handle = await rig.open("crypto")
    assert (await rig.ask(handle, CONFIGURE))[0].status == 0
    return handle


async def long_request(rig: Rig, handle: int, identity: int) -> None:
    """Have a worker busy: a part of a message that is long by itself, behind another context's."""
    rig.table.get(1)
    await rig.kernel.write(handle, 0, build(Record(Operation.DIGEST, 0, identity, 0, {}, LONG)))


def test_a_read_waits_and_is_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a worker computes, a read has no answer; then it has the right one."""
    monkeypatch.setattr("cryptofs.contexts.requests.ALONE_NS", 0)
    monkeypatch.setattr("cryptofs.contexts.scheduler.ALONE_NS", 0)
    monkeypatch.setattr("cryptofs.contexts.scheduler.LONG_NS", -1)

    async def main() -> None:
        handle = await configured(rig)
        await long_request(rig, handle, 7)
        answers = parse_responses(await rig.kernel.read(handle, 0, 1 << 20))
        assert [(answer.id, answer.status, len(answer.payload)) for answer in answers] == [(7, 0, 32)]
        await rig.kernel.release(handle)

    run(rig, main)


def waiting_stream(rig: Rig) -> Any:
    """A context, and a stream handle whose read waits: a writer feeds it and has given nothing yet."""

    async def prepare() -> tuple[int, int, int]:
        handle = await configured(rig)
        writer = await rig.open("contexts/1/stream", os.O_WRONLY)
        reader = await rig.open("contexts/1/stream", os.O_RDONLY)
        await rig.kernel.write(writer, 0, b"ab")
        return handle, writer, reader

    return prepare()


def test_an_interrupted_read_is_eintr_at_once(rig: Rig) -> None:
    """And what it waited for goes to the next read."""

    async def main() -> None:
        handle, writer, reader = await waiting_stream(rig)
        unique = await rig.kernel.send_read(reader, 0, 100)
        await trio.sleep(0.05)
        assert not rig.kernel.is_answered(unique)
        await rig.kernel.interrupt(unique)
        with pytest.raises(Refused) as caught:
            await rig.kernel.answer(unique)
        assert caught.value.errno == errno.EINTR
        await rig.kernel.write(writer, 0, b"c")
        second = await rig.kernel.send_read(reader, 0, 100)
        await rig.kernel.release(writer)
        assert await rig.kernel.answer(second) == ABC
        # of a request that was answered, and of one that never was
        await rig.kernel.interrupt(second)
        await rig.kernel.interrupt(999_999)
        for each in (reader, handle):
            await rig.kernel.release(each)
        assert not rig.transport._handlers._waits

    run(rig, main)


def test_many_waits_are_all_answered(rig: Rig) -> None:
    """A hundred readers of one stream that ends: one has the digest, the others its end or their interruption."""

    async def main() -> None:
        handle, writer, _ = await waiting_stream(rig)
        readers = [await rig.open("contexts/1/stream", os.O_RDONLY) for _ in range(100)]
        uniques = [await rig.kernel.send_read(each, 0, 100) for each in readers]
        await rig.kernel.write(writer, 0, b"c")
        await rig.kernel.release(writer)
        await trio.sleep(0.1)
        answered = [unique for unique in uniques if rig.kernel.is_answered(unique)]
        assert [data for data in [await rig.kernel.answer(unique) for unique in answered] if data] == [ABC]
        for unique in set(uniques) - set(answered):
            await rig.kernel.interrupt(unique)
            with pytest.raises(Refused):
                await rig.kernel.answer(unique)
        assert not rig.transport._handlers._waits
        await rig.kernel.release(handle)

    run(rig, main)


def test_a_long_write_leaves_others_their_turn(rig: Rig) -> None:
    """A megabyte goes into a stream in pieces; a small request of another context is answered in between."""

    async def main() -> None:
        handle = await configured(rig)
        other = await configured(rig)
        stream = await rig.open("contexts/1/stream")
        large = await rig.kernel.send_write(stream, 0, LONG)
        small = await rig.kernel.send_call(other, Record(Operation.DIGEST, id=5, payload=b"abc"))
        await rig.kernel.answer(small)
        assert not rig.kernel.is_answered(large)
        assert protocol.WRITE_OUT.parse(await rig.kernel.answer(large)).size == len(LONG)
        assert len(await rig.kernel.read(stream, 0, 100)) == 32
        for each in (stream, other, handle):
            await rig.kernel.release(each)

    run(rig, main)


# Ioctl


def test_a_call_has_its_own_answer(rig: Rig) -> None:
    """Whatever waits to be read, and whatever its id is."""

    async def main() -> None:
        handle = await rig.open("crypto")
        reply = await rig.kernel.call(handle, CONFIGURE)
        assert (reply.operation, reply.status, reply.attributes[Attr.ENGINE]) == (Operation.CONFIGURE, 0, "openssl")
        await rig.kernel.write(handle, 0, build(Record(Operation.DIGEST, id=7, payload=b"written")))
        await rig.kernel.write(handle, 0, build(Record(Operation.DIGEST, Flag.MORE, 8, 0, {}, b"a part")))
        for identity in (7, 8, 8):
            answer = await rig.kernel.call(handle, Record(Operation.DIGEST, id=identity, payload=b"abc"))
            assert (answer.id, bytes(answer.payload)) == (identity, ABC)
        written = parse_responses(await rig.kernel.read(handle, 0, 4096))
        assert [answer.id for answer in written] == [7, 8]
        context = rig.table.get(1)
        assert context is not None
        assert (context.exchange.outstanding, context.exchange.in_flight) == (0, 0)
        await rig.kernel.release(handle)

    run(rig, main)


def test_parts_by_ioctl(rig: Rig) -> None:
    """A message may come by ioctl part by part, beside one with the same id that is written."""

    async def main() -> None:
        handle = await configured(rig)
        written = Record(Operation.DIGEST, Flag.MORE, 3, 0, {}, b"x")
        assert (await rig.ask(handle, written))[0].status == 0
        for part, flags in ((b"a", Flag.MORE), (b"b", Flag.MORE), (b"c", 0)):
            answer = await rig.kernel.call(handle, Record(Operation.DIGEST, flags, 3, 0, {}, part))
            assert answer.status == 0
        assert bytes(answer.payload) == ABC
        assert bytes((await rig.ask(handle, Record(Operation.DIGEST, id=3)))[0].payload) != ABC
        await rig.kernel.release(handle)

    run(rig, main)


@pytest.mark.parametrize(
    ("data", "room", "number"),
    [
        (b"", 64, errno.EBADMSG),
        (b"\xff" * 64, 64, errno.EINVAL),
        (build(CONFIGURE)[:-4], 64, errno.EBADMSG),
        (build(CONFIGURE), HEADER_SIZE - 1, errno.EINVAL),
        (build(Record(Operation.DIGEST, id=1, payload=b"abc")), HEADER_SIZE + 31, errno.EMSGSIZE),
        (build(Record(Operation.DIGEST, Flag.RESPONSE, 1)), 64, errno.EINVAL),
    ],
)
def test_calls_that_are_refused(rig: Rig, data: bytes, room: int, number: int) -> None:
    """Nothing is done then, and nothing waits to be read."""

    async def main() -> None:
        handle = await configured(rig)
        with pytest.raises(Refused) as caught:
            await rig.kernel.ioctl(handle, call_command(room), data, room)
        assert caught.value.errno == number
        context = rig.table.get(1)
        assert context is not None
        assert context.exchange.tally.requests == 1
        assert await rig.kernel.read(handle, 0, 100) == b""
        await rig.kernel.release(handle)

    run(rig, main)


def test_an_error_fits_into_any_buffer(rig: Rig) -> None:
    """Its number counts, and its message is cut."""

    async def main() -> None:
        handle = await configured(rig)
        request = Record(Operation.ENCRYPT, id=9, payload=b"abc")
        whole = await rig.kernel.call(handle, request)
        assert whole.status == errno.EOPNOTSUPP
        message = str(whole.attributes[Attr.MESSAGE])
        for room in (HEADER_SIZE + 3, HEADER_SIZE + 14, HEADER_SIZE + 40):
            answer = await rig.kernel.call(handle, request, room)
            assert (answer.id, answer.status) == (9, errno.EOPNOTSUPP)
            assert message.startswith(str(answer.attributes.get(Attr.MESSAGE, "")))
        await rig.kernel.release(handle)

    run(rig, main)


def test_other_ioctls_are_enotty(rig: Rig) -> None:
    """On every file; and a text file takes no call."""

    async def main() -> None:
        handle = await configured(rig)
        version = await rig.open("version", os.O_RDONLY)
        for each, command in ((handle, 0x5401), (handle, call_command(64) ^ 1), (version, call_command(64))):
            with pytest.raises(Refused) as caught:
                await rig.kernel.ioctl(each, command, build(CONFIGURE)[:64], 64)
            assert caught.value.errno == errno.ENOTTY
        for each in (version, handle):
            await rig.kernel.release(each)

    run(rig, main)


def test_a_directory_is_not_somebodys_file(rig: Rig) -> None:
    """A directory's handle has a number of pyfuse3's: an ioctl on it must not reach the context of that number."""

    async def main() -> None:
        handle = await configured(rig)
        request = build(Record(Operation.DIGEST, id=5, payload=b"abc"))
        flags = protocol.IOCTL_DIRECTORY
        unique = await rig.kernel.send_ioctl(handle, call_command(len(request)), request, len(request), flags)
        with pytest.raises(Refused) as caught:
            await rig.kernel.answer(unique)
        assert caught.value.errno == errno.ENOTTY
        context = rig.table.get(1)
        assert context is not None
        assert context.exchange.tally.requests == 1, "configure, and nothing else"
        await rig.kernel.release(handle)

    run(rig, main)


def test_an_interrupted_call_is_cancelled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINTR at once; its output is never given out, and the context goes on."""
    monkeypatch.setattr("cryptofs.contexts.requests.ALONE_NS", 0)
    monkeypatch.setattr("cryptofs.contexts.scheduler.LONG_NS", -1)

    async def main() -> None:
        handle = await configured(rig)
        # the worker has something to do before
        for identity in range(5):
            await long_request(rig, handle, identity)
        record = Record(Operation.DIGEST, id=7, payload=bytes(16_000))
        monkeypatch.setattr("cryptofs.contexts.requests.LONG_NS", 0)
        unique = await rig.kernel.send_call(handle, record)
        await rig.kernel.interrupt(unique)
        with pytest.raises(Refused) as caught:
            await rig.kernel.answer(unique)
        assert caught.value.errno == errno.EINTR
        read: list[int] = []
        while len(read) < 5:
            read += [answer.id for answer in parse_responses(await rig.kernel.read(handle, 0, 1 << 20))]
        assert sorted(read) == [0, 1, 2, 3, 4]
        await rig.kernel.release(handle)

    run(rig, main)


# Buffers


def test_a_buffer_in_use_is_not_read_into() -> None:
    """A view keeps it out of use, and only as long as it is there."""
    pool = Buffers()
    first = pool.current
    assert not pool.move_on()
    assert pool.current is first
    view = memoryview(first)[10:20]
    assert pool.move_on()
    second = pool.current
    assert second is not first
    assert len(second) == len(first) == protocol.MESSAGE_MAX
    view.release()
    other = memoryview(second)
    assert pool.move_on()
    assert pool.current is first, "it is free again"
    other.release()


def test_a_rush_gives_its_memory_back() -> None:
    """Only a few buffers outlive their use, and nothing has to come after the rush for that."""
    tracemalloc.start()
    try:
        pool = Buffers()
        views = []
        for _ in range(40):
            views.append(memoryview(pool.current))
            assert pool.move_on()
        assert tracemalloc.get_traced_memory()[0] > 40 * protocol.MESSAGE_MAX
        del views
        assert tracemalloc.get_traced_memory()[0] < 10 * protocol.MESSAGE_MAX
    finally:
        tracemalloc.stop()


def test_no_key_stays_in_a_buffer(rig: Rig) -> None:
    """By write and by ioctl, whether the record was understood or not."""
    key = b"a key that must not stay"
    attributes: dict[int, Any] = {Attr.TYPE: "hash", Attr.NAME: "hmac(sha256)", Attr.KEY: key}
    configure = build(Record(Operation.CONFIGURE, id=1, attributes=attributes))
    good = [
        configure,
        # where no key belongs, in requests that are kept for later
        build(Record(Operation.DIGEST, Flag.MORE, 2, 0, {Attr.KEY: key}, b"abc")),
        build(Record(Operation.ENCRYPT, 0, 3, 0, {Attr.KEY: key}, b"abc")),
    ]
    # no padding, another version, and a size that is wrong
    bad = [configure[:-1] + b"\x01", configure[:4] + b"\xff" + configure[5:], b"\x08\0\0\0" + configure[4:]]

    async def main() -> None:
        for data in (*good, *bad):
            for by_ioctl in (True, False):
                handle = await rig.open("crypto", who=ALICE)
                try:
                    if by_ioctl:
                        await rig.kernel.ioctl(handle, call_command(200), data.ljust(200, b"\0"), 200)
                    else:
                        await rig.kernel.write(handle, 0, data)
                except Refused:
                    assert data in bad
                assert key not in bytes(rig.transport._buffers.current)
                await rig.kernel.release(handle)

    run(rig, main)
