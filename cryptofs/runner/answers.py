"""What answers the calls: the handlers with what they work with. This loads the engines, or the client of a mount."""

import select
from collections.abc import Mapping, Sequence
from pathlib import Path

from .backend import Backend, LocalBackend
from .calls import HANDLERS
from .descriptors import Descriptors
from .desk import Desk, OpenDevice
from .notify import Call, Listener, PassOn
from .numbers import Machine
from .rules import BASE

_SESSIONS_MAX = 4096
"""Sessions of /dev/crypto, over all processes of one run."""


class HandledCalls:
    """Answers by handlers, each for one system call. It is an `Answers`."""

    def __init__(
        self,
        machine: Machine,
        listener: Listener,
        poll: select.epoll,
        backend: Backend,
        wide: bool,
        devices: Mapping[bytes, OpenDevice],
    ) -> None:
        """wide: serve descriptors below BASE, too; devices: what opens of these paths give."""
        self._descriptors = Descriptors(listener, poll, 0 if wide else BASE)
        self._desk = Desk(backend, self._descriptors, devices)
        self._handlers = {machine.numbers[name]: HANDLERS[name] for name in HANDLERS if name in machine.numbers}
        self.react = self._descriptors.react
        self.look_again = self._descriptors.look_again
        self.close = self._descriptors.close

    @property
    def patience(self) -> float | None:
        """Seconds until `look_again` is due."""
        return self._descriptors.patience

    def answer(self, call: Call) -> int:
        """The value of a call. Errors: CryptofsError or OSError with the call's errno; PassOn."""
        handler = self._handlers.get(call.number)
        if handler is None:
            # The filter is a runtime's, and hands over more.
            raise PassOn
        return handler(self._desk, call)


def open_backend(mount: Path | None, engines: Sequence[str]) -> Backend:
    """What computes: a mount's daemon, else engines in this process. Errors: CryptofsError, MountNotFound."""
    if mount is None:
        return LocalBackend(engines)
    # Only now: a program that uses no mount does not wait for the client.
    from .mounted import MountBackend

    return MountBackend(mount)


def devcrypto() -> dict[bytes, OpenDevice]:
    """The device that --devcrypto serves."""
    from .devcrypto import Allowance
    from .devcrypto.endpoint import PATH, DeviceFile

    allowance = Allowance(_SESSIONS_MAX)
    return {PATH: lambda backend: DeviceFile(backend, allowance)}
