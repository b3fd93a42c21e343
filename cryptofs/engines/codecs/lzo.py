"""lzo: raw LZO1X-1 as in the kernel, by the optional lzo package."""

from collections.abc import Callable
from typing import Any

from ...algorithms import Description
from ...errors import TooLarge
from ...records import Buffer
from .messages import BlockTransform, damaged

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

    def __init__(self, description: Description) -> None:
        super().__init__(description)
        self.expect(5.0)
        self._compress: Callable[..., Any] = _lzo.compress
        self._decompress: Callable[..., Any] = _lzo.decompress

    def compress(self, data: Buffer) -> bytes:
        block: bytes = self._compress(bytes(data), _LEVEL, False)
        return block

    def decompress(self, data: Buffer, room: int) -> bytes:
        try:
            output: bytes = self._decompress(bytes(data), False, room)
        except _lzo.error as error:
            words = str(error)
            if words.endswith(_NO_ROOM):
                raise TooLarge(
                    f"decompress: the block holds more than {room} bytes, which is all that it may"
                ) from None
            raise damaged(self.description.name, words) from None
        return output
