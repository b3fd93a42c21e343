"""deflate (raw) and zlib-deflate, by zlib."""

import zlib
from types import MappingProxyType

from ...records import Buffer, Operation
from .messages import Decompression, Packer, Running, StreamedTransform, cut, cut_short, damaged, followed

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


class Inflater(Decompression):
    """A decompression that never lets zlib give more than fits."""

    # likewise: a window, and tables
    state = (1 << 15) + 7168

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._zlib = zlib.decompressobj(_READ_WINDOW[name])

    def push(self, data: Buffer, last: bool, room: int) -> Buffer:
        """See Running. Errors: InvalidValue, TooLarge."""
        self._queue(data)
        output = b""
        if room:
            output = cut(self._ready, room)
            if len(output) < room:
                output += self._inflate(room - len(output))
        if not self._ready:
            # One byte shows whether there is more, and makes zlib look at the end.
            self._ready += self._inflate(1)
        if last and not self._ready and not self._zlib.eof:
            raise cut_short(self._name)
        return output

    def _inflate(self, room: int) -> bytes:
        taken = self._input
        if self._zlib.eof:
            if taken:
                raise followed(self._name, len(taken))
            return b""
        try:
            output = self._zlib.decompress(taken, room)
        except zlib.error as error:
            raise damaged(self._name, str(error)) from None
        self._input = bytearray(self._zlib.unconsumed_tail)
        if self._zlib.unused_data:
            raise followed(self._name, len(self._zlib.unused_data))
        return output
