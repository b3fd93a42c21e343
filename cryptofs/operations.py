"""pyfuse3's face: inode to node, error to errno, nothing else.

Every handler is wrapped: an exception other than FUSEError would end the daemon, and with it every context, so
what is not expected is logged and answered with EIO. Errnos of 512 and more would hang the client.
"""

import errno
import functools
import logging
import select
import stat
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT

from .audit import audit_refusal
from .errors import CryptofsError, NotPermitted, OverQuota
from .nodes import Caller, Directory, File, Handle, Node, Tree

log = logging.getLogger("cryptofs")

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM

_STARTED = time.time_ns()
"""When the daemon started: the time of all files but the texts that change."""

P = ParamSpec("P")
T = TypeVar("T")


def _fail(error: Exception, handler: str) -> NoReturn:
    if isinstance(error, FUSEError):
        raise error
    if isinstance(error, CryptofsError):
        raise FUSEError(error.errno) from None
    log.error("%s failed", handler, exc_info=error)
    raise FUSEError(errno.EIO) from None


def _guarded(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(handler)
    async def guarded(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return await handler(*arguments, **named)
        except Exception as error:
            _fail(error, handler.__name__)

    return guarded


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid)


def _attributes(node: Node) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = InodeT(node.inode)
    entry.st_mode = ModeT(node.mode)
    entry.st_uid = node.uid
    entry.st_gid = node.gid
    entry.st_nlink = 2 if stat.S_ISDIR(node.mode) else 1
    entry.st_blksize = node.block_size
    entry.st_size = node.size()
    # else cp takes a file that has a size and no blocks for one hole
    entry.st_blocks = -(-entry.st_size // 512)
    # archives cannot hold 1970, and whoever copies what is newer wants a text that has changed
    when = time.time_ns() if node.changes else _STARTED
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = when
    entry.entry_timeout = node.timeout
    entry.attr_timeout = 0.0 if node.changes else node.timeout
    return entry


def _notifier(poll_handle: pyfuse3.PollHandle) -> Callable[[], None]:
    """A call that wakes who polls. It never raises: it is made where an answer has just been recorded for good, and
    from the event loop's own callbacks, which nothing guards.
    """

    def notify() -> None:
        try:
            poll_handle.notify()
        except OSError as error:
            log.warning("poll: nobody could be woken: %s", error)

    return notify


async def _never(*arguments: object) -> NoReturn:
    """Names come and go with contexts, not by these calls."""
    raise FUSEError(errno.EPERM)


@dataclass(slots=True)
class _Listing:
    """An open directory, and what is in it: made when it is read from the start, so that rewinddir(3) sees it again."""

    directory: Directory
    caller: Caller
    entries: list[tuple[str, Node]] = field(default_factory=list)


class Operations(pyfuse3.Operations):
    """The file system's operations on a tree."""

    create = mknod = mkdir = symlink = link = unlink = rmdir = rename = _never  # type: ignore[assignment]

    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._handles: dict[int, Handle] = {}
        self._listings: dict[int, _Listing] = {}
        self._last = 0

    @property
    def open_handles(self) -> int:
        """Files and directories that are open now."""
        return len(self._handles) + len(self._listings)

    def _next(self) -> FileHandleT:
        self._last += 1
        return FileHandleT(self._last)

    @_guarded
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        directory = self._directory(parent_inode)
        try:
            text = name.decode("ascii")
        except UnicodeDecodeError:
            raise FUSEError(errno.ENOENT) from None
        if text in (".", ".."):
            return _attributes(directory)
        return _attributes(directory.lookup(text, _caller(ctx)))

    def _directory(self, inode: InodeT) -> Directory:
        node = self._tree.node(inode)
        if not isinstance(node, Directory):
            raise FUSEError(errno.ENOTDIR)
        return node

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Nodes are found by number, so nothing is remembered for the kernel."""

    @_guarded
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return _attributes(self._tree.node(inode))

    @_guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> EntryAttributes:
        # truncating and touching are what `>` and `cp` do to any file; modes and owners are fixed
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise FUSEError(errno.EPERM)
        return _attributes(self._tree.node(inode))

    @_guarded
    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> FileInfo:
        node = self._tree.node(inode)
        if not isinstance(node, File):
            raise FUSEError(errno.EISDIR)
        caller = _caller(ctx)
        try:
            handle = node.open(flags, caller)
        except (NotPermitted, OverQuota) as error:
            audit_refusal("open", caller.uid, caller.pid, error, **node.concerns())
            raise
        number = self._next()
        self._handles[number] = handle
        return FileInfo(fh=number, direct_io=True, nonseekable=not handle.seekable)

    # read and write are the short way: guarded in place, one call less for each request

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        try:
            handle = self._handles[fh]
            data = handle.read_nowait(size)
            return data if data is not None else await handle.read(off, size)  # type: ignore[return-value]
        except Exception as error:
            _fail(error, "read")

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        try:
            handle = self._handles[fh]
            return handle.write_nowait(buf) or await handle.write(off, buf)
        except Exception as error:
            _fail(error, "write")

    @_guarded
    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: pyfuse3.PollHandle | None,
        ctx: pyfuse3.RequestContext,
    ) -> int:
        handle = self._handles[fh]
        if poll_handle is not None:
            handle.watch(_notifier(poll_handle))
        readable, writable = handle.ready()
        return (_READABLE if readable else 0) | (_WRITABLE if writable else 0)

    async def flush(self, fh: FileHandleT) -> None:
        # said once, it keeps the kernel from asking at every close, dup and exit
        raise FUSEError(errno.ENOSYS)

    @_guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is stored, so there is nothing to wait for."""

    @_guarded
    async def release(self, fh: FileHandleT) -> None:
        handle = self._handles.pop(fh, None)
        if handle is not None:
            handle.close()

    @_guarded
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        number = self._next()
        self._listings[number] = _Listing(self._directory(inode), _caller(ctx))
        return number

    @_guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        if start_id == 0:
            listing.entries = listing.directory.entries(listing.caller)
        for index, (name, node) in enumerate(listing.entries[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, FileNameT(name.encode()), _attributes(node), index):
                break

    @_guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        self._listings.pop(fh, None)

    @_guarded
    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data
