"""The pairs of sockets behind a descriptor, where a copy of the program's end is not to be had."""

import errno
import os
import socket

import pytest

from cryptofs.errors import SystemFault
from cryptofs.runner.endpoint import Endpoint, Received, Waiting
from cryptofs.runner.ends import End
from cryptofs.runner.libc import Data
from cryptofs.runner.notify import PassOn
from cryptofs.runner.process import Memory


class Refused:
    """A descriptor of which pidfd_getfd gives no copy, and whose pair has answers."""

    def __init__(self, end: End) -> None:
        self.memory = Memory(os.getpid())
        self.end = end

    def clear(self) -> tuple[End, list[Data]]:
        raise SystemFault("refused", errno.EPERM)

    def copy(self, close_on_exec: bool) -> int:
        raise AssertionError("no copy is asked for")


class Told(Endpoint):
    """What it receives is what it was told."""

    def receive(self, size: int, flags: int) -> Received:
        return Received(b"answer"[:size])


def test_an_answer_that_a_signal_kept_from_its_reader() -> None:
    """It lies before the mark, so the kernel's read finds it; the next receive is served as usual."""
    endpoint = Told()
    end = endpoint.end
    theirs = end.theirs.dup()
    assert (theirs.recv(9), end.has_answers) == (b"", False)
    end.marked = False
    place = Refused(end)
    endpoint.served.append(Waiting(os.getpid(), 0, 16, end))
    end.put(b"left")
    endpoint.mark()
    assert end.has_answers
    with pytest.raises(PassOn):
        endpoint.left_behind(place)
    assert theirs.recv(9) == b"left"
    assert not end.has_answers
    assert endpoint.left_behind(place) is None
    assert endpoint.served == []
    # a thread that begins to wait where no mark lies needs none of it
    assert theirs.recv(9, socket.MSG_DONTWAIT) == b""
    end.marked = False
    endpoint.wait(place, 0, 16)
    assert [each.end for each in endpoint.waiting] == [end]
    theirs.close()
    endpoint.close()
