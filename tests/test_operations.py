"""Tier two: the file system's operations, awaited without a mount."""

import errno
import logging
import os
import select
import stat
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from cryptofs.contexts import ContextTable
from cryptofs.engines import open_engines
from cryptofs.nodes import Tree, waiting
from cryptofs.nodes.base import Handle
from cryptofs.operations import Operations
from cryptofs.records import Attr, Operation, Record, build, build_many, parse_responses

ALICE = SimpleNamespace(uid=1000, gid=1000, pid=0)
BOB = SimpleNamespace(uid=1001, gid=1001, pid=0)
SUPERUSER = SimpleNamespace(uid=0, gid=0, pid=0)


class Rig:
    """A tree with its operations, called as pyfuse3 would."""

    def __init__(self) -> None:
        self.table = ContextTable(open_engines(("openssl",)))
        self.operations = Operations(Tree(self.table))

    async def find(self, path: str, who: Any = ALICE) -> Any:
        """The attributes of a path."""
        inode = 1
        entry = await self.operations.getattr(inode, who)
        for name in path.split("/"):
            entry = await self.operations.lookup(inode, name.encode(), who)
            inode = entry.st_ino
        return entry

    async def open(self, path: str, flags: int = os.O_RDWR, who: Any = ALICE) -> int:
        """Open a path; returns the handle."""
        entry = await self.find(path, who)
        info = await self.operations.open(entry.st_ino, flags, who)
        return int(info.fh)

    async def call(self, handle: int, *records: Record) -> list[Record]:
        """Write records and read all answers."""
        data = build_many(records)
        assert await self.operations.write(handle, 0, data) == len(data)
        return parse_responses(bytes(await self.operations.read(handle, 0, 1 << 20)))


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Operations on the OpenSSL engine; all handles must be closed by the test."""
    rig = Rig()
    yield rig
    rig.table.close_all()


def run(function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function under trio, for at most 30 seconds."""

    async def bounded() -> None:
        with trio.fail_after(30):
            await function()

    trio.run(bounded)


CONFIGURE = Record(Operation.CONFIGURE, id=1, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"})
ABC = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


async def refused(awaitable: Awaitable[Any]) -> int:
    """The errno with which an operation fails."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await awaitable
    return int(caught.value.errno)


def test_a_request_from_open_to_release(rig: Rig) -> None:
    """Open, configure, digest, read, release: the context comes and goes."""

    async def main() -> None:
        handle = await rig.open("crypto")
        assert bytes(await rig.operations.read(handle, 0, 100)) == b"1\n"
        assert bytes(await rig.operations.read(handle, 2, 100)) == b""
        answers = await rig.call(handle, CONFIGURE, Record(Operation.DIGEST, id=2, payload=b"abc"))
        assert [(answer.id, answer.status) for answer in answers] == [(1, 0), (2, 0)]
        assert bytes(answers[1].payload) == ABC
        assert bytes(await rig.operations.read(handle, 0, 100)) == b""
        assert len(rig.table) == 1
        await rig.operations.release(handle)
        assert len(rig.table) == 0
        assert rig.operations.open_handles == 0

    run(main)


def test_tree_modes_and_owners(rig: Rig) -> None:
    """Every node has the mode of the contract; a context's belong to its opener."""

    async def main() -> None:
        handle = await rig.open("crypto")
        expected = {
            "crypto": stat.S_IFREG | 0o666,
            "contexts": stat.S_IFDIR | 0o755,
            "algorithms/hash/sha256": stat.S_IFREG | 0o444,
            "stats": stat.S_IFREG | 0o444,
            "version": stat.S_IFREG | 0o444,
            "contexts/1": stat.S_IFDIR | 0o500,
            "contexts/1/ctl": stat.S_IFREG | 0o600,
            "contexts/1/status": stat.S_IFREG | 0o400,
            "contexts/1/stream": stat.S_IFREG | 0o600,
        }
        for path, mode in expected.items():
            entry = await rig.find(path)
            assert entry.st_mode == mode, path
            assert (entry.st_uid == ALICE.uid) == path.startswith("contexts/"), path
        await rig.operations.release(handle)

    run(main)


def test_a_context_is_its_openers_alone(rig: Rig) -> None:
    """Another uid neither sees nor opens it; root does."""

    async def main() -> None:
        handle = await rig.open("crypto")
        inode = (await rig.find("contexts/1/status")).st_ino
        assert await refused(rig.find("contexts/1", BOB)) == errno.ENOENT
        assert await refused(rig.operations.open(inode, os.O_RDONLY, BOB)) == errno.EACCES
        listing = await rig.operations.opendir((await rig.find("contexts")).st_ino, BOB)
        opened = rig.operations._listings[listing]
        assert opened.directory.entries(opened.caller) == []
        await rig.operations.releasedir(listing)
        status = await rig.open("contexts/1/status", os.O_RDONLY, SUPERUSER)
        assert b"uid: 1000\n" in bytes(await rig.operations.read(status, 0, 4096))
        await rig.operations.release(status)
        await rig.operations.release(handle)
        assert await refused(rig.operations.open(inode, os.O_RDONLY, ALICE)) == errno.ENODEV

    run(main)


@pytest.mark.parametrize(
    ("path", "number"),
    [("nothing", errno.ENOENT), ("contexts/x", errno.ENOENT), ("contexts/01", errno.ENOENT),
     ("algorithms/hash/no-such", errno.ENOENT), ("algorithms/nothing", errno.ENOENT), ("crypto/x", errno.ENOTDIR)],
)  # fmt: skip
def test_lookups_that_fail(rig: Rig, path: str, number: int) -> None:
    """A name that is not there is ENOENT."""

    async def main() -> None:
        assert await refused(rig.find(path)) == number

    run(main)


@pytest.mark.parametrize(
    ("data", "number"),
    [(b"", errno.EBADMSG), (b"x" * 10, errno.EBADMSG), (build(CONFIGURE) + b"\0", errno.EBADMSG),
     (b"\x18\0\0\0\x02" + bytes(19), errno.EINVAL), (bytes(1_044_481), errno.EMSGSIZE)],
)  # fmt: skip
def test_refused_writes_do_nothing(rig: Rig, data: bytes, number: int) -> None:
    """A write that is not whole, valid records is refused, and none of it is done."""

    async def main() -> None:
        handle = await rig.open("crypto")
        assert await refused(rig.operations.write(handle, 0, data)) == number
        assert bytes(await rig.operations.read(handle, 0, 100)) == b"1\n", "nothing was configured or answered"
        await rig.operations.release(handle)

    run(main)


def test_an_unexpected_exception_is_eio_and_logged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a handle raises, pyfuse3 sees FUSEError only."""

    async def broken(self: Handle, offset: int, size: int) -> bytes:
        raise ZeroDivisionError("a fault of ours")

    async def main() -> None:
        handle = await rig.open("version", os.O_RDONLY)
        monkeypatch.setattr(Handle, "read", broken)
        monkeypatch.setattr("cryptofs.nodes.base.TextHandle.read", broken)
        with caplog.at_level(logging.ERROR, "cryptofs"):
            assert await refused(rig.operations.read(handle, 0, 10)) == errno.EIO
        assert "a fault of ours" in caplog.text
        assert await refused(rig.operations.read(999, 0, 10)) == errno.EIO
        await rig.operations.release(handle)

    run(main)


def test_poll_tells_what_is_ready(rig: Rig) -> None:
    """Readable when an answer waits, writable while the queue takes more; the newest poll is notified."""

    async def main() -> None:
        handle = await rig.open("crypto")
        woken: list[str] = []
        entry = await rig.find("crypto")

        async def poll(name: str | None) -> int:
            poll_handle: Any = SimpleNamespace(notify=lambda: woken.append(name or "")) if name else None
            return await rig.operations.poll(entry.st_ino, handle, poll_handle, ALICE)

        assert await poll(None) == select.POLLOUT | select.POLLWRNORM
        await poll("first")
        await poll("second")
        await rig.operations.write(handle, 0, build(CONFIGURE))
        assert woken == ["second"]
        assert await poll(None) & select.POLLIN
        await rig.operations.read(handle, 0, 4096)
        assert not await poll(None) & select.POLLIN
        await rig.operations.release(handle)

    run(main)


def test_a_wake_up_that_fails_answers_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The mount may go away while somebody is told: the write is accepted, its answer there, and there once."""

    def fails() -> None:
        raise OSError(errno.ENOENT, "no such poll")

    async def main() -> None:
        handle = await rig.open("crypto")
        await rig.call(handle, CONFIGURE)
        entry = await rig.find("crypto")
        for size in (3, 10_000):
            poll_handle: Any = SimpleNamespace(notify=fails)
            await rig.operations.poll(entry.st_ino, handle, poll_handle, ALICE)
            answers = await rig.call(handle, Record(Operation.DIGEST, id=size, payload=bytes(size)))
            assert [answer.id for answer in answers] == [size]
        await rig.operations.release(handle)

    run(main)
    assert "nobody could be woken" in caplog.text


def test_a_read_buffer_too_small_loses_nothing(rig: Rig) -> None:
    """EMSGSIZE, and the answer stays."""

    async def main() -> None:
        handle = await rig.open("crypto")
        await rig.operations.write(handle, 0, build(CONFIGURE))
        assert await refused(rig.operations.read(handle, 0, 30)) == errno.EMSGSIZE
        assert parse_responses(bytes(await rig.operations.read(handle, 0, 4096)))[0].status == 0
        await rig.operations.release(handle)

    run(main)


def test_a_full_queue_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN at once, blocking or not: a write that waits would hold up everybody's writes on the shared inode."""
    monkeypatch.setattr("cryptofs.exchange.QUEUE_REQUESTS", 2)
    digest = build(Record(Operation.DIGEST, id=5, payload=b"abc"))

    async def main() -> None:
        for flags in (os.O_RDWR, os.O_RDWR | os.O_NONBLOCK):
            handle = await rig.open("crypto", flags)
            await rig.call(handle, CONFIGURE)
            await rig.operations.write(handle, 0, digest + digest)
            assert await refused(rig.operations.write(handle, 0, digest)) == errno.EAGAIN
            assert len(parse_responses(bytes(await rig.operations.read(handle, 0, 4096)))) == 2
            await rig.operations.write(handle, 0, digest)
            await rig.operations.release(handle)

    run(main)


def test_no_wait_is_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait ends with EINTR at its bound, or as soon as a signal waits for the caller."""

    async def main() -> None:
        def nothing() -> None:
            return None

        def watch(callback: Callable[[], None]) -> Callable[[], None]:
            return nothing

        with pytest.raises(waiting.BoundReached):
            await waiting.wait_for(nothing, watch, 0, bound=0.2)
        monkeypatch.setattr(waiting, "signal_waits", lambda pid: True)
        with pytest.raises(waiting.Interrupted), trio.fail_after(1):
            await waiting.wait_for(nothing, watch, os.getpid(), bound=30)

    run(main)


def test_attributes_are_fixed_but_truncating_is_allowed(rig: Rig) -> None:
    """`>` truncates and `touch` touches; chmod and chown are EPERM."""

    async def main() -> None:
        entry = await rig.find("crypto")
        size = SimpleNamespace(update_mode=False, update_uid=False, update_gid=False, update_size=True)
        mode = SimpleNamespace(update_mode=True, update_uid=False, update_gid=False, update_size=False)
        assert (await rig.operations.setattr(entry.st_ino, entry, size, None, ALICE)).st_ino == entry.st_ino
        assert await refused(rig.operations.setattr(entry.st_ino, entry, mode, None, ALICE)) == errno.EPERM
        assert await refused(rig.operations.flush(1)) == errno.ENOSYS

    run(main)


def test_control_file(rig: Rig) -> None:
    """A line or a record is a call; the write fails with its errno, the read gives the reply."""

    async def main() -> None:
        handle = await rig.open("crypto")
        control = await rig.open("contexts/1/ctl")
        line = b"configure type=hash name=hmac(sha256) key=hex:1\n"
        assert await refused(rig.operations.write(control, 0, line)) == errno.EINVAL
        reply = bytes(await rig.operations.read(control, len(line), 4096)).decode()
        assert reply.startswith("error: EINVAL\nmessage: key")
        line = b"configure type=hash name=hmac(sha256) key=text:secret\n"
        # what is written is zeroed, as the kernel's copy of it would be
        written = bytes(bytearray(line))
        assert await rig.operations.write(control, 0, written) == len(line)
        assert written == bytes(len(line))
        reply = bytes(await rig.operations.read(control, 0, 4096)).decode()
        assert "name: hmac(sha256)\n" in reply
        assert "secret" not in reply
        assert bytes(await rig.operations.read(control, 0, 4096)) == b""
        assert await refused(rig.operations.write(control, 0, line)) == errno.EBUSY
        record = build(Record(Operation.INFO, id=77))
        assert await rig.operations.write(control, 0, record) == len(record)
        answer = parse_responses(bytes(await rig.operations.read(control, 0, 4096)))[0]
        assert (answer.id, answer.attributes[Attr.ENGINE]) == (77, "openssl")
        await rig.operations.release(handle)
        assert await refused(rig.operations.write(control, 0, b"info\n")) == errno.ENODEV
        await rig.operations.release(control)

    run(main)
