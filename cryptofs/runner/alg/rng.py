"""Operations of a random number generator."""

from ...errors import InvalidValue, NotSupported
from ..endpoint import Received
from .operation import Accepted

PIECE = 128
"""Bytes that one receive gives at most."""


class RngOperation(Accepted):
    """A generator: each receive gives random bytes."""

    def check_send(self, control: bytes) -> None:
        raise NotSupported("send")

    def receive(self, size: int, flags: int) -> Received:
        if not size:
            return Received(b"")
        if not self.bound.seeded:
            raise InvalidValue("the generator has no seed: set a key, which may be empty")
        return Received(self.transform.generate(min(size, PIECE)))
