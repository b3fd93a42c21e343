"""Calls by CRYPTOFS_CALL: one record in and its answer out, in one system call."""

import ctypes
import os

from ..records import (
    CALL_MAX,
    HEADER_SIZE,
    OPERATION_NUMBERS,
    VERSION,
    Flag,
    Octets,
    Operation,
    Record,
    call_command,
    unpack_header,
)
from .wire import decode, owned

# Not `fcntl.ioctl`: for more than 1,024 bytes it keeps the interpreter's lock until the kernel returns, so a daemon
# that does not answer would stop every thread of the program.
# Its arguments are ctypes objects that are kept, because converting them for each call costs a microsecond.
_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_ROOM = 1024
"""Bytes of the smallest buffer: every answer of a control call fits."""
_SUCCESS = int(Flag.RESPONSE)


def fits_a_call(operation: Operation, size: int, expected: int) -> bool:
    """Whether a record of `size` bytes, and its answer with `expected` bytes of payload, fit into an ioctl's buffer.

    The answer of a control call always fits. Key pair operations never go by ioctl: their answer may be large, and if a
    signal ends the call, a key may have been made, so the client could not repeat it.
    """
    return size <= CALL_MAX and HEADER_SIZE + expected <= CALL_MAX and not operation.row.operands


class Caller:
    """Calls on one descriptor. The buffer is kept, and zeroed after each call. For one thread at a time."""

    __slots__ = ("_address", "_command", "_view")

    def __init__(self) -> None:
        self._command = ctypes.c_ulong()
        self._make(_ROOM)

    def _make(self, size: int) -> None:
        self._view = memoryview(bytearray(size))
        self._address = ctypes.c_void_p(ctypes.addressof((ctypes.c_char * size).from_buffer(self._view)))

    def call(self, descriptor: int, head: bytes, payload: Octets, expected: int) -> Record:
        """The answer to one record, which is this record's, whatever else is unread. expected: bytes of its payload.

        Errors: OSError. ENOTTY: the daemon knows no ioctl. EMSGSIZE: the answer is larger. EINTR: a signal came and the
        request was cancelled; the signal's handler has run.
        """
        begin = len(head)
        size = begin + len(payload)
        room = max(size, HEADER_SIZE + expected, _ROOM)
        if room > len(self._view):
            self._make(min(2 * room, CALL_MAX))
        view = self._view
        view[:begin] = head
        view[begin:size] = payload
        self._command.value = call_command(room)
        try:
            if _ioctl(descriptor, self._command, self._address) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            size, version, operation, flags, identity, status, attributes_size = unpack_header(view)
            if version == VERSION and flags == _SUCCESS and not status and not attributes_size and size <= room:
                # Most answers: no more has to be parsed.
                return Record(OPERATION_NUMBERS[operation], flags, identity, 0, {}, bytes(view[HEADER_SIZE:size]))
            (response,) = decode(view[:size])
            return owned(response)
        finally:
            view[:room] = bytes(room)
