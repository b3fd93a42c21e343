"""What computes for a program under `cryptofs run --mount`: a daemon, with its policy, quotas, audit trail, devices."""

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..algorithms import Description, Facts, KeySizes, Type, check_name, look_up
from ..client import Context, RequestError
from ..client.message import PartedMessage
from ..client.mounts import find_mount
from ..errors import CryptofsError, InvalidValue, KeyMissing, NotOffered, SystemFault
from ..records import Buffer, Operation
from ..wiping import wipe
from .backend import Output, RunHash, RunTransform

DEVICE_KEY = b"device:"
"""A key that begins with these bytes names a device of the mount, whose key is used."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _asked(call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """Call the client; its errors become the project's own, with their errno."""
    try:
        return call(*arguments, **named)
    except RequestError as error:
        raise SystemFault(error.message, error.errno) from None
    except OSError as error:
        raise SystemFault.of(error, error.filename or "the mount") from None


class MountBackend:
    """Records on a mount. mountpoint: None for the first usable one."""

    def __init__(self, mountpoint: str | os.PathLike[str] | None) -> None:
        """Errors: MountNotFound."""
        self._mount = find_mount(mountpoint)

    def describe(self, type_: Type, name: str) -> Description:
        try:
            text = (self._mount / "algorithms" / type_ / check_name(name)).read_text()
        except (InvalidValue, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError):
            raise NotOffered(f"{type_} {name[:200]!r}: the mount does not offer it") from None
        except OSError as error:
            raise SystemFault.of(error, self._mount) from None
        return _description(type_, dict(line.split(": ", 1) for line in text.splitlines()))

    def open(self, type_: Type, name: str) -> RunTransform:
        return MountTransform(self._mount, self.describe(type_, name))


def _description(type_: Type, rows: dict[str, str]) -> Description:
    """The description in the file of an algorithm. What the file does not say is the catalogue's."""
    name = rows["name"]
    facts = look_up(type_, name)
    if facts is None:
        facts = Facts(key_sizes=_key_sizes(rows["key-sizes"]), authsizes=range(int(rows["max-authsize"]) + 1))
    facts = replace(
        facts,
        block_size=int(rows["block-size"]),
        iv_size=int(rows["iv-size"]),
        digest_size=int(rows["digest-size"]),
    )
    return Description.of(type_, name, rows["engine"], rows["driver"], facts)


def _key_sizes(text: str) -> KeySizes:
    if text == "none":
        return KeySizes(required=False)
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        return KeySizes(smallest=int(bounds[1]), largest=int(bounds[2]))
    return KeySizes(tuple(map(int, text.split())))


class MountTransform:
    """A context on a mount. It is opened with the first key or message, so that a name alone costs no context."""

    def __init__(self, mount: Path, description: Description) -> None:
        self.description = description
        self.authsize = description.max_authsize
        self._mount = mount
        self._context: Context | None = None
        self._key: bytearray | None = None
        """An AEAD's, because another tag size needs another context."""
        self._required = description.key_sizes.required
        self.needs_key = self._required

    def set_key(self, key: Buffer) -> None:
        self.close()
        self.needs_key = self._required
        if bytes(key[: len(DEVICE_KEY)]) == DEVICE_KEY:
            self._context = self._open_device(bytes(key[len(DEVICE_KEY) :]))
        else:
            self._context = self._open(key)
            if self.description.type is Type.AEAD:
                self._key = bytearray(key)
        self.needs_key = False

    def _open(self, key: Buffer | None) -> Context:
        description = self.description
        authsize = self.authsize if description.type is Type.AEAD else None
        return _asked(
            Context, description.type.value, description.name, key,
            authsize=authsize, driver=description.driver, mount=self._mount,
        )  # fmt: skip

    def _open_device(self, name: bytes) -> Context:
        device = name.rstrip(b"\0").decode("utf-8", "replace")
        context = _asked(Context.of_device, device, mount=self._mount)
        if (context.type, context.name) != (self.description.type, self.description.name):
            context.close()
            raise InvalidValue(f"device {device[:80]!r} is a {context.name}, and not a {self.description.name}")
        if context.authsize != self.authsize:
            self.authsize = context.authsize
        return context

    def set_authsize(self, size: int) -> None:
        self.description.choose_authsize(size)
        if size == self.authsize:
            return
        context = self._context
        if context is not None and context.device is not None:
            raise InvalidValue(f"authsize {size}: device {context.device} has tags of {self.authsize} bytes")
        previous, self.authsize = self.authsize, size
        if context is None:
            return
        try:
            self._context = self._open(self._key)
        except CryptofsError:
            self.authsize = previous
            raise
        context.close()

    @property
    def _opened(self) -> Context:
        if self.needs_key:
            raise KeyMissing(f"{self.description.name} has no key: {self.description.key_sizes} bytes")
        if self._context is None:
            self._context = self._open(None)
        return self._context

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer) -> Output:
        context = self._opened
        if operation is Operation.DIGEST:
            return _asked(context.digest, data)
        call = context.encrypt if operation is Operation.ENCRYPT else context.decrypt
        if not assoclen:
            return _asked(call, data, iv)
        if assoclen > len(data):
            raise InvalidValue(f"assoclen {assoclen}: the message has {len(data)} bytes")
        with memoryview(data) as view:
            return _asked(call, view[assoclen:], iv, view[:assoclen])

    def compute(self, operation: Operation, data: Buffer) -> bytes:
        context = self._opened
        if operation is Operation.AGREE:
            return _asked(context.agree, data)
        return _asked(context.encrypt if operation is Operation.ENCRYPT else context.decrypt, data)

    def generate(self, size: int) -> Output:
        return _asked(self._opened.generate, size)

    def hash(self) -> RunHash:
        return MountHash(self._opened.message(Operation.DIGEST))

    def close(self) -> None:
        self.needs_key = True
        if self._key is not None:
            wipe(self._key)
            self._key = None
        if self._context is not None:
            self._context.close()
            self._context = None


class MountHash:
    """A message in parts on a mount."""

    def __init__(self, message: PartedMessage) -> None:
        self._message = message
        self._open = False

    def update(self, data: Buffer) -> None:
        self._open = True
        _asked(self._message.update, data)

    def finish(self, data: Buffer = b"") -> bytes:
        self._open = False
        return _asked(self._message.finish, data)

    def clone(self) -> RunHash:
        twin = MountHash(_asked(self._message.copy))
        twin._open = self._open
        return twin

    def close(self) -> None:
        if self._open:
            # The daemon keeps a message until its last part.
            with contextlib.suppress(CryptofsError):
                self.finish()
