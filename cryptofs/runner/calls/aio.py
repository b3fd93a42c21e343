"""Asynchronous reads and writes. The kernel completes them by itself: reads from packets that lie ready in the pair."""

import struct
from collections.abc import Iterator

from ...errors import CryptofsError
from ..desk import Desk, Handler
from ..endpoint import Endpoint, MustWait, Place, Waiting
from ..notify import Call, PassOn
from ..process import leader, size_of
from .data import gather

_IOCB = struct.Struct("=QIiHhIQQqQII")
"""struct iocb: data, key, rw flags, operation, priority, descriptor, buffer, size, offset, reserved, flags, eventfd."""
_READ, _WRITE, _READ_PIECES, _WRITE_PIECES = 0, 1, 7, 8
_POINTER = struct.Struct("=Q")
_AT_ONCE = 512
"""Pointers that are read at once."""
_COUNT_MAX = 65536
"""Control blocks of one call, and events, that are looked at: the usual bound of the kernel (aio-max-nr)."""
_OUTCOMES_MAX = 65536
_SURE = 65536
"""Bytes of a write that the kernel never refuses by itself."""
_RING = struct.Struct("=8I")
"""struct aio_ring: id, length, head, tail, magic, two kinds of features, size of this header."""
_MAGIC = 0xA10A10A1
_EVENT = struct.Struct("=QQqq")
_RESULT_AT = 16
_RESULT = struct.Struct("=q")


def submit(desk: Desk, call: Call) -> int:
    """io_submit(2): do what is asked of our sockets, in its order, and have the kernel complete it."""
    context, count, pointers = call.arguments[:3]
    batch = _Batch(desk, call, context)
    try:
        for address in _addresses(call, pointers, min(count, _COUNT_MAX)):
            batch.take(address)
    except _Refused:
        # The kernel does not get beyond this one, either.
        pass
    finally:
        batch.end()
    raise PassOn


class _Refused(Exception):
    """The program's memory is not as the kernel needs it."""


def _addresses(call: Call, pointers: int, count: int) -> Iterator[int]:
    """The addresses of the control blocks."""
    for begin in range(0, count, _AT_ONCE):
        number = min(_AT_ONCE, count - begin)
        try:
            data = call.memory.read(pointers + _POINTER.size * begin, _POINTER.size * number)
        except CryptofsError:
            if number == 1:
                raise _Refused from None
            # The memory may end with what is used of it.
            for each in range(begin, begin + number):
                yield from _addresses(call, pointers + _POINTER.size * each, 1)
            continue
        for (address,) in _POINTER.iter_unpack(data):
            yield address


class _Batch:
    """The control blocks of one call."""

    def __init__(self, desk: Desk, call: Call, context: int) -> None:
        self._desk = desk
        self._call = call
        self._context = context
        self._places: dict[Endpoint, Place] = {}

    def take(self, address: int) -> None:
        """Do what a control block asks for, if it is of one of our sockets. Errors: _Refused."""
        memory = self._call.memory
        try:
            _, _, _, operation, _, number, buffer, size, *_ = _IOCB.unpack(memory.read(address, _IOCB.size))
            if operation not in (_READ, _WRITE, _READ_PIECES, _WRITE_PIECES):
                return
            endpoint = self._desk.descriptors.find(self._call, number)
            pieces = [(buffer, size)] if operation in (_READ, _WRITE) else memory.pieces(buffer, size)
        except PassOn:
            return
        except CryptofsError:
            raise _Refused from None
        if endpoint not in self._places:
            place = self._desk.descriptors.locate(self._call, number, endpoint)
            endpoint.make_way(place)
            self._places[endpoint] = place
        if operation in (_READ, _READ_PIECES):
            self._read(endpoint, address, size_of(pieces))
        else:
            try:
                data = bytes(gather(memory, pieces))
            except CryptofsError:
                raise _Refused from None
            self._write(endpoint, address, data)

    def _read(self, endpoint: Endpoint, address: int, room: int) -> None:
        call, end = self._call, self._places[endpoint].end
        waiting = Waiting(call.tid, call.number, room, end)
        if endpoint.waiting:
            # After those, as the kernel would.
            endpoint.waiting.append(waiting)
            return
        try:
            end.put(endpoint.receive(room, 0).data)
        except MustWait:
            # The kernel's read waits for it, as the call itself does.
            endpoint.waiting.append(waiting)
        except CryptofsError as error:
            self._complete(address, -error.errno)
            end.put(b"")

    def _write(self, endpoint: Endpoint, address: int, data: bytes) -> None:
        # The packet that the kernel writes comes later than the next read, and its errors could not be told.
        endpoint.announced.append(hash(data))
        try:
            taken = endpoint.send(data, b"", 0, self._call.tid)
            endpoint.serve()
        except CryptofsError as error:
            self._complete(address, -error.errno)
        else:
            if taken > _SURE:
                self._complete(address, taken)

    def _complete(self, address: int, outcome: int) -> None:
        outcomes = self._desk.outcomes
        if len(outcomes) >= _OUTCOMES_MAX:
            # A program that never asks for its events.
            del outcomes[next(iter(outcomes))]
        outcomes[leader(self._call.tid), self._context, address] = outcome

    def end(self) -> None:
        """All is done: poll finds the sockets readable again."""
        for endpoint in self._places:
            endpoint.mark()


def get_events(desk: Desk, call: Call) -> int:
    """io_getevents(2) and io_pgetevents(2): put what became of calls into their events."""
    if desk.outcomes:
        memory = call.memory
        context = call.arguments[0]
        process = leader(call.tid)
        _, length, head, tail, magic, _, _, header = _RING.unpack(memory.read(context, _RING.size))
        waiting = (tail - head) % length if magic == _MAGIC and length else 0
        for each in range(head, head + min(waiting, _COUNT_MAX)):
            place = context + header + _EVENT.size * (each % length)
            _, block, _, _ = _EVENT.unpack(memory.read(place, _EVENT.size))
            outcome = desk.outcomes.pop((process, context, block), None)
            if outcome is not None:
                memory.write(place + _RESULT_AT, _RESULT.pack(outcome))
    raise PassOn


HANDLERS: dict[str, Handler] = {"io_submit": submit, "io_getevents": get_events, "io_pgetevents": get_events}
