"""Nonces that the daemon makes: how many bytes stand before a message, and what the transform gets of them."""

import os
from collections.abc import Callable

from ..algorithms import Description, Type
from ..errors import InvalidValue

MESSAGES_MAX = 1 << 32
"""Messages that one device encrypts with random nonces of 96 bits: beyond, two equal ones are no longer unlikely."""
SHORT_NONCE = 12
"""Bytes of a nonce to which that bound applies, and the fewest that are drawn at random at all."""


class Nonces:
    """The nonces of one algorithm. size: bytes before a message, 0 for what takes none."""

    def __init__(self, description: Description) -> None:
        """Errors: InvalidValue for an AEAD or a stream cipher whose nonce is too short to be drawn at random."""
        self._expand: Callable[[bytes], bytes] = bytes
        self.size = description.iv_size
        self.untagged = description.name.startswith("authenc")
        """Whether the tag leaves the IV out: it is then given as the first associated data, too."""
        if description.name.startswith("ccm("):
            # the kernel's layout: length field of 3 bytes, nonce of 12, counter
            self.size, self._expand = 12, lambda nonce: b"\x02" + nonce + bytes(3)
        elif description.name == "chacha20":
            # the kernel's layout: counter, then nonce
            self.size, self._expand = 12, lambda nonce: bytes(4) + nonce
        elif description.name in ("xchacha20", "xchacha12"):
            # the kernel's layout: nonce, then counter
            self.size, self._expand = 24, lambda nonce: nonce + bytes(8)
        keystream = description.type is Type.AEAD or description.block_size == 1
        if keystream and self.size < SHORT_NONCE:
            raise InvalidValue(
                f"{description.name}: its nonce of {self.size} bytes is too short to be drawn at random "
                f'(at least {SHORT_NONCE}); give nonce = "caller"'
            )

    def make(self) -> bytes:
        """A new nonce."""
        return os.urandom(self.size)

    def iv(self, nonce: bytes) -> bytes:
        """The IV that the transform takes, in the kernel's layout."""
        return self._expand(nonce)
