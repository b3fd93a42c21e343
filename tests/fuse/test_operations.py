"""Tier two: the file system without a mount: names as pyfuse3 would ask for them, open files as the kernel would."""

import errno
import logging
import os
import select
import stat
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
from helpers.kernel import ALICE, BOB, SUPERUSER, Refused, Rig, run

from cryptofs.fuse import protocol
from cryptofs.nodes.base import Handle
from cryptofs.records import Attr, Operation, Record, build, parse_responses


@pytest.fixture
def rig() -> Rig:
    """A tree on the OpenSSL engine."""
    return Rig()


CONFIGURE = Record(Operation.CONFIGURE, id=1, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"})
ABC = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


async def refused(awaitable: Awaitable[Any]) -> int:
    """The errno with which an operation fails."""
    with pytest.raises((pyfuse3.FUSEError, Refused)) as caught:
        await awaitable
    return int(caught.value.errno or 0)


def test_a_request_from_open_to_release(rig: Rig) -> None:
    """Open, configure, digest, read, release: the context comes and goes."""

    async def main() -> None:
        handle = await rig.open("crypto")
        assert (await rig.kernel.read(handle, 0, 100)) == b"1\n"
        assert (await rig.kernel.read(handle, 2, 100)) == b""
        answers = await rig.ask(handle, CONFIGURE, Record(Operation.DIGEST, id=2, payload=b"abc"))
        assert [(answer.id, answer.status) for answer in answers] == [(1, 0), (2, 0)]
        assert bytes(answers[1].payload) == ABC
        assert (await rig.kernel.read(handle, 0, 100)) == b""
        assert len(rig.table) == 1
        await rig.kernel.release(handle)
        assert len(rig.table) == 0
        assert rig.transport.open_handles == 0

    run(rig, main)


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
        await rig.kernel.release(handle)

    run(rig, main)


def test_a_context_is_its_openers_alone(rig: Rig) -> None:
    """Another uid neither sees nor opens it; root does."""

    async def main() -> None:
        handle = await rig.open("crypto")
        inode = (await rig.find("contexts/1/status")).st_ino
        assert await refused(rig.find("contexts/1", BOB)) == errno.ENOENT
        assert await refused(rig.kernel.open(inode, os.O_RDONLY, BOB)) == errno.EACCES
        listing = await rig.operations.opendir((await rig.find("contexts")).st_ino, BOB)
        opened = rig.operations._listings[listing]
        assert list(opened.directory.entries(opened.caller, 0)) == []
        await rig.operations.releasedir(listing)
        status = await rig.open("contexts/1/status", os.O_RDONLY, SUPERUSER)
        assert b"uid: 1000\n" in (await rig.kernel.read(status, 0, 4096))
        await rig.kernel.release(status)
        await rig.kernel.release(handle)
        assert await refused(rig.kernel.open(inode, os.O_RDONLY, ALICE)) == errno.ENODEV

    run(rig, main)


@pytest.mark.parametrize(
    ("path", "number"),
    [("nothing", errno.ENOENT), ("contexts/x", errno.ENOENT), ("contexts/01", errno.ENOENT),
     ("algorithms/hash/no-such", errno.ENOENT), ("algorithms/nothing", errno.ENOENT), ("crypto/x", errno.ENOTDIR)],
)  # fmt: skip
def test_lookups_that_fail(rig: Rig, path: str, number: int) -> None:
    """A name that is not there is ENOENT."""

    async def main() -> None:
        assert await refused(rig.find(path)) == number

    run(rig, main)


@pytest.mark.parametrize(
    ("data", "number"),
    [(b"", errno.EBADMSG), (b"x" * 10, errno.EBADMSG), (build(CONFIGURE) + b"\0", errno.EBADMSG),
     (b"\x18\0\0\0\x02" + bytes(19), errno.EINVAL), (bytes(1_044_481), errno.EMSGSIZE)],
)  # fmt: skip
def test_refused_writes_do_nothing(rig: Rig, data: bytes, number: int) -> None:
    """A write that is not whole, valid records is refused, and none of it is done."""

    async def main() -> None:
        handle = await rig.open("crypto")
        assert await refused(rig.kernel.write(handle, 0, data)) == number
        assert (await rig.kernel.read(handle, 0, 100)) == b"1\n", "nothing was configured or answered"
        await rig.kernel.release(handle)

    run(rig, main)


def test_an_unexpected_exception_is_eio_and_logged(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a handle raises, pyfuse3 sees FUSEError only."""

    def broken(self: Handle, offset: int, size: int) -> bytes:
        raise ZeroDivisionError("a fault of ours")

    async def main() -> None:
        handle = await rig.open("version", os.O_RDONLY)
        monkeypatch.setattr(Handle, "read", broken)
        monkeypatch.setattr("cryptofs.nodes.base.TextHandle.read", broken)
        with caplog.at_level(logging.ERROR, "cryptofs"):
            assert await refused(rig.kernel.read(handle, 0, 10)) == errno.EIO
        assert "a fault of ours" in caplog.text
        assert await refused(rig.kernel.read(999, 0, 10)) == errno.EIO
        await rig.kernel.release(handle)

    run(rig, main)


def test_poll_tells_what_is_ready(rig: Rig) -> None:
    """Readable when an answer waits, writable while the queue takes more; the newest poll is notified."""

    async def main() -> None:
        handle = await rig.open("crypto")
        assert await rig.kernel.poll(handle, None) == select.POLLOUT | select.POLLWRNORM
        await rig.kernel.poll(handle, 71)
        await rig.kernel.poll(handle, 72)
        await rig.kernel.write(handle, 0, build(CONFIGURE))
        assert rig.kernel.woken == [72]
        assert await rig.kernel.poll(handle, None) & select.POLLIN
        await rig.kernel.read(handle, 0, 4096)
        assert not await rig.kernel.poll(handle, None) & select.POLLIN
        await rig.kernel.release(handle)

    run(rig, main)


def test_a_wake_up_that_fails_answers_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mount may go away while somebody is told: the write is accepted, its answer there, and there once."""
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if len(data) == protocol.WAKE_UP.size and protocol.ANSWER.unpack_from(data)[1] == protocol.NOTIFY_POLL:
            raise OSError(errno.EPERM, "no such poll")
        return real(descriptor, data)

    async def main() -> None:
        handle = await rig.open("crypto")
        await rig.ask(handle, CONFIGURE)
        monkeypatch.setattr(os, "write", write)
        for size in (3, 10_000):
            await rig.kernel.poll(handle, 70)
            answers = await rig.ask(handle, Record(Operation.DIGEST, id=size, payload=bytes(size)))
            assert [answer.id for answer in answers] == [size]
        monkeypatch.undo()
        await rig.kernel.release(handle)

    run(rig, main)
    assert "the kernel refused an answer: no such poll" in caplog.text


def test_a_read_buffer_too_small_loses_nothing(rig: Rig) -> None:
    """EMSGSIZE, and the answer stays."""

    async def main() -> None:
        handle = await rig.open("crypto")
        await rig.kernel.write(handle, 0, build(CONFIGURE))
        assert await refused(rig.kernel.read(handle, 0, 30)) == errno.EMSGSIZE
        assert parse_responses(await rig.kernel.read(handle, 0, 4096))[0].status == 0
        await rig.kernel.release(handle)

    run(rig, main)


def test_a_full_queue_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGAIN at once, blocking or not: a write that waits would hold up everybody's writes on the shared inode."""
    monkeypatch.setattr("cryptofs.contexts.exchange.QUEUE_REQUESTS", 2)
    digest = build(Record(Operation.DIGEST, id=5, payload=b"abc"))

    async def main() -> None:
        for flags in (os.O_RDWR, os.O_RDWR | os.O_NONBLOCK):
            handle = await rig.open("crypto", flags)
            await rig.ask(handle, CONFIGURE)
            await rig.kernel.write(handle, 0, digest + digest)
            assert await refused(rig.kernel.write(handle, 0, digest)) == errno.EAGAIN
            assert len(parse_responses(await rig.kernel.read(handle, 0, 4096))) == 2
            await rig.kernel.write(handle, 0, digest)
            await rig.kernel.release(handle)

    run(rig, main)


def test_attributes_are_fixed_but_truncating_is_allowed(rig: Rig) -> None:
    """`>` truncates and `touch` touches; chmod and chown are EPERM."""

    async def main() -> None:
        entry = await rig.find("crypto")
        size = SimpleNamespace(update_mode=False, update_uid=False, update_gid=False, update_size=True)
        mode = SimpleNamespace(update_mode=True, update_uid=False, update_gid=False, update_size=False)
        assert (await rig.operations.setattr(entry.st_ino, entry, size, None, ALICE)).st_ino == entry.st_ino
        assert await refused(rig.operations.setattr(entry.st_ino, entry, mode, None, ALICE)) == errno.EPERM
        assert await refused(rig.operations.flush(1)) == errno.ENOSYS

    run(rig, main)


def test_control_file(rig: Rig) -> None:
    """A line or a record is a call; the write fails with its errno, the read gives the reply."""

    async def main() -> None:
        handle = await rig.open("crypto")
        control = await rig.open("contexts/1/ctl")
        line = b"configure type=hash name=hmac(sha256) key=hex:1\n"
        assert await refused(rig.kernel.write(control, 0, line)) == errno.EINVAL
        reply = (await rig.kernel.read(control, len(line), 4096)).decode()
        assert reply.startswith("error: EINVAL\nmessage: key")
        line = b"configure type=hash name=hmac(sha256) key=text:secret\n"
        assert await rig.kernel.write(control, 0, line) == len(line)
        # what is written is zeroed where the kernel has put it
        assert b"secret" not in rig.transport._buffers.current
        reply = (await rig.kernel.read(control, 0, 4096)).decode()
        assert "name: hmac(sha256)\n" in reply
        assert "secret" not in reply
        assert (await rig.kernel.read(control, 0, 4096)) == b""
        assert await refused(rig.kernel.write(control, 0, line)) == errno.EBUSY
        record = build(Record(Operation.INFO, id=77))
        assert await rig.kernel.write(control, 0, record) == len(record)
        answer = parse_responses(await rig.kernel.read(control, 0, 4096))[0]
        assert (answer.id, answer.attributes[Attr.ENGINE]) == (77, "openssl")
        await rig.kernel.release(handle)
        assert await refused(rig.kernel.write(control, 0, b"info\n")) == errno.ENODEV
        await rig.kernel.release(control)

    run(rig, main)
