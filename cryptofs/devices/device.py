"""Devices: transforms with a key that programs use but cannot read, shared by all contexts that they open."""

import time
from dataclasses import dataclass

from ..algorithms import Rows, Type, format_rows
from ..engines.base import Transform
from ..errors import InvalidValue, NotPermitted, OverQuota
from ..records import DEVICE_OPERATIONS, Operation
from .nonces import MESSAGES_MAX, SHORT_NONCE, Nonces

_CIPHERS = (Type.SKCIPHER, Type.AEAD)


@dataclass(frozen=True)
class DeviceSettings:
    """A device as declared. operations: the allowed ones; caller_nonce: whether a program may give its own nonce; uid,
    gid, mode: of its files."""

    name: str
    type: Type
    algorithm: str
    operations: frozenset[Operation]
    uid: int = 0
    gid: int = 0
    mode: int = 0o600
    caller_nonce: bool = False
    authsize: int | None = None
    key: str = ""
    """The source of the key, in words."""


class Device:
    """One device: its settings and its keyed transform, which is closed when the device is retired and unused."""

    def __init__(self, settings: DeviceSettings, transform: Transform) -> None:
        """Errors: InvalidValue for operations that the type does not have, and for nonces that cannot be made."""
        allowable = DEVICE_OPERATIONS[settings.type]
        if settings.operations - allowable or not settings.operations:
            known = ", ".join(sorted(each.word for each in allowable))
            raise InvalidValue(f"operations of a device of type {settings.type}: of {known}")
        self.settings = settings
        self.transform = transform
        description = transform.description
        takes_nonce = bool(description.iv_size)
        try:
            self.nonces = Nonces(description) if takes_nonce else None
        except InvalidValue:
            if not settings.caller_nonce:
                raise
            self.nonces = None
        if settings.type in _CIPHERS and settings.operations != allowable:
            self._check_one_way(takes_nonce)
        self.lags = self._is_blind and description.chains
        """Whether a block of output is withheld until the next one is fixed."""
        self.messages = 0
        """Messages encrypted with the daemon's nonces."""
        self.loaded_at = time.time()
        """When the daemon took the key from its source, by Unix time."""
        self.users = 0
        """Open contexts."""
        self._retired = False

    def _check_one_way(self, takes_nonce: bool) -> None:
        """Errors: InvalidValue if the one allowed operation could do the work of the other."""
        name, type_ = self.transform.description.name, self.settings.type
        if self.transform.description.block_size != 1:
            return
        if Operation.ENCRYPT in self.settings.operations and (self.settings.caller_nonce or not takes_nonce):
            raise InvalidValue(
                f"{name} with nonces of the caller's undoes its own encryption under the same nonce: "
                "such a device allows both operations"
            )
        # To decrypt, the caller always chooses the nonce; an AEAD also needs a tag.
        if Operation.DECRYPT in self.settings.operations and type_ is Type.SKCIPHER:
            raise InvalidValue(
                f"{name} encrypts what it is given to decrypt: such a device allows both operations, or only encrypt"
            )

    @property
    def _is_blind(self) -> bool:
        """Whether programs can only encrypt, under nonces that they do not know in advance.

        Only then the order of output and next input matters. Otherwise the caller chooses the whole input of the block
        cipher anyway.
        """
        settings = self.settings
        return (
            settings.type is Type.SKCIPHER
            and settings.operations == {Operation.ENCRYPT}
            and self.nonces is not None
            and not settings.caller_nonce
        )

    @property
    def has_streams(self) -> bool:
        """Whether it has stream files: their segments have any length, and the daemon's nonces."""
        description = self.transform.description
        if description.type is Type.AEAD and description.block_size > 1:
            return False
        return self.nonces is not None or not description.iv_size

    def allow(self, operation: Operation) -> None:
        """Errors: NotPermitted."""
        if operation not in self.settings.operations:
            raise NotPermitted(f"device {self.settings.name}: {operation.word} is not allowed")

    @property
    def messages_max(self) -> int:
        """The most messages that the key may encrypt with the daemon's nonces; 0 if nothing bounds them."""
        return MESSAGES_MAX if self.nonces is not None and self.nonces.size <= SHORT_NONCE else 0

    def make_nonce(self) -> bytes:
        """A nonce for one message. Errors: OverQuota if the key has served its maximum of messages."""
        assert self.nonces is not None
        if self.messages >= MESSAGES_MAX and self.nonces.size <= SHORT_NONCE:
            raise OverQuota(
                f"device {self.settings.name}: {self.messages} messages under one key: at most {MESSAGES_MAX}"
            )
        self.messages += 1
        return self.nonces.make()

    def attach(self) -> None:
        """Count one more context."""
        self.users += 1

    def detach(self) -> None:
        """Count one context less."""
        self.users -= 1
        self._close_unused()

    def retire(self) -> None:
        """The declaration was removed or changed: the device is not opened again, and its last context releases the
        key."""
        self._retired = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._retired and not self.users:
            self.transform.close()

    def status(self) -> str:
        """`tag: value` lines; never a key."""
        rows: Rows = [
            ("device", self.settings.name),
            *self.transform.description.identity,
            ("operations", " ".join(sorted(each.word for each in self.settings.operations))),
            ("key", "(hidden)"),
            *self.transform.settings,
        ]
        if self.transform.description.iv_size:
            made = self.nonces.size if self.nonces is not None else 0
            makers = "caller or daemon" if made and self.settings.caller_nonce else "daemon" if made else "caller"
            rows += [("nonce-size", made), ("nonce", makers), ("messages", self.messages)]
        loaded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.loaded_at))
        return format_rows([*rows, ("key-loaded", loaded), ("contexts", self.users)])
