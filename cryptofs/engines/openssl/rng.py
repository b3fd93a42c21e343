"""Random bytes."""

import os

from ...records import Buffer
from ..kinds import RngTransform


class OsRandom(RngTransform):
    """The operating system's generator.

    It accepts a seed, because the kernel's generators take one, and ignores it. The kernel has seeded its own generator
    better than a caller could.
    """

    def replace_key(self, key: Buffer) -> None:
        return

    def fill(self, out: memoryview) -> None:
        out[:] = os.urandom(len(out))
