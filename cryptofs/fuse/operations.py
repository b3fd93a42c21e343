"""pyfuse3's face, for attributes and listings: inode to node, error to errno. Lookups and open files are the
transport's.

Every handler is wrapped: an exception other than FUSEError would end the daemon, and with it every context, so an
unexpected one is logged and answered with EIO. Errnos of 512 and more would hang the client.
"""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileNameT, FUSEError, InodeT, ModeT

from ..errors import CryptofsError, OverQuota
from ..nodes import Caller, Directory, Node, Tree
from ..policy import Thing, Usage
from ..policy.audit import audit_refusal
from .attributes import attributes

log = logging.getLogger("cryptofs")

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


def _entry(node: Node, inode: int, caller: Caller) -> EntryAttributes:
    values = attributes(node, inode, caller)
    entry = EntryAttributes()
    entry.st_ino = InodeT(values.inode)
    entry.st_mode = ModeT(values.mode)
    entry.st_nlink = values.links
    entry.st_uid = values.uid
    entry.st_gid = values.gid
    entry.st_blksize = values.block_size
    entry.st_size = values.size
    entry.st_blocks = values.blocks
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = values.when
    entry.entry_timeout = values.entry_timeout
    entry.attr_timeout = values.timeout
    return entry


async def _never(*arguments: object) -> NoReturn:
    """Names come and go with contexts, not by these calls."""
    raise FUSEError(errno.EPERM)


@dataclass(slots=True)
class _Listing:
    """An open directory. What is in it is found when it is read: a program may open thousands, and read none."""

    directory: Directory
    caller: Caller
    usage: Usage


class Operations(pyfuse3.Operations):
    """The file system's operations on a tree."""

    create = mknod = mkdir = symlink = link = unlink = rmdir = rename = _never  # type: ignore[assignment]

    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._listings: dict[int, _Listing] = {}
        self._last = 0

    def _directory(self, inode: InodeT) -> Directory:
        node = self._tree.node(inode)
        if not isinstance(node, Directory):
            raise FUSEError(errno.ENOTDIR)
        return node

    @_guarded
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return _entry(self._tree.node(inode), inode, _caller(ctx))

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
        return _entry(self._tree.node(inode), inode, _caller(ctx))

    async def flush(self, fh: FileHandleT) -> None:
        # before Linux 5.16: answered once, it stops the kernel from asking at every close, dup and exit
        raise FUSEError(errno.ENOSYS)

    @_guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is stored, so there is nothing to wait for."""

    @_guarded
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        directory, caller = self._directory(inode), _caller(ctx)
        usage = self._tree.usage(caller)
        try:
            usage.charge(Thing.HANDLES)
        except OverQuota as error:
            audit_refusal("open", caller.uid, caller.pid, error)
            raise
        self._last += 1
        self._listings[self._last] = _Listing(directory, caller, usage)
        return FileHandleT(self._last)

    @_guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._listings[fh]
        for position, name, node in listing.directory.entries(listing.caller, start_id):
            entry = _entry(node, node.inode_for(listing.caller.uid), listing.caller)
            if not pyfuse3.readdir_reply(token, FileNameT(name.encode()), entry, position):
                break

    @_guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        listing = self._listings.pop(fh, None)
        if listing is not None:
            listing.usage.release(Thing.HANDLES)

    @_guarded
    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True

    @_guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_namemax = 255
        return data
