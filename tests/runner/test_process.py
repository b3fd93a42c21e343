"""Looking into another process: what its threads wait for."""

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import threading

from helpers.runtime import filtered
from helpers.waiting import wait_until

from cryptofs.runner.front import Message, line_of
from cryptofs.runner.notify import Call, Listener, PassOn
from cryptofs.runner.numbers import machine
from cryptofs.runner.process import is_free, is_in_call, is_nonblocking
from cryptofs.runner.supervisor import Supervisor


def test_whether_a_thread_waits_in_a_call() -> None:
    """One that is always on its way counts as in it: an answer that it is not given would be missing for ever."""
    read = machine().numbers["read"]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        wait_until(lambda: is_in_call(reader.pid, read), 10)
        assert not is_in_call(reader.pid, machine().numbers["write"])
        assert reader.stdin is not None
        reader.stdin.close()
        reader.wait()
    assert not is_in_call(reader.pid, read)
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as busy:
        try:
            wait_until(lambda: is_in_call(busy.pid, read) and is_in_call(busy.pid, 4095), 10)
        finally:
            busy.kill()


def test_descriptors() -> None:
    """Which numbers are free, and how a file was opened."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    assert not is_free(os.getpid(), reader)
    assert is_nonblocking(os.getpid(), reader)
    os.set_blocking(reader, True)
    assert not is_nonblocking(os.getpid(), reader)
    os.close(writer)
    os.close(reader)
    assert is_free(os.getpid(), reader)


def test_lines_for_the_user() -> None:
    """They may have names that are no text, and are cut at a length in bytes."""
    for text, expected in (
        ("a\udcffb", "a\\udcffb"),
        ("x" + "é" * 3000, "x" + "é" * 2047 + "\N{REPLACEMENT CHARACTER}"),
    ):
        assert line_of(Message.SAYS.text(text)) == expected


class Failing:
    """Answers that fail at everything that no call waits for."""

    patience = 0.001

    def __init__(self, poll: select.epoll, other: int) -> None:
        poll.register(other, select.EPOLLIN)
        self.failed: list[str] = []

    def answer(self, call: Call) -> int:
        raise PassOn

    def react(self, descriptor: int, events: int) -> None:
        os.read(descriptor, 1)
        self.failed.append("react")
        raise OSError(errno.EPIPE, "gone")

    def look_again(self) -> None:
        self.failed.append("look again")
        raise ValueError

    def close(self) -> None:
        return


def test_what_fails_beside_the_calls() -> None:
    """One socket's fault does not end the others: the supervisor goes on until the program ends."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        socket.send_fds(theirs, [b"x"], [filtered()])
        with contextlib.suppress(OSError):
            socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
        os.write(writer, b"x")
        os.read(ready, 1)
        os._exit(0)
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    made: list[Failing] = []

    def load(listener: Listener, poll: select.epoll) -> Failing:
        made.append(Failing(poll, reader))
        return made[-1]

    supervisor = Supervisor(machine(), Listener(descriptors[0]), load)
    thread = threading.Thread(target=supervisor.serve)
    thread.start()
    wait_until(lambda: bool(made) and {"react", "look again"} <= set(made[0].failed), 10)
    os.write(go, b"x")
    os.waitpid(child, 0)
    thread.join(20)
    assert not thread.is_alive()
    supervisor.close()
    for descriptor in (reader, writer, ready, go):
        os.close(descriptor)
    ours.close()
    theirs.close()
