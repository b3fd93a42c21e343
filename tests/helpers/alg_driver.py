"""Runs sequences of AF_ALG calls by Python's own sockets: a sequence a line in JSON, and its results a line.

A program of its own, as it is started with and without `cryptofs run`. A result is an errno, a count, or bytes in hex.
"""

import contextlib
import json
import socket
import struct
import sys
from collections.abc import Callable

Step = list[int | str | None]
Result = int | str
SOL_ALG = 279
SET_KEY, SET_IV, SET_OP, SET_ASSOCLEN, SET_AUTHSIZE = 1, 2, 3, 4, 5
MORE = 0x8000
DATA = bytes(range(7, 256)) * 8


class Sequence:
    """The sockets of one sequence: one that is bound, and operations by their order."""

    def __init__(self) -> None:
        self._bound = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
        self._operations: list[socket.socket] = []

    def close(self) -> None:
        """Close all."""
        for each in (self._bound, *self._operations):
            each.close()

    def bind(self, kind: str, name: str) -> Result:
        """Bind."""
        self._bound.bind((kind, name))
        return 0

    def key(self, size: int) -> Result:
        """Set a key of this size."""
        self._bound.setsockopt(SOL_ALG, SET_KEY, DATA[:size])
        return 0

    def tag(self, size: int) -> Result:
        """Set the size of the tag."""
        self._bound.setsockopt(SOL_ALG, SET_AUTHSIZE, None, size)
        return 0

    def accept(self) -> Result:
        """A new operation."""
        return self._keep(self._bound)

    def _keep(self, source: socket.socket) -> Result:
        operation, _ = source.accept()
        operation.setblocking(False)
        self._operations.append(operation)
        return len(self._operations)

    def clone(self, which: int) -> Result:
        """A copy of an operation."""
        return self._keep(self._operation(which))

    def _operation(self, which: int) -> socket.socket:
        if not self._operations:
            raise OSError(0, "")
        return self._operations[which % len(self._operations)]

    def drop(self, which: int) -> Result:
        """Close an operation."""
        operation = self._operation(which)
        self._operations.remove(operation)
        operation.close()
        return 0

    def send(self, which: int, size: int, more: int, how: int | None, iv: int | None, assoclen: int | None) -> Result:
        """Send data; how, iv (its size) and assoclen by control messages, where they are not None."""
        control = []
        if how is not None:
            control.append((SOL_ALG, SET_OP, struct.pack("=I", how)))
        if iv is not None:
            control.append((SOL_ALG, SET_IV, struct.pack("=I", iv) + DATA[3 : 3 + iv]))
        if assoclen is not None:
            control.append((SOL_ALG, SET_ASSOCLEN, struct.pack("=I", assoclen)))
        return self._operation(which).sendmsg([DATA[:size]], control, MORE if more else 0)

    def receive(self, which: int, size: int) -> Result:
        """Receive; with the flags that came."""
        data, _, flags, _ = self._operation(which).recvmsg(size)
        return f"{data.hex()} {flags:x}"


def perform(steps: list[Step]) -> list[Result]:
    """The results of a sequence; an errno is negative."""
    results: list[Result] = []
    with contextlib.closing(Sequence()) as sequence:
        for name, *arguments in steps:
            call: Callable[..., Result] = getattr(sequence, str(name))
            try:
                results.append(call(*arguments))
            except OSError as error:
                results.append(-(error.errno or 0))
    return results


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(perform(json.loads(line))), flush=True)
