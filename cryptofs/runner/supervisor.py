"""The loop that answers a program's system calls, until no process of it is left.

What computes the answers is loaded with the first call that may need it. Until then the program has nothing of ours,
so all that it does is the kernel's. A program that never needs it does not pay for it, and ends without it.
"""

import errno
import logging
import select
from collections.abc import Callable
from typing import Protocol

from ..errors import CryptofsError, SystemFault
from .notify import Call, Listener, PassOn
from .numbers import Machine
from .rules import BEGINNING, PROBE

log = logging.getLogger("cryptofs")

_NONE = -1
"""The number of no system call."""
PROBED = errno.EALREADY
"""The errno of a probe that has reached the supervisor."""


class Answers(Protocol):
    """What answers the calls. It adds its own descriptors to the loop's poll."""

    @property
    def patience(self) -> float | None:
        """Seconds until `look_again` is due."""

    def answer(self, call: Call) -> int:
        """The value of a call. Errors: CryptofsError or OSError with the call's errno; PassOn."""

    def react(self, descriptor: int, events: int) -> None:
        """Something has happened at one of its descriptors."""

    def look_again(self) -> None:
        """Nothing has happened for so long."""

    def close(self) -> None:
        """Close all, as at the end of the program."""


Load = Callable[[Listener, select.epoll], Answers]


class Supervisor:
    """Answers the calls of one program and its descendants. load: called once, unless it fails."""

    def __init__(self, machine: Machine, listener: Listener, load: Load) -> None:
        self._listener = listener
        self._load = load
        self._answers: Answers | None = None
        self._value: Callable[[Call], int] = self._begin
        self._beginning = {machine.numbers[name] for name in BEGINNING if name in machine.numbers}
        self._probe = machine.numbers["socket"]
        self._poll = select.epoll()
        self._poll.register(listener.descriptor, select.EPOLLIN)
        self._beside: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, react: Callable[[], None]) -> None:
        """Call a function whenever a descriptor is readable or hung up."""
        self._beside[descriptor] = react
        self._poll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Stop watching it."""
        del self._beside[descriptor]
        self._poll.unregister(descriptor)

    def serve(self) -> None:
        """Answer until the last process with the filter has ended."""
        poll, listening = self._poll.poll, self._listener.descriptor
        while True:
            answers = self._answers
            ready = poll(None if answers is None else answers.patience)
            calls = ended = False
            for descriptor, events in ready:
                if descriptor == listening:
                    calls, ended = bool(events & select.EPOLLIN), bool(events & select.EPOLLHUP)
                elif descriptor in self._beside:
                    self._beside[descriptor]()
                elif answers is not None:
                    # Before the next call: what was closed before it counts as closed in it.
                    answers.react(descriptor, events)
            if not ready and answers is not None:
                answers.look_again()
            if calls:
                call = self._listener.receive()
                if call is not None:
                    self._answer(call)
            elif ended:
                return

    def close(self) -> None:
        """Give up all that is open. Calls that come later fail with ENOSYS."""
        if self._answers is not None:
            self._answers.close()
        self._poll.close()
        self._listener.close()

    def _begin(self, call: Call) -> int:
        """The value of a call to which nothing of ours can belong yet."""
        if call.number not in self._beginning:
            raise PassOn
        if call.number == self._probe and call.arguments[2] & 0xFFFFFFFF == PROBE:
            self._probe = _NONE
            raise SystemFault("the call has arrived", PROBED)
        self._answers = self._load(self._listener, self._poll)
        self._value = self._answers.answer
        return self._value(call)

    def _answer(self, call: Call) -> None:
        try:
            value = self._value(call)
        except PassOn:
            self._listener.pass_on(call)
        except CryptofsError as error:
            self._listener.refuse(call, error.errno)
        except OSError as error:
            # Too many open files, or no memory.
            self._listener.refuse(call, error.errno or 5)
        except Exception as error:
            log.error("system call %d failed", call.number, exc_info=error)
            self._listener.refuse(call, 5)
        else:
            self._listener.answer(call, value)
