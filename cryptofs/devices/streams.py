"""The contents of a device's stream files: whole files of any length.

An AEAD device uses the format of `formats/sealed.py`; docs/devices.md has an example that opens one. A cipher's stream
is its IV and the ciphertext. Modes that take whole blocks are padded (PKCS #7), as `openssl enc` does it. Such a file
does not reveal changes.
"""

import os

from ..algorithms import Type
from ..engines.base import OUT_SLACK, Message
from ..errors import BadTag, InvalidValue
from ..formats import sealed
from ..records import Buffer, Operation
from ..wiping import wipe
from .padding import Padding, Unpadding
from .transform import DeviceTransform


class StreamTransform(DeviceTransform):
    """A device's transform, as used by its stream files."""

    def begin(self, operation: Operation, iv: Buffer | None, assoclen: int) -> Message:
        if iv is not None or assoclen:
            raise InvalidValue("a device's stream takes neither iv nor assoclen")
        description = self.description
        if description.type is Type.AEAD:
            return SealMessage(self) if operation is Operation.ENCRYPT else OpenMessage(self)
        inner = super().begin(operation, None, 0)
        if description.type is Type.SKCIPHER and description.block_size > 1:
            return (
                Padding(inner, description.block_size)
                if operation is Operation.ENCRYPT
                else Unpadding(inner, description.block_size)
            )
        return inner

    def message(self, operation: Operation, assoclen: int) -> Message:
        """A message of the device, as in records."""
        return super().begin(operation, None, assoclen)

    @property
    def overhead(self) -> int:
        """Bytes of a segment in addition to its plaintext."""
        return self._prefix + self.authsize


class _Segments(Message):
    """Cuts its input into segments and runs each through the device, the last one when the message ends."""

    def __init__(self, transform: StreamTransform, operation: Operation, size: int) -> None:
        self._transform = transform
        self._operation = operation
        self._size = size
        self._held = bytearray()
        self._index = 0
        self._identity = b""

    def _run(self, piece: Buffer, last: bool, out: memoryview) -> int:
        message = self._transform.message(self._operation, sealed.ASSOCLEN)
        try:
            message.update(sealed.associated(self._identity, self._index, last), False, out[:0])
            # The last call may need more room than the output has.
            room = memoryview(bytearray(message.room(len(piece), True) + OUT_SLACK))
            written = message.update(piece, True, room)
        finally:
            message.close()
        self._index += 1
        out[:written] = room[:written]
        return written

    def _run_all(self, data: Buffer, last: bool, out: memoryview) -> int:
        self._held += data
        written = 0
        # A full segment is the last one only if nothing follows, and a last one is never full.
        while len(self._held) >= self._size:
            written += self._run(self._held[: self._size], False, out[written:])
            del self._held[: self._size]
        if last:
            written += self._run(self._held, True, out[written:])
            self._held.clear()
        return written

    @property
    def kept(self) -> int:
        return len(self._held)

    def close(self) -> None:
        # In place, and not cut, because a failed segment's views still refer to it.
        wipe(self._held)
        self._held = bytearray()


class SealMessage(_Segments):
    """Plaintext in, the sealed file out."""

    def __init__(self, transform: StreamTransform) -> None:
        super().__init__(transform, Operation.ENCRYPT, sealed.SEGMENT)

    def room(self, size: int, last: bool) -> int:
        segments = (len(self._held) + size) // sealed.SEGMENT + 1
        return sealed.HEADER_SIZE + len(self._held) + size + segments * self._transform.overhead

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        written = 0
        if not self._identity:
            self._identity = os.urandom(sealed.ID_SIZE)
            written = sealed.HEADER_SIZE
            out[:written] = sealed.MAGIC + self._identity
        return written + self._run_all(data, last, out[written:])


class OpenMessage(_Segments):
    """A sealed file in, its plaintext out. Each segment is given out after its tag was verified."""

    def __init__(self, transform: StreamTransform) -> None:
        super().__init__(transform, Operation.DECRYPT, sealed.SEGMENT + transform.overhead)

    def room(self, size: int, last: bool) -> int:
        return len(self._held) + size

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        view = memoryview(data)
        if not self._identity:
            missing = sealed.HEADER_SIZE - len(self._held)
            self._held += view[:missing]
            view = view[missing:]
            if len(self._held) < sealed.HEADER_SIZE and not last:
                return 0
            self._identity = sealed.parse_header(self._held)
            self._held.clear()
        return self._run_all(view, last, out)

    def _run(self, piece: Buffer, last: bool, out: memoryview) -> int:
        index = self._index
        try:
            return super()._run(piece, last, out)
        except (BadTag, InvalidValue):
            raise sealed.changed(index) from None
