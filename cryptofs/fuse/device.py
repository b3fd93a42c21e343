"""The descriptor of `/dev/fuse`, and writes to it: answers and wake-ups."""

import contextlib
import errno
import logging
import os
from collections.abc import Sequence

from ..errors import CryptofsError
from ..records import Buffer
from .attributes import Attributes, parts_of
from .protocol import (
    ANSWER,
    CONTROLLED,
    DIRECT_IO,
    FOUND,
    IOCTL_RETRY,
    NO_FLUSH,
    NONSEEKABLE,
    NOTIFY_POLL,
    OPENED,
    POLLED,
    VECTOR,
    WAKE_UP,
    WRITTEN,
)

log = logging.getLogger("cryptofs")

_SECOND = 1_000_000_000
_JOINED = 8192
"""Data up to this size is copied behind its header: for the kernel, a second buffer costs more than this copy."""


class Device:
    """Sends answers to the kernel. `unique` is the number of the answered request."""

    def __init__(self, descriptor: int) -> None:
        """descriptor: of an existing mount. This object owns it from now on."""
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    def close(self) -> None:
        """Close the descriptor: waiting and later requests get an error."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def put(self, *parts: Buffer) -> bool:
        """Write an answer; returns whether its request was still waiting."""
        try:
            if len(parts) == 1:
                os.write(self.descriptor, parts[0])
            else:
                os.writev(self.descriptor, parts)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.error("the kernel refused an answer: %s", error.strerror)
                self._answer_after_all(parts[0])
            return False
        return True

    def _answer_after_all(self, head: Buffer) -> None:
        """A request without an answer would hang its caller."""
        unique = ANSWER.unpack_from(head)[2]
        if unique:
            with contextlib.suppress(OSError):
                os.write(self.descriptor, ANSWER.pack(ANSWER.size, -errno.EIO, unique))

    def refuse(self, unique: int, number: int) -> None:
        """Answer with an errno; 0 is success without data."""
        self.put(ANSWER.pack(ANSWER.size, -number, unique))

    def fail(self, unique: int, error: Exception, what: str) -> None:
        """Answer with an error. Any other exception is a bug: it is logged, and serving continues."""
        if isinstance(error, CryptofsError):
            self.refuse(unique, error.errno)
            return
        log.error("%s failed", what, exc_info=error)
        self.refuse(unique, errno.EIO)

    def give(self, unique: int, data: Buffer) -> None:
        """Answer a read."""
        size = len(data)
        head = ANSWER.pack(ANSWER.size + size, 0, unique)
        if size <= _JOINED:
            self.put(head + data)
        else:
            self.put(head, data)

    def give_found(self, unique: int, node: Attributes) -> None:
        """Answer a lookup."""
        entry_timeout, entry_rest = parts_of(node.entry_timeout)
        timeout, rest = parts_of(node.timeout)
        when, part = divmod(node.when, _SECOND)
        entry = (node.inode, 0, entry_timeout, timeout, entry_rest, rest)
        times = (when, when, when, part, part, part)
        who = (node.mode, node.links, node.uid, node.gid, 0, node.block_size, 0)
        self.put(FOUND.pack(FOUND.size, 0, unique, *entry, node.inode, node.size, node.blocks, *times, *who))

    def give_opened(self, unique: int, handle: int, seekable: bool) -> bool:
        """Answer an open; returns whether the kernel now knows the handle, and so will release it."""
        # A flush would take the lock of the file, which a program that writes to a stream holds while it waits.
        how = DIRECT_IO | NO_FLUSH if seekable else DIRECT_IO | NO_FLUSH | NONSEEKABLE
        return self.put(OPENED.pack(OPENED.size, 0, unique, handle, how, 0))

    def give_written(self, unique: int, size: int) -> None:
        """Answer a write of which `size` bytes were accepted."""
        self.put(WRITTEN.pack(WRITTEN.size, 0, unique, size, 0))

    def give_controlled(self, unique: int, response: Buffer) -> None:
        """Answer an ioctl with the new contents of its buffer."""
        self.put(CONTROLLED.pack(CONTROLLED.size + len(response), 0, unique, 0, 0, 0, 0) + response)

    def ask_for_memory(self, unique: int, reads: Sequence[tuple[int, int]], writes: Sequence[tuple[int, int]]) -> None:
        """Answer an ioctl of a CUSE device: it comes again with what it wants to read, and with room for what it wants
        to write. Pieces are (address, size)."""
        vectors = b"".join(VECTOR.pack(*piece) for piece in (*reads, *writes))
        head = (CONTROLLED.size + len(vectors), 0, unique, 0, IOCTL_RETRY, len(reads), len(writes))
        self.put(CONTROLLED.pack(*head) + vectors)

    def give_polled(self, unique: int, events: int) -> None:
        """Answer a poll."""
        self.put(POLLED.pack(POLLED.size, 0, unique, events, 0))

    def wake(self, poll_handle: int) -> None:
        """Wake pollers. It never raises, because the announced answer is already recorded."""
        self.put(WAKE_UP.pack(WAKE_UP.size, NOTIFY_POLL, 0, poll_handle))
