"""lzo: raw LZO1X-1 as in the kernel, by the optional lzo package."""

from ...records import Buffer
from .messages import BlockTransform, damaged, overfull_block

try:
    import lzo as _lzo
except ImportError:
    _lzo = None

AVAILABLE = _lzo is not None
_LEVEL = 1
_NO_ROOM = "-5"
"""LZO_E_OUTPUT_OVERRUN, as it appears at the end of the package's messages."""


class LzoTransform(BlockTransform):
    """lzo. The package handles blocks without its own header, and checks every copy operation."""

    def compress(self, data: Buffer) -> bytes:
        block: bytes = _lzo.compress(bytes(data), _LEVEL, False)
        return block

    def decompress(self, data: Buffer, room: int) -> bytes:
        try:
            output: bytes = _lzo.decompress(bytes(data), False, room)
        except _lzo.error as error:
            words = str(error)
            if words.endswith(_NO_ROOM):
                raise overfull_block(room) from None
            raise damaged(self.description.name, words) from None
        return output
