"""What the transforms of all types share: the bound socket and its key."""

from ...algorithms import Description
from ...records import Buffer
from ..base import Transform
from .sockets import Bound


class KernelTransform(Transform):
    """A transform whose algorithm and key are held by the kernel alone."""

    def __init__(self, description: Description, bound: Bound, authsize: int = 0) -> None:
        super().__init__(description, authsize)
        self._bound = bound

    def replace_key(self, key: Buffer) -> None:
        if not self.description.key_sizes.admits(len(key)):
            raise self.refuse_key(key)
        bound = self._bound
        if bound.pristine:
            if not bound.set_key(key):
                raise self.refuse_key(key)
            return
        # A refused key would take the old one away, and kept operation sockets make the kernel answer EBUSY:
        # the new key gets a new bound socket.
        fresh = bound.again()
        try:
            if (self.authsize and not fresh.set_authsize(self.authsize)) or not fresh.set_key(key):
                raise self.refuse_key(key)
        except BaseException:
            fresh.close()
            raise
        self._bound = fresh
        bound.close()

    def close(self) -> None:
        self._bound.close()
