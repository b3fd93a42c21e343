"""Operations of an AEAD."""

from ...errors import InvalidValue
from ...records import Operation
from ..endpoint import MustWait, Received
from .operation import Gathering


class AeadOperation(Gathering):
    """An AEAD: a receive computes the whole message, and repeats the associated data before it."""

    def receive(self, size: int, flags: int) -> Received:
        self.check_key()
        if not size:
            return Received(b"")
        if not self.begun or self.more:
            raise MustWait
        transform, assoclen = self.transform, self.assoclen
        encrypts = self.operation is Operation.ENCRYPT
        used = len(self.data)
        tag = 0 if encrypts else transform.authsize
        if used < assoclen + tag:
            raise InvalidValue(f"message of {used} bytes: at least assoclen {assoclen} and a tag of {tag}")
        length = used + transform.authsize if encrypts else used - tag
        missing = max(0, length - size)
        # What the receiver has no room for is the next receiver's message. Programs send several at once by this.
        if used - assoclen < missing + (tag if missing else 0):
            raise InvalidValue(f"room for {size} bytes: the message needs {length}")
        source = self.take(used - missing)
        output = transform.once(self.operation, self.iv or None, assoclen, source)
        return Received(source[:assoclen] + output if assoclen else output)
