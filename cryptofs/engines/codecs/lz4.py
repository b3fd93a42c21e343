"""lz4 and lz4hc: single blocks without a frame, as in the kernel, by the lz4 package."""

from types import MappingProxyType

import lz4.block
from lz4.block import LZ4BlockError

from ...records import Buffer
from .messages import BlockTransform, damaged, overfull_block

_MINIMAL_MATCH = 4


class Lz4Transform(BlockTransform):
    """lz4, or lz4hc if the description has levels."""

    paces = MappingProxyType({3: 50.0, 6: 80.0, 10: 250.0})

    def compress(self, data: Buffer) -> bytes:
        if self.level is None:
            block: bytes = lz4.block.compress(data, store_size=False)
        else:
            block = lz4.block.compress(data, mode="high_compression", compression=self.level, store_size=False)
        return block

    def decompress(self, data: Buffer, room: int) -> bytes:
        try:
            output: bytes = lz4.block.decompress(data, uncompressed_size=room)
        except LZ4BlockError:
            # The library does not say which of the two it is.
            if fits(data, room):
                raise damaged(self.description.name, "no block of it") from None
            raise overfull_block(room) from None
        return output


def fits(block: Buffer, room: int) -> bool:
    """Whether a block that does not decompress would have at most `room` bytes, according to its lengths."""
    data = bytes(block)
    end = len(data)
    at = size = 0
    while at < end and size <= room:
        token = data[at]
        at += 1
        literals = token >> 4
        if literals == 15:
            literals, at = _longer(literals, data, at)
        at += literals
        size += literals
        if at + 2 > end:
            break
        at += 2
        match = token & 15
        if match == 15:
            match, at = _longer(match, data, at)
        size += match + _MINIMAL_MATCH
    return size <= room


def _longer(length: int, data: bytes, at: int) -> tuple[int, int]:
    while at < len(data):
        more = data[at]
        at += 1
        length += more
        if more != 255:
            break
    return length, at
