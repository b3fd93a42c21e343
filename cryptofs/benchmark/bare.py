"""The floor of every FUSE daemon in Python: a loop of readv, struct and write on /dev/fuse, without any library.

Run as `python -m cryptofs.benchmark.bare MOUNTPOINT`; SIGTERM unmounts. One file, `crypto`; a read returns the last
write. `fusermount3` mounts it, for root and for ordinary users alike.
"""

import errno
import os
import signal
import socket
import stat
import struct
import subprocess
import sys

ROOT_NODE, FILE_NODE = 1, 2
PAYLOAD_MAX = 1 << 20

LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, INIT = 1, 2, 3, 14, 15, 16, 26
OPENDIR, INTERRUPT, BATCH_FORGET = 27, 36, 42
# The kernel expects no answer to these.
UNANSWERED = {FORGET, INTERRUPT, BATCH_FORGET}

_REQUEST = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, padding
_TRANSFER = struct.Struct("<QQII")  # handle, offset, size, flags: how READ and WRITE begin
_TRANSFER_SIZE = 40
_REPLY = struct.Struct("<IiQ")  # length, -errno, unique
_WRITTEN = struct.Struct("<IiQII")  # a reply, bytes written, padding
_INIT_REPLY = struct.Struct("<IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_ATTRIBUTES_REPLY = struct.Struct("<QII")
_OPEN_REPLY = struct.Struct("<QII")

_MAJOR, _MINOR = 7, 31
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT_IO = 1
_LASTING = 300
_PAYLOAD_AT = _REQUEST.size + _TRANSFER_SIZE


def mount(mountpoint: str) -> int:
    """Make fusermount3 mount at an existing directory, and return the descriptor of /dev/fuse that it sends back.

    Errors: OSError if it refuses; its own message is on standard error.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = ["fusermount3", "-o", "fsname=bare,subtype=bare,default_permissions", "--", mountpoint]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        subprocess.run(command, env=environment, pass_fds=[theirs.fileno()], check=True, timeout=30)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise OSError(errno.EIO, "fusermount3 sent no descriptor")
    return descriptors[0]


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == ROOT_NODE else stat.S_IFREG | 0o666
    return _ATTRIBUTES.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)


def answer(opcode: int, node: int, body: memoryview) -> bytes:
    """The body of the reply to a request that is neither a read nor a write. Errors: OSError, for the client."""
    if opcode == INIT:
        pages = PAYLOAD_MAX // 4096
        flags = _BIG_WRITES | _MAX_PAGES
        return _INIT_REPLY.pack(_MAJOR, _MINOR, 1 << 17, flags, 12, 10, PAYLOAD_MAX, 1, pages, 0, 0)
    if opcode == LOOKUP:
        if bytes(body) != b"crypto\0":
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return _ENTRY.pack(FILE_NODE, 0, _LASTING, _LASTING, 0, 0) + _attributes(FILE_NODE)
    if opcode == GETATTR:
        return _ATTRIBUTES_REPLY.pack(_LASTING, 0, 0) + _attributes(node)
    if opcode in (OPEN, OPENDIR):
        return _OPEN_REPLY.pack(0, _DIRECT_IO, 0)
    # Also for RELEASE and RELEASEDIR: no program waits for those, so their answer does not matter.
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def serve(device: int) -> None:
    """Answer requests until the file system is unmounted."""
    buffer = bytearray(PAYLOAD_MAX + 65_536)
    buffers = [buffer]
    view = memoryview(buffer)
    last: bytes | memoryview = b""
    readv, write, request_of, transfer_of = os.readv, os.write, _REQUEST.unpack_from, _TRANSFER.unpack_from
    while True:
        try:
            size = readv(device, buffers)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.EINTR, errno.ENOENT):
                continue
            raise
        _, opcode, unique, node, _, _, _, _, _ = request_of(buffer)
        if opcode == WRITE:
            _, _, count, _ = transfer_of(buffer, _REQUEST.size)
            last = bytes(view[_PAYLOAD_AT : _PAYLOAD_AT + count])
            write(device, _WRITTEN.pack(_WRITTEN.size, 0, unique, count, 0))
        elif opcode == READ:
            _, _, count, _ = transfer_of(buffer, _REQUEST.size)
            data = last[:count]
            write(device, _REPLY.pack(_REPLY.size + len(data), 0, unique) + data)
        elif opcode not in UNANSWERED:
            try:
                body = answer(opcode, node, view[_REQUEST.size : size])
                write(device, _REPLY.pack(_REPLY.size + len(body), 0, unique) + body)
            except OSError as error:
                write(device, _REPLY.pack(_REPLY.size, -(error.errno or errno.EIO), unique))


def main() -> None:
    """Mount at the first argument and serve."""
    mountpoint = sys.argv[1]
    device = mount(mountpoint)
    unmounting: list[subprocess.Popen[bytes]] = []

    def unmount(*_: object) -> None:
        # Not waited for here, because it may look at the mount, which this process serves. The loop ends with ENODEV.
        unmounting.append(subprocess.Popen(["fusermount3", "-u", "-z", "--", mountpoint]))

    signal.signal(signal.SIGTERM, unmount)
    signal.signal(signal.SIGINT, unmount)
    serve(device)
    for process in unmounting:
        process.wait(30)


if __name__ == "__main__":
    main()
