"""Asynchronous reads and writes. The kernel completes them by itself, from packets that lie ready in the pair."""

import contextlib
import struct

from ...errors import CryptofsError
from ..desk import Desk, Handler
from ..endpoint import Endpoint, MustWait, Waiting
from ..libc import Data
from ..notify import Call, PassOn
from ..process import size_of

_IOCB = struct.Struct("=QIiHhIQQqQII")
"""struct iocb: data, key, rw flags, operation, priority, descriptor, buffer, size, offset, reserved, flags, eventfd."""
_READ, _READ_PIECES = 0, 7
_POINTER = struct.Struct("=Q")
_COUNT_MAX = 1024
_RING = struct.Struct("=8I")
"""struct aio_ring: id, length, head, tail, magic, two kinds of features, size of this header."""
_MAGIC = 0xA10A10A1
_EVENT = struct.Struct("=QQqq")
_RESULT_AT = 16
_RESULT = struct.Struct("=q")


def submit(desk: Desk, call: Call) -> int:
    """io_submit(2): compute what the reads ask for, in their order, and have the kernel read it."""
    context, count, pointers = call.arguments[:3]
    if not 0 < count <= _COUNT_MAX:
        raise PassOn
    memory = call.memory
    blocks = [address for (address,) in _POINTER.iter_unpack(memory.read(pointers, _POINTER.size * count))]
    answers: dict[Endpoint, list[Data]] = {}
    numbers: dict[Endpoint, int] = {}
    for address in blocks:
        _, _, _, operation, _, number, buffer, size, *_ = _IOCB.unpack(memory.read(address, _IOCB.size))
        if operation not in (_READ, _READ_PIECES):
            # What is written comes as a packet.
            continue
        with contextlib.suppress(PassOn):
            endpoint = desk.descriptors.find(call, number)
            numbers.setdefault(endpoint, number)
            if endpoint.waiting:
                continue
            pieces = [(buffer, size)] if operation == _READ else memory.pieces(buffer, size)
            try:
                answers.setdefault(endpoint, []).append(endpoint.receive(size_of(pieces), 0).data)
            except MustWait:
                # The kernel's read waits for it, as the call itself does.
                endpoint.waiting.append(Waiting(call.tid, call.number, size_of(pieces)))
            except CryptofsError as error:
                desk.failed_reads[context, address] = error.errno
                answers[endpoint].append(b"")
    for endpoint, ready in answers.items():
        endpoint.offer(call.memory, numbers[endpoint], ready)
    raise PassOn


def get_events(desk: Desk, call: Call) -> int:
    """io_getevents(2) and io_pgetevents(2): give errnos to those that failed."""
    if desk.failed_reads:
        memory = call.memory
        context = call.arguments[0]
        _, length, head, tail, magic, _, _, header = _RING.unpack(memory.read(context, _RING.size))
        while magic == _MAGIC and length and head % length != tail % length:
            place = context + header + _EVENT.size * (head % length)
            _, block, _, _ = _EVENT.unpack(memory.read(place, _EVENT.size))
            code = desk.failed_reads.pop((context, block), None)
            if code is not None:
                memory.write(place + _RESULT_AT, _RESULT.pack(-code))
            head += 1
    raise PassOn


HANDLERS: dict[str, Handler] = {"io_submit": submit, "io_getevents": get_events, "io_pgetevents": get_events}
