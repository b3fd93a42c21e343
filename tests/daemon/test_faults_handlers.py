"""Handlers and engines that raise: EIO for one request, a line in the log, and the daemon goes on."""

import contextlib
import errno
import functools
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon, serving
from helpers.fake_engine import CANARY
from helpers.faults import ABC, at_start, number_of

from cryptofs.client import Context, RequestError
from cryptofs.records import Operation, Record, build, parse_responses


class Fuses:
    """A daemon of toys whose calls fail on demand."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon = daemon
        self.mount = daemon.mountpoint
        self._directory = directory

    @contextlib.contextmanager
    def burning(self, point: str, exception: str = "RuntimeError") -> Iterator[None]:
        """Let a point fail."""
        (self._directory / point).write_text(exception)
        try:
            yield
        finally:
            (self._directory / point).unlink()


@pytest.fixture
def fuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuses]:
    """A mount of the toy engine."""
    directory = tmp_path / "fuses"
    directory.mkdir()
    at_start(tmp_path, monkeypatch, f"inject({str(directory)!r})")
    with serving(tmp_path / "mount", "--engines", "fake", rough=True) as daemon:
        yield Fuses(daemon, directory)


def _open_and_close(mount: Path) -> None:
    os.close(os.open(mount / "crypto", os.O_RDWR))


def _digest(mount: Path) -> None:
    with Context("hash", "toysum", mount=mount) as context:
        context.digest(b"abc")


def _write_and_read(mount: Path) -> None:
    descriptor = os.open(mount / "crypto", os.O_RDWR)
    try:
        os.write(descriptor, build(Record(Operation.INFO, id=1)))
        assert parse_responses(os.read(descriptor, 4096))[0].id == 1
    finally:
        os.close(descriptor)


HANDLERS: dict[str, Callable[[Path], object]] = {
    "tree-node": lambda mount: (mount / "version").read_bytes(),
    "lookup": lambda mount: (mount / "stats").read_bytes(),
    "readdir": lambda mount: os.listdir(mount / "contexts" / ".."),
    "crypto-open": _open_and_close,
    "crypto-write": _write_and_read,
    "crypto-read": _write_and_read,
    "crypto-call": _digest,
    "describe": lambda mount: (mount / "algorithms" / "hash" / "toysum").read_bytes(),
}


@pytest.mark.mount
@pytest.mark.parametrize("exception", ["RuntimeError", "MemoryError", "KeyError", "RecursionError", "AssertionError"])
def test_a_handler_that_raises_is_an_eio(fuses: Fuses, exception: str) -> None:
    """Each handler in turn: EIO for its caller, a line in the log, all is well afterwards; a good context goes on."""
    with Context("hash", "toysum", mount=fuses.mount) as good:
        assert good.digest(b"abc") == ABC
        for point, call in HANDLERS.items():
            with fuses.burning(point, exception):
                assert number_of(functools.partial(call, fuses.mount)) == errno.EIO, point
            fuses.daemon.wait_for_line(f"{CANARY} in {point}")
            call(fuses.mount)
            assert good.digest(b"abc") == ABC
        with fuses.burning("status", exception):
            assert number_of(good.status) == errno.EIO
        assert good.status()["state"] == "configured"


@pytest.mark.mount
def test_a_release_and_a_poll_that_raise(fuses: Fuses) -> None:
    """Closing cannot fail for the program; a failing poll says so. The daemon goes on."""
    with Context("hash", "toysum", mount=fuses.mount) as good:
        with fuses.burning("crypto-release"):
            _open_and_close(fuses.mount)
            fuses.daemon.wait_for_line(f"{CANARY} in crypto-release")
        with fuses.burning("crypto-poll"):
            poll = select.poll()
            poll.register(good.fileno(), select.POLLIN)
            events = poll.poll(2000)
            fuses.daemon.wait_for_line(f"{CANARY} in crypto-poll")
            assert not events or events[0][1] & select.POLLERR, events
        assert good.digest(b"abc") == ABC


ENGINE_POINTS: dict[str, tuple[str, str, Operation]] = {
    "open": ("hash", "toysum", Operation.DIGEST),
    "set_key": ("skcipher", "ctr(toy)", Operation.ENCRYPT),
    "begin": ("hash", "toysum", Operation.DIGEST),
    "update": ("skcipher", "ctr(toy)", Operation.ENCRYPT),
    "digest": ("hash", "toysum", Operation.DIGEST),
    "crypt": ("aead", "gcm(toy)", Operation.ENCRYPT),
    "fill": ("rng", "toyrng", Operation.GENERATE),
}


def _use(mount: Path, type_: str, name: str, operation: Operation) -> bytes:
    key = None if type_ in ("hash", "rng") else bytes(16)
    with Context(type_, name, key, mount=mount) as context:
        if operation is Operation.DIGEST:
            return context.digest(b"abc")
        if operation is Operation.GENERATE:
            return context.generate(16)
        return context.encrypt(b"abc", bytes(context.iv_size))


@pytest.mark.mount
@pytest.mark.parametrize("point", ENGINE_POINTS)
def test_an_engine_that_raises_is_an_eio(fuses: Fuses, point: str) -> None:
    """EIO in the answer, without what the engine said; the log has it; the next request is well; so are others."""
    type_, name, operation = ENGINE_POINTS[point]
    with Context("hash", "toysum", mount=fuses.mount) as good:
        with fuses.burning(point):
            with pytest.raises(RequestError) as caught:
                _use(fuses.mount, type_, name, operation)
            if point not in ("begin", "update", "digest"):
                assert good.digest(b"abc") == ABC
        assert caught.value.errno == errno.EIO
        assert CANARY not in caught.value.message
        fuses.daemon.wait_for_line(f"{CANARY} in {point}")
        assert _use(fuses.mount, type_, name, operation)
        assert good.digest(b"abc") == ABC


@pytest.mark.mount
def test_an_engine_that_raises_in_a_stream(fuses: Fuses) -> None:
    """The writer gets EIO, and the stream works again after a reset."""
    with Context("hash", "toysum", mount=fuses.mount) as context:
        stream = context.directory / "stream"
        with fuses.burning("update"):
            assert number_of(lambda: stream.write_bytes(b"abc")) == errno.EIO
        (context.directory / "ctl").write_text("reset")
        fd = os.open(stream, os.O_RDWR)
        try:
            os.write(fd, b"abc")
            assert os.read(fd, 64) == ABC
        finally:
            os.close(fd)
