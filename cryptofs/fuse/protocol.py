"""The part of the kernel's FUSE protocol that the transport speaks itself, defined once in construct.

Source: include/uapi/linux/fuse.h, protocol 7. Integers have the machine's byte order. A message from the kernel is an
IN_HEADER, the operation's own structure, and data; an answer is an OUT_HEADER, the operation's own structure, and data.
An answer has the `unique` of its request. An answer with `unique` 0 is a notification, and its `error` says which one.

As with records, construct is the definition, but too slow for each request. The `struct.Struct`s below take their
formats from its fields, and a test compares the two.
"""

import struct
from enum import IntEnum
from typing import Any

from construct import Bytes, Int16un, Int32sn, Int32un, Int64un, Struct

from ..records.layout import field_codes


class Opcode(IntEnum):
    """Requests that the transport answers or must know; pyfuse3 knows the others."""

    LOOKUP = 1
    FORGET = 2
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    INTERRUPT = 36
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    CUSE_INIT = 4096
    """The first request on /dev/cuse."""


IN_HEADER: Any = Struct(
    "length" / Int32un,
    "opcode" / Int32un,
    "unique" / Int64un,
    "inode" / Int64un,
    "uid" / Int32un,
    "gid" / Int32un,
    "pid" / Int32un,
    "extensions" / Int16un,
    "padding" / Int16un,
)
OUT_HEADER: Any = Struct("length" / Int32un, "error" / Int32sn, "unique" / Int64un)

ATTRIBUTES: Any = Struct(
    "inode" / Int64un,
    "size" / Int64un,
    "blocks" / Int64un,
    "atime" / Int64un,
    "mtime" / Int64un,
    "ctime" / Int64un,
    "atime_nanoseconds" / Int32un,
    "mtime_nanoseconds" / Int32un,
    "ctime_nanoseconds" / Int32un,
    "mode" / Int32un,
    "links" / Int32un,
    "uid" / Int32un,
    "gid" / Int32un,
    "device" / Int32un,
    "block_size" / Int32un,
    "flags" / Int32un,
)
ENTRY_OUT: Any = Struct(
    "inode" / Int64un,
    "generation" / Int64un,
    "entry_timeout" / Int64un,
    "timeout" / Int64un,
    "entry_timeout_nanoseconds" / Int32un,
    "timeout_nanoseconds" / Int32un,
)
OPEN_IN: Any = Struct("flags" / Int32un, "open_flags" / Int32un)
OPEN_OUT: Any = Struct("handle" / Int64un, "open_flags" / Int32un, "backing" / Int32un)
RELEASE_IN: Any = Struct("handle" / Int64un, "flags" / Int32un, "release_flags" / Int32un, "lock_owner" / Int64un)
READ_IN: Any = Struct(
    "handle" / Int64un,
    "offset" / Int64un,
    "size" / Int32un,
    "read_flags" / Int32un,
    "lock_owner" / Int64un,
    "flags" / Int32un,
    "padding" / Int32un,
)
WRITE_IN: Any = Struct(
    "handle" / Int64un,
    "offset" / Int64un,
    "size" / Int32un,
    "write_flags" / Int32un,
    "lock_owner" / Int64un,
    "flags" / Int32un,
    "padding" / Int32un,
)
WRITE_OUT: Any = Struct("size" / Int32un, "padding" / Int32un)
IOCTL_IN: Any = Struct(
    "handle" / Int64un,
    "flags" / Int32un,
    "command" / Int32un,
    "argument" / Int64un,
    "in_size" / Int32un,
    "out_size" / Int32un,
)
IOCTL_OUT: Any = Struct("result" / Int32sn, "flags" / Int32un, "in_vectors" / Int32un, "out_vectors" / Int32un)
IOCTL_VECTOR: Any = Struct("address" / Int64un, "length" / Int64un)
"""A piece of the caller's memory. After IOCTL_OUT with IOCTL_RETRY: those to read, and then those to write."""
POLL_IN: Any = Struct("handle" / Int64un, "poll_handle" / Int64un, "flags" / Int32un, "events" / Int32un)
POLL_OUT: Any = Struct("events" / Int32un, "padding" / Int32un)
INTERRUPT_IN: Any = Struct("unique" / Int64un)
POLL_WAKEUP: Any = Struct("poll_handle" / Int64un)
CUSE_INIT_IN: Any = Struct("major" / Int32un, "minor" / Int32un, "unused" / Int32un, "flags" / Int32un)
# The device's information follows: strings that end with NUL.
CUSE_INIT_OUT: Any = Struct(
    "major" / Int32un,
    "minor" / Int32un,
    "unused" / Int32un,
    "flags" / Int32un,
    "max_read" / Int32un,
    "max_write" / Int32un,
    "device_major" / Int32un,
    "device_minor" / Int32un,
    "spare" / Bytes(40),
)

DIRECT_IO, NONSEEKABLE, NO_FLUSH = 1 << 0, 1 << 2, 1 << 5
"""Flags of OPEN_OUT: no page cache; lseek, pread and pwrite are refused; no close asks for a flush (Linux 5.16)."""
SCHEDULE_NOTIFY = 1 << 0
"""Flag of POLL_IN: the caller will sleep and wants to be woken."""
IOCTL_RETRY = 1 << 2
"""Flag of IOCTL_OUT: the request comes again, with these pieces of the caller's memory."""
CUSE_UNRESTRICTED_IOCTL = 1 << 0
"""Flag of CUSE_INIT_OUT: an ioctl may ask for any pieces of the caller's memory."""
MAJOR, MINOR = 7, 31
"""The version of the protocol that a reply to CUSE_INIT has; pyfuse3 negotiates a mount's."""
IOCTL_TRANSFER_MAX = 32 * 4096
"""Bytes that the kernel moves in each direction for one ioctl of a CUSE device."""
IOCTL_DIRECTORY = 1 << 4
"""Flag of IOCTL_IN: the file is a directory, and the handle is from OPENDIR."""
NOTIFY_POLL = 1
"""The notification that wakes pollers."""

MESSAGE_MAX = (1 << 20) + 8192
"""The largest message from the kernel, bytes: a megabyte of data, and the headers in a page before it."""


def _packer(*definitions: Any) -> struct.Struct:
    return struct.Struct("=" + "".join(map(field_codes, definitions)))


Header = tuple[int, ...]
"""What HEADER unpacks: the fields of IN_HEADER."""
HEADER = _packer(IN_HEADER)
HEADER_SIZE = HEADER.size
# Messages from the kernel, after their header.
OPEN, RELEASE, READ, WRITE = _packer(OPEN_IN), _packer(RELEASE_IN), _packer(READ_IN), _packer(WRITE_IN)
IOCTL, POLL, INTERRUPT = _packer(IOCTL_IN), _packer(POLL_IN), _packer(INTERRUPT_IN)
WRITE_DATA = HEADER_SIZE + WRITE.size
"""Where the data of a write begins."""
IOCTL_DATA = HEADER_SIZE + IOCTL.size
"""Where the data of an ioctl begins."""
# Messages to the kernel, header included.
FOUND = _packer(OUT_HEADER, ENTRY_OUT, ATTRIBUTES)
ANSWER, OPENED = _packer(OUT_HEADER), _packer(OUT_HEADER, OPEN_OUT)
WRITTEN, CONTROLLED = _packer(OUT_HEADER, WRITE_OUT), _packer(OUT_HEADER, IOCTL_OUT)
VECTOR = _packer(IOCTL_VECTOR)
CUSE_START, CUSE_STARTED = _packer(CUSE_INIT_IN), _packer(OUT_HEADER, CUSE_INIT_OUT)
POLLED, WAKE_UP = _packer(OUT_HEADER, POLL_OUT), _packer(OUT_HEADER, POLL_WAKEUP)
