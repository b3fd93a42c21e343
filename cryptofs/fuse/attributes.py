"""What the kernel is told of a node, for the transport's lookup and for pyfuse3's other calls alike."""

import stat
import time
from typing import NamedTuple

from ..nodes import Node

_STARTED = time.time_ns()
"""When the daemon started: the time of all files but the texts that change."""
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


def attributes(node: Node, inode: int) -> Attributes:
    """The attributes of a node that a user sees under this inode."""
    size = node.size()
    return Attributes(
        inode,
        node.mode,
        2 if stat.S_ISDIR(node.mode) else 1,
        node.owner.uid,
        node.owner.gid,
        node.block_size,
        size,
        # else cp takes a file that has a size and no blocks for one hole
        -(-size // _BLOCK),
        # archives cannot hold 1970, and tools that copy newer files need to see a changed text as newer
        time.time_ns() if node.changes else _STARTED,
        # the next caller may have to see another inode
        0.0 if node.own else node.timeout,
        0.0 if node.changes else node.timeout,
    )


def parts_of(seconds: float) -> tuple[int, int]:
    """Whole seconds, and the nanoseconds beside them."""
    return divmod(round(seconds * _SECOND), _SECOND)
