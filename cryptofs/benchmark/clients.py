"""Client processes that each make round trips, all at the same time, in turns."""

import contextlib
import os
import socket
import struct
import time
import traceback
from pathlib import Path

from . import calls
from .mounts import CannotMeasure

_ORDER = struct.Struct("<d")  # seconds
_REPORT = struct.Struct("<dd")  # calls, seconds
_PATIENCE = 120


class Clients:
    """`count` processes with a context each. They work for some seconds from `begin`, and rest in between.

    Use it with `with`. It forks: the process must have no other thread.
    """

    def __init__(self, file: Path, count: int, kind: str, size: int) -> None:
        self._sockets: list[socket.socket] = []
        self._children: list[int] = []
        for _ in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    # A copy here would hide the end of the connection from the others.
                    for other in (*self._sockets, ours):
                        other.close()
                    _work(theirs, file, kind, size)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            theirs.close()
            ours.settimeout(_PATIENCE)
            self._sockets.append(ours)
            self._children.append(child)
        for ours in self._sockets:
            with contextlib.suppress(ConnectionError):
                # Each process reports once its context is open.
                ours.recv(_REPORT.size)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *exception: object) -> None:
        for ours in self._sockets:
            ours.close()
        for child in self._children:
            os.waitpid(child, 0)

    def begin(self, seconds: float) -> None:
        """Let all of them work for this many seconds."""
        for ours in self._sockets:
            with contextlib.suppress(BrokenPipeError):
                ours.send(_ORDER.pack(seconds))

    def rates(self) -> list[float]:
        """Round trips a second of each, after their time is over; 0 for a process that failed."""
        rates = []
        for ours in self._sockets:
            report = b""
            with contextlib.suppress(ConnectionError):
                report = ours.recv(_REPORT.size)
            made, took = _REPORT.unpack(report) if report else (0.0, 1.0)
            rates.append(made / took)
        return rates

    def turn(self, seconds: float) -> float:
        """A turn of all of them together: the seconds of one round trip. Errors: CannotMeasure if one failed."""
        self.begin(seconds)
        rates = self.rates()
        if not all(rates):
            raise CannotMeasure("a client process failed; its traceback is on standard error")
        return 1 / sum(rates)


def _work(orders: socket.socket, file: Path, kind: str, size: int) -> None:
    with calls.opened(file, kind) as descriptor:
        call = calls.round_trip(descriptor, calls.request(kind, size))
        orders.send(_REPORT.pack(0, 0))
        while order := orders.recv(_ORDER.size):
            (seconds,) = _ORDER.unpack(order)
            begin = time.perf_counter()
            made = 0
            while time.perf_counter() - begin < seconds:
                call()
                made += 1
            orders.send(_REPORT.pack(made, time.perf_counter() - begin))
