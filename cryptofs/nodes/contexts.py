"""`contexts/`: a directory for each open context. Only the context's opener and root see it and open its files."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..contexts import Context, ContextTable
from ..errors import Gone, NotPermitted
from .base import (
    BIG_PIECES,
    Caller,
    Directory,
    Entry,
    File,
    Handle,
    Node,
    Owner,
    StaticDirectory,
    missing,
    open_text,
)
from .control import ControlHandle
from .stream import StreamHandle

FIRST_CONTEXT = 1 << 40
_PER_CONTEXT = 8
_DIGITS_MAX = 19

_OWNER_DIRECTORY = stat.S_IFDIR | 0o500
_OWNER_READ = stat.S_IFREG | 0o400
_OWNER_FILE = stat.S_IFREG | 0o600


@dataclass(frozen=True, kw_only=True)
class ContextFile(File):
    """A file of a context. Its owner is checked at open, too, because not every mount has the kernel check modes.

    handle: an open handle by the flags of open(2), for a caller who may use it.
    """

    handle: Callable[[int], Handle]
    mode: int = _OWNER_FILE
    timeout: float = 0.0

    def concerns(self) -> dict[str, str | int]:
        return {"owner": self.owner.uid}

    def open(self, flags: int, caller: Caller) -> Handle:
        if caller.uid not in (0, self.owner.uid):
            raise NotPermitted(f"uid {caller.uid}: this context is uid {self.owner.uid}'s")
        return self.handle(flags)


@dataclass(frozen=True, kw_only=True)
class StatusFile(ContextFile):
    """The context's description and state."""

    text: Callable[[], str]
    mode: int = _OWNER_READ
    changes: bool = True

    def size(self, caller: Caller) -> int:
        return len(self.text().encode())


@dataclass(frozen=True, kw_only=True)
class ContextsDirectory(Directory):
    """`contexts`, and what is in it. Inodes follow from a context's number, so nothing is kept for them."""

    table: ContextTable
    own: bool = True

    def get(self, inode: int) -> Node | None:
        """The node with this inode, or None. Errors: Gone for a context that was closed."""
        number = (inode - FIRST_CONTEXT) // _PER_CONTEXT
        context = self.table.get(number)
        if context is None:
            raise Gone(f"context {number} was closed")
        directory = _directory(context)
        return {node.inode: node for node in (directory, *directory.children.values())}.get(inode)

    def lookup(self, name: str, caller: Caller) -> Node:
        # another user's is missing, too
        context = self.table.get(int(name)) if name.isdecimal() and len(name) <= _DIGITS_MAX else None
        if context is None or str(context.number) != name or caller.uid not in (0, context.uid):
            raise missing(name)
        return _directory(context)

    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        # A position is the context's number, which does not change when others close.
        for each in self.table.seen_by(caller.uid, after):
            yield each.number, str(each.number), _directory(each)


def _directory(context: Context) -> StaticDirectory:
    first = FIRST_CONTEXT + context.number * _PER_CONTEXT
    owner = Owner(context.uid, context.gid)
    files: dict[str, Node] = {
        "ctl": ContextFile(inode=first + 1, owner=owner, handle=lambda _: ControlHandle(context)),
        "status": StatusFile(
            inode=first + 2, owner=owner, text=context.status, handle=lambda flags: open_text(context.status, flags)
        ),
        "stream": ContextFile(
            inode=first + 3,
            owner=owner,
            block_size=BIG_PIECES,
            handle=lambda flags: StreamHandle(context, context.stream, flags),
        ),
    }
    return StaticDirectory(
        inode=first,
        mode=_OWNER_DIRECTORY,
        owner=owner,
        timeout=0.0,
        children=files,
        # Backups, grep -r and find read every listed file. They would take the answer for which the stream's user
        # waits, or wait for a message that never begins, or read a generator without end.
        unlisted=frozenset({"stream"}),
    )
