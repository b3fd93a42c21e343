"""Random bytes."""

import os

from ...records import Buffer
from ..kinds import RngTransform


class OsRandom(RngTransform):
    """The operating system's generator.

    A seed is taken, because the kernel's generators want one, and makes no difference: the kernel has seeded its own
    better than a caller could, and what a caller gives can neither weaken nor repeat it.
    """

    def replace_key(self, key: Buffer) -> None:
        if not self.description.key_sizes.admits(len(key)):
            raise self.refuse_key(key)

    def fill(self, out: memoryview) -> None:
        out[:] = os.urandom(len(out))
