"""The contents of a device's stream files: whole files of any length.

An AEAD device uses the format of `formats/sealed.py`; docs/devices.md has an example that opens one. A cipher's stream
is its IV and the ciphertext. Modes that take whole blocks are padded (PKCS #7), as `openssl enc` does it. Such a file
does not reveal changes.
"""

from ..algorithms import Type
from ..engines.base import OUT_SLACK, Message
from ..errors import BadTag, InvalidValue
from ..formats import sealed
from ..records import Buffer, Operation
from ..wiping import wipe
from .padding import Padding, Unpadding
from .transform import DeviceTransform
from .versions import Version


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

    @property
    def overhead(self) -> int:
        """Bytes of a segment in addition to its plaintext."""
        return self._prefix + self.authsize


class _Segments(Message):
    """Cuts its input into segments and runs each through the device, the last one when the message ends.

    The transform becomes a view with one version of the key, so that a file has one version, whatever a reload does
    meanwhile.
    """

    def __init__(self, transform: DeviceTransform, operation: Operation, size: int) -> None:
        self._transform = transform
        self._operation = operation
        self._size = size
        self._held = bytearray()
        self._index = 0
        self._head: sealed.Head | None = None

    def _run(self, piece: Buffer, last: bool, out: memoryview) -> int:
        head = self._head
        assert head is not None
        message = DeviceTransform.begin(self._transform, self._operation, None, head.assoclen)
        try:
            message.update(head.associated(self._index, last), False, out[:0])
            # The last call may need more room than the output has.
            room = memoryview(bytearray(message.room(len(piece), True) + OUT_SLACK))
            written = message.update(piece, True, room)
        finally:
            message.close()
        if not self._transform.has_one_version and isinstance(message.holder, Version):
            self._transform = self._transform.with_version(message.holder)
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
        version = transform.version
        super().__init__(transform.with_version(version), Operation.ENCRYPT, sealed.SEGMENT)
        self._new = sealed.Head.new(version.number if transform.answers_more else None)
        self._overhead = transform.overhead

    def room(self, size: int, last: bool) -> int:
        segments = (len(self._held) + size) // sealed.SEGMENT + 1
        return len(bytes(self._new)) + len(self._held) + size + segments * self._overhead

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        written = 0
        if self._head is None:
            self._head = self._new
            head = bytes(self._head)
            written = len(head)
            out[:written] = head
        return written + self._run_all(data, last, out[written:])


class OpenMessage(_Segments):
    """A sealed file in, its plaintext out. Each segment is given out after its tag was verified.

    If the head does not name the version of the key, the first segment shows it.
    """

    def __init__(self, transform: StreamTransform) -> None:
        super().__init__(transform, Operation.DECRYPT, sealed.SEGMENT + transform.overhead)

    def room(self, size: int, last: bool) -> int:
        return len(self._held) + size

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        view = memoryview(data)
        if self._head is None:
            view = self._take_head(view, sealed.START)
            if len(self._held) < sealed.START and not last:
                return 0
            size = sealed.head_size(self._held)
            view = self._take_head(view, size)
            if len(self._held) < size and not last:
                return 0
            self._head = sealed.parse_head(self._held)
            self._held.clear()
            if self._head.version is not None:
                self._transform = self._transform.of_version(self._head.version)
        return self._run_all(view, last, out)

    def _take_head(self, view: memoryview, size: int) -> memoryview:
        missing = max(0, size - len(self._held))
        self._held += view[:missing]
        return view[missing:]

    def _run(self, piece: Buffer, last: bool, out: memoryview) -> int:
        index = self._index
        try:
            return super()._run(piece, last, out)
        except (BadTag, InvalidValue):
            raise sealed.changed(index) from None
