"""The loop that answers a program's system calls, until no process of it is left."""

import logging
import select
from collections.abc import Callable, Mapping

from ..errors import CryptofsError
from .alg.control import AF_ALG
from .backend import Backend
from .calls import HANDLERS
from .descriptors import BASE, Descriptors, PassOn
from .desk import Desk, OpenDevice
from .filter import Argument, Rule, is_at_least
from .netlink import NETLINK_CRYPTO
from .notify import Call, Listener
from .numbers import Machine
from .shim import ALIAS

log = logging.getLogger("cryptofs")

AF_NETLINK = 16
_ENOSYS = 38
_DUPLICATES = (0, 1030)
"""F_DUPFD and F_DUPFD_CLOEXEC."""
# The most frequent ones first: each rule before the one that fits costs a few nanoseconds.
BY_DESCRIPTOR = (
    "read", "write", "sendmsg", "recvmsg", "sendto", "recvfrom", "accept4", "accept", "setsockopt", "getsockopt",
    "bind", "getsockname", "getpeername", "connect", "listen", "shutdown", "readv", "writev", "sendmmsg", "recvmmsg",
    "sendfile", "dup", "dup2", "dup3", "preadv2", "pwritev2",
)  # fmt: skip
AT_ALL = ("io_submit", "io_getevents", "io_pgetevents")


def rules(wide: bool, devices: bool, alias: bool) -> list[Rule]:
    """What the filter hands over. wide: calls on descriptors below BASE as well; devices: opens of files; alias:
    sockets of the shim's family, which make_socket takes for AF_ALG."""
    smallest = 0 if wide else BASE
    ours = is_at_least(0, smallest)
    found = [Rule(name, (ours,)) for name in BY_DESCRIPTOR]
    found += [Rule("fcntl", (ours, Argument(1, command))) for command in _DUPLICATES]
    found += [Rule("splice", (is_at_least(position, smallest),)) for position in (2, 0)]
    found += [Rule(name) for name in AT_ALL]
    found += [Rule(name, (Argument(0, AF_ALG),)) for name in ("socket", "socketpair")]
    if alias:
        found.append(Rule("socket", (Argument(0, ALIAS),)))
    found.append(Rule("socket", (Argument(0, AF_NETLINK), Argument(2, NETLINK_CRYPTO))))
    # Its calls pass by the filter. Programs go on without it.
    found.append(Rule("io_uring_setup", errno=_ENOSYS))
    if devices:
        found.append(Rule("ioctl", (Argument(1, ord("c") << 8, mask=0xFF00), ours)))
        found += [Rule(name) for name in ("open", "creat", "openat", "openat2")]
    return found


class Supervisor:
    """Answers the calls of one program and its descendants."""

    def __init__(
        self, machine: Machine, listener: Listener, backend: Backend, wide: bool, devices: Mapping[bytes, OpenDevice]
    ) -> None:
        self._listener = listener
        self._descriptors = Descriptors(listener, 0 if wide else BASE)
        self._desk = Desk(backend, self._descriptors, devices)
        self._handlers = {machine.numbers[name]: HANDLERS[name] for name in HANDLERS if name in machine.numbers}
        self._beside: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, react: Callable[[], None]) -> None:
        """Call a function whenever a descriptor is readable or hung up."""
        self._beside[descriptor] = react
        self._descriptors.poll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Stop watching it."""
        del self._beside[descriptor]
        self._descriptors.poll.unregister(descriptor)

    def serve(self) -> None:
        """Answer until the last process with the filter has ended."""
        poll, listening = self._descriptors.poll.poll, self._listener.descriptor
        while True:
            ready = poll(self._descriptors.patience)
            calls = ended = False
            for descriptor, events in ready:
                if descriptor == listening:
                    calls, ended = bool(events & select.EPOLLIN), bool(events & select.EPOLLHUP)
                elif descriptor in self._beside:
                    self._beside[descriptor]()
                else:
                    # Before the next call: what was closed before it counts as closed in it.
                    self._descriptors.react(descriptor, events)
            if not ready:
                self._descriptors.look_again()
            if calls:
                call = self._listener.receive()
                if call is not None:
                    self._answer(call)
            elif ended:
                return

    def close(self) -> None:
        """Give up all that is open. Calls that come later fail with ENOSYS."""
        self._descriptors.close()
        self._listener.close()

    def _answer(self, call: Call) -> None:
        try:
            handler = self._handlers.get(call.number)
            if handler is None:
                # The filter is a runtime's, and hands over more, or the calls of 32-bit programs.
                raise PassOn
            value = handler(self._desk, call)
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
