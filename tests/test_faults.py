"""Faults that the daemon survives: failing engines and handlers, clients that die, signals, unmounts, full disks."""

import array
import contextlib
import errno
import functools
import hashlib
import itertools
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import AF_ALG, Daemon, _mounts
from fake_engine import CANARY
from stress import declared, kills, server
from stress.oracle import Errnos, walk
from test_mount import wait_until
from test_nonblocking import Raw, digest, encryption, hasher, slow

from cryptofs.algorithms import Type
from cryptofs.client import Context, RequestError
from cryptofs.engines import ENGINES
from cryptofs.engines.af_alg import AfAlgEngine, sockets
from cryptofs.engines.base import Transform, resolve
from cryptofs.errors import Busy, CryptofsError, EngineFault, KeyMissing, OutOfResources
from cryptofs.records import RECORD_MAX, Attr, Flag, Operation, Record, build, parse_responses

TESTS = Path(__file__).parent
ROOT = os.geteuid() == 0
DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
ABC = hashlib.sha256(b"abc").digest()
NOBODY = 65534


def number_of(call: Callable[[], object]) -> int | None:
    """The errno that a call fails with."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@contextlib.contextmanager
def serving(path: Path, *arguments: str, kind: type[Daemon] = Daemon, log: Path | None = None) -> Iterator[Daemon]:
    """A daemon of its own; it must still be able to end well."""
    mountpoint = path / "mount"
    mountpoint.mkdir()
    daemon = kind(mountpoint, *arguments, log=log or path / "log")
    try:
        yield daemon
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def wait_for_log(daemon: Daemon, text: str) -> None:
    """Wait until the daemon has said this: it may write its log a little later."""
    wait_until(lambda: text in daemon.log)


def at_start(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Have every interpreter that is started from here call a function of fake_engine at its start."""
    site = path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nimport fake_engine\nfake_engine.{call}\n"
    )
    # with it nothing that could not be written waits for the end of the process
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))


# Handlers and engines that raise


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
    with serving(tmp_path, "--engines", "fake") as daemon:
        yield Fuses(daemon, directory)


def _open_and_close(mount: Path) -> None:
    os.close(os.open(mount / "crypto", os.O_RDWR))


def _digest(mount: Path) -> None:
    with Context("hash", "toysum", mount=mount) as context:
        context.digest(b"abc")


HANDLERS: dict[str, Callable[[Path], object]] = {
    "tree-node": lambda mount: (mount / "version").read_bytes(),
    "lookup": lambda mount: (mount / "stats").read_bytes(),
    "readdir": lambda mount: os.listdir(mount / "contexts" / ".."),
    "crypto-open": _open_and_close,
    "crypto-write": _digest,
    "crypto-read": _digest,
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
            wait_for_log(fuses.daemon, f"{CANARY} in {point}")
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
            wait_for_log(fuses.daemon, f"{CANARY} in crypto-release")
        with fuses.burning("crypto-poll"):
            poll = select.poll()
            poll.register(good.fileno(), select.POLLIN)
            events = poll.poll(2000)
            wait_for_log(fuses.daemon, f"{CANARY} in crypto-poll")
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
        wait_for_log(fuses.daemon, f"{CANARY} in {point}")
        assert _use(fuses.mount, type_, name, operation)
        assert good.digest(b"abc") == ABC


@pytest.mark.mount
def test_an_engine_that_raises_in_a_stream(fuses: Fuses) -> None:
    """The writer gets EIO, and the stream begins anew after a reset."""
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
    with serving(tmp_path) as daemon, Context("hash", "sha256", mount=daemon.mountpoint) as context:
        assert context.engine == "openssl"
        assert context.digest(b"abc") == ABC


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: a filter of system calls needs root")
def test_a_start_without_sockets_left_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE at the start is not 'no AF_ALG': the daemon ends with one line that names it, and mounts nothing."""
    at_start(tmp_path, monkeypatch, f"refuse_af_alg({errno.EMFILE})")
    (tmp_path / "mount").mkdir()
    with pytest.raises(RuntimeError, match="EMFILE") as caught:
        Daemon(tmp_path / "mount", log=tmp_path / "log")
    assert "Traceback" not in str(caught.value)
    assert not _mounts(tmp_path)


def limit_descriptors(daemon: Daemon, more: int) -> tuple[int, int]:
    """Let the daemon open only so many descriptors more; returns the limits that it had."""
    numbers = [int(entry) for entry in os.listdir(f"/proc/{daemon.process.pid}/fd")]
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (max(numbers) + 1 + more, hard))


@pytest.mark.mount
def test_no_descriptors_left(own_daemon: Daemon) -> None:
    """At RLIMIT_NOFILE: what needs no descriptor is served, waiting reads and polls too; what needs one fails with a
    typed errno; afterwards all is well."""
    mount = own_daemon.mountpoint
    with Context("hash", "sha256", mount=mount) as good:
        assert good.digest(b"abc") == ABC
        limits = limit_descriptors(own_daemon, 0)
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


# Clients that go away


def program(mount: Path, body: str) -> subprocess.Popen[str]:
    """A Python program on the mount M that says a line when it has come where the test wants it."""
    head = (
        "import os, sys, time\nfrom pathlib import Path\nfrom cryptofs.client import Context\n"
        "from cryptofs.records import *\nM = Path(sys.argv[1])\n"
        "def say(what):\n    print(what, flush=True)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        [sys.executable, "-c", head + body, str(mount)], stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_line(process: subprocess.Popen[str]) -> str:
    """The next line that a program says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


DYING = {
    "in mid-request": """
context = Context("skcipher", "cbc(des3_ede)", bytes(range(24)), mount=M)
request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(8)}, bytes(800_000)))
for _ in range(8):
    os.pwrite(context.fileno(), request, 0)
say("there")
while True:
    os.pread(context.fileno(), len(request), 0)
    os.pwrite(context.fileno(), request, 0)
""",
    "in mid-message": """
context = Context("aead", "gcm(aes)", bytes(16), mount=M)
for number in range(200):
    message = context.message(Operation.ENCRYPT, bytes(12))
    message.update(bytes(5000))
say("there")
time.sleep(100)
""",
    "with a full queue": """
context = Context("skcipher", "ctr(aes)", bytes(16), mount=M)
request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(16)}, bytes(1_000_000)))
try:
    while True:
        os.pwrite(context.fileno(), request, 0)
except BlockingIOError:
    say("there")
time.sleep(100)
""",
    "in mid-stream": """
context = Context("skcipher", "ctr(aes)", bytes(16), mount=M)
(context.directory / "ctl").write_text("reset iv=hex:" + "00" * 16)
stream = os.open(context.directory / "stream", os.O_WRONLY)
say("there")
while True:
    os.write(stream, bytes(300_000))
""",
    "in poll": """
import select
context = Context("hash", "sha256", mount=M)
poll = select.poll()
poll.register(context.fileno(), select.POLLIN)
say("there")
poll.poll()
""",
}


@pytest.mark.mount
@pytest.mark.parametrize("where", DYING)
def test_a_client_killed(daemon: Daemon, where: str) -> None:
    """SIGKILL: it is gone within a second, its context too, and a good context never notices."""
    before = server.gauge(daemon.mountpoint, "cryptofs_contexts_open")
    with Context("hash", "sha256", mount=daemon.mountpoint) as good:
        victims = [program(daemon.mountpoint, DYING[where]) for _ in range(2)]
        with victims[0], victims[1]:
            for victim in victims:
                assert wait_line(victim) == "there"
            assert server.gauge(daemon.mountpoint, "cryptofs_contexts_open") == before + 3
            time.sleep(0.05)
            began = time.monotonic()
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.wait(10)
            assert time.monotonic() - began < 5
            assert good.digest(b"abc") == ABC
        wait_until(lambda: server.gauge(daemon.mountpoint, "cryptofs_contexts_open") == before + 1, 15)
        assert good.digest(b"abc") == ABC
    wait_until(lambda: server.gauge(daemon.mountpoint, "cryptofs_queue_bytes") == 0, 15)


@pytest.mark.mount
def test_a_client_forks_and_both_read(mount: Path) -> None:
    """They share one context: every answer comes to exactly one of them."""
    count = 400
    with program(
        mount,
        f"""
from test_nonblocking import Raw, digest
raw = Raw(M).configure("hash", "sha256")
raw.write(*[digest(number, b"%d" % number) for number in range({count})])
parent = os.getpid()
child = os.fork()
while data := os.pread(raw.fd, 1000, 0):
    for answer in parse_responses(data):
        sys.stdout.write(f"{{int(os.getpid() == parent)}} {{answer.id}} {{bytes(answer.payload).hex()}}\\n")
        sys.stdout.flush()
if child:
    os.waitpid(child, 0)
""",
    ) as process:
        lines = process.stdout.read().split("\n")[:-1] if process.stdout else []
        assert process.wait(20) == 0
    seen = [line.split() for line in lines]
    assert sorted(int(number) for _, number, _ in seen) == list(range(count))
    assert all(digest == hashlib.sha256(number.encode()).hexdigest() for _, number, digest in seen)


@pytest.mark.mount
def test_a_descriptor_passed_to_another_process(daemon: Daemon) -> None:
    """By SCM_RIGHTS: the context lives on in the receiver, another user if we are root, after its opener has closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = os.fork()
        if not receiver:
            status = 1
            with contextlib.suppress(BaseException):
                if ROOT:
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                data, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
                fd = array.array("i", ancillary[0][2])[0]
                theirs.recv(1)
                # the opener has closed it: a whole request, one in parts, a wait
                os.pwrite(fd, build(digest(5)), 0)
                (answer,) = parse_responses(os.pread(fd, RECORD_MAX, 0))
                os.pwrite(fd, build(digest(6, b"a", Flag.MORE)) + build(digest(6, b"bc")), 0)
                last = parse_responses(os.pread(fd, RECORD_MAX, 0))[-1]
                status = 0 if data and bytes(answer.payload) == ABC == bytes(last.payload) else 2
            os._exit(status)
        raw = hasher(daemon.mountpoint)
        number = raw.number
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [raw.fd]))])
        raw.close()
        ours.send(b"x")
        assert os.waitpid(receiver, 0)[1] == 0
    wait_until(lambda: str(number) not in os.listdir(daemon.mountpoint / "contexts"))


# The daemon killed, stopped, unmounted


@pytest.mark.mount
def test_sigkill_under_load() -> None:
    """Every client has its error within a second, and the mount is back within two; five rounds here."""
    with server.directory() as path:
        found = kills.run(5, 1, path)
    assert found.wrong == []
    assert found.rounds == 5
    assert len(found.noticed) == 5 * len(kills.LOADS)
    assert set(found.errors) <= {"ENOTCONN", "ECONNABORTED", "ENOENT"}


class Load:
    """Threads that digest and check every answer until they are told to stop or an error comes."""

    def __init__(self, mount: Path, count: int = 4) -> None:
        self.done = [0] * count
        self.errors: list[int | None] = [None] * count
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._contexts = [Context("hash", "sha256", mount=mount) for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in range(count)]

    def _run(self, index: int) -> None:
        try:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                data = b"%d-%d" % (index, number)
                if self._contexts[index].digest(data) != hashlib.sha256(data).digest():
                    self.wrong.append(f"{index}: {number}")
                self.done[index] += 1
        except OSError as error:
            self.errors[index] = error.errno

    def goes_on(self, more: int = 1) -> None:
        """Each of them must have so many more answers within ten seconds."""
        before = list(self.done)
        wait_until(lambda: all(now >= then + more for now, then in zip(self.done, before, strict=True)), 10)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        wait_until(lambda: all(self.done))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        for context in self._contexts:
            with contextlib.suppress(OSError):
                context.close()
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self.wrong


@pytest.mark.mount
def test_a_stopped_daemon_makes_clients_wait(own_daemon: Daemon) -> None:
    """SIGSTOP, SIGCONT, under load, again and again: nothing fails, nothing is mixed up."""
    with Load(own_daemon.mountpoint) as load, slow(own_daemon.mountpoint) as raw:
        for round_ in range(5):
            raw.write(encryption(100 + round_, 800_000))
            own_daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            before = list(load.done)
            time.sleep(0.3)
            # what was answered before the stop may still be counted, and then no more
            assert all(now - then <= 1 for now, then in zip(load.done, before, strict=True))
            own_daemon.process.send_signal(signal.SIGCONT)
            load.goes_on(2)
            (answer,) = raw.answers(1)
            assert (answer.id, answer.status) == (100 + round_, 0)
    assert load.errors == [None] * 4


LAZY = {"fusermount3 -u -z": ("fusermount3", "-u", "-z"), "umount -l": ("umount", "-l")}


@pytest.mark.mount
@pytest.mark.parametrize("how", LAZY)
def test_a_lazy_unmount_under_load(own_daemon: Daemon, how: str) -> None:
    """The kernel takes the name away and leaves open files to their programs: they are served until they close, and
    then the daemon ends by itself, with 0."""
    mountpoint = own_daemon.mountpoint
    with Load(mountpoint) as load:
        subprocess.run([*LAZY[how], str(mountpoint)], check=True, capture_output=True)
        assert not _mounts(mountpoint)
        assert number_of(lambda: os.open(mountpoint / "crypto", os.O_RDWR)) == errno.ENOENT
        load.goes_on()
        assert own_daemon.process.poll() is None
    assert load.errors == [None] * 4
    assert own_daemon.process.wait(15) == 0
    assert "Traceback" not in own_daemon.log


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: umount -f needs root")
def test_a_forced_unmount_under_load(own_daemon: Daemon) -> None:
    """umount -f: every client has its error at once, waiting ones too, and the daemon ends with 0."""
    mountpoint = own_daemon.mountpoint
    with Load(mountpoint) as load, slow(mountpoint) as raw:
        for number in range(4):
            raw.write(encryption(100 + number, 1_000_000))
        subprocess.run(["umount", "-f", "-l", str(mountpoint)], check=True, capture_output=True)
        wait_until(lambda: all(load.errors), 5)
        assert number_of(functools.partial(os.pread, raw.fd, RECORD_MAX, 0)) in DEAD
        assert set(load.errors) <= DEAD
        assert own_daemon.process.wait(15) == 0
    assert not _mounts(mountpoint)
    assert "Traceback" not in own_daemon.log


@pytest.mark.mount
def test_an_unmount_that_is_not_lazy_is_refused_under_load(own_daemon: Daemon) -> None:
    """EBUSY, and nobody notices."""
    with Load(own_daemon.mountpoint) as load:
        done = subprocess.run(
            ["fusermount3", "-u", str(own_daemon.mountpoint)], check=False, capture_output=True, text=True
        )
        assert done.returncode
        load.goes_on()
    assert load.errors == [None] * 4


# Logs that cannot be written


class Unlogged(Daemon):
    """A daemon whose log cannot be read back: it is up when the mount answers."""

    @property
    def log(self) -> str:
        if not _mounts(self.mountpoint):
            return ""
        with contextlib.suppress(OSError):
            if (self.mountpoint / "version").read_text().startswith("cryptofs"):
                return ": mounted"
        return ""


NOISE = 3000
"""Lines that a test makes the daemon log: more than a pipe holds."""


def provoke(fuses_directory: Path, mount: Path, count: int) -> None:
    """Have the daemon log `count` tracebacks, a kilobyte each."""
    point = fuses_directory / "digest"
    point.write_text("RuntimeError")
    try:
        with Raw(mount).configure("hash", "toysum") as raw:
            for first in range(0, count, 100):
                raw.write(*[digest(first + each) for each in range(100)])
                answers = raw.answers(100)
                assert {answer.status for answer in answers} == {errno.EIO}
    finally:
        point.unlink()


class BoundedCall:
    """A call in a process of its own, because a mount that hangs would hang the test: True if it has ended well."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._child = os.fork()
        if not self._child:
            status = 1
            with contextlib.suppress(BaseException):
                call()
                status = 0
            os._exit(status)

    def ended_well(self, seconds: float, free: Callable[[], object] = lambda: None) -> bool:
        """Wait for it; if it does not end, kill it and call `free` until it is gone: who waits for a withheld reply
        cannot even be killed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if ended:
                return status == 0
            time.sleep(0.02)
        os.kill(self._child, signal.SIGKILL)
        while not os.waitpid(self._child, os.WNOHANG)[0]:
            free()
            time.sleep(0.02)
        return False


def serves_through_noise(daemon: Daemon, fuses_directory: Path, free: Callable[[], object] = lambda: None) -> bool:
    """Whether the daemon goes on serving while it has much to log."""

    def all_of_it() -> None:
        with Context("hash", "toysum", mount=daemon.mountpoint) as good:
            assert good.digest(b"abc") == ABC
            provoke(fuses_directory, daemon.mountpoint, NOISE)
            assert good.digest(b"abc") == ABC

    return BoundedCall(all_of_it).ended_well(30, free)


@pytest.fixture
def fuse_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fuses for a daemon that the test starts itself."""
    directory = tmp_path / "fuses"
    directory.mkdir()
    at_start(tmp_path, monkeypatch, f"inject({str(directory)!r})")
    return directory


@pytest.mark.mount
def test_a_log_on_a_full_device(tmp_path: Path, fuse_directory: Path) -> None:
    """Standard error on /dev/full, from the first byte on."""
    with serving(tmp_path, "--engines", "fake", kind=Unlogged, log=Path("/dev/full")) as daemon:
        assert serves_through_noise(daemon, fuse_directory)


@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="NOT RUN: a small file system needs root")
def test_a_disk_that_fills_up(tmp_path: Path, fuse_directory: Path) -> None:
    """A log on a small tmpfs that is full after some lines."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        with serving(tmp_path, "--engines", "fake", log=disk / "log") as daemon:
            assert serves_through_noise(daemon, fuse_directory)
            wait_until(lambda: os.statvfs(disk).f_bfree == 0)
            assert CANARY in daemon.log
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.mount
def test_a_log_that_nobody_reads(tmp_path: Path, fuse_directory: Path) -> None:
    """Standard error is a pipe that is full: the daemon serves on, and ends when it is told to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        with serving(tmp_path, "--engines", "fake", kind=Unlogged, log=pipe) as daemon:
            try:
                assert serves_through_noise(daemon, fuse_directory, functools.partial(drain, reader))
            except AssertionError:
                # a daemon that hangs in the pipe would hang its end, too
                drain(reader)
                raise
            assert len(select.select([], [reader], [], 0)[1]) == 0, "the pipe is not full: nothing was tried"
    finally:
        os.close(reader)


def drain(reader: int) -> None:
    """Read everything until nothing more comes for a tenth of a second."""
    while select.select([reader], [], [], 0.1)[0]:
        os.read(reader, 1 << 20)


# What the hostile clients of the stress program have found


@pytest.mark.mount
def test_a_clone_over_the_quota_is_documented(mount: Path) -> None:
    """A clone opens a message in the other context, which may have as many as it may."""
    with hasher(mount) as raw:
        raw.write(*[digest(number, b"a", Flag.MORE) for number in range(256)])
        raw.answers(256)
        raw.write(Record(Operation.CLONE, 0, 1000, 0, {Attr.TARGET: 1}))
        (answer,) = raw.answers(1)
        assert answer.status == errno.EDQUOT
    assert errno.EDQUOT in Errnos().by_operation[Operation.CLONE]


@pytest.mark.mount
def test_what_a_signature_in_parts_is_refused_is_documented(mount: Path) -> None:
    """It is a message as others are: there are as many as there may be, and it is gathered as far as any is."""
    with Raw(mount) as raw:
        raw.write(Record(Operation.CONFIGURE, 0, 0, 0, {Attr.TYPE: "sig", Attr.NAME: "ed25519"}))
        raw.write(Record(Operation.GENERATE_KEY, 0, 1))
        assert [answer.status for answer in raw.answers(2)] == [0, 0]
        raw.write(*[Record(Operation.SIGN, Flag.MORE, number) for number in range(257)])
        answers = raw.answers(257)
        assert sorted(answer.status for answer in answers) == [0] * 256 + [errno.EDQUOT]
        opened = next(answer.id for answer in answers if not answer.status)
        part = Record(Operation.SIGN, Flag.MORE, opened, 0, {}, bytes(600_000))
        raw.write(part)
        raw.write(part)
        assert [answer.status for answer in raw.answers(2)] == [0, errno.EMSGSIZE]
    assert {errno.EDQUOT, errno.EMSGSIZE} <= Errnos().by_operation[Operation.SIGN]


@pytest.mark.mount
def test_what_a_signing_device_refuses_is_documented(tmp_path: Path) -> None:
    """A device never makes a key, and does what its section allows."""
    keys = declared.Keys.drawn(Random("keys"))
    (tmp_path / "mount").mkdir()
    config = declared.write(tmp_path, keys, False)
    with (
        server.serving(tmp_path, "--config", str(config)) as daemon,
        Context.of_device("signer", mount=daemon.mountpoint) as context,
        pytest.raises(RequestError) as refused,
    ):
        context.generate_key()
    assert refused.value.errno == errno.EACCES
    assert errno.EACCES in Errnos().by_operation[Operation.GENERATE_KEY]


# What the helpers of these tests say is true


def test_walking_finds_what_is_no_record() -> None:
    """The stress program's own reader of records is strict."""
    whole = build(Record(Operation.DIGEST, 0, 7, 0, {}, b"abc"))
    assert [(operation, identity) for operation, _, identity, _, _ in walk(whole + whole)] == [(18, 7), (18, 7)]
    with pytest.raises(ValueError):
        walk(whole + bytes([1, 0, 0, 0]) + bytes(20))
