"""The cipher modes under one key each, apart from CBC.

If pyca can reuse a context (ecb, ctr, chacha20), contexts are kept in pools. `list.pop` and `append` are atomic, so
each message has its own context. The other modes need a new context for each message, about 4 us.
"""

from collections.abc import Callable
from typing import Any, Protocol

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from ...errors import InvalidValue
from ...records import Buffer
from ..kinds import RunningCipher
from .cbc import Cbc
from .run import Run


class WholeMode(Protocol):
    """A mode that takes whole messages; `out` has 16 bytes more than the message."""

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int: ...
    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int: ...


class StreamMode(WholeMode, Protocol):
    """A mode that also takes messages in parts."""

    def start(self, iv: Buffer, encrypt: bool) -> RunningCipher: ...


class Null:
    """ecb(cipher_null): nothing is done to the message."""

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self.update(data, True, out)

    decrypt = encrypt

    def start(self, iv: Buffer, encrypt: bool) -> "Null":
        return self

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        out[: len(data)] = data
        return len(data)

    def close(self) -> None:
        return


class Ecb:
    """ECB: contexts have no state."""

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        self._cipher = Cipher(algorithm, modes.ECB())
        self._encryptors: list[CipherContext] = []
        self._decryptors: list[CipherContext] = []

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self._update(self._encryptors, True, data, out)

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self._update(self._decryptors, False, data, out)

    def _update(self, pool: list[CipherContext], encrypt: bool, data: Buffer, out: memoryview) -> int:
        try:
            context = pool.pop()
        except IndexError:
            context = self._new(encrypt)
        written = context.update_into(data, out)
        pool.append(context)
        return written

    def start(self, iv: Buffer, encrypt: bool) -> Run:
        # A pool is not worth it here: an abandoned message may leave bytes in its context.
        return Run(self._new(encrypt))

    def _new(self, encrypt: bool) -> CipherContext:
        return self._cipher.encryptor() if encrypt else self._cipher.decryptor()


class _Keystream:
    """A mode whose contexts can get another nonce. Encrypting is the same as decrypting."""

    def __init__(self, new: Callable[[bytes], Cipher[Any]]) -> None:
        self._new = new
        self._pool: list[CipherContext] = []

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        context = self._take(iv)
        written = context.update_into(data, out)
        self._pool.append(context)
        return written

    decrypt = encrypt

    def _take(self, iv: Buffer) -> CipherContext:
        try:
            context = self._pool.pop()
        except IndexError:
            return self._new(bytes(iv)).encryptor()
        context.reset_nonce(iv)  # type: ignore[arg-type]  # it takes any buffer
        return context


class Ctr(_Keystream):
    """CTR."""

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        super().__init__(lambda block: Cipher(algorithm, modes.CTR(block)))

    def start(self, iv: Buffer, encrypt: bool) -> Run:
        return Run(self._take(iv), self._pool)


class Chacha(_Keystream):
    """ChaCha20 with the kernel's IV: a 32-bit block counter, little-endian, then the 12-byte nonce.

    The kernel's counter wraps to 0 and does not change the nonce. pyca refuses that, so a message is cut there.
    """

    def __init__(self, secret: bytearray) -> None:
        super().__init__(lambda nonce: Cipher(ChaCha20(secret, nonce), None))

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        if _until_wrap(iv) >= len(data):
            return super().encrypt(iv, data, out)
        run = self.start(iv, True)
        written = run.update(data, True, out)
        run.close()
        return written

    decrypt = encrypt

    def start(self, iv: Buffer, encrypt: bool) -> "ChachaRun":
        return ChachaRun(self._take(iv), self._pool, iv)


def _until_wrap(iv: Buffer) -> int:
    """Number of bytes until the counter of an IV wraps."""
    return (0x1_0000_0000 - int.from_bytes(iv[:4], "little")) * 64


class ChachaRun:
    """A ChaCha20 message in parts."""

    __slots__ = ("_context", "_left", "_nonce", "_run")

    def __init__(self, context: CipherContext, pool: list[CipherContext], iv: Buffer) -> None:
        self._context = context
        self._run = Run(context, pool)
        self._left = _until_wrap(iv)
        self._nonce = bytes(iv[4:])

    def update(self, data: Buffer, last: bool, out: memoryview) -> int:
        rest = memoryview(data)
        written = 0
        while len(rest) > self._left:
            written += self._run.update(rest[: self._left], False, out[written:])
            rest = rest[self._left :]
            self._context.reset_nonce(bytes(4) + self._nonce)
            self._left = 0x1_0000_0000 * 64
        self._left -= len(rest)
        return written + self._run.update(rest, last, out[written:])

    def close(self) -> None:
        self._run.close()


_IvMode = modes.ModeWithInitializationVector | modes.ModeWithTweak


class Fresh:
    """A mode whose contexts serve one message each (ofb, cfb)."""

    def __init__(self, algorithm: BlockCipherAlgorithm, mode: Callable[[bytes], _IvMode]) -> None:
        self._algorithm = algorithm
        self._mode = mode

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self.start(iv, True).update(data, True, out)

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        return self.start(iv, False).update(data, True, out)

    def start(self, iv: Buffer, encrypt: bool) -> Run:
        cipher = Cipher(self._algorithm, self._mode(bytes(iv)))
        return Run(cipher.encryptor() if encrypt else cipher.decryptor())


class Xts(Fresh):
    """XTS: as `Fresh`, but a message has at least one block."""

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        _at_least_a_block(data)
        return super().encrypt(iv, data, out)

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        _at_least_a_block(data)
        return super().decrypt(iv, data, out)


class Cts:
    """CBC with ciphertext stealing as in the kernel: CS3 of SP 800-38A's addendum, where the last two blocks always
    change places. A message of one block is plain CBC."""

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        self._cbc = Cbc(algorithm)

    def encrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        _at_least_a_block(data)
        size = len(data)
        if size == _BLOCK:
            return self._cbc.encrypt(iv, data, out)
        cut = (size - 1) // _BLOCK * _BLOCK
        self._cbc.encrypt(iv, memoryview(data)[:cut], out)
        stolen = bytes(out[cut - _BLOCK : cut])
        self._cbc.encrypt(stolen, bytes(data[cut:]).ljust(_BLOCK, b"\0"), out[cut - _BLOCK :])
        out[cut:size] = stolen[: size - cut]
        return size

    def decrypt(self, iv: Buffer, data: Buffer, out: memoryview) -> int:
        _at_least_a_block(data)
        size = len(data)
        if size == _BLOCK:
            return self._cbc.decrypt(iv, data, out)
        cut = (size - 1) // _BLOCK * _BLOCK
        head = cut - _BLOCK
        scratch = memoryview(bytearray(3 * _BLOCK))
        # The second to last block decrypts to the end of its predecessor's ciphertext, which was stolen for it.
        final = bytes(data[head:cut])
        self._cbc.decrypt(bytes(_BLOCK), final, scratch)
        stolen = bytes(data[cut:]) + bytes(scratch[size - cut : _BLOCK])
        before = bytes(data[head - _BLOCK : head]) if head else iv
        self._cbc.decrypt(iv, memoryview(data)[:head], out)
        self._cbc.decrypt(before, stolen + final, scratch)
        out[head:size] = scratch[: size - head]
        return size


_BLOCK = 16


def _at_least_a_block(data: Buffer) -> None:
    if len(data) < _BLOCK:
        raise InvalidValue(f"message of {len(data)} bytes: at least {_BLOCK}")
