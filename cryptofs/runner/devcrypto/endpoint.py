"""/dev/crypto under `cryptofs run`: a descriptor whose ioctls are answered by sessions."""

from typing import NoReturn

from ...errors import InvalidValue
from ...records import Buffer
from ..backend import Backend
from ..endpoint import Endpoint, Place, Received
from .numbers import U32, Command
from .session import Allowance
from .sessions import Sessions

PATH = b"/dev/crypto"


class DeviceFile(Endpoint):
    """An open /dev/crypto. Poll finds it readable while a result waits to be fetched."""

    starts_readable = False

    def __init__(self, backend: Backend, allowance: Allowance) -> None:
        super().__init__()
        self._sessions = Sessions(backend, allowance)

    def close(self) -> None:
        self._sessions.close()
        super().close()

    def control(self, place: Place, command: int, argument: int) -> int:
        memory = place.memory
        if command == Command.CRIOGET:
            # A second descriptor of the same open file, so that it has the same sessions. It fails before it is made.
            memory.read(argument, U32.size)
            memory.write(argument, U32.pack(place.copy(close_on_exec=False)))
            return 0
        self._sessions.ioctl(command, argument, memory)
        if self._sessions.has_results:
            self.mark()
        elif place.end.marked:
            place.clear()
        return 0

    def send(self, data: Buffer, control: bytes, flags: int, tid: int) -> int:
        self._refuse()

    def check_send(self, control: bytes) -> None:
        self._refuse()

    def receive(self, size: int, flags: int) -> Received:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InvalidValue(f"{PATH.decode()} takes neither read(2) nor write(2)")
