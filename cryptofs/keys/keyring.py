"""Keys in the kernel's keyrings, by their description.

AF_ALG takes such a key by its serial number, so that it never enters the process. That is the only way for keys of the
type logon, which no process may read, and for encrypted and trusted ones, of which a process may read only the sealed
form. OpenSSL needs the bytes, which only keys of the type user give.
"""

import errno
import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..algorithms import Type
from ..engines.base import Engine, Transform
from ..engines.keyctl.payload import read
from ..errors import CryptofsError, InvalidValue, KeyUnavailable, NotSupported, SystemFault, symbol
from ..wiping import wipe
from . import keyctl
from .base import CannotTake, KeySource
from .secret import KEY_MAX

KINDS = ("user", "logon", "encrypted", "trusted")
"""The types of keys that can be used."""
_READABLE = "user"
_DESCRIPTION_MAX = 4095
_GONE = {
    errno.ENOKEY: "no such key",
    errno.EKEYREVOKED: "revoked",
    errno.EKEYEXPIRED: "expired",
}
_WHY = {
    errno.EACCES: "not permitted",
    errno.EPERM: "not permitted, perhaps because of a container's or a service's system call filter",
    errno.ENODEV: "this kernel has no keys of this type",
    errno.ENOSYS: "no keyrings here",
    errno.EOPNOTSUPP: "no such keyring in this kernel",
    errno.EAGAIN: "updated while it was read",
}


@runtime_checkable
class TakesSerial(Protocol):
    """A transform that can take its key from the kernel's keyring."""

    def set_key_serial(self, serial: int) -> None:
        """Errors: NotSupported if the kernel cannot do this, KeyUnavailable, InvalidValue for its size."""


@dataclass(frozen=True)
class KeyringKey(KeySource):
    """A key of the user who serves, by its description. kind: its type, one of KINDS."""

    description: str
    kind: str = _READABLE

    def __post_init__(self) -> None:
        """Errors: InvalidValue."""
        if self.kind not in KINDS:
            raise InvalidValue(f"key type {self.kind[:40]!r}: one of {', '.join(KINDS)}")
        if not self.description.isprintable() or not 0 < len(self.description.encode()) <= _DESCRIPTION_MAX:
            raise InvalidValue(f"key description: 1 to {_DESCRIPTION_MAX} printable bytes")

    def describe(self) -> str:
        return f"{self.kind} key {self.description!r} in the user keyring"

    def unchecked(self) -> str:
        return "the keyrings are those of the user who serves"

    def open(self, engines: tuple[Engine, ...], type_: Type, name: str, authsize: int | None) -> Transform:
        try:
            with keyctl.held(self.kind, self.description) as serial:
                return self.open_with(engines, type_, name, authsize, lambda transform: self._give(transform, serial))
        except OSError as error:
            raise self._failed(error) from None

    def _give(self, transform: Transform, serial: int) -> None:
        if isinstance(transform, TakesSerial):
            try:
                transform.set_key_serial(serial)
            except NotSupported:
                reason = "cannot take a key from the keyring with this kernel (it can since Linux 6.2)"
            except KeyUnavailable as error:
                raise self.unavailable(error.message) from None
            else:
                return
        else:
            reason = "takes keys as bytes only"
        if self.kind != _READABLE:
            raise CannotTake(f"{reason}, and a process cannot read keys of type {self.kind}")
        key = read(serial, KEY_MAX)
        try:
            transform.set_key(key)
        finally:
            wipe(key)

    def _failed(self, error: OSError) -> CryptofsError:
        number = error.errno or 0
        if number in _GONE:
            return self.gone(f"{_GONE[number]} ({symbol(error.errno)})")
        if number == errno.EMSGSIZE:
            return InvalidValue(f"{self.describe()}: more than {KEY_MAX} bytes")
        return self.unavailable(f"{_WHY.get(number, 'keyctl fails')} ({symbol(error.errno)})")


def add_to_keyring(kind: str, description: str, key: bytearray) -> None:
    """Put a new key on the keyring of this process's user. Errors: SystemFault; EEXIST if the key exists."""
    KeyringKey(description, kind)
    try:
        keyctl.add(kind, description, key)
    except OSError as error:
        more = "there is such a key already" if error.errno == errno.EEXIST else _WHY.get(error.errno or 0, "")
        raise SystemFault(f"{kind} key {description!r}: {more or os.strerror(error.errno or 0)}", error.errno) from None
