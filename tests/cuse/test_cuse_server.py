"""The server of a CUSE device, with the kernel's end of it here: retries, users, signals."""

import errno
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.cuse import Kernel
from helpers.devcrypto import AES_CBC, AES_GCM, ENCRYPT, NULL, SHA256, Program, errno_of
from helpers.waiting import PATIENCE, wait_until

from cryptofs.algorithms import Description, Type
from cryptofs.cuse import Server, users
from cryptofs.fuse import protocol
from cryptofs.runner.backend import LocalBackend, RunTransform
from cryptofs.runner.devcrypto import Command
from cryptofs.runner.devcrypto.numbers import CRYPT, SESSION, U32

KEY, IV = bytes(range(16)), bytes(range(100, 116))
READABLE, WRITABLE = 0x41, 0x104


class Gate:
    """A backend whose transforms open only while its gate is open."""

    def __init__(self) -> None:
        self._backend = LocalBackend(("openssl",))
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Event()

    def describe(self, type_: Type, name: str) -> Description:
        return self._backend.describe(type_, name)

    def open(self, type_: Type, name: str) -> RunTransform:
        self.entered.set()
        assert self.opened.wait(30 * PATIENCE)
        return self._backend.open(type_, name)


class Served:
    """A server in the main thread's place: its signal handling needs that, so that requests are taken by a thread."""

    def __init__(self, waits: bool) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self.gate = Gate()
        self.server = Server(theirs.detach(), self.gate, waits)
        self.kernel = Kernel(ours)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        os.set_blocking(self.server._device.descriptor, True)
        while self.server._take():
            pass

    def close(self) -> None:
        self.gate.opened.set()
        self.kernel.close()
        self._thread.join(10 * PATIENCE)
        self.server.close()


@pytest.fixture(params=[False, True], ids=["at-once", "by-threads"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server that does small requests itself, and one that never does."""
    found = Served(request.param)
    yield found
    found.close()


@pytest.fixture
def kernel(served: Served) -> Kernel:
    """Its kernel."""
    return served.kernel


@pytest.fixture
def program(kernel: Kernel) -> Program:
    """A program that has the device open."""
    return kernel.program(kernel.open())


def refused(number: int, call: Callable[[], object]) -> None:
    """Check that a call fails with this errno."""
    assert errno_of(call) == number


def test_calls(program: Program, kernel: Kernel) -> None:
    """Each ioctl takes the attempts that its pointers need, and gives the library's bytes."""
    number = program.session(AES_CBC, KEY, SHA256)
    assert kernel.rounds == 3
    data = os.urandom(1024)
    out, digest, _ = program.crypt(number, ENCRYPT, data, IV)
    assert out == Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(data)
    assert any(digest[:32])
    gcm = program.session(AES_GCM, KEY)
    sealed = program.seal(gcm, data, IV[:12], b"auth")
    assert sealed == AESGCM(KEY).encrypt(IV[:12], data, b"auth")
    assert program.open(gcm, sealed, IV[:12], b"auth") == data
    refused(errno.EBADMSG, lambda: program.open(gcm, sealed[:-1] + b"\0", IV[:12], b"auth"))
    assert program.info(number)[0] == "cbc(aes)"
    assert program.call(Command.CIOCASYMFEAT, U32.pack(7)) == U32.pack(17)
    program.finish(number)
    refused(errno.EINVAL, lambda: program.crypt(number, ENCRYPT, data, IV))


def test_the_largest_call(program: Program) -> None:
    """As much as the kernel moves in each direction, which the structure is part of."""
    number = program.session(NULL)
    most = protocol.IOCTL_TRANSFER_MAX - CRYPT.size
    data = os.urandom(most)
    assert program.crypt(number, ENCRYPT, data)[0] == data
    refused(errno.EMSGSIZE, lambda: program.crypt(number, ENCRYPT, data + b"x"))


def test_what_the_device_does_not_have(kernel: Kernel) -> None:
    """Other ioctls, CRIOGET, reading and writing: the errnos of cryptodev. An unknown request is ENOSYS."""
    handle = kernel.open()
    for command in (Command.CRIOGET, 0x5401, 0):
        refused(errno.EINVAL, lambda command=command: kernel.answer(kernel.attempt(handle, command, 0)))  # type: ignore[misc]
    body = bytes(40)
    for opcode in (protocol.Opcode.READ, protocol.Opcode.WRITE):
        refused(errno.EINVAL, lambda opcode=opcode: kernel.answer(kernel.send(opcode, body)))  # type: ignore[misc]
    refused(errno.ENOSYS, lambda: kernel.answer(kernel.send(99, body)))
    refused(errno.EINVAL, lambda: kernel.answer(kernel.attempt(handle + 1, Command.CIOCASYMFEAT, 0)))


def test_a_structure_that_changes_between_attempts(kernel: Kernel) -> None:
    """Another thread of the program may do so: the call is planned again by what is there now."""
    handle = kernel.open()
    program = kernel.program(handle)
    number = program.session(NULL)
    call = program.crypt_op(number, ENCRYPT, b"first")
    longer = call._replace(size=3)
    sizes = [
        CRYPT.pack(*call),
        CRYPT.pack(*call) + b"first",
        CRYPT.pack(*longer) + b"first",
        CRYPT.pack(*longer) + b"fir",
    ]
    room = [0, 5, 5, 3]
    done = []
    for data, out in zip(sizes, room, strict=True):
        answer = kernel.answer(kernel.attempt(handle, Command.CIOCCRYPT, 64, data, out))
        head = protocol.IOCTL_OUT.parse(answer)
        done.append(not head.flags & protocol.IOCTL_RETRY)
    assert done == [False, True, False, True]
    assert answer[16:] == b"fir"


def test_any_sizes_and_bytes(kernel: Kernel) -> None:
    """An attempt with sizes that nobody asked for is answered, and nothing else happens."""
    handle = kernel.open()
    for command, size, room in itertools.product(Command, (0, 1, 47, 48, 100, 300), (0, 1, 400)):
        unique = kernel.attempt(handle, command, 64, b"\xff" * size, room)
        found = errno_of(lambda unique=unique: kernel.answer(unique))  # type: ignore[misc]
        assert found in (0, errno.EINVAL, errno.EBUSY, errno.EDEADLK, errno.ENOENT, errno.EMSGSIZE), command
    assert kernel.program(handle).session(NULL)


def test_no_user_waits_for_another(served: Served, kernel: Kernel) -> None:
    """While one user's call takes long, others' are answered; the same user's wait, up to a bound, and in order."""
    if not served.server._at_once:
        slow, other = kernel.open(1000), kernel.open(1001)
        served.gate.opened.clear()
        structure = SESSION.pack(AES_CBC, 0, 16, 0, 4096, 0, 0, 0, 0, 0) + KEY
        first = kernel.attempt(slow, Command.CIOCGSESSION, 64, structure, 4)
        assert served.gate.entered.wait(10 * PATIENCE)
        waiting = [kernel.attempt(slow, Command.CIOCASYMFEAT, 64, b"", 4) for _ in range(users.WAITING_MAX)]
        refused(errno.EAGAIN, lambda: kernel.answer(kernel.attempt(slow, Command.CIOCASYMFEAT, 64, b"", 4)))
        assert kernel.program(other).session(NULL)
        assert not kernel.has(first)
        assert not any(map(kernel.has, waiting))
        # A signal takes back what has not begun, and only that.
        for unique in (waiting[3], first):
            kernel.send(protocol.Opcode.INTERRUPT, protocol.INTERRUPT_IN.build({"unique": unique}))
        refused(errno.EINTR, lambda: kernel.answer(waiting[3]))
        kernel.send(protocol.Opcode.RELEASE, protocol.RELEASE_IN.build(
            {"handle": slow, "flags": 0, "release_flags": 0, "lock_owner": 0}))  # fmt: skip
        served.gate.opened.set()
        assert len(kernel.answer(first)) == 20
        del waiting[3]
        for unique in waiting:
            assert kernel.answer(unique)[16:] == U32.pack(17)


def test_large_calls_of_many_programs(served: Served, kernel: Kernel) -> None:
    """Whichever thread does them, each program gets its own bytes."""
    failures: list[BaseException] = []

    def work(uid: int) -> None:
        try:
            program = kernel.program(kernel.open(uid))
            key = bytes([uid - 1000]) * 16
            number = program.session(AES_CBC, key)
            for size in (16, 32768, 64, 16384, 65536) * 3:
                data = os.urandom(size)
                expected = Cipher(algorithms.AES(key), modes.CBC(IV)).encryptor().update(data)
                assert program.crypt(number, ENCRYPT, data, IV)[0] == expected
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(1000 + each // 2,)) for each in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60 * PATIENCE)
    assert not failures


def test_poll(kernel: Kernel) -> None:
    """Writable while calls are taken, readable while a result waits; a poller that sleeps is woken."""
    handle = kernel.open()
    program = kernel.program(handle)
    number = program.session(NULL)
    assert kernel.poll(handle, 77) == WRITABLE
    program.call(Command.CIOCASYNCCRYPT, CRYPT.pack(*program.crypt_op(number, ENCRYPT, b"text")))
    wait_until(lambda: kernel.woken == [77])
    assert kernel.poll(handle) == READABLE | WRITABLE
    program.call(Command.CIOCASYNCFETCH, bytes(CRYPT.size))
    assert kernel.poll(handle) == WRITABLE
    assert kernel.woken == [77]


def test_files_and_users_are_bounded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENFILE beyond; a close makes room, and ends the user's thread with the last file."""
    monkeypatch.setattr(users, "FILES_MAX", 3)
    monkeypatch.setattr(users, "USERS_MAX", 2)
    before = threading.active_count()
    handles = [kernel.open(1000) for _ in range(3)]
    refused(errno.ENFILE, lambda: kernel.open(1000))
    handles.append(kernel.open(1001))
    refused(errno.ENFILE, lambda: kernel.open(1002))
    assert [kernel.program(handle).session(NULL) for handle in handles]
    kernel.release(handles.pop())
    handles.append(kernel.open(1002))
    for handle in handles:
        kernel.release(handle)
    wait_until(lambda: threading.active_count() == before)


def test_keys_are_wiped(served: Served, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared buffer and the copy of a request are zeros once it has been answered."""
    requests: list[bytearray] = []
    answer = served.server._answer

    def keep(sessions: object, unique: int, request: memoryview) -> None:
        assert isinstance(request.obj, bytearray)
        requests.append(request.obj)
        answer(sessions, unique, request)  # type: ignore[arg-type]

    monkeypatch.setattr(served.server, "_answer", keep)
    program = kernel.program(kernel.open())
    program.session(AES_CBC, b"no one may see i")
    wait_until(lambda: len(requests) == 3 and not any(map(any, requests)))
    assert not any(served.server._buffer)


def test_signals_end_it() -> None:
    """In the main thread: SIGTERM ends the serving; a device that the kernel ends, too, which is told apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        found = Server(theirs.detach(), LocalBackend(("openssl",)), waits=False)
        before = signal.getsignal(signal.SIGUSR1)
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        assert found.serve((signal.SIGUSR1,))
        assert signal.getsignal(signal.SIGUSR1) is before
        ours.shutdown(socket.SHUT_RDWR)
        assert not found.serve((signal.SIGUSR1,))
        found.close()
