"""The attributes of a node for the kernel, used by the transport's lookup and by pyfuse3's other calls."""

import stat
import time
from typing import NamedTuple

from ..nodes import Caller, Node

_STARTED = time.time_ns()
"""The daemon's start: the time of all files except texts that change."""
_SECOND = 1_000_000_000
_BLOCK = 512


class Attributes(NamedTuple):
    """Attributes of a node. when: of all three times, nanoseconds; the timeouts: seconds."""

    inode: int
    mode: int
    links: int
    uid: int
    gid: int
    block_size: int
    size: int
    blocks: int
    when: int
    entry_timeout: float
    timeout: float


def attributes(node: Node, inode: int, caller: Caller) -> Attributes:
    """The attributes of a node that a caller sees under this inode."""
    size = node.size(caller)
    return Attributes(
        inode,
        node.mode,
        2 if stat.S_ISDIR(node.mode) else 1,
        node.owner.uid,
        node.owner.gid,
        node.block_size,
        size,
        # Otherwise cp takes a file that has a size and no blocks for a single hole.
        -(-size // _BLOCK),
        # Archives cannot store 1970, and tools that copy newer files must see that a changed text is newer.
        time.time_ns() if node.changes else _STARTED,
        # The next caller may need to see another inode.
        0.0 if node.own else node.timeout,
        0.0 if node.changes else node.timeout,
    )


def parts_of(seconds: float) -> tuple[int, int]:
    """Whole seconds, and the remaining nanoseconds."""
    return divmod(round(seconds * _SECOND), _SECOND)
