"""sendmsg(2) reads the parts of a message at once if they lie where those of the message before lay."""

import ctypes
import errno
import struct
import threading
from collections.abc import Iterator

import pytest

from cryptofs.errors import SystemFault
from cryptofs.records import Buffer
from cryptofs.runner.backend import LocalBackend
from cryptofs.runner.calls.data import HANDLERS
from cryptofs.runner.desk import Desk
from cryptofs.runner.endpoint import Endpoint
from cryptofs.runner.libc import Data, Pieces
from cryptofs.runner.notify import Call
from cryptofs.runner.process import Memory

_HEADER = struct.Struct("=QI4xQQQQi4x")
_PIECE = struct.Struct("=QQ")


class CountedMemory(Memory):
    """This process's memory, and how many copies were made of it."""

    copies = 0

    def gather(self, pieces: Pieces, total: int) -> Data:
        CountedMemory.copies += 1
        return super().gather(pieces, total)


class Taker(Endpoint):
    """Keeps what it was sent, or refuses it."""

    refuses = False

    def send(self, data: Buffer, control: bytes, flags: int, tid: int) -> int:
        if self.refuses:
            raise SystemFault("refused", 5)
        self.got = bytes(data), control
        return len(data)


class Sender:
    """Sends messages from this process's memory, with as many pieces as it is given."""

    def __init__(self) -> None:
        self.endpoint = Taker()
        self.head = ctypes.create_string_buffer(_HEADER.size)
        self.array = ctypes.create_string_buffer(20 * _PIECE.size)
        self.control = ctypes.create_string_buffer(64)
        self.kept: list[ctypes.Array[ctypes.c_char]] = []
        self.gone: list[ctypes.Array[ctypes.c_char]] = []
        """Control messages of earlier messages, whose memory must not be used again."""

    def describe(self, *pieces: bytes, control: bytes = b"") -> None:
        """Lay a message out in fresh memory, at the same address of its header."""
        self.kept = [ctypes.create_string_buffer(piece, max(1, len(piece))) for piece in pieces]
        at = ctypes.addressof
        self.array[: _PIECE.size * len(pieces)] = b"".join(
            _PIECE.pack(at(kept), len(piece)) for kept, piece in zip(self.kept, pieces, strict=True)
        )
        self.control[: len(control)] = control
        parts = (at(self.array), len(pieces), at(self.control), len(control))
        self.head[:] = _HEADER.pack(0, 0, *parts, 0)

    def send(self) -> int:
        """Send what is laid out; returns how many copies it took."""
        before = CountedMemory.copies
        address = ctypes.addressof(self.head)
        tid = threading.get_native_id()
        call = Call(1, tid, 0, (600, address, 0, 0, 0, 0), CountedMemory(tid))
        HANDLERS["sendmsg"](Desk(LocalBackend(("openssl",)), self), call)  # type: ignore[arg-type]
        return CountedMemory.copies - before

    def find(self, call: Call, number: int) -> Endpoint:
        """As `Descriptors`: whatever the number is."""
        return self.endpoint


@pytest.fixture
def sender() -> Iterator[Sender]:
    """One, whose endpoint is closed after the test."""
    made = Sender()
    yield made
    made.endpoint.close()


def test_the_same_layout(sender: Sender) -> None:
    """Other data and control messages in the same memory: one copy has all, and it is what lies there now."""
    sender.describe(b"data", b"", b"more", control=b"control")
    assert sender.send() == 3
    assert sender.endpoint.got == (b"datamore", b"control")
    assert sender.send() == 1
    assert sender.endpoint.got == (b"datamore", b"control")
    sender.kept[2][:4] = b"less"
    sender.control[:7] = b"CONTROL"
    assert sender.send() == 1
    assert sender.endpoint.got == (b"dataless", b"CONTROL")


def test_two_places_in_turns(sender: Sender) -> None:
    """A program that allocates the control messages before it frees the last ones: one copy for each message."""
    sender.describe(b"data 0", control=b"control 0")
    places = sender.control, ctypes.create_string_buffer(64)
    copies = []
    for turn in range(8):
        sender.control = places[turn % 2]
        sender.control[:9] = b"control %d" % turn
        sender.kept[0][:6] = b"data %d" % turn
        sender.head[:] = _HEADER.pack(0, 0, ctypes.addressof(sender.array), 1, ctypes.addressof(sender.control), 9, 0)
        copies.append(sender.send())
        assert sender.endpoint.got == (b"data %d" % turn, b"control %d" % turn)
    assert copies == [3, 2, 1, 1, 1, 1, 1, 1]


def test_moved_control_messages(sender: Sender) -> None:
    """What has moved is read where it lies now, and nothing else twice; what is no longer there is EFAULT."""
    sender.describe(b"data 0", b"more", control=b"control 0")
    assert sender.send() == 3
    for turn in range(1, 5):
        sender.control = ctypes.create_string_buffer(b"control %d" % turn)
        sender.kept[0][:6] = b"data %d" % turn
        at = ctypes.addressof
        sender.head[:] = _HEADER.pack(0, 0, at(sender.array), 2, at(sender.control), 9, 0)
        sender.gone.append(sender.control)
        assert sender.send() == 2
        assert sender.endpoint.got == (b"data %dmore" % turn, b"control %d" % turn)
    sender.head[:] = _HEADER.pack(0, 0, ctypes.addressof(sender.array), 2, 8, 9, 0)
    with pytest.raises(SystemFault) as caught:
        sender.send()
    assert caught.value.errno == errno.EFAULT


def test_another_layout(sender: Sender) -> None:
    """Other pieces, another number of them, other control messages, at the same address of the header."""
    sender.describe(b"data", b"more", control=b"control")
    sender.send()
    for pieces, control in (
        ((b"other data", b"more"), b"control"),
        ((b"other data",), b"control"),
        ((b"other data",), b""),
        ((), b"a longer control"),
        ((b"x",) * 20, b""),
        ((b"", b""), b""),
        ((b"data",), b""),
    ):
        keep = sender.kept
        sender.describe(*pieces, control=control)
        assert sender.send() >= 2, keep
        assert sender.endpoint.got == (b"".join(pieces), control)


def test_large_messages(sender: Sender) -> None:
    """Their layout is not remembered."""
    sender.describe(bytes(65536))
    assert sender.send() == sender.send() == 3
    assert sender.endpoint.got == (bytes(65536), b"")


def test_memory_that_has_gone(sender: Sender) -> None:
    """A piece of the message before is nowhere: only what the new message says counts."""
    sender.describe(b"data", control=b"control")
    sender.send()
    (layout,) = sender.endpoint.layouts
    sender.endpoint.layouts[0] = layout._replace(parts=[*layout.parts[:-1], (8, 4)])
    assert sender.send() == 4
    assert sender.endpoint.got == (b"data", b"control")


def test_a_refusal(sender: Sender) -> None:
    """An error of the socket is the program's, and no reason to send the message again."""
    sender.describe(b"data", control=b"control")
    sender.send()
    sender.endpoint.refuses = True
    with pytest.raises(SystemFault, match="refused"):
        sender.send()
