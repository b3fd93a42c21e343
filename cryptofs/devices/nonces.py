"""The daemon's nonces: their size before a message, and the IV that the transform gets."""

import os
from collections.abc import Callable

from ..algorithms import Description, Type
from ..errors import InvalidValue

MESSAGES_MAX = 1 << 32
"""Messages that one device encrypts with random nonces of 96 bits. Beyond that, two equal ones are no longer
unlikely."""
SHORT_NONCE = 12
"""Bytes of a nonce to which that bound applies, and the minimum for a random nonce."""


class Nonces:
    """The nonces of one algorithm. size: bytes before a message, 0 if the algorithm takes none."""

    def __init__(self, description: Description) -> None:
        """Errors: InvalidValue for an AEAD or a stream cipher whose nonce is too short to be drawn at random."""
        self.size = description.nonce.size
        # A plain nonce needs no Python call, because every small message comes here.
        self.iv: Callable[[bytes], bytes] = bytes if description.layout is None else description.layout.iv
        """The IV that the transform takes for a nonce."""
        self.untagged = not description.tag_covers_iv
        """Whether the tag leaves the IV out. Then the IV is also passed as the first associated data."""
        keystream = description.type is Type.AEAD or description.block_size == 1
        if keystream and self.size < SHORT_NONCE:
            raise InvalidValue(
                f"{description.name}: its nonce of {self.size} bytes is too short to be drawn at random "
                f'(at least {SHORT_NONCE}); give nonce = "caller"'
            )

    def make(self) -> bytes:
        """A new nonce."""
        return os.urandom(self.size)
