"""A program of /dev/crypto: its memory, and its calls with cryptodev's own structures."""

import ctypes
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cryptofs.errors import CryptofsError, SystemFault
from cryptofs.runner.devcrypto import Command, Sessions
from cryptofs.runner.devcrypto.numbers import AUTH, CRYPT, HASH_COPY, INFO, SESSION, SESSION2, U32, AuthOp, CryptOp

_libc = ctypes.CDLL(None, use_errno=True)
BASE = 0x7F00_0000_0000
AES_CBC, AES_CTR, AES_XTS, AES_ECB, AES_CFB, AES_OFB, AES_GCM, AES_CCM, NULL = 11, 21, 22, 23, 24, 25, 50, 51, 16
HMAC_SHA1, HMAC_SHA256, SHA1, SHA256, SHA512, MD5 = 7, 18, 14, 104, 106, 13
ENCRYPT, DECRYPT = 0, 1


def errno_of(call: Callable[[], object]) -> int:
    """The errno of a call; 0 if it does not fail."""
    try:
        call()
    except (CryptofsError, OSError) as error:
        return error.errno or -1
    return 0


class Memory:
    """Memory that consists of buffers at addresses; a page without access stands behind each."""

    def __init__(self) -> None:
        self._buffers: dict[int, bytearray] = {}
        self._next = BASE
        self.given_keys: list[bytearray] = []
        """The keys that were read: the same buffers, which must have been wiped."""

    def put(self, data: bytes | int) -> int:
        """A new buffer, of these bytes or of so many zeros; returns its address."""
        buffer = bytearray(data)
        address = self._next
        self._buffers[address] = buffer
        self._next += (len(buffer) + 0x1FFF) // 0x1000 * 0x1000
        return address

    def _find(self, address: int, size: int) -> tuple[bytearray, int]:
        for start, buffer in self._buffers.items():
            if start <= address and address + size <= start + len(buffer):
                return buffer, address - start
        raise SystemFault("the program's memory", errno.EFAULT)

    def read(self, address: int, size: int) -> bytes:
        buffer, at = self._find(address, size)
        return bytes(buffer[at : at + size])

    def read_key(self, address: int, size: int) -> bytearray:
        self.given_keys.append(bytearray(self.read(address, size)))
        return self.given_keys[-1]

    def gather(self, pieces: Sequence[tuple[int, int]], total: int) -> bytes:
        data = b"".join(self.read(*piece) for piece in pieces)
        assert len(data) == total
        return data

    def scatter(self, pieces: Sequence[tuple[int, int]], data: bytes | bytearray) -> None:
        for address, size in pieces:
            self.write(address, data[:size])
            data = data[size:]

    def write(self, address: int, data: bytes | bytearray) -> None:
        buffer, at = self._find(address, len(data))
        buffer[at : at + len(data)] = data


class OwnMemory(Memory):
    """Memory of this process, for ioctls that are really made."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []

    def put(self, data: bytes | int) -> int:
        content = bytes(data)
        self._kept.append(ctypes.create_string_buffer(content, max(1, len(content))))
        return ctypes.addressof(self._kept[-1])

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)

    def write(self, address: int, data: bytes | bytearray) -> None:
        ctypes.memmove(address, bytes(data), len(data))


class Ioctl(Protocol):
    """An ioctl on one open /dev/crypto. Errors: CryptofsError or OSError with an errno."""

    def __call__(self, command: int, argument: int, /) -> None: ...


class Program:
    """A program with one open /dev/crypto."""

    def __init__(self, memory: Memory, ioctl: Ioctl) -> None:
        self.memory = memory
        self.ioctl = ioctl

    @classmethod
    def of(cls, sessions: Sessions) -> "Program":
        """A program whose ioctls come to these sessions."""
        memory = Memory()
        return cls(memory, lambda command, argument: sessions.ioctl(command, argument, memory))

    @classmethod
    def of_file(cls, descriptor: int) -> "Program":
        """This process, with an open /dev/crypto."""

        def ioctl(command: int, argument: int) -> None:
            # As unsigned long, which Python's own ioctl does not take.
            if _libc.ioctl(descriptor, ctypes.c_ulong(command), ctypes.c_void_p(argument)):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

        return cls(OwnMemory(), ioctl)

    def call(self, command: int, structure: bytes) -> bytes:
        """An ioctl with this structure; returns it as it is afterwards."""
        address = self.memory.put(structure)
        self.ioctl(command, address)
        return self.memory.read(address, len(structure))

    def session(self, cipher: int = 0, key: bytes = b"", mac: int = 0, mac_key: bytes = b"") -> int:
        """CIOCGSESSION; returns the session's number."""
        put = self.memory.put
        structure = SESSION.pack(cipher, mac, len(key), 0, put(key), len(mac_key), 0, put(mac_key), 0, 0)
        return int(SESSION.unpack(self.call(Command.CIOCGSESSION, structure))[8])

    def session2(self, cipher: int, key: bytes, driver: int) -> tuple[int, int]:
        """CIOCGSESSION2; returns the session's number and the driver's."""
        structure = SESSION2.pack(cipher, 0, len(key), 0, self.memory.put(key), 0, 0, 0, 0, driver, 0, 0, 0, 0)
        answer = SESSION2.unpack(self.call(Command.CIOCGSESSION2, structure))
        return answer[8], answer[9]

    def finish(self, session: int) -> None:
        """CIOCFSESSION."""
        self.call(Command.CIOCFSESSION, U32.pack(session))

    def crypt_op(self, session: int, operation: int, data: bytes, iv: bytes | None = None, flags: int = 0) -> CryptOp:
        """A structure with buffers for everything; data and output are two."""
        put = self.memory.put
        at = 0 if iv is None else put(iv)
        return CryptOp(session, operation, flags, len(data), 0, put(data), put(len(data)), put(64), at)

    def crypt(
        self, session: int, operation: int, data: bytes, iv: bytes | None = None, flags: int = 0
    ) -> tuple[bytes, bytes, bytes]:
        """CIOCCRYPT; returns the output, the buffer for a digest, and the IV as it is afterwards."""
        call = self.crypt_op(session, operation, data, iv, flags)
        assert self.call(Command.CIOCCRYPT, CRYPT.pack(*call)) == CRYPT.pack(*call)
        return self.results(call, iv)

    def results(self, call: CryptOp, iv: bytes | None) -> tuple[bytes, bytes, bytes]:
        """What a structure's buffers hold."""
        read = self.memory.read
        after = b"" if iv is None else read(call.iv, len(iv))
        return read(call.target, call.size), read(call.mac, 64), after

    def digest(self, session: int, data: bytes, flags: int = 0) -> bytes:
        """CIOCCRYPT of a session that hashes; returns the buffer for a digest."""
        return self.crypt(session, ENCRYPT, data, None, flags)[1]

    def authcrypt(self, call: AuthOp) -> AuthOp:
        """CIOCAUTHCRYPT; returns the structure as it is afterwards."""
        return AuthOp._make(AUTH.unpack(self.call(Command.CIOCAUTHCRYPT, AUTH.pack(*call))))

    def auth_op(
        self, session: int, operation: int, data: bytes, iv: bytes, auth: bytes = b"", tag_size: int = 0, flags: int = 0
    ) -> AuthOp:
        """A structure whose data lies in a buffer with room for tag and padding, in which it is worked."""
        put = self.memory.put
        at = put(data.ljust(len(data) + 128, b"\0"))
        auth_at = put(auth) if auth else 0
        return AuthOp(session, operation, flags, len(data), len(auth), auth_at, at, at, 0, tag_size, 0, put(iv), 0, 0)

    def seal(self, session: int, data: bytes, iv: bytes, auth: bytes = b"", tag_size: int = 0) -> bytes:
        """Encrypt by an AEAD; returns ciphertext and tag."""
        done = self.authcrypt(self.auth_op(session, ENCRYPT, data, iv, auth, tag_size))
        return self.memory.read(done.target, done.size)

    def open(self, session: int, data: bytes, iv: bytes, auth: bytes = b"", tag_size: int = 0) -> bytes:
        """Decrypt by an AEAD."""
        done = self.authcrypt(self.auth_op(session, DECRYPT, data, iv, auth, tag_size))
        return self.memory.read(done.target, done.size)

    def copy_hash(self, target: int, source: int) -> None:
        """CIOCCPHASH."""
        self.call(Command.CIOCCPHASH, HASH_COPY.pack(target, source))

    def info(self, session: int) -> tuple[str, str, str, str, int]:
        """CIOCGSESSINFO: names and drivers of cipher and hash, flags."""
        answer = INFO.unpack(self.call(Command.CIOCGSESSINFO, U32.pack(session).ljust(INFO.size, b"\0")))
        cipher, cipher_driver, mac, mac_driver = (name.rstrip(b"\0").decode() for name in answer[1:5])
        return cipher, cipher_driver, mac, mac_driver, answer[7]
