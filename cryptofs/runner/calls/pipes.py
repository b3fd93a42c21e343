"""splice(2) and sendfile(2). What vmsplice(2) puts into a pipe comes by splice."""

import array
import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
from typing import NamedTuple

from ...errors import InvalidValue, SystemFault, WouldBlock
from ..desk import Desk, Handler
from ..endpoint import MSG_MORE, Endpoint, MustWait, Splice
from ..notify import Call, PassOn
from ..process import MOVED_MAX, is_nonblocking
from .data import send

_MOVE, _NONBLOCK, _MORE, _GIFT = 1, 2, 4, 8
_FLAGS = _MOVE | _NONBLOCK | _MORE | _GIFT
_PIECE = 1 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OFFSET = struct.Struct("=q")
_OFFSET_MAX = (1 << 63) - 1


class Out(NamedTuple):
    """From a socket into a pipe."""

    source: int
    target: int
    size: int
    flags: int


def splice(desk: Desk, call: Call) -> int:
    """splice(2), into a socket or out of it."""
    source, _, target, _, size, flags = call.arguments
    if not size:
        return 0
    if flags & 0xFFFFFFFF & ~_FLAGS:
        raise InvalidValue(f"flags {flags:#x} of splice")
    try:
        endpoint = desk.descriptors.find(call, target)
    except PassOn:
        _splice_out(desk, desk.descriptors.find(call, source), call, Out(source, target, size, flags))
        raise
    if call.arguments[1] or call.arguments[3]:
        raise PassOn
    return _splice_in(desk, endpoint, call)


def _splice_out(desk: Desk, endpoint: Endpoint, call: Call, out: Out) -> None:
    """Lay the answer ready, as much as the pipe has room for. The kernel moves it, and waits for room."""
    number = out.source & 0xFFFFFFFF
    pipe = call.memory.take_pipe(out.target & 0xFFFFFFFF)
    try:
        pages = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) // _PAGE
        # Each piece in it takes a page, and may have one byte.
        room = min(out.size, _PAGE * max(1, pages - min(pages, _waiting_bytes(pipe))))
    except OSError as error:
        raise SystemFault.of(error, "the pipe") from None
    finally:
        os.close(pipe)
    place = desk.descriptors.locate(call, number, endpoint)
    try:
        received = endpoint.receive(room, 0)
    except MustWait:
        if out.flags & _NONBLOCK or is_nonblocking(call.tid, number):
            raise WouldBlock("there is no answer yet") from None
        endpoint.wait(place, call.number, room)
    else:
        endpoint.make_way(place).put(received.data)
        endpoint.mark()


def _splice_in(desk: Desk, endpoint: Endpoint, call: Call) -> int:
    source, size, flags = call.arguments[0], *call.arguments[4:6]
    more = bool(flags & _MORE)
    pipe = call.memory.take_pipe(source & 0xFFFFFFFF)
    try:
        there = _waiting_bytes(pipe)
        with contextlib.suppress(BlockingIOError):
            # Another thread may have read it meanwhile.
            if there:
                data = os.read(pipe, min(size, there, _PIECE))
                return send(endpoint, call, data, b"", MSG_MORE if more or len(data) < min(size, there) else 0)
        if _has_ended(pipe):
            return 0
    except OSError as error:
        raise SystemFault.of(error, "the pipe") from None
    finally:
        os.close(pipe)
    if flags & _NONBLOCK or is_nonblocking(call.tid, source & 0xFFFFFFFF):
        raise WouldBlock("the pipe is empty")
    # The kernel waits for the pipe, and writes to the other end of the pair.
    endpoint.check_send(b"")
    desk.descriptors.begin_splice(endpoint, Splice(call.tid, call.number, more))
    raise PassOn


def _is_pipe(call: Call, number: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(os.stat(f"/proc/{call.tid}/fd/{number & 0xFFFFFFFF}").st_mode)
    return False


def _waiting_bytes(pipe: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def _has_ended(pipe: int) -> bool:
    """Whether an empty pipe has no writer."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def send_file(desk: Desk, call: Call) -> int:
    """sendfile(2). As long as the file gives less than was asked for, there is more to come, even at its end."""
    target, source, offset, wanted = call.arguments[:4]
    size = min(wanted, MOVED_MAX)
    try:
        endpoint = desk.descriptors.find(call, target)
    except PassOn:
        # Out of a socket, the kernel splices into a pipe, and refuses the rest.
        endpoint = desk.descriptors.find(call, source)
        if size and not offset and _is_pipe(call, target):
            _splice_out(desk, endpoint, call, Out(source, target, size, 0))
        raise
    try:
        file = call.memory.take_descriptor(source & 0xFFFFFFFF)
    except SystemFault as error:
        if error.errno != errno.EPERM:
            raise
        # The kernel reads the file, and writes to the other end of the pair.
        endpoint.check_send(b"")
        desk.descriptors.begin_splice(endpoint, Splice(call.tid, call.number, wanted=size))
        raise PassOn from None
    try:
        return _send_from(file, endpoint, call, wanted)
    except OSError as error:
        raise SystemFault.of(error, "the file") from None
    finally:
        os.close(file)


def _send_from(file: int, endpoint: Endpoint, call: Call, wanted: int) -> int:
    """Send what a file has at the offset that the call names, or else at its own, which then moves."""
    memory, offset = call.memory, call.arguments[2]
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise InvalidValue("sendfile: the source is no file")
    at = int(_OFFSET.unpack(memory.read(offset, _OFFSET.size))[0]) if offset else os.lseek(file, 0, os.SEEK_CUR)
    if not 0 <= at <= at + wanted <= _OFFSET_MAX:
        raise InvalidValue(f"{wanted} bytes of a file from {at} on")
    size, sent = min(wanted, MOVED_MAX), 0
    while sent < size:
        data = os.pread(file, min(size - sent, _PIECE), at + sent)
        if not data:
            break
        send(endpoint, call, data, b"", MSG_MORE if sent + len(data) < size else 0)
        sent += len(data)
    if offset:
        memory.write(offset, _OFFSET.pack(at + sent))
    else:
        os.lseek(file, at + sent, os.SEEK_SET)
    return sent


HANDLERS: dict[str, Handler] = {"splice": splice, "sendfile": send_file}
