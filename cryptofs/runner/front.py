"""The process that the caller of `cryptofs run` sees: it stands for the program."""

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import sys
from enum import Enum

from ..errors import SystemFault
from . import libc

SIGNALS = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP} - {
    # Faults of this process itself.
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGSYS,
}  # fmt: skip
"""What front and supervisor block, and take from a descriptor."""
_INFORMATION = struct.Struct("=Iii116x")
"""struct signalfd_siginfo: number, errno, code."""
_FROM_KERNEL = 0x80
_NUMBER = struct.Struct("=i")
_TEXT_MAX = 4096


class Message(Enum):
    """What the supervisor tells the front."""

    STARTED = b"p"
    STOPPED = b"t"
    ENDED = b"e"
    SAYS = b"s"
    FAILED = b"f"

    def pack(self, number: int) -> bytes:
        """With the program's process id, or its status as wait(2) gives it."""
        return self.value + _NUMBER.pack(number)

    def text(self, text: str) -> bytes:
        """With a line for the user."""
        return self.value + text.encode(errors="backslashreplace")[:_TEXT_MAX]


def wait(front: socket.socket, supervisor: int) -> int:
    """Stand for the program until it ends; returns its exit status, or ends by its signal."""
    signals = libc.open_signals(sorted(SIGNALS))
    poll = select.poll()
    poll.register(front, select.POLLIN)
    poll.register(signals, select.POLLIN)
    program = 0
    try:
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == signals:
                    number, _, code = _INFORMATION.unpack(os.read(signals, _INFORMATION.size))
                    # What the terminal sends reaches the program, too, which is in the same process group.
                    if program and code != _FROM_KERNEL and number != signal.SIGCHLD:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(program, number)
                    continue
                data = front.recv(_TEXT_MAX + 1)
                if not data:
                    raise SystemFault("the supervisor has ended before the program")
                match Message(data[:1]):
                    case Message.STARTED:
                        (program,) = _NUMBER.unpack(data[1:])
                    case Message.STOPPED:
                        os.kill(os.getpid(), signal.SIGSTOP)
                    case Message.ENDED:
                        return _end(os.waitstatus_to_exitcode(_NUMBER.unpack(data[1:])[0]))
                    case Message.SAYS:
                        print(f"cryptofs run: {line_of(data)}", file=sys.stderr)
                    case Message.FAILED:
                        raise SystemFault(f"the supervisor failed: {line_of(data)}")
    finally:
        os.close(signals)


def line_of(data: bytes) -> str:
    """The line of a message, which may have been cut within a character."""
    return data[1:].decode(errors="replace")


def _end(status: int) -> int:
    """End as the program did."""
    if status < 0:
        # The program has left its core already.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = signal.Signals(-status) if -status in set(signal.Signals) else -status
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        return 128 - status
    return status
