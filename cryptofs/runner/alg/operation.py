"""What the operations of all types have in common: they belong to a bound socket, whose key they use."""

from ...errors import InvalidValue, KeyMissing, TooLarge
from ...records import Buffer, Operation
from ..backend import RunTransform
from ..endpoint import MSG_MORE, Endpoint
from .bound import Bound
from .control import Control, parse_control

GATHERED_MAX = 16 << 20
"""Bytes that may wait to be received. The kernel takes what a send buffer holds, and then makes the sender wait."""


class Accepted(Endpoint):
    """A socket that accept(2) gave."""

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.bound = bound
        self._keyed = not self.transform.needs_key
        bound.operations += 1
        bound.keyed_operations += self._keyed

    def close(self) -> None:
        super().close()
        self.bound.forget(self._keyed)

    @property
    def transform(self) -> RunTransform:
        """The bound socket's."""
        assert self.bound.transform is not None
        return self.bound.transform

    def check_key(self) -> None:
        """From its first use of a key on, an operation keeps the bound socket from changing it. Errors: KeyMissing."""
        if not self._keyed:
            if self.transform.needs_key:
                raise KeyMissing(f"{self.transform.description.name} has no key")
            self._keyed = True
            self.bound.keyed_operations += 1

    def check_send(self, control: bytes) -> None:
        self.check_key()
        if control:
            parse_control(control)


class Gathering(Accepted):
    """A cipher or an AEAD: data gathers until it is received."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(bound)
        self.iv = bytes(self.transform.description.iv_size)
        self.operation = Operation.DECRYPT
        self.assoclen = 0
        self.begun = self.more = False
        """Whether there is a message, and whether it is not whole yet."""
        self.data: bytes | bytearray = b""

    def close(self) -> None:
        self.bound.store.give_back(len(self.data))
        self.data = b""
        super().close()

    def send(self, data: Buffer, control: bytes, flags: int, tid: int) -> int:
        said = self._understand(control)
        if len(self.data) + len(data) > GATHERED_MAX:
            raise TooLarge(f"{len(self.data) + len(data)} bytes before they are received: at most {GATHERED_MAX}")
        self.bound.store.add(len(data))
        self.begun = True
        if said is not None:
            self.operation, self.assoclen = said.operation, said.assoclen
            if said.iv is not None:
                self.iv = said.iv
        if self.data:
            if isinstance(self.data, bytes):
                self.data = bytearray(self.data)
            self.data += data
        else:
            self.data = data if isinstance(data, bytes) else bytearray(data)
        self.more = bool(flags & MSG_MORE)
        return len(data)

    def check_send(self, control: bytes) -> None:
        self._understand(control)

    def _understand(self, control: bytes) -> Control | None:
        """What the control messages say, if there are any. Errors: those of a send, whatever its data is."""
        self.check_key()
        said = parse_control(control) if control else None
        if said is not None and said.iv is not None and len(said.iv) != len(self.iv):
            raise InvalidValue(f"an IV of {len(said.iv)} bytes: {len(self.iv)}")
        if self.begun and not self.more and self.data:
            raise InvalidValue("a second message before the first was received")
        return said

    def take(self, size: int) -> bytes | bytearray:
        """The first bytes of what has gathered. They are gone, whatever becomes of them."""
        self.bound.store.give_back(size)
        if size == len(self.data):
            taken, self.data = self.data, b""
            self.begun = self.more
            return taken
        taken = self.data[:size]
        self.data = self.data[size:]
        return taken
