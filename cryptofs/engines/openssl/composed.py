"""Modes that OpenSSL does not have, built from modes that it has, under one key each."""

import struct
from hashlib import sha256

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from ...errors import InvalidValue
from ...records import Buffer
from ...wiping import wipe_immutable
from .cbc import Cbc
from .keys import keep, wipe
from .modes import Chacha, ChachaRun, Ecb, StreamMode

_STEP = 65_536
"""Bytes of key stream that are made at once."""
_SLACK = bytes(16)

_int = int.from_bytes


class Counter:
    """CTR of a cipher for which OpenSSL has no CTR: counter blocks, big-endian, through ECB."""

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        self._ecb = Ecb(algorithm)
        self._block = algorithm.block_size // 8

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self.start(iv, True).update(data, True, out)

    decrypt = encrypt

    def start(self, iv: Buffer, encrypt: bool) -> "CounterRun":
        return CounterRun(self._ecb, self._block, _int(iv))


class Xctr(Counter):
    """XCTR: the number of the block, from 1 and little-endian, is xored into the IV."""

    def start(self, iv: Buffer, encrypt: bool) -> "CounterRun":
        return XctrRun(self._ecb, self._block, int.from_bytes(iv, "little"))


class CounterRun:
    """A message in parts, each of whole blocks except the last. counter: the first block's."""

    def __init__(self, ecb: Ecb, block: int, counter: int) -> None:
        self._ecb = ecb
        self._block = block
        self._counter = counter

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        view = memoryview(data)
        block = self._block
        for begin in range(0, len(view), _STEP):
            piece = view[begin : begin + _STEP]
            size = len(piece)
            count = -(-size // block)
            stream = memoryview(bytearray(count * block + len(_SLACK)))
            self._ecb.encrypt(b"", self._next(count), stream)
            out[begin : begin + size] = (_int(piece) ^ _int(stream[:size])).to_bytes(size)
        return len(view)

    def _next(self, count: int) -> bytes:
        """The next counter blocks."""
        first, block = self._counter, self._block
        mask = (1 << 8 * block) - 1
        self._counter = first + count
        return b"".join([(number & mask).to_bytes(block) for number in range(first, first + count)])

    def close(self) -> None:
        return


class XctrRun(CounterRun):
    """The same for XCTR. counter: the IV."""

    _done = 0

    def _next(self, count: int) -> bytes:
        first, iv, block = self._done + 1, self._counter, self._block
        self._done += count
        return b"".join([(iv ^ number).to_bytes(block, "little") for number in range(first, first + count)])


class Rfc3686:
    """CTR as in IPsec: the end of the key, the IV, and a count from 1 form the counter block."""

    def __init__(self, ctr: StreamMode, nonce: bytearray) -> None:
        self._ctr = ctr
        self._nonce = nonce

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self._ctr.encrypt(bytes(self._nonce) + bytes(iv) + b"\0\0\0\1", data, out)

    decrypt = encrypt


def whole_blocks(size: int, block: int = 16) -> None:
    """Errors: InvalidValue for a text that is not a multiple of the block."""
    if size % block:
        raise InvalidValue(f"text of {size} bytes: a multiple of {block}")


def essiv_salt(key: Buffer) -> bytearray:
    """The key that encrypts IVs."""
    digest = sha256(key).digest()
    salt = keep(digest)
    wipe_immutable(digest)
    return salt


class Essiv:
    """essiv(cbc(…),sha256): the IV is encrypted under the digest of the key; then it is CBC."""

    def __init__(self, algorithm: BlockCipherAlgorithm, salted: BlockCipherAlgorithm) -> None:
        self._cbc = Cbc(algorithm)
        self._ivs = Ecb(salted)

    def _seal(self, iv: Buffer) -> memoryview:
        out = memoryview(bytearray(16 + len(_SLACK)))
        self._ivs.encrypt(b"", iv, out)
        return out[:16]

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        whole_blocks(len(data))
        return self._cbc.encrypt(self._seal(iv), data, out)

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        whole_blocks(len(data))
        return self._cbc.decrypt(self._seal(iv), data, out)


class Pcbc:
    """PCBC: CBC over the differences of neighbouring blocks of text, because each block chains to text and
    ciphertext."""

    def __init__(self, secret: bytearray) -> None:
        self._cbc = Cbc(AES(secret))

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        whole_blocks(len(data))
        text = _int(data)
        return self._cbc.encrypt(iv, (text ^ text >> 128).to_bytes(len(data)), out)

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        size = len(data)
        whole_blocks(size)
        self._cbc.decrypt(iv, data, out)
        text = _int(out[:size])
        shift = 128
        while shift < 8 * size:
            text ^= text >> shift
            shift *= 2
        out[:size] = text.to_bytes(size)
        return size


_WORDS = struct.Struct("<16I")
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")


class Xchacha:
    """XChaCha20 with the kernel's IV: 24 bytes of nonce, then a 64-bit block count, little-endian."""

    def __init__(self, secret: bytearray) -> None:
        self._chacha = Chacha(secret)

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        run = self.start(iv, True)
        try:
            return run.update(data, True, out)
        finally:
            run.close()

    decrypt = encrypt

    def start(self, iv: Buffer, encrypt: bool) -> ChachaRun:
        subkey = derive_subkey(self._chacha, bytes(iv[:16]))
        try:
            # Its context has its own key and belongs to this message.
            return Chacha(subkey).start(bytes(iv[24:32]) + bytes(iv[16:24]), encrypt)
        finally:
            wipe(subkey)


def derive_subkey(chacha: Chacha, nonce: bytes) -> bytearray:
    """HChaCha20, the key of a message of XChaCha20 by the first 16 bytes of its nonce: the block function of ChaCha20
    without its last addition, which is subtracted here."""
    block = bytearray(64 + len(_SLACK))
    chacha.encrypt(nonce, bytes(64), memoryview(block))
    words = _WORDS.unpack_from(block)
    inputs = (*_CONSTANTS, *struct.unpack("<4I", nonce))
    subkey = bytearray(32)
    outputs = (*words[:4], *words[12:])
    struct.pack_into(
        "<8I", subkey, 0, *(word - given & 0xFFFF_FFFF for word, given in zip(outputs, inputs, strict=True))
    )
    wipe(block)
    return subkey
