"""An AF_ALG that fails, by sockets made for it and by a kernel that is made to refuse."""

import contextlib
import errno
import itertools
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon, serving
from helpers.faults import ABC, ROOT, at_start
from helpers.machine import AF_ALG, mounts_below
from helpers.raw import Raw, encryption
from helpers.waiting import wait_until

from cryptofs.algorithms import Type
from cryptofs.client import Context
from cryptofs.engines.af_alg import AfAlgEngine, sockets
from cryptofs.engines.base import Transform, resolve
from cryptofs.engines.opening import ENGINES
from cryptofs.errors import Busy, CryptofsError, EngineFault, KeyMissing, OutOfResources
from cryptofs.records import Attr, Operation

# AF_ALG that fails: sockets made for it, since a kernel does not fail on demand


class Script:
    """How the sockets of a test fail. fail: an errno by call; short: bytes that a receive gives too few; most: bytes
    that it gives at most; open: how many sockets are open."""

    def __init__(self) -> None:
        self.fail: dict[str, int] = {}
        self.short = 0
        self.most = 1 << 30
        self.open = 0

    def check(self, call: str) -> None:
        """Raise what this call is to raise."""
        if call in self.fail:
            raise OSError(self.fail[call], os.strerror(self.fail[call]))


class AlgSocket:
    """An AF_ALG socket that computes zeros."""

    def __init__(self, script: Script) -> None:
        script.check("socket")
        self._script = script
        self._closed = False
        script.open += 1

    def bind(self, address: object) -> None:
        self._script.check("bind")

    def accept(self) -> tuple["AlgSocket", None]:
        self._script.check("accept")
        return AlgSocket(self._script), None

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def getsockopt(self, *arguments: object) -> int:
        return 4 << 20

    def setsockopt(self, *arguments: object) -> None:
        self._script.check("setsockopt")

    def send(self, data: bytes, flags: int = 0) -> int:
        self._script.check("send")
        return len(data)

    def sendmsg_afalg(self, buffers: tuple[bytes, ...], **parameters: object) -> int:
        self._script.check("send")
        return sum(map(len, buffers))

    def recv(self, size: int) -> bytes:
        self._script.check("recv")
        return bytes(min(max(0, size - self._script.short), self._script.most))

    def recv_into(self, out: memoryview) -> int:
        return len(self.recv(len(out)))

    def recvmsg_into(self, into: tuple[memoryview, ...]) -> tuple[int]:
        return (len(self.recv(sum(map(len, into)))),)

    def close(self) -> None:
        self._script.open -= not self._closed
        self._closed = True

    def __enter__(self) -> "AlgSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """AF_ALG as the test says; no socket may stay open."""
    script = Script()
    monkeypatch.setattr(sockets, "open_socket", lambda: AlgSocket(script))
    yield script
    assert script.open == 0


SHA = (Type.HASH, "sha256")


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("socket", errno.EAFNOSUPPORT),
        ("socket", errno.EPERM),
        ("socket", errno.EACCES),
        ("bind", errno.ENOENT),
        ("bind", errno.EPERM),
        ("bind", errno.ELIBBAD),
    ],
)
def test_what_af_alg_refuses_the_next_engine_serves(script: Script, call: str, number: int) -> None:
    """No such family, not permitted, no such name: not offered here, and nothing worse."""
    script.fail[call] = number
    engine = AfAlgEngine()
    found = resolve((engine, ENGINES["openssl"]()), *SHA)
    assert found is not None
    assert found[0].name == "openssl"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
@pytest.mark.parametrize("call", ["bind", "accept"])
def test_a_shortage_is_told_and_passes(script: Script, call: str, number: int) -> None:
    """It is ENFILE, not 'no such name': another engine must not step in by chance. Later all is well."""
    engine = AfAlgEngine()

    def once() -> int:
        description = engine.describe(*SHA)
        assert description is not None
        transform = engine.open(description, None)
        try:
            return transform.once(Operation.DIGEST, None, 0, b"abc", memoryview(bytearray(64)))
        finally:
            transform.close()

    script.fail[call] = number
    with pytest.raises(OutOfResources) as caught:
        once()
    assert caught.value.errno == errno.ENFILE
    assert errno.errorcode[number] in caught.value.message
    script.fail.clear()
    assert once() == 32


def opened(engine: AfAlgEngine, type_: Type, name: str, key: bytes | None = None) -> Transform:
    """A transform of the scripted AF_ALG."""
    description = engine.describe(type_, name)
    assert description is not None
    transform = engine.open(description, None)
    if key is not None:
        transform.set_key(key)
    return transform


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [
        ("send", errno.ENOKEY, KeyMissing),
        ("recv", errno.ENOKEY, KeyMissing),
        ("recv", errno.EBUSY, Busy),
        ("send", errno.EIO, EngineFault),
        ("recv", errno.EAGAIN, EngineFault),
        ("accept", errno.EMFILE, OutOfResources),
    ],
)
def test_errors_of_a_request_have_their_class(
    script: Script, call: str, number: int, error: type[CryptofsError]
) -> None:
    """In one part and in several, for a hash, a cipher and an AEAD; the transform is of use again afterwards."""
    engine = AfAlgEngine()
    out = memoryview(bytearray(4096))

    def whole(transform: Transform, operation: Operation) -> None:
        transform.once(operation, bytes(transform.description.iv_size) or None, 0, bytes(32), out)

    def parts(transform: Transform, operation: Operation) -> None:
        message = transform.start(operation, bytes(transform.description.iv_size) or None, 0)
        try:
            message.update(bytes(16), False, out)
            message.update(bytes(16), True, out)
        finally:
            message.close()

    for type_, name, key, operation in (
        (Type.HASH, "sha256", None, Operation.DIGEST),
        (Type.SKCIPHER, "cbc(aes)", bytes(16), Operation.ENCRYPT),
        (Type.AEAD, "gcm(aes)", bytes(16), Operation.ENCRYPT),
    ):
        for way in (whole, parts):
            transform = opened(engine, type_, name, key)
            script.fail[call] = number
            try:
                with pytest.raises(error):
                    way(transform, operation)
                script.fail.clear()
                way(transform, operation)
            finally:
                transform.close()


def test_a_busy_key_is_told(script: Script) -> None:
    """EBUSY of ALG_SET_KEY."""
    engine = AfAlgEngine()
    transform = opened(engine, Type.SKCIPHER, "cbc(aes)")
    script.fail["setsockopt"] = errno.EBUSY
    with pytest.raises(Busy):
        transform.set_key(bytes(16))
    transform.close()


SHORT_READS: tuple[tuple[Type, str, bytes | None, Operation], ...] = (
    (Type.HASH, "sha256", None, Operation.DIGEST),
    (Type.SKCIPHER, "cbc(aes)", bytes(16), Operation.ENCRYPT),
    (Type.SKCIPHER, "ctr(aes)", bytes(16), Operation.DECRYPT),
    (Type.SKCIPHER, "xts(aes)", bytes(range(32)), Operation.ENCRYPT),
    (Type.AEAD, "gcm(aes)", bytes(16), Operation.ENCRYPT),
    (Type.AEAD, "gcm(aes)", bytes(16), Operation.DECRYPT),
)


@pytest.mark.parametrize("missing", [1, 16, 10_000])
@pytest.mark.parametrize(("type_", "name", "key", "operation"), SHORT_READS)
def test_a_short_read_is_never_a_result(
    script: Script, type_: Type, name: str, key: bytes | None, operation: Operation, missing: int
) -> None:
    """Fewer bytes than are due, none among them: an error each way that a request can go, whole, in parts, short."""
    engine = AfAlgEngine()
    transform = opened(engine, type_, name, key)
    iv = bytes(transform.description.iv_size) or None
    out = memoryview(bytearray(4096))
    transform.once(operation, iv, 0, bytes(48), out)
    script.short = missing
    with pytest.raises(EngineFault):
        transform.once(operation, iv, 0, bytes(48), out)
    # the short way may only give up: the general way then finds out
    assert transform.short(int(operation), iv, bytes(48)) is None
    message = transform.start(operation, iv, 0)

    def parts() -> None:
        message.update(bytes(32), False, out)
        message.update(bytes(16), True, out)

    with pytest.raises(EngineFault):
        parts()
    message.close()
    script.short = 0
    assert transform.once(operation, iv, 0, bytes(48), out)
    transform.close()


def test_a_generator_goes_on_after_a_short_read(script: Script) -> None:
    """A generator that gives less is asked again; one that gives nothing is an error, not an endless loop."""
    engine = AfAlgEngine()
    transform = opened(engine, Type.RNG, "stdrng")
    out = memoryview(bytearray(1000))
    script.most = 28
    assert transform.once(Operation.GENERATE, None, 0, b"", out) == 1000
    script.most = 0
    with pytest.raises(EngineFault):
        transform.once(Operation.GENERATE, None, 0, b"", out)
    transform.close()


# The same by a real kernel, where it can be made to


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: a filter of system calls needs root")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EAFNOSUPPORT])
def test_a_container_that_forbids_af_alg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A real filter of system calls in front of AF_ALG: OpenSSL serves."""
    at_start(tmp_path, monkeypatch, f"refuse_af_alg({number})")
    with (
        serving(tmp_path / "mount", rough=True) as daemon,
        Context("hash", "sha256", mount=daemon.mountpoint) as context,
    ):
        assert context.engine == "openssl"
        assert context.digest(b"abc") == ABC


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: a filter of system calls needs root")
def test_a_start_without_sockets_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE at the start is not 'no AF_ALG': the daemon ends with one line that names it, and mounts nothing."""
    at_start(tmp_path, monkeypatch, f"refuse_af_alg({errno.EMFILE})")
    with pytest.raises(RuntimeError, match="EMFILE") as caught, serving(tmp_path / "mount"):
        pass
    assert "Traceback" not in str(caught.value)
    assert not mounts_below(tmp_path)


def descriptors_of(daemon: Daemon) -> set[int]:
    """The numbers of its open descriptors, as soon as they stay for a while: it goes on to load modules at first."""
    directory = f"/proc/{daemon.process.pid}/fd"
    found = set(os.listdir(directory))

    def stay() -> bool:
        nonlocal found
        before = found
        time.sleep(0.2)
        found = set(os.listdir(directory))
        return found == before

    wait_until(stay)
    return set(map(int, found))


def forbid_descriptors(daemon: Daemon) -> tuple[int, int]:
    """Let the daemon open no further descriptor; returns the limits that it had."""
    numbers = descriptors_of(daemon)
    lowest_free = next(number for number in itertools.count() if number not in numbers)
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (lowest_free, hard))


@pytest.mark.mount
def test_no_descriptors_left(own_daemon: Daemon) -> None:
    """At RLIMIT_NOFILE: what needs no descriptor is served, waiting reads and polls too; what needs one fails with a
    typed errno; afterwards all is well."""
    mount = own_daemon.mountpoint
    with Context("hash", "sha256", mount=mount) as good:
        assert good.digest(b"abc") == ABC
        limits = forbid_descriptors(own_daemon)
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                raw = stack.enter_context(Raw(mount))
                reply = raw.call(
                    Operation.CONFIGURE, {Attr.TYPE: "skcipher", Attr.NAME: "cbc(des3_ede)", Attr.KEY: bytes(range(24))}
                )
                assert reply.status == (errno.ENFILE if AF_ALG else 0)
                if not reply.status:
                    raw.write(encryption(1, 300_000))
                    assert raw.answers(1)[0].status == 0
            assert good.digest(b"abc") == ABC
        resource.prlimit(own_daemon.process.pid, resource.RLIMIT_NOFILE, limits)
        with Context("skcipher", "cbc(aes)", bytes(16), mount=mount) as context:
            assert len(context.encrypt(bytes(32), bytes(16))) == 32
        assert good.digest(b"abc") == ABC
    assert "Traceback" not in own_daemon.log
