"""The floor of every file interface: a pyfuse3 file system that only returns what was written.

Run as `python -m cryptofs.benchmark.empty MOUNTPOINT`; SIGTERM unmounts.
"""

import errno
import signal
import stat
import sys
from typing import Any

import pyfuse3
import trio


class EmptyOperations(pyfuse3.Operations):
    """One file in a directory. A read returns the last write."""

    def __init__(self) -> None:
        super().__init__()
        self._last = b""

    def _entry(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o666)
        entry.entry_timeout = entry.attr_timeout = 300
        return entry

    async def lookup(self, parent_inode: Any, name: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        if name != b"crypto":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._entry(2)

    async def getattr(self, inode: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def open(self, inode: Any, flags: Any, ctx: Any) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(1), direct_io=True)

    async def read(self, fh: Any, off: int, size: int) -> bytes:
        return self._last

    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        self._last = buf
        return len(buf)

    async def flush(self, fh: Any) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)


async def _serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        await pyfuse3.main(max_tasks=1_000_000)
        nursery.cancel_scope.cancel()


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


def main() -> None:
    """Mount at the first argument and serve."""
    pyfuse3.init(EmptyOperations(), sys.argv[1], {"fsname=empty", "default_permissions"})
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
