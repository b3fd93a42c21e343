"""The behaviour of compressions: which output comes part by part, and which is gathered and computed as a whole.

A family supplies the running codecs. This module decides how much output comes at a time, and its maximum.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

from ...algorithms import Description
from ...errors import InvalidValue, TooLarge
from ...records import PAYLOAD_MAX, Buffer, Operation
from ..base import OUT_SLACK, Message, Transform
from ..kinds import WholeTransform

_HELD = 262_144
"""Bytes of earlier parts that a library may hold back: more than zlib or zstd do."""


INPUT_WAITING = PAYLOAD_MAX + 262_144
"""Bytes of input of a decompression that wait for room for their output: a part, and an incomplete block."""


class Running(Protocol):
    """A running compression or decompression."""

    state: int
    """Bytes that its windows and tables take, by what its library says of them."""

    @property
    def held(self) -> int:
        """Bytes of output that the last `push` had no room for, as far as they are known; 0 only if none are left."""

    @property
    def waiting(self) -> int:
        """Bytes of input that wait for room for their output."""

    def push(self, data: Buffer, last: bool, room: int) -> Buffer:
        """Take a part and give at most `room` bytes of the available output."""


class Compressor(Protocol):
    """An object that zlib and zstandard call a compressobj."""

    def compress(self, data: Buffer, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Packer:
    """A compression in parts: all output of the library, as much at a time as fits."""

    def __init__(self, compressor: Compressor, state: int) -> None:
        self.state = state
        self._compressor: Compressor | None = compressor
        self._ready = bytearray()

    @property
    def held(self) -> int:
        """Bytes of output that are left."""
        return len(self._ready)

    @property
    def waiting(self) -> int:
        """None: the library takes all input."""
        return 0

    def push(self, data: Buffer, last: bool, room: int) -> Buffer:
        """See Running. Errors: TooLarge for input while a whole part's output is left."""
        if len(data) and len(self._ready) > PAYLOAD_MAX:
            raise TooLarge(f"{len(self._ready)} bytes of output are left: give empty parts until less than that comes")
        if self._compressor is not None:
            if len(data):
                self._ready += self._compressor.compress(data)
            if last:
                self._ready += self._compressor.flush()
                self._compressor = None
        return cut(self._ready, room)


def cut(ready: bytearray, room: int) -> bytes:
    """Take at most `room` bytes off the front."""
    piece = bytes(memoryview(ready)[:room])
    del ready[:room]
    return piece


class Decompression:
    """What the running decompressions share: input that waits for room, at most INPUT_WAITING bytes, and output that is
    left."""

    def __init__(self) -> None:
        self._input = bytearray()
        self._ready = bytearray()

    @property
    def held(self) -> int:
        """Bytes of output that are left, at least."""
        return len(self._ready)

    @property
    def waiting(self) -> int:
        """Bytes of input that wait for room."""
        return len(self._input)

    def _queue(self, data: Buffer) -> None:
        """Errors: TooLarge."""
        if len(self._input) + len(data) > INPUT_WAITING:
            raise TooLarge(
                f"{len(self._input)} bytes of input wait for room for their output, {len(data)} more are too many: "
                f"at most {INPUT_WAITING}; give empty parts until less than a full answer comes"
            )
        self._input += data


class StreamedMessage(Message):
    """A message whose output comes part by part, at most PAYLOAD_MAX bytes at a time; the rest is pending."""

    def __init__(self, running: Running, transform: "StreamedTransform", operation: Operation) -> None:
        self.state = Message.state + running.state
        self._running: Running | None = running
        self._transform = transform
        self._operation = operation

    @property
    def pending(self) -> bool:
        return self._running is not None and self._running.held > 0

    def room(self, size: int, last: bool) -> int:
        held = 0 if self._running is None else self._running.held
        return min(PAYLOAD_MAX, self._transform.room(self._operation, size) + _HELD + held)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        if self._running is None:
            raise InvalidValue(f"{self._operation.word}: the message is closed")
        piece = self._running.push(data, last, len(out) - OUT_SLACK)
        out[: len(piece)] = piece
        return len(piece)

    @property
    def kept(self) -> int:
        return 0 if self._running is None else self._running.held + self._running.waiting

    def close(self) -> None:
        self._running = None


class PacedTransform(Transform):
    """A transform whose pace is known in advance: the first message of a slow level must not block the event loop."""

    paces: Mapping[int, float] = {}
    """Nanoseconds to compress a byte, by the lowest level that takes so long."""
    pace_without_level = 5.0

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self._expect_level()

    def set_level(self, level: int) -> None:
        super().set_level(level)
        self._expect_level()

    def _expect_level(self) -> None:
        level = self.level
        slow = [] if level is None else [pace for lowest, pace in self.paces.items() if lowest <= level]
        self._slowest = self.pace = max(slow, default=self.pace_without_level)

    def note_pace(self, size: int, nanoseconds: int) -> None:
        # never less than compressing takes, whatever was measured for decompressing
        self.pace = max(self._slowest, self.pace + (nanoseconds / size - self.pace) / 4)

    def room(self, operation: Operation, size: int) -> int:
        """As many bytes as a request could carry back. Every format has less than one byte in 8 more than the input,
        and 128 bytes."""
        if operation is Operation.DECOMPRESS:
            return PAYLOAD_MAX
        return min(PAYLOAD_MAX, size + size // 8 + 128)


class StreamedTransform(PacedTransform):
    """A compression whose format has no end: deflate, zlib, zstd."""

    @abstractmethod
    def begin_codec(self, operation: Operation) -> Running:
        """A codec at the start of its message."""

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        return StreamedMessage(self.begin_codec(operation), self, operation)


class BlockTransform(PacedTransform, WholeTransform):
    """A compression of single blocks: lz4, lzo. Parts are gathered."""

    @abstractmethod
    def compress(self, data: Buffer) -> bytes:
        """The block."""

    @abstractmethod
    def decompress(self, data: Buffer, room: int) -> bytes:
        """The content of the block, never more than `room` bytes. Errors: InvalidValue, TooLarge."""

    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        if operation is Operation.COMPRESS:
            return give(self.compress(data), out)
        return give(self.decompress(data, len(out) - OUT_SLACK), out)


def give(output: Buffer, out: memoryview) -> int:
    """Write the output of a whole message; returns its size. Errors: TooLarge."""
    if len(output) > len(out) - OUT_SLACK:
        raise TooLarge(f"compress: {len(output)} bytes of output: an answer has at most {PAYLOAD_MAX}")
    out[: len(output)] = output
    return len(output)


def damaged(name: str, what: str) -> InvalidValue:
    """The error for input in another format."""
    return InvalidValue(f"decompress: not {name}, or damaged: {what}")


def overfull_block(room: int) -> TooLarge:
    """The error for a block with more content than the answer may have."""
    return TooLarge(f"decompress: the block holds more than {room} bytes, which is all that it may")


def cut_short(name: str) -> InvalidValue:
    """The error for input that ends too early."""
    return InvalidValue(f"decompress: the input ends before the {name} does")


def followed(name: str, count: int) -> InvalidValue:
    """The error for bytes after the end."""
    return InvalidValue(f"decompress: {count} bytes or more follow the end of the {name}")
