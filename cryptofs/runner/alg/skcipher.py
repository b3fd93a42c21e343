"""Operations of a cipher."""

from ...errors import InvalidValue
from ...records import Operation
from ..endpoint import MustWait, Received
from .operation import Gathering


class CipherOperation(Gathering):
    """A cipher: a receive gives as much as there is room for, in whole chunks unless it is the end of the message."""

    def receive(self, size: int, flags: int) -> Received:
        self.check_key()
        if not size:
            return Received(b"")
        transform = self.transform
        description = transform.description
        # A cipher that the engines only take whole is cut into blocks here, as the kernel cuts it.
        chunk = description.chunk_size or description.block_size
        if not self.begun or (self.more and len(self.data) < chunk):
            raise MustWait
        length = min(size, len(self.data))
        if self.more or length < len(self.data):
            length -= length % chunk
        if self.data and not length:
            raise InvalidValue(f"room for {size} bytes: at least a block of {chunk}")
        source = self.take(length)
        output = transform.once(self.operation, self.iv or None, 0, source)
        if self.iv:
            self.iv = description.next_iv(self.iv, source, output, self.operation is Operation.ENCRYPT)
        return Received(output)
