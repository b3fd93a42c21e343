"""`contexts/`: a directory for each open context. Only the context's opener and root see it and open its files."""

import stat
from abc import abstractmethod
from collections.abc import Iterator
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
    TextHandle,
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
    """A file of a context. Its owner is checked at open, too, because not every mount has the kernel check modes."""

    context: Context
    mode: int = _OWNER_FILE
    timeout: float = 0.0

    def concerns(self) -> dict[str, str | int]:
        return {"owner": self.owner.uid}

    def open(self, flags: int, caller: Caller) -> Handle:
        if caller.uid not in (0, self.owner.uid):
            raise NotPermitted(f"uid {caller.uid}: this context is uid {self.owner.uid}'s")
        return self.handle(flags)

    @abstractmethod
    def handle(self, flags: int) -> Handle:
        """An open handle for a caller who may use it."""


@dataclass(frozen=True, kw_only=True)
class ControlFile(ContextFile):
    """The ioctl-like control file."""

    def handle(self, flags: int) -> ControlHandle:
        return ControlHandle(self.context)


@dataclass(frozen=True, kw_only=True)
class StatusFile(ContextFile):
    """The context's description and state."""

    mode: int = _OWNER_READ
    changes: bool = True

    def size(self) -> int:
        return len(self.context.status().encode())

    def handle(self, flags: int) -> TextHandle:
        return open_text(self.context.status, flags)


@dataclass(frozen=True, kw_only=True)
class StreamFile(ContextFile):
    """The stream."""

    block_size: int = BIG_PIECES

    def handle(self, flags: int) -> StreamHandle:
        return StreamHandle(self.context, self.context.stream, flags)


class ContextNodes:
    """The nodes of all contexts. Inodes follow from a context's number, so nothing is kept for them."""

    def __init__(self, table: ContextTable) -> None:
        self._table = table

    def get(self, inode: int) -> Node | None:
        """The node with this inode, or None. Errors: Gone for a context that was closed."""
        number = (inode - FIRST_CONTEXT) // _PER_CONTEXT
        context = self._table.get(number)
        if context is None:
            raise Gone(f"context {number} was closed")
        directory = self._directory(context)
        return {node.inode: node for node in (directory, *directory.children.values())}.get(inode)

    def look_up(self, name: str, caller: Caller) -> Node:
        """The directory of that name. Errors: NoSuchTarget, also for another user's."""
        context = self._table.get(int(name)) if name.isdecimal() and len(name) <= _DIGITS_MAX else None
        if context is None or str(context.number) != name or caller.uid not in (0, context.uid):
            raise missing(name)
        return self._directory(context)

    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        """The directories that a caller may see. Their positions are their contexts' numbers, which do not change when
        others close."""
        for each in self._table.seen_by(caller.uid, after):
            yield each.number, str(each.number), self._directory(each)

    @staticmethod
    def _directory(context: Context) -> StaticDirectory:
        first = FIRST_CONTEXT + context.number * _PER_CONTEXT
        owner = Owner(context.uid, context.gid)
        files: dict[str, Node] = {
            "ctl": ControlFile(inode=first + 1, owner=owner, context=context),
            "status": StatusFile(inode=first + 2, owner=owner, context=context),
            "stream": StreamFile(inode=first + 3, owner=owner, context=context),
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


@dataclass(frozen=True, kw_only=True)
class ContextsDirectory(Directory):
    """`contexts`."""

    nodes: ContextNodes
    own: bool = True

    def lookup(self, name: str, caller: Caller) -> Node:
        return self.nodes.look_up(name, caller)

    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        return self.nodes.entries(caller, after)
