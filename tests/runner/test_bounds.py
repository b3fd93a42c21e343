"""What one program may use of its supervisor, which for a container is a process of the host."""

import errno
import hashlib
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterable
from typing import cast

import pytest
from helpers.running import ABC, DIGEST, OPENSSL, command, run
from helpers.waiting import PATIENCE

from cryptofs.errors import InvalidValue, SystemFault
from cryptofs.runner import descriptors
from cryptofs.runner.alg import bound
from cryptofs.runner.alg.control import SET_KEY, SOL_ALG
from cryptofs.runner.alg.operation import Gathering
from cryptofs.runner.alg.operations import OPERATIONS
from cryptofs.runner.backend import LocalBackend
from cryptofs.runner.endpoint import Endpoint
from cryptofs.runner.notify import Call, Listener
from cryptofs.runner.process import Memory
from cryptofs.runner.rules import BASE


def test_data_of_all_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have one bound together; what is received or closed counts no longer."""
    monkeypatch.setattr(bound, "_STORED_MAX", 1000)
    made = bound.Bound(LocalBackend(OPENSSL[1:]), lambda: None, OPERATIONS, bound.Store())
    made.bind(struct.pack("=H14sII64s", 38, b"skcipher", 0, 0, b"ecb(aes)"))
    made.set_option(SOL_ALG, SET_KEY, 16, lambda: bytearray(16))
    first, second = made.accept(), made.accept()
    assert isinstance(first, Gathering)
    first.send(bytes(608), b"", 0, 0)
    for _ in range(2):
        with pytest.raises(SystemFault) as caught:
            second.send(bytes(608), b"", 0, 0)
        assert caught.value.errno == errno.ENOBUFS
    first.receive(304, 0)
    second.send(bytes(608), b"", 0, 0)
    second.close()
    first.receive(304, 0)
    first.send(bytes(1000 - len(first.data)), b"", 0, 0)
    first.close()
    made.close()


LARGE = """
import hashlib, os, socket
data = [bytes([number]) * (9 << 20) for number in range(5)]
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("hash", "sha256"))
    with bound.accept()[0] as operation:
        for send in (operation.sendmsg, lambda pieces: os.writev(operation.fileno(), pieces)):
            print(send(data), operation.recv(32).hex())
"""


def test_a_hash_of_more_than_is_copied_at_once() -> None:
    """One send may have any size."""
    digest = hashlib.sha256(b"".join(bytes([number]) * (9 << 20) for number in range(5))).hexdigest()
    done = run(sys.executable, "-c", LARGE)
    assert (done.stdout.splitlines(), done.stderr) == (2 * [f"{5 * (9 << 20)} {digest}"], "")


NETLINK = """
import errno, socket, struct
request = struct.pack("=IHHII", 16, 0x13, 5, 1, 0)
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 21) as crypto:
    crypto.bind((0, 0))
    for count in (13313, 13000):
        try:
            print(crypto.send(request * count))
        except OSError as error:
            print(errno.errorcode[error.errno])
    for _ in range(2):
        try:
            print(len(crypto.recv(1000)))
        except OSError as error:
            print(errno.errorcode[error.errno])
"""


def test_netlinks_answers() -> None:
    """As in the kernel, a program that does not receive them loses some, and is told so."""
    assert run(sys.executable, "-c", NETLINK).stdout.split() == ["EMSGSIZE", "208000", "ENOBUFS", "36"]


MANY = """
import socket
sockets = [socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) for _ in range(300)]
print(len(sockets))
"""


def test_the_callers_limit_of_open_files() -> None:
    """A small one binds neither the program nor its supervisor, as far as the hard limit allows it."""
    line = ["sh", "-c", 'ulimit -S -n 64 && exec "$@"', "sh", *command(sys.executable, "-c", MANY)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
    assert (done.stdout, done.stderr) == ("300\n", "")


ASYNCHRONOUS = """
import ctypes, os, socket, struct
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
COUNT, SIZE = 48, 65536
SETUP, SUBMIT, EVENTS = (206, 209, 208) if os.uname().machine == "x86_64" else (0, 2, 4)

def call(number, *arguments):
    return libc.syscall(*map(ctypes.c_long, (number, *arguments)))

context = ctypes.c_ulong()
call(SETUP, COUNT, ctypes.addressof(context))
with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as bound:
    bound.bind(("skcipher", "ecb(aes)"))
    bound.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, bytes(16))
    with bound.accept()[0] as operation:
        operation.sendmsg_afalg([bytes(COUNT * SIZE)], op=socket.ALG_OP_ENCRYPT)
        out = ctypes.create_string_buffer(COUNT * SIZE)
        blocks = [
            ctypes.create_string_buffer(struct.pack(
                "=QIiHhIQQqQII", 0, 0, 0, 0, 0, operation.fileno(),
                ctypes.addressof(out) + SIZE * each, SIZE, 0, 0, 0, 0
            ))
            for each in range(COUNT)
        ]
        pointers = ctypes.create_string_buffer(struct.pack(f"={COUNT}Q", *map(ctypes.addressof, blocks)))
        print(call(SUBMIT, context.value, COUNT, ctypes.addressof(pointers)))
        events = ctypes.create_string_buffer(32 * COUNT)
        print(call(EVENTS, context.value, COUNT, COUNT, ctypes.addressof(events), 0))
        print({struct.unpack_from("=QQqq", events, 32 * each)[2] for each in range(COUNT)})
        print(out.raw == out.raw[:16] * (COUNT * SIZE // 16))
"""


def test_more_asynchronous_answers_than_a_pair_takes() -> None:
    """The supervisor does not wait for a program that waits for it."""
    done = run(sys.executable, "-c", ASYNCHRONOUS)
    assert (done.stdout.splitlines(), done.stderr) == (["48", "48", "{65536}", "True"], "")


def test_a_pipe_that_another_thread_has_read() -> None:
    """The supervisor never waits for it; what is no pipe is not opened."""
    reader, writer = os.pipe()
    memory = Memory(os.getpid())
    for number in (reader, writer):
        taken = memory.take_pipe(number)
        with pytest.raises(BlockingIOError):
            os.read(taken, 1)
        os.close(taken)
    with open(__file__) as file, pytest.raises(InvalidValue):
        memory.take_pipe(file.fileno())
    os.close(reader)
    os.close(writer)
    with pytest.raises(SystemFault) as caught:
        memory.take_pipe(reader)
    assert caught.value.errno == errno.EBADF


HOLES = """
import random, socket
held = []
def fill():
    before = len(held)
    try:
        while True:
            held.append(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET))
    except OSError as error:
        return len(held) - before, error.strerror
print(*fill())
for each in random.sample(held, 30):
    held.remove(each)
    each.close()
print(*fill())
for each in held[::2]:
    each.close()
print(max(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).detach() for each in range(44)) < 600)
"""


def test_each_number_below_the_limit() -> None:
    """All of them are found again, wherever a descriptor was closed."""
    done = run("sh", "-c", 'ulimit -n 600 && exec "$@"', "sh", sys.executable, "-c", HOLES)
    assert done.stdout == "88 Too many open files\n30 Too many open files\nTrue\n", done.stderr


class Program:
    """The numbers of a program's descriptors. It stands for a listener that puts copies there."""

    def __init__(self, used: Iterable[int]) -> None:
        self.used = set(used)
        self.looks = 0

    def is_free(self, tid: int, number: int) -> bool:
        """Stands for a look into /proc, whose calls cannot be counted."""
        self.looks += 1
        return number not in self.used

    def inject(self, call: Call, source: int, number: int, close_on_exec: bool) -> int:
        """Stands for SECCOMP_IOCTL_NOTIF_ADDFD."""
        self.used.add(number)
        return number


def test_a_number_is_found_by_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with many sockets that closes and opens one: looking at every number would be 400 looks for each."""
    program = Program(range(100))
    monkeypatch.setattr(descriptors, "is_free", program.is_free)
    call = Call(1, 1, 0, (), Memory(1))
    with select.epoll() as poll:
        placing = descriptors.Descriptors(cast("Listener", program), poll, BASE)
        given = {}
        for _ in range(400):
            endpoint = Endpoint()
            given[placing.hand_over(call, endpoint, True, False)] = endpoint
        assert sorted(given) == list(range(BASE, BASE + 400))
        assert program.looks < 1000
        program.looks = 0
        for _ in range(100):
            for number in (BASE + 300, BASE + 90):
                program.used.remove(number)
                placing.react(given.pop(number).end.ours.fileno(), select.EPOLLHUP)
            for number in (BASE + 90, BASE + 300):
                endpoint = Endpoint()
                assert placing.hand_over(call, endpoint, True, False) == number
                given[number] = endpoint
        assert program.looks < 200 * 80
        placing.close()


def test_a_limit_that_leaves_no_number() -> None:
    """A hard limit of 512 files or fewer: EMFILE, and a message says why, once. With --wide it does not matter."""
    line = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    twice = "import socket\nfor each in 'ab':\n try: socket.socket(38, 5)\n except OSError as error: print(error.errno)"
    done = run(*line, sys.executable, "-c", twice)
    assert (done.stdout, done.stderr.count("ulimit -n")) == ("24\n24\n", 1)
    assert run(*line, sys.executable, "-c", DIGEST, options=(*OPENSSL, "--wide")).stdout == f"{ABC}\n"
