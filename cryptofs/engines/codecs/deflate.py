"""deflate (raw) and zlib-deflate, by zlib."""

import zlib
from types import MappingProxyType

from ...records import Buffer, Operation
from .messages import InputQueue, Packer, Running, StreamedTransform, cut_short, damaged, followed

# The values of the kernel's crypto/deflate.c: window bits, negative for raw, and memory level.
_PARAMETERS = {"deflate": (-11, 9), "zlib-deflate": (15, 8)}
_READ_WINDOW = {"deflate": -15, "zlib-deflate": 15}
"""Raw deflate of any window is accepted. With the kernel's 11 bits, zlib refuses a distance that is too far only if it
leaves the buffer. So the same input would pass or fail depending on how it is cut into parts."""


class DeflateTransform(StreamedTransform):
    """deflate or zlib-deflate."""

    paces = MappingProxyType({1: 40.0, 4: 80.0, 6: 150.0})

    def begin_codec(self, operation: Operation) -> Running:
        name = self.description.name
        if operation is Operation.DECOMPRESS:
            return Inflater(name)
        window, memory = _PARAMETERS[name]
        assert self.level is not None
        # what zlib's zconf.h says of its memory
        state = (1 << abs(window) + 2) + (1 << memory + 9)
        return Packer(zlib.compressobj(self.level, zlib.DEFLATED, window, memory), state)


class Inflater:
    """A decompression that never lets zlib give more than fits."""

    # likewise: a window, and tables
    state = (1 << 15) + 7168

    def __init__(self, name: str) -> None:
        self._name = name
        self._zlib = zlib.decompressobj(_READ_WINDOW[name])
        self._input = InputQueue()
        self._next = b""

    @property
    def held(self) -> int:
        """Bytes of output that are left: 1 means any number."""
        return len(self._next)

    @property
    def waiting(self) -> int:
        """Bytes of input that wait for room."""
        return len(self._input.data)

    def push(self, data: Buffer, last: bool, room: int) -> Buffer:
        """See Running. Errors: InvalidValue, TooLarge."""
        self._input.add(data)
        output = b""
        if room:
            output, self._next = self._next, b""
            if len(output) < room:
                output += self._inflate(room - len(output))
        if not self._next:
            # One byte shows whether there is more, and makes zlib look at the end.
            self._next = self._inflate(1)
        if last and not self._next and not self._zlib.eof:
            raise cut_short(self._name)
        return output

    def _inflate(self, room: int) -> bytes:
        taken = self._input.data
        if self._zlib.eof:
            if taken:
                raise followed(self._name, len(taken))
            return b""
        try:
            output = self._zlib.decompress(taken, room)
        except zlib.error as error:
            raise damaged(self._name, str(error)) from None
        self._input.data = bytearray(self._zlib.unconsumed_tail)
        if self._zlib.unused_data:
            raise followed(self._name, len(self._zlib.unused_data))
        return output
