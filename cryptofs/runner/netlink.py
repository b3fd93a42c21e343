"""The crypto family of netlink: programs ask it for the sizes of an algorithm (libkcapi does, before it uses one)."""

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from ..algorithms import Description, Type
from ..errors import CryptofsError, InvalidValue, NotOffered, SystemFault, TooLarge
from ..records import Buffer
from .backend import Backend
from .endpoint import MSG_PEEK, MSG_TRUNC, Endpoint, MustWait, Received

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: size, type, flags, sequence, port."""
_ADDRESS = struct.Struct("=HHII")
_ALGORITHM = struct.Struct("=64s64s64sIIII")
"""struct crypto_user_alg: name, driver, module, type, mask, references, flags."""
_ERROR, _NEW, _DELETE, _UPDATE, _GET = 2, 0x10, 0x11, 0x12, 0x13
_ACKNOWLEDGE = 4
_PRIORITY, _HASH, _SKCIPHER, _AEAD, _RNG = 1, 3, 4, 5, 7
"""Kinds of attributes."""
_USUAL_PRIORITY = 300
_BUFFER = 212992
"""Bytes of one message, and of answers that wait: the usual size of the kernel's buffers."""
_TEXT = 64


class CryptoNetlink(Endpoint):
    """A socket of the family."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(socket.SOCK_DGRAM)
        self._backend = backend
        self._port = 0
        self._answers: deque[bytes] = deque()
        self._waiting = 0
        """Bytes of the answers."""
        self._overrun = False

    def bind(self, address: bytes) -> None:
        if len(address) < _ADDRESS.size:
            raise InvalidValue(f"address of {len(address)} bytes: {_ADDRESS.size}")
        self._port = _ADDRESS.unpack_from(address)[2] or self._port or os.getpid()

    def name(self) -> bytes:
        return _ADDRESS.pack(socket.AF_NETLINK, 0, self._port, 0)

    def set_option(self, level: int, option: int, size: int, take_key: Callable[[], bytearray]) -> None:
        """All are about messages that are never sent here."""

    def receive(self, size: int, flags: int) -> Received:
        if self._overrun:
            self._overrun = False
            raise SystemFault(f"more than {_BUFFER} bytes of answers waited: some are lost", errno.ENOBUFS)
        if not self._answers:
            raise MustWait
        answer = self._answers[0]
        if not flags & MSG_PEEK:
            self._answers.popleft()
            self._waiting -= len(answer)
        source = _ADDRESS.pack(socket.AF_NETLINK, 0, 0, 0)
        return Received(answer[:size], MSG_TRUNC if size < len(answer) else 0, source)

    def check_send(self, control: bytes) -> None:
        """It takes everything, and answers errors."""

    def send(self, data: Buffer, control: bytes, flags: int, tid: int) -> int:
        if len(data) > _BUFFER:
            raise TooLarge(f"message of {len(data)} bytes: at most {_BUFFER}")
        message = bytes(data)
        self._port = self._port or tid
        at = 0
        while at + _HEADER.size <= len(message):
            size = _HEADER.unpack_from(message, at)[0]
            if not _HEADER.size <= size <= len(message) - at:
                break
            self._request(message[at : at + size])
            at += (size + 3) & ~3
        return len(message)

    def _request(self, message: bytes) -> None:
        _, kind, flags, sequence, _ = _HEADER.unpack_from(message)
        number = 0
        try:
            self._reply(_GET, sequence, self._report(kind, message[_HEADER.size :]))
        except CryptofsError as error:
            number = error.errno
        if number or flags & _ACKNOWLEDGE:
            # An error has the whole request behind it, a success its header.
            told = message if number else message[: _HEADER.size]
            self._reply(_ERROR, sequence, struct.pack("=i", -number) + told)

    def _reply(self, kind: int, sequence: int, body: bytes) -> None:
        size = _HEADER.size + len(body)
        if self._waiting + size > _BUFFER:
            self._overrun = True
            return
        self._answers.append(_HEADER.pack(size, kind, 0, sequence, self._port) + body)
        self._waiting += size

    def _report(self, kind: int, body: bytes) -> bytes:
        if kind in (_NEW, _DELETE, _UPDATE):
            raise SystemFault("the kernel's algorithms cannot be changed here", errno.EPERM)
        if kind != _GET or len(body) < _ALGORITHM.size:
            raise InvalidValue(f"request {kind} of {len(body)} bytes")
        name, driver = (body[at : at + _TEXT].split(b"\0")[0].decode("latin-1") for at in (0, _TEXT))
        if not (name or driver):
            raise InvalidValue("a request without a name")
        found = self._find(driver or name)
        texts = (found.name.encode(), found.driver.encode(), found.engine.encode())
        return _ALGORITHM.pack(*texts, 0, 0, 1, 0) + _attribute(_PRIORITY, _integers(_USUAL_PRIORITY)) + _sizes(found)

    def _find(self, name: str) -> Description:
        for type_ in (Type.SKCIPHER, Type.AEAD, Type.HASH, Type.RNG):
            try:
                return self._backend.describe(type_, name)
            except NotOffered:
                continue
        raise NotOffered(f"algorithm {name!r}")


def _integers(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _sizes(found: Description) -> bytes:
    """The attribute with an algorithm's sizes."""
    match found.type:
        case Type.HASH:
            return _attribute(_HASH, _texts("shash") + _integers(found.block_size, found.digest_size))
        case Type.SKCIPHER:
            keys = found.key_sizes
            bounds = (min(keys.listed), max(keys.listed)) if keys.listed else (keys.smallest, keys.largest)
            sizes = _integers(found.block_size, *bounds, found.iv_size)
            return _attribute(_SKCIPHER, _texts("skcipher", "<none>") + sizes)
        case Type.AEAD:
            sizes = _integers(found.block_size, found.max_authsize, found.iv_size)
            return _attribute(_AEAD, _texts("aead", "<none>") + sizes)
    return _attribute(_RNG, _texts("rng") + _integers(0))


def _texts(*texts: str) -> bytes:
    return b"".join(struct.pack(f"={_TEXT}s", text.encode()) for text in texts)
