"""The parts of the tree: nodes that can be looked up and listed, and handles that can be read and written."""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..contexts import Call
from ..errors import InvalidValue, NoSuchTarget, NotACall, NotPermitted
from ..records import Buffer


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of an open or lookup: uid, gid and the id of its thread."""

    uid: int
    gid: int
    pid: int


BIG_PIECES = 1024 * 1024
"""Block size of the files that carry data: a reader with a smaller buffer would not get the largest response."""
DIRECTORY = stat.S_IFDIR | 0o755
READ_ONLY = stat.S_IFREG | 0o444


class Owner(NamedTuple):
    """The owner of a file."""

    uid: int
    gid: int


_OWN = 1 << 62
_UID_BITS = 32


class Pending(Protocol):
    """What a call that goes on elsewhere has later."""

    def take(self) -> Buffer | int | None:
        """The answer, or None while there is none. Errors: those of the call."""

    @property
    def is_done(self) -> bool:
        """Whether there is an answer, or an error."""

    def give_up(self) -> None:
        """The caller was interrupted: nobody wants the answer any more."""


class Handle:
    """One open file. Nothing here waits: a call that cannot continue returns and says so. The caller tries again after
    `watch` has called back."""

    seekable = False
    """Whether pread, pwrite and lseek are allowed. If not, copy_file_range and sendfile are refused, too: they would
    use the page cache, which trusts the size of the file."""

    def read(self, offset: int, size: int) -> Buffer | None:
        """Up to `size` bytes, or None if it must wait."""
        raise InvalidValue("this file is not read")

    def write(self, offset: int, data: memoryview) -> int | Pending:
        """Take `data`, or a first piece of it. Returns the number of bytes taken, 0 if it must wait to take more,
        or what has the answer later, if all was taken.

        The memory is reused when no view of it is left.
        """
        raise InvalidValue("this file is not written")

    def call(self, data: memoryview, room: int) -> Buffer | Call:
        """CRYPTOFS_CALL: the answer of at most `room` bytes to the record at the start of `data`, or a call that will
        have it later. Errors: NotACall if the file takes none."""
        raise NotACall("this file takes no ioctl")

    def ready(self) -> tuple[bool, bool]:
        """Whether a read and a write would continue without waiting."""
        return True, True

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, once, when `ready` may have changed; returns a function that cancels this."""
        return _nothing

    def close(self) -> None:
        """The last descriptor of the open file is closed."""
        return


def _nothing() -> None:
    """The cancel function of a handle that never changes."""


@dataclass(frozen=True, kw_only=True)
class Node(ABC):
    """A name in the tree.

    timeout: seconds that the kernel may cache it; block_size: bytes that cat and others read and write at a time;
    changes: whether its content changes, so that its size and time must be asked for; own: whether each user has a
    separate inode of it.
    """

    inode: int
    mode: int
    owner: Owner
    timeout: float = 300.0
    block_size: int = 4096
    changes: bool = False
    own: bool = False

    def size(self, caller: Caller) -> int:
        """The size that stat shows to a caller: of a text its current size, 0 for all other files."""
        return 0

    def inode_for(self, uid: int) -> int:
        """The inode that a user sees.

        The kernel holds an inode's lock while it takes a program's data, or gives a directory's list. Memory that never
        answers (a page of that program's own file system) keeps the lock for ever. So a file that all users share has
        one inode for each user, and no user waits for another user's memory.
        """
        return _OWN | self.inode << _UID_BITS | uid if self.own else self.inode


def shared_inode(inode: int) -> int:
    """The inode of a node, by what `inode_for` gave any user."""
    return (inode & ~_OWN) >> _UID_BITS if inode & _OWN else inode


class File(Node):
    """A file."""

    @abstractmethod
    def open(self, flags: int, caller: Caller) -> Handle:
        """Open it. Errors: those of authorisation and quotas."""

    def concerns(self) -> dict[str, str | int]:
        """Its description for the audit trail, if an open of it is refused."""
        return {}


Entry = tuple[int, str, Node]
"""An entry of a directory: a position, which is above those of earlier entries, a name, and its node."""


@dataclass(frozen=True, kw_only=True)
class Directory(Node):
    """A directory."""

    mode: int = DIRECTORY

    @abstractmethod
    def lookup(self, name: str, caller: Caller) -> Node:
        """The node of that name. Errors: NoSuchTarget."""

    @abstractmethod
    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        """The entries that this caller may see, after the position `after` (0: from the start). It yields only as many
        as are asked for: the kernel takes a few at a time, so a listing of ten thousand contexts must not create all of
        them each time."""


def numbered(children: Iterable[tuple[str, Node]], after: int) -> Iterator[Entry]:
    """Entries whose position is their index in a short list."""
    for position, (name, node) in enumerate(children, 1):
        if position > after:
            yield position, name, node


def missing(name: str) -> NoSuchTarget:
    """The error for a name that a directory does not have."""
    return NoSuchTarget(f"{name[:80]!r}: no such file or directory")


class TextHandle(Handle):
    """A text that was made when the file was opened."""

    seekable = True

    def __init__(self, text: str) -> None:
        self._content = text.encode()

    def read(self, offset: int, size: int) -> Buffer:
        return self._content[offset : offset + size]

    def ready(self) -> tuple[bool, bool]:
        return True, False


def open_text(make: Callable[[], str], flags: int) -> TextHandle:
    """A handle on the current text. Errors: NotPermitted for opening to write, which root's rights allow."""
    if access_mode(flags)[1]:
        raise NotPermitted("this file is only read")
    return TextHandle(make())


@dataclass(frozen=True, kw_only=True)
class TextFile(File):
    """A read-only file whose text is made at each open."""

    make: Callable[[], str]
    mode: int = READ_ONLY

    def size(self, caller: Caller) -> int:
        # Copies by the page cache (sendfile) stop there, and archivers announce it.
        return len(self.make().encode())

    def open(self, flags: int, caller: Caller) -> Handle:
        return open_text(self.make, flags)


@dataclass(frozen=True, kw_only=True)
class StaticDirectory(Directory):
    """A directory whose names never change. unlisted: names that can be looked up, and that a listing leaves out."""

    children: Mapping[str, Node]
    unlisted: frozenset[str] = frozenset()

    def lookup(self, name: str, caller: Caller) -> Node:
        node = self.children.get(name)
        if node is None:
            raise missing(name)
        return node

    def entries(self, caller: Caller, after: int) -> Iterator[Entry]:
        return numbered((each for each in self.children.items() if each[0] not in self.unlisted), after)


def access_mode(flags: int) -> tuple[bool, bool]:
    """Whether open flags ask for reading and for writing."""
    mode = flags & os.O_ACCMODE
    return mode != os.O_WRONLY, mode != os.O_RDONLY
