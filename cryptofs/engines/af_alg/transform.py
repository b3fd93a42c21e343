"""The common part of the transforms of all types: the bound socket and its key."""

from collections.abc import Callable

from ...algorithms import Description
from ...errors import InvalidValue
from ...records import Buffer
from ..base import Transform
from .sockets import Bound


class KernelTransform(Transform):
    """A transform whose algorithm and key are only in the kernel."""

    def __init__(self, description: Description, bound: Bound, authsize: int = 0) -> None:
        super().__init__(description, authsize)
        self._bound = bound

    def replace_key(self, key: Buffer) -> None:
        self._replace(lambda bound: bound.set_key(key), lambda: self.refuse_key(key))

    def set_key_serial(self, serial: int) -> None:
        """Replace the key by one of the kernel's keyring, by its serial number: it never enters this process.

        Errors: NotSupported if the kernel cannot do this (before Linux 6.2, or a key of another type than user, logon,
        encrypted and trusted), KeyUnavailable for a key that has gone or that the process may not use, InvalidValue for
        its size. Only while no message is open.
        """
        description = self.description
        if not description.key_sizes.takes_key:
            raise InvalidValue(f"{description.name} takes no key")
        self._replace(
            lambda bound: bound.set_key_serial(serial),
            lambda: InvalidValue(f"key of a wrong size: {description.name} takes {description.key_sizes} bytes"),
        )
        self.keyed = self.key_set = True

    def _replace(self, give: Callable[[Bound], bool], refused: Callable[[], InvalidValue]) -> None:
        bound = self._bound
        if bound.pristine:
            if not give(bound):
                raise refused()
            return
        # A refused key would remove the old one, and for kept operation sockets the kernel answers EBUSY. So the new
        # key gets a new bound socket.
        fresh = bound.again()
        try:
            if (self.authsize and not fresh.set_authsize(self.authsize)) or not give(fresh):
                raise refused()
        except BaseException:
            fresh.close()
            raise
        self._bound = fresh
        bound.close()

    def close(self) -> None:
        self._bound.close()
