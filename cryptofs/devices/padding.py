"""PKCS #7 padding, as messages around the messages of a cipher that takes whole blocks."""

from ..engines.base import OUT_SLACK, Around, Message
from ..formats.padding import padding, unpadded
from ..records import Buffer


class Padding(Around):
    """Adds PKCS #7 padding at the end."""

    def __init__(self, inner: Message, block_size: int) -> None:
        super().__init__(inner)
        self._block_size = block_size
        self._total = 0

    def room(self, size: int, last: bool) -> int:
        return self._inner.room(size + self._block_size, last)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        self._total += len(data)
        if not last:
            return self._inner.update(data, False, out)
        return self._inner.update(b"".join((data, padding(self._total, self._block_size))), True, out)


class Unpadding(Around):
    """Removes PKCS #7 padding. It withholds each block until another one or the end follows, because the last block has
    the padding."""

    def __init__(self, inner: Message, block_size: int) -> None:
        super().__init__(inner)
        self._block_size = block_size
        self._held = b""

    def room(self, size: int, last: bool) -> int:
        return self._block_size + self._inner.room(size, last)

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        room = memoryview(bytearray(self._inner.room(len(data), last) + OUT_SLACK))
        written = self._inner.update(data, last, room)
        clear = self._held + room[:written]
        if last:
            clear = unpadded(clear, self._block_size)
            self._held = b""
        else:
            keep = min(len(clear), self._block_size)
            self._held = clear[len(clear) - keep :]
            clear = clear[: len(clear) - keep]
        out[: len(clear)] = clear
        return len(clear)
