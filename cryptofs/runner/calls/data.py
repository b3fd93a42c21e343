"""Calls that send and receive."""

import errno
import struct
import sys
from collections.abc import Callable, Iterator

from ...errors import CryptofsError, InvalidValue, NotSupported, SystemFault, TooLarge, WouldBlock
from ...records import Buffer
from ..alg.operation import GATHERED_MAX
from ..desk import Desk, Handler
from ..endpoint import MSG_MORE, MSG_WAITFORONE, Endpoint, Layout, MustWait, Received
from ..ends import MSG_DONTWAIT
from ..libc import PIECES_MAX, Data, Pieces
from ..notify import Call, PassOn
from ..process import MOVED_MAX, Memory, check_address, checked, is_nonblocking, size_of

_MSGHDR = struct.Struct("=QI4xQQQQi4x")
"""struct msghdr: name, its size, pieces, their number, control, its size, flags."""
_NAME_SIZE_AT, _CONTROL_AT, _CONTROL_SIZE_AT = 8, 32, 40
_MMSGHDR = _MSGHDR.size + 8
_AFTER = struct.Struct("=QI")
"""Its end after a receive: the size of the control data, the flags."""
_INTEGER = struct.Struct("=I")
_IOVEC = struct.Struct("=QQ")
_CONTROL_MAX = 131072
_PIECE = GATHERED_MAX + 1
"""Bytes that are copied at once: more than any socket keeps. A hash takes more by several copies."""
_LAYOUT_MAX, _LAYOUT_PIECES = 65536, 16
"""Bytes and pieces of a message whose layout is remembered: copying more costs more than what this saves."""
_MESSAGES_MAX = 1024
_ANY_OFFSET = 0xFFFFFFFFFFFFFFFF
_AT_ONCE = 0x08
"""RWF_NOWAIT."""
_MEANINGLESS = 0x01 | 0x02 | 0x04 | 0x10 | 0x20 | 0x100
"""RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_APPEND, RWF_NOAPPEND, RWF_NOSIGNAL."""
_NAME_MAX, _INTEGER_MAX = 128, 0x7FFFFFFF
_TIMEOUT = struct.Struct("=qq")
_SECOND = 1_000_000_000
_CLOSE_ON_EXEC = 0x40000000
"""MSG_CMSG_CLOEXEC, which a receive shows again."""


def send(endpoint: Endpoint, call: Call, data: Buffer, control: bytes, flags: int) -> int:
    """Give an endpoint data, and those who wait there what has become of it; returns how many bytes it took."""
    taken = endpoint.send(data, control, flags, call.tid)
    if endpoint.waiting or not endpoint.end.marked:
        endpoint.settle()
    return taken


def send_all(endpoint: Endpoint, call: Call, pieces: Pieces, control: bytes, flags: int) -> int:
    """The same, with data that lies in the caller's memory."""
    total = size_of(pieces)
    if total <= _PIECE or not endpoint.takes_parts:
        return send(endpoint, call, _gather_for(endpoint, call.memory, pieces, control), control, flags)
    endpoint.check_send(control)
    taken = 0
    while taken < total:
        data = call.memory.gather(list(_behind(pieces, taken)), min(total - taken, _PIECE))
        taken += send(endpoint, call, data, control, flags | (MSG_MORE if taken + len(data) < total else 0))
    return taken


def _gather_for(endpoint: Endpoint, memory: Memory, pieces: Pieces, control: bytes) -> Data:
    """Data that an endpoint is to take. What is wrong with the rest of the call comes before what is wrong with it."""
    try:
        return gather(memory, pieces)
    except SystemFault:
        endpoint.check_send(control)
        raise


def gather(memory: Memory, pieces: Pieces) -> Data:
    """Data that lies in the caller's memory, at most what is enough to be refused."""
    return memory.gather(pieces, min(size_of(pieces), _PIECE))


def _behind(pieces: Pieces, size: int) -> Iterator[tuple[int, int]]:
    """The pieces without their first bytes."""
    for address, length in pieces:
        skipped = min(size, length)
        size -= skipped
        yield address + skipped, length - skipped


def receive(desk: Desk, endpoint: Endpoint, call: Call, pieces: Pieces, flags: int) -> Received:
    """Take what an endpoint gives into the caller's memory.

    Where it has to wait, the kernel does the waiting, on the program's end of the pair. No signal can interrupt a call
    that the supervisor holds.
    """
    number = call.arguments[0] & 0xFFFFFFFF
    room = size_of(pieces)
    if endpoint.served or endpoint.kept:
        late = endpoint.left_behind(desk.descriptors.locate(call, number, endpoint))
        if late is not None:
            call.memory.scatter(pieces, late[:room])
            return Received(late[:room])
    try:
        received = endpoint.receive(room, flags)
    except MustWait:
        if flags & MSG_DONTWAIT or is_nonblocking(call.tid, number):
            raise WouldBlock("there is no answer yet") from None
        endpoint.wait(desk.descriptors.locate(call, number, endpoint), call.number, room)
        raise PassOn from None
    call.memory.scatter(pieces, received.data)
    return received


def _send_pieces(desk: Desk, endpoint: Endpoint, call: Call, pieces: Pieces, flags: int) -> int:
    return send_all(endpoint, call, pieces, b"", flags)


def _receive_pieces(desk: Desk, endpoint: Endpoint, call: Call, pieces: Pieces, flags: int) -> int:
    # A socket that is read without room is not asked at all.
    return len(receive(desk, endpoint, call, pieces, flags).data) if size_of(pieces) else 0


_Move = Callable[[Desk, Endpoint, Call, Pieces, int], int]


def _by_address(move: _Move) -> Handler:
    """read(2), write(2)."""

    def handle(desk: Desk, call: Call) -> int:
        number, address, size = call.arguments[:3]
        endpoint = desk.descriptors.find(call, number)
        check_address(address, size)
        return move(desk, endpoint, call, [(address, size)], 0)

    return handle


def _by_pieces(move: _Move, how: Callable[[Call], int]) -> Handler:
    """readv(2), writev(2). how: the flags of a receive or send that stand for those of the call."""

    def handle(desk: Desk, call: Call) -> int:
        number, address, count = call.arguments[:3]
        endpoint = desk.descriptors.find(call, number)
        if count > PIECES_MAX:
            # sendmsg calls it TooLarge.
            raise InvalidValue(f"{count} pieces of memory: at most {PIECES_MAX}")
        pieces = call.memory.pieces(address, count)
        # A socket that is written nothing is not asked at all, except by write(2).
        return move(desk, endpoint, call, pieces, how(call)) if size_of(pieces) else 0

    return handle


def _no_flags(call: Call) -> int:
    """readv(2) and writev(2) have none."""
    return 0


def _flags_of(call: Call) -> int:
    """The flags of preadv2(2) and pwritev2(2) as those of a receive or send. Errors: NotSupported."""
    flags = call.arguments[5] & 0xFFFFFFFF
    if flags & ~(_MEANINGLESS | _AT_ONCE):
        raise NotSupported(f"flags {flags:#x} of a read or write")
    return MSG_DONTWAIT if flags & _AT_ONCE else 0


def _by_pieces_at(move: _Move) -> Handler:
    """preadv2(2), pwritev2(2): sockets have no offsets, except for the one that stands for none."""
    by_pieces = _by_pieces(move, _flags_of)

    def handle(desk: Desk, call: Call) -> int:
        desk.descriptors.find(call, call.arguments[0])
        if call.arguments[3] != _ANY_OFFSET:
            raise PassOn
        return by_pieces(desk, call)

    return handle


def send_to(desk: Desk, call: Call) -> int:
    """sendto(2), which send(3) is."""
    number, address, size, flags = call.arguments[:4]
    endpoint = desk.descriptors.find(call, number)
    check_address(address, min(size, MOVED_MAX))
    name, name_size = call.arguments[4], call.arguments[5] & 0xFFFFFFFF
    if name:
        _read_name(call.memory, name, name_size)
    return send_all(endpoint, call, [(address, size)], b"", flags)


def _read_name(memory: Memory, address: int, size: int) -> None:
    """An address that a send names, which means nothing. Errors: InvalidValue, SystemFault (EFAULT)."""
    if size > _NAME_MAX:
        raise InvalidValue(f"address of {size} bytes: at most {_NAME_MAX}")
    memory.read(address, size)


def receive_from(desk: Desk, call: Call) -> int:
    """recvfrom(2), which recv(3) is."""
    number, address, size, flags, name, name_size = call.arguments
    endpoint = desk.descriptors.find(call, number)
    check_address(address, min(size, MOVED_MAX))
    received = receive(desk, endpoint, call, [(address, size)], flags)
    if name:
        memory = call.memory
        (room,) = _INTEGER.unpack(memory.read(name_size, _INTEGER.size))
        if room > _INTEGER_MAX:
            raise InvalidValue("room of a negative size")
        memory.write(name, received.source[:room])
        memory.write(name_size, _INTEGER.pack(len(received.source)))
    return len(received.data)


# Messages: each is a struct msghdr at an address.


def _read_in_place(endpoint: Endpoint, memory: Memory, address: int) -> tuple[bytes, bytes] | None:
    """The data and the control messages of a message that lies where an earlier one lay, or None.

    Each copy costs microseconds. A single one is enough, or two if only the control messages have moved.
    """
    layouts = endpoint.layouts
    if not layouts or (layout := layouts[0]).parts[0][0] != address:
        return None
    try:
        whole = bytes(memory.gather(layout.parts, layout.size))
    except SystemFault:
        # A part that lay there has gone.
        return None
    start, begin = layout.start, len(layout.start)
    control = whole[begin : begin + layout.control]
    if not whole.startswith(start):
        if whole[:_CONTROL_AT] != start[:_CONTROL_AT] or whole[_CONTROL_SIZE_AT:begin] != start[_CONTROL_SIZE_AT:]:
            return None
        moved = int.from_bytes(whole[_CONTROL_AT:_CONTROL_SIZE_AT], sys.byteorder), layout.control
        control = bytes(memory.gather([moved], layout.control))
        head, array, _, *pieces = layout.parts
        layout = layout._replace(start=whole[:begin], parts=[head, array, moved, *pieces])
    layouts.append(layout)
    return whole[begin + layout.control :], control


def _send_message(desk: Desk, endpoint: Endpoint, call: Call, address: int, flags: int) -> int:
    memory = call.memory
    message = _read_in_place(endpoint, memory, address)
    if message is not None:
        return send(endpoint, call, *message, flags)
    head = memory.read(address, _MSGHDR.size)
    name, name_size, iovec, count, control_at, control_size, _ = _MSGHDR.unpack(head)
    if name:
        _check_name(name_size)
        _read_name(memory, name, min(name_size, _NAME_MAX))
    if count > PIECES_MAX:
        raise TooLarge(f"{count} pieces of memory: at most {PIECES_MAX}")
    if control_size > _CONTROL_MAX:
        raise SystemFault(f"{control_size} bytes of control messages: at most {_CONTROL_MAX}", errno.ENOBUFS)
    # One copy for both: each costs about a microsecond.
    size = _IOVEC.size * count
    raw = memory.gather([(iovec, size), (control_at, control_size)], size + control_size)
    pieces = checked(list(_IOVEC.iter_unpack(raw[:size])))
    room = size_of(pieces)
    if room > _PIECE:
        return send_all(endpoint, call, pieces, bytes(raw[size:]), flags)
    data = _gather_for(endpoint, memory, pieces, bytes(raw[size:]))
    if len(head) + len(raw) + room <= _LAYOUT_MAX and count <= _LAYOUT_PIECES:
        parts = [(address, len(head)), (iovec, size), (control_at, control_size), *pieces]
        endpoint.layouts.append(Layout(bytes(head + raw[:size]), parts, control_size, len(head) + len(raw) + room))
    return send(endpoint, call, data, bytes(raw[size:]), flags)


def _check_name(size: int) -> None:
    """Errors: InvalidValue for the size of a message's address that is negative."""
    if size > _INTEGER_MAX:
        raise InvalidValue("an address of a negative size")


def _receive_message(desk: Desk, endpoint: Endpoint, call: Call, address: int, flags: int) -> int:
    memory = call.memory
    name, name_size, iovec, count, _, _, _ = _MSGHDR.unpack(memory.read(address, _MSGHDR.size))
    if name:
        _check_name(name_size)
    received = receive(desk, endpoint, call, memory.pieces(iovec, count), flags)
    if name:
        memory.write(name, received.source[:name_size])
        memory.write(address + _NAME_SIZE_AT, _INTEGER.pack(len(received.source)))
    memory.write(address + _CONTROL_SIZE_AT, _AFTER.pack(0, received.flags | flags & _CLOSE_ON_EXEC))
    return len(received.data)


def _room(call: Call, address: int) -> int:
    _, _, iovec, count, _, _, _ = _MSGHDR.unpack(call.memory.read(address, _MSGHDR.size))
    return size_of(call.memory.pieces(iovec, count))


_MoveMessage = Callable[[Desk, Endpoint, Call, int, int], int]


def _one(move: _MoveMessage) -> Handler:
    """sendmsg(2), recvmsg(2)."""

    def handle(desk: Desk, call: Call) -> int:
        number, address, flags = call.arguments[:3]
        return move(desk, desk.descriptors.find(call, number), call, address, flags)

    return handle


def _has_passed(memory: Memory, address: int) -> bool:
    """Whether a receive of several messages ends after the first one. Errors: InvalidValue, SystemFault (EFAULT)."""
    seconds, rest = _TIMEOUT.unpack(memory.read(address, _TIMEOUT.size))
    if seconds < 0 or not 0 <= rest < _SECOND:
        raise InvalidValue(f"a time of {seconds} s and {rest} ns")
    return not (seconds or rest)


def _several(move: _MoveMessage, takes_time: bool) -> Handler:
    """sendmmsg(2), recvmmsg(2): as many as do not have to wait, and at least one. takes_time: whether the last argument
    is one, after which no more are received."""

    def handle(desk: Desk, call: Call) -> int:
        number, address, count, flags, time = call.arguments[:5]
        endpoint = desk.descriptors.find(call, number)
        moved = 0
        if takes_time and time and _has_passed(call.memory, time):
            count = min(count & 0xFFFFFFFF, 1)
        end = address + _MMSGHDR * min(count & 0xFFFFFFFF, _MESSAGES_MAX)
        for at in range(address, end, _MMSGHDR):
            try:
                size = move(desk, endpoint, call, at, flags)
                call.memory.write(at + _MSGHDR.size, _INTEGER.pack(size))
            except CryptofsError:
                if not moved:
                    raise
                break
            except PassOn:
                # The kernel waits for the first one, and then for the others.
                rest = range(at + _MMSGHDR, end, _MMSGHDR)
                endpoint.wait_on([] if flags & MSG_WAITFORONE else [_room(call, each) for each in rest], bool(rest))
                raise
            moved += 1
            flags |= MSG_DONTWAIT
        return moved

    return handle


HANDLERS: dict[str, Handler] = {
    "read": _by_address(_receive_pieces),
    "write": _by_address(_send_pieces),
    "readv": _by_pieces(_receive_pieces, _no_flags),
    "writev": _by_pieces(_send_pieces, _no_flags),
    "preadv2": _by_pieces_at(_receive_pieces),
    "pwritev2": _by_pieces_at(_send_pieces),
    "sendto": send_to,
    "recvfrom": receive_from,
    "sendmsg": _one(_send_message),
    "recvmsg": _one(_receive_message),
    "sendmmsg": _several(_send_message, takes_time=False),
    "recvmmsg": _several(_receive_message, takes_time=True),
}
