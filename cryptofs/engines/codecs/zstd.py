"""zstd: one frame, by the zstandard package.

The library gets the frame block by block (RFC 8878). A block makes at most 128 KiB of output, so a frame of a few bytes
that would make gigabytes is stopped at the first block that exceeds the bound.
"""

from enum import Enum, auto
from types import MappingProxyType

import zstandard

from ...errors import InvalidValue, TooLarge
from ...records import Buffer, Operation
from .messages import Decompression, Packer, Running, StreamedTransform, cut, cut_short, damaged, followed, give

MADE_WINDOW = 1 << 18
"""Largest window of the frames that it makes, bytes: newer kernels read no larger one in pieces."""
ZSTD_WINDOW = 1 << 21
"""Largest accepted window of a frame, bytes: that of level 3 for input of unknown size."""

_NAME = "zstd"
_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_MAX = 131_072
_BLOCK_HEADER = 3
_RLE, _RESERVED = 1, 3


class ZstdTransform(StreamedTransform):
    """zstd."""

    paces = MappingProxyType({1: 8.0, 3: 15.0, 5: 70.0, 10: 350.0, 16: 800.0})

    def _parameters(self, size: int) -> zstandard.ZstdCompressionParameters:
        assert self.level is not None
        # tables of the size that the input is worth, none larger than the window asks for
        return zstandard.ZstdCompressionParameters.from_level(
            self.level, source_size=min(max(size, 1), MADE_WINDOW), write_content_size=1, write_checksum=0
        )

    def begin_codec(self, operation: Operation) -> Running:
        if operation is Operation.DECOMPRESS:
            return Unpacker()
        parameters = self._parameters(MADE_WINDOW)
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        return Packer(compressor.compressobj(), parameters.estimated_compression_context_size())

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        if operation is not Operation.COMPRESS:
            return super().once(operation, iv, assoclen, data, out)
        self.check(operation, iv, assoclen)
        # whole: the frame tells the size of its content
        return give(zstandard.ZstdCompressor(compression_params=self._parameters(len(data))).compress(data), out)


class _Stage(Enum):
    HEADER = auto()
    BLOCK = auto()
    CHECKSUM = auto()
    END = auto()


class Unpacker(Decompression):
    """A decompression that follows the frame's structure and gives the library only blocks whose output fits."""

    # the window of a frame is not known before its header comes
    state = zstandard.estimate_decompression_context_size() + ZSTD_WINDOW + 2 * _BLOCK_MAX

    def __init__(self) -> None:
        super().__init__()
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._library = decompressor.decompressobj(write_size=_BLOCK_MAX)
        self._stage = _Stage.HEADER
        self._block_max = _BLOCK_MAX
        self._has_checksum = False

    def push(self, data: Buffer, last: bool, room: int) -> Buffer:
        """See Running. Errors: InvalidValue, TooLarge."""
        self._queue(data)
        # A byte more than fits shows that there is more.
        while len(self._ready) <= room:
            units = self._take(room + 1 - len(self._ready))
            if not units:
                break
            try:
                self._ready += self._library.decompress(units)
            except zstandard.ZstdError as error:
                raise damaged(_NAME, str(error)) from None
        output = cut(self._ready, room)
        if self._stage is _Stage.END:
            if not self._library.eof:
                raise damaged(_NAME, "the frame does not end where its blocks do")
            if self._input:
                raise followed(_NAME, len(self._input))
        elif last and not self._ready:
            raise cut_short(_NAME)
        return output

    def _take(self, room: int) -> bytes:
        """The next complete parts of the frame: blocks that may make `room` bytes, at least one."""
        data = self._input
        at = 0
        while room > 0 and self._stage is not _Stage.END:
            if self._stage is _Stage.HEADER:
                end = self._header()
                if not end:
                    break
            elif self._stage is _Stage.BLOCK:
                end = self._block(at)
                if not end:
                    break
                room -= self._block_max
            else:
                if len(data) < at + 4:
                    break
                end = at + 4
                self._stage = _Stage.END
            at = end
        return cut(data, at)

    def _header(self) -> int:
        """Size of the frame's header, 0 if it is incomplete."""
        data = self._input
        if not data.startswith(_MAGIC[: len(data)]):
            raise damaged(_NAME, "it does not begin as a frame does")
        if len(data) < 5:
            return 0
        descriptor = data[4]
        single = bool(descriptor & 0x20)
        content_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
        content_at = 5 + (not single) + dictionary_bytes
        if len(data) < content_at + content_bytes:
            return 0
        if any(data[content_at - dictionary_bytes : content_at]):
            raise InvalidValue("decompress: the zstd frame needs a dictionary")
        if single:
            window = int.from_bytes(data[content_at : content_at + content_bytes], "little")
            window += 256 if content_bytes == 2 else 0
        else:
            exponent, mantissa = divmod(data[5], 8)
            window = (1 << 10 + exponent) // 8 * (8 + mantissa)
        if window > ZSTD_WINDOW:
            raise TooLarge(f"decompress: a zstd window of {window} bytes: at most {ZSTD_WINDOW}")
        self._block_max = min(max(window, 1), _BLOCK_MAX)
        self._has_checksum = bool(descriptor & 4)
        self._stage = _Stage.BLOCK
        return content_at + content_bytes

    def _block(self, at: int) -> int:
        """The end of the block that begins at `at`, 0 if it is incomplete."""
        data = self._input
        if len(data) < at + _BLOCK_HEADER:
            return 0
        header = int.from_bytes(data[at : at + _BLOCK_HEADER], "little")
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == _RESERVED or size > _BLOCK_MAX:
            raise damaged(_NAME, f"a block of kind {kind} and {size} bytes")
        end = at + _BLOCK_HEADER + (1 if kind == _RLE else size)
        if len(data) < end:
            return 0
        if is_last:
            self._stage = _Stage.CHECKSUM if self._has_checksum else _Stage.END
        return end
