"""Devices: transforms with a key that programs use but cannot read, shared by all contexts that they open."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ..algorithms import Rows, Type, format_rows
from ..engines.base import Transform
from ..errors import InvalidValue, NotPermitted
from ..records import DEVICE_OPERATIONS, Operation
from .counts import Count
from .nonces import MESSAGES_MAX, SHORT_NONCE, Nonces
from .versions import Version, Versions

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
    """One device: its settings and the versions of its key, which go when the device is retired and unused."""

    def __init__(self, settings: DeviceSettings, keys: Mapping[int, Transform]) -> None:
        """keys: a transform with its key for each version. Errors: InvalidValue for operations that the type does not
        have, for nonces that cannot be made, and for versions that differ in more than their key. The caller closes
        the transforms then."""
        allowable = DEVICE_OPERATIONS[settings.type]
        if settings.operations - allowable or not settings.operations:
            known = ", ".join(sorted(each.word for each in allowable))
            raise InvalidValue(f"operations of a device of type {settings.type}: of {known}")
        self.settings = settings
        description = keys[max(keys)].description
        for number, transform in keys.items():
            if not _alike(transform, keys[max(keys)]):
                raise InvalidValue(
                    f"key version {number} by {transform.description.driver} and version {max(keys)} by "
                    f"{description.driver} differ in their sizes: give them one engine"
                )
        takes_nonce = bool(description.iv_size)
        try:
            self.nonces = Nonces(description) if takes_nonce else None
        except InvalidValue:
            if not settings.caller_nonce:
                raise
            self.nonces = None
        counted = self.messages_max or None
        self.versions = Versions(Version(each, transform, Count(counted)) for each, transform in keys.items())
        """The versions that are kept now."""
        if settings.type in _CIPHERS and settings.operations != allowable:
            self._check_one_way(takes_nonce)
        self.lags = self._is_blind and description.chains
        """Whether a block of output is withheld until the next one is fixed."""
        self.users = 0
        """Open contexts."""
        self._retired = False

    @property
    def transform(self) -> Transform:
        """The newest version's."""
        return self.versions.newest.transform

    @property
    def messages(self) -> int:
        """Messages that the newest version has encrypted."""
        return self.versions.newest.count.used

    @property
    def loaded_at(self) -> float:
        """When the daemon took the newest version from its source, by Unix time."""
        return self.versions.newest.loaded_at

    def _check_one_way(self, takes_nonce: bool) -> None:
        """Errors: InvalidValue if the one allowed operation could do the work of the other."""
        name, type_ = self.transform.description.name, self.settings.type
        # an AEAD that wants no nonce does not undo itself, either
        if self.transform.description.block_size != 1 or (type_ is Type.AEAD and not takes_nonce):
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
        # a segment's associated data are longer than the few sizes that some want
        takes_segments = description.block_size == 1 and isinstance(description.assoclens, range)
        if description.type is Type.AEAD and not takes_segments:
            return False
        return self.nonces is not None or not description.iv_size

    def allow(self, operation: Operation) -> None:
        """Errors: NotPermitted."""
        if operation not in self.settings.operations:
            raise NotPermitted(f"device {self.settings.name}: {operation.word} is not allowed")

    @property
    def messages_max(self) -> int:
        """The most messages that one version may encrypt with the daemon's nonces; 0 if nothing bounds them."""
        return MESSAGES_MAX if self.nonces is not None and self.nonces.size <= SHORT_NONCE else 0

    def make_nonce(self, version: Version) -> bytes:
        """A nonce for one message. Errors: OverQuota if the key has served its maximum of messages."""
        assert self.nonces is not None
        version.count.take(self.settings.name)
        return self.nonces.make()

    def can_take(self, made: "Device") -> bool:
        """Whether the open contexts of this device can continue with the versions of another one."""
        return _alike(self.transform, made.transform) and self.transform.description == made.transform.description

    def take_versions(self, made: "Device") -> None:
        """Keep from now on the versions that another device was made with, under the same settings.

        Of a version that both have, the own transform and count stay. What the other device made twice is closed with
        it: it is retired. A version that is not kept any more ends with the last message that began with it.
        """
        own = {each.number: each for each in self.versions.all}
        twice = [each for each in made.versions.all if each.number in own]
        self.versions = Versions(own.get(each.number, each) for each in made.versions.all)
        self.settings = made.settings
        for each in twice:
            each.close()

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
            for version in self.versions.all:
                version.close()

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
        if self.versions.named:
            rows += [("key-version", self.versions.newest.number), ("key-versions", str(self.versions))]
        written = self.versions.newest.written_at
        if written is not None:
            rows.append(("key-written", _utc(written)))
        return format_rows([*rows, ("key-loaded", _utc(self.loaded_at)), ("contexts", self.users)])


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _alike(one: Transform, other: Transform) -> bool:
    """Whether messages of the two have the same form."""

    def form(transform: Transform) -> tuple[object, ...]:
        facts = transform.description
        return facts.block_size, facts.chunk_size, facts.iv_size, facts.digest_size, facts.nonce, transform.authsize

    return form(one) == form(other)
