"""The loop that answers a program's system calls, until no process of it is left.

What computes the answers is loaded with the first call that may need it. Until then the program has nothing of ours,
so all that it does is the kernel's. A program that never needs it does not pay for it, and ends without it.
"""

import errno
import logging
import select
from collections.abc import Callable
from functools import partial
from typing import NoReturn, Protocol

from ..errors import CryptofsError, SystemFault
from .notify import FOREIGN, Call, Listener, PassOn
from .numbers import Machine
from .rules import BEGINNING, OPENING, PROBE

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
        self._opening = {machine.numbers[name] for name in OPENING if name in machine.numbers}
        self._told = self._refused = False
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
                    self._attempt(partial(answers.react, descriptor, events))
            if not ready and answers is not None:
                self._attempt(answers.look_again)
            if calls:
                call = self._listener.receive()
                if call is not None:
                    self._answer(call)
            elif ended:
                return

    def _attempt(self, job: Callable[[], None]) -> None:
        """Do what no call waits for. What is wrong with one socket must not end all others."""
        try:
            job()
        except Exception as error:
            log.error("a socket failed", exc_info=error)

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
        try:
            self._answers = self._load(self._listener, self._poll)
        except Exception as error:
            self._tell(error)
            if call.number in self._opening:
                # Most files are the kernel's.
                raise PassOn from None
            if isinstance(error, CryptofsError | OSError):
                raise
            raise SystemFault("what computes cannot be loaded") from error
        self._value = self._answers.answer
        return self._value(call)

    def _tell(self, error: Exception) -> None:
        """Say once why nothing can be loaded: the program sees an errno at most."""
        if not self._told:
            self._told = True
            said = error.message if isinstance(error, CryptofsError) else f"{type(error).__name__}: {error}"
            log.error("what computes cannot be loaded: %s. If cryptofs was upgraded, start the program again", said)

    def _refuse_foreign(self) -> NoReturn:
        """The layout of everything in memory is another one. Errors: SystemFault, always."""
        if not self._refused:
            self._refused = True
            log.error("a 32-bit program asks for AF_ALG, which only 64-bit programs get here")
        raise SystemFault("a socket for a 32-bit program", errno.EAFNOSUPPORT)

    def _answer(self, call: Call) -> None:
        try:
            if call.number == FOREIGN:
                self._refuse_foreign()
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
