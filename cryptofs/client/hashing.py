"""Hash objects like hashlib's, computed by a mount: for `hashlib.file_digest`, `hmac.new` and similar code."""

import contextlib
import errno
import os
import threading
from collections import deque
from typing import Self

from ..records import Buffer, Operation, Record, octets
from . import process
from .context import Context
from .errors import ClosedError, Refused, RequestError
from .message import PartedMessage

BATCH = 256 * 1024
"""Bytes of small updates that are gathered into one request."""


class _Shared:
    """What a hash object and its copies share: a context, which closes with the last of them."""

    def __init__(self, context: Context) -> None:
        self.context = context
        # Code for hashlib never closes hash objects, so dropping one is not a mistake.
        context.warns = False
        self.dropped: deque[int] = deque()
        """Messages of dropped copies. The daemon keeps an open message until its last part."""

    def sweep(self) -> None:
        """End the messages of dropped copies. A destructor cannot do it, because it may run inside any call."""
        while self.dropped:
            with contextlib.suppress(RequestError):
                self.context.request(Record(Operation.DIGEST, 0, self.dropped.popleft()))


class Hash(process.Unshared):
    """A running hash: `update` it, ask for its `digest` at any time, `copy` it. See `new`.

    Threads may share it: each update goes in as a whole. After a failed update every later call fails with the same
    error, so no digest covers only a part of the data. In the child of a fork every call is ForkedError.
    """

    _message: PartedMessage | None = None
    _shared: _Shared | None = None

    def __init__(self, context: Context, data: Buffer = b"") -> None:
        """context: an open one of type hash. It belongs to this object from now on."""
        shared = _Shared(context)
        if context.type != "hash":
            raise Refused(errno.EOPNOTSUPP, f"type {context.type}: a hash object needs type hash")
        self._begin(shared)
        self.update(data)

    def _begin(self, shared: _Shared) -> None:
        context = shared.context
        self._shared = shared
        self._lock = threading.Lock()
        self._held = bytearray()
        self.name = context.name
        """The algorithm, in the kernel's terms."""
        self.digest_size = context.digest_size
        """Bytes of a digest."""
        self.block_size = context.block_size
        """Bytes of the algorithm's block."""

    @classmethod
    def of_device(cls, device: str, data: Buffer = b"", *, mount: str | os.PathLike[str] | None = None) -> Self:
        """A running hash under a device's key, which stays in the daemon. Errors: as `Context.of_device`."""
        return cls(Context.of_device(device, mount=mount), data)

    def __del__(self) -> None:
        if self._message is not None and self._shared is not None:
            self._shared.dropped.append(self._message.identity)

    def __repr__(self) -> str:
        return f"<cryptofs {self.name} hash object>" if self._shared else "<cryptofs hash object that is closed>"

    def update(self, data: Buffer) -> None:
        """Continue with `data`. Small updates are gathered; larger ones go out at once. Errors: RequestError."""
        view = octets(data)
        shared = self._open()
        with self._lock:
            if len(self._held) + len(view) < BATCH:
                self._held += view
                return
            shared.sweep()
            if self._message is None:
                self._message = shared.context.message(Operation.DIGEST)
            if len(view) < BATCH:
                self._held += view
                view = b""
            # A failed message stays failed, so that gathered data is not lost silently.
            held, self._held = self._held, bytearray()
            if held:
                self._message.update(held)
            if view:
                self._message.update(view)

    def digest(self) -> bytes:
        """The digest of the data so far. You may continue to update. Errors: RequestError."""
        shared = self._open()
        with self._lock:
            shared.sweep()
            if self._message is None:
                return shared.context.digest(self._held)
            return self._message.copy().finish(self._held)

    def hexdigest(self) -> str:
        """`digest` in hexadecimal."""
        return self.digest().hex()

    def copy(self) -> Self:
        """Another hash object that continues from this state.

        Copies share one context of the daemon, so at most 256 of those that were given more than BATCH bytes can exist
        at a time. Errors: RequestError (EDQUOT for more).
        """
        shared = self._open()
        with self._lock:
            shared.sweep()
            twin = type(self).__new__(type(self))
            twin._begin(shared)
            twin._held[:] = self._held
            if self._message is not None:
                twin._message = self._message.copy()
            return twin

    def close(self) -> None:
        """Release the context, unless a copy uses it. An object that you drop closes by itself."""
        shared, self._shared = self._shared, None
        message, self._message = self._message, None
        if shared is not None and message is not None:
            shared.dropped.append(message.identity)

    def _open(self) -> _Shared:
        shared = self._shared
        if shared is None:
            raise ClosedError.what("hash")
        shared.context.check()
        return shared


def new(
    name: str,
    data: Buffer = b"",
    *,
    key: Buffer | None = None,
    engine: str | None = None,
    driver: str | None = None,
    mount: str | os.PathLike[str] | None = None,
) -> Hash:
    """A hash object like that of `hashlib.new`: `hashlib.file_digest(file, lambda: new("sha256"))`.

    name: in the kernel's terms: `sha256`, `blake2b-512`, and with a key `hmac(sha256)`, `cmac(aes)`. Other arguments:
    as for `Context`. Errors: RequestError, MountNotFound.
    """
    return Hash(Context("hash", name, key, engine=engine, driver=driver, mount=mount), data)
