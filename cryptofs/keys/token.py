"""Keys in PKCS#11 tokens: the token computes, and the key stays there."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..algorithms import Type
from ..engines.base import Engine, Transform
from ..errors import InvalidValue, KeyUnavailable, NotOffered, printable
from ..formats.token_uri import TokenObject
from ..keyfiles import why_unopened
from ..wiping import wipe
from .base import ByteSource, KeySource
from .secret import without_newline

_PACKAGES = ("pkcs11", "asn1crypto")


@dataclass(frozen=True)
class TokenKey(KeySource):
    """A secret key in a token, through a PKCS#11 module.

    module: absolute path of the module's library; wanted: which key of which token; pin: the source of the user's PIN
    (a newline at its end does not count), None for a token without a PIN.
    """

    module: Path
    wanted: TokenObject
    pin: ByteSource | None = None

    def describe(self) -> str:
        return f"{self.wanted.key} in the {self.wanted.place} of {printable(self.module)}"

    def unchecked(self) -> str:
        self._check_module()
        try:
            os.stat(self.module)
        except OSError as error:
            raise self.gone(f"{printable(self.module)}: {why_unopened(error)}") from None
        hidden = "" if self.pin is None else self.pin.unchecked()
        why = "not tested, because each login is a try of the PIN"
        return f"{why}; {hidden}" if hidden else why

    def _check_module(self) -> None:
        if not self.module.is_absolute():
            raise self.unavailable("the module's path must be absolute")

    def open(self, engines: tuple[Engine, ...], type_: Type, name: str, authsize: int | None) -> Transform:
        """See KeySource. It asks no engine, because the token computes itself."""
        with self._through_module():
            return self._open(type_, name, authsize)

    def _open(self, type_: Type, name: str, authsize: int | None) -> Transform:
        from ..engines.pkcs11 import TokenEngine

        with closing(TokenEngine(str(self.module), self.wanted, self._read_pin)) as engine:
            description = engine.describe(type_, name)
            if description is None:
                raise NotOffered(
                    f"{type_} {name!r}: not offered by the {self.wanted.place} of {printable(self.module)}"
                )
            return engine.open(description, authsize)

    def make(self, type_: Type, name: str, size: int) -> None:
        """Have the token make this key, of `size` bytes, and use it once: what cannot be used is destroyed.

        Errors: those of `open` and of `new_key`.
        """
        with self._through_module():
            from ..engines.pkcs11 import made_key

            with made_key(str(self.module), self.wanted, self._read_pin, type_, name, size):
                self._open(type_, name, None).close()

    @contextmanager
    def _through_module(self) -> Iterator[None]:
        self._check_module()
        try:
            yield
        except ModuleNotFoundError as error:
            if error.name not in _PACKAGES:
                raise
            raise self.unavailable(
                "the package python-pkcs11 is missing; it comes with the extra cryptofs[pkcs11]"
            ) from None
        except (InvalidValue, KeyUnavailable) as error:
            raise type(error)(f"{self.describe()}: {error.message}") from None

    @contextmanager
    def _read_pin(self) -> Iterator[bytearray | None]:
        if self.pin is None:
            yield None
            return
        pin = without_newline(self.pin.read())
        try:
            yield pin
        finally:
            wipe(pin)
