"""The socket that socket(2) makes: bind gives it an algorithm, setsockopt a key, accept an operation."""

import errno
from collections.abc import Callable, Mapping

from ...algorithms import Type
from ...errors import Busy, CryptofsError, InvalidValue, NotOffered, SystemFault
from ...wiping import wipe
from ..backend import Backend, RunTransform
from ..endpoint import Endpoint
from .control import SET_AUTHSIZE, SET_KEY, SET_KEY_BY_SERIAL, SOCKADDR, SOL_ALG

_ALLOWED = 0x1000
"""The only flag that bind takes: an algorithm that the kernel alone has."""
_ADDRESS_MAX = 128
_TYPES = {each.value.encode(): each for each in (Type.HASH, Type.SKCIPHER, Type.AEAD, Type.RNG)}

_STORED_MAX = 256 << 20


class Store:
    """Bytes that wait to be received, over all sockets of one run or container: they are the supervisor's memory."""

    def __init__(self) -> None:
        self._used = 0

    def add(self, size: int) -> None:
        """So many more. Errors: SystemFault (ENOBUFS)."""
        if self._used + size > _STORED_MAX:
            raise SystemFault(f"{self._used + size} bytes of all sockets wait: at most {_STORED_MAX}", errno.ENOBUFS)
        self._used += size

    def give_back(self, size: int) -> None:
        """So many fewer."""
        self._used -= size


CatchUp = Callable[[], None]
"""Takes notice of descriptors that have been closed: an operation that has gone must not make a socket busy."""


class Bound(Endpoint):
    """A socket of AF_ALG. Its transform outlives it as long as there are operations."""

    def __init__(
        self,
        backend: Backend,
        catch_up: CatchUp,
        operations: Mapping[Type, Callable[["Bound"], Endpoint]],
        store: Store,
    ) -> None:
        """operations: what accept gives, by type; store: for what they keep."""
        super().__init__()
        self.store = store
        self._backend = backend
        self._catch_up = catch_up
        self._accepted = operations
        self._open = True
        self.transform: RunTransform | None = None
        self.keyed_operations = 0
        """Operations that have used the key, or that need none: while there are any, nothing may change."""
        self.operations = 0
        self.seeded = False

    def close(self) -> None:
        super().close()
        self._open = False
        self._release()

    def forget(self, keyed: bool) -> None:
        """One of its operations has gone."""
        self.operations -= 1
        self.keyed_operations -= keyed
        self._release()

    def _release(self) -> None:
        if not self._open and not self.operations and self.transform is not None:
            self.transform.close()
            self.transform = None

    def bind(self, address: bytes) -> None:
        if not SOCKADDR.size < len(address) <= _ADDRESS_MAX:
            raise InvalidValue(f"address of {len(address)} bytes: {SOCKADDR.size + 1} to {_ADDRESS_MAX}")
        _, kind, features, mask = SOCKADDR.unpack_from(address)
        if (features | mask) & ~_ALLOWED:
            raise InvalidValue(f"features {features:#x} and mask {mask:#x}: only {_ALLOWED:#x} is allowed")
        # The last byte of each is a NUL, whatever was given.
        type_ = _TYPES.get(kind[:-1].split(b"\0")[0])
        name = address[SOCKADDR.size : -1].split(b"\0")[0].decode("latin-1")
        if type_ is None:
            raise NotOffered("no such type of algorithm")
        transform = self._backend.open(type_, name)
        if self.operations:
            self._catch_up()
        if self.operations:
            transform.close()
            raise Busy("bind: operations are open")
        if self.transform is not None:
            self.transform.close()
        self.transform = transform
        self.seeded = False

    def set_option(self, level: int, option: int, size: int, take_key: Callable[[], bytearray]) -> None:
        if self.keyed_operations:
            self._catch_up()
        if self.keyed_operations:
            raise Busy("setsockopt: operations are open")
        transform = self.transform
        if level != SOL_ALG or transform is None:
            raise _no_option(option)
        type_ = transform.description.type
        if option in (SET_KEY, SET_KEY_BY_SERIAL):
            key = take_key()
            try:
                self._set_key(transform, key)
            finally:
                wipe(key)
        elif option == SET_AUTHSIZE and type_ is Type.AEAD:
            transform.set_authsize(size)
        else:
            raise _no_option(option)

    def _set_key(self, transform: RunTransform, key: bytearray) -> None:
        type_ = transform.description.type
        takes_key = transform.description.key_sizes.takes_key
        if type_ is Type.HASH and not takes_key:
            raise SystemFault(f"{transform.description.name} takes no key", errno.ENOSYS)
        if type_ is Type.SKCIPHER and not takes_key and not key:
            # Of the size that the null cipher has.
            return
        self.seeded = False
        transform.set_key(key)
        self.seeded = True

    def accept(self) -> Endpoint:
        if self.transform is None:
            raise InvalidValue("accept: the socket has no algorithm")
        return self._accepted[self.transform.description.type](self)


def _no_option(option: int) -> CryptofsError:
    return SystemFault(f"option {option}: not one of this socket", errno.ENOPROTOOPT)
