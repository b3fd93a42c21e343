"""An engine of toys: small enough to be plainly right, strict about how it is called, and it fails on demand."""

import builtins
import ctypes
import functools
import hashlib
import os
import struct
from collections.abc import Iterable
from typing import Any

from cryptofs.algorithms import Description, Facts, KeySizes, Type
from cryptofs.engines.base import Engine, Transform
from cryptofs.engines.kinds import (
    AeadTransform,
    CipherTransform,
    HashTransform,
    RngTransform,
    RunningCipher,
    RunningHash,
    WholeTransform,
)
from cryptofs.errors import BadTag, InvalidValue
from cryptofs.records import Buffer, Operation

CANARY = "canary-8c1f"
"""What a failing toy says; no client may ever read it."""

TAG = 16
_KEY = KeySizes((16, 32))
_DESCRIPTIONS = (
    Description.of(Type.HASH, "toysum", "fake", "toysum-fake", Facts(64, digest_size=32)),
    Description.of(Type.HASH, "hmac(toysum)", "fake", "hmac-toysum-fake", Facts(64, 0, _KEY, 32)),
    Description.of(Type.SKCIPHER, "ctr(toy)", "fake", "ctr-toy-fake", Facts(1, 8, _KEY)),
    Description.of(Type.SKCIPHER, "cbc(toy)", "fake", "cbc-toy-fake", Facts(16, 16, _KEY)),
    Description.of(Type.SKCIPHER, "xts(toy)", "fake", "xts-toy-fake", Facts(16, 16, _KEY)),
    Description.of(Type.AEAD, "gcm(toy)", "fake", "gcm-toy-fake", Facts(1, 12, _KEY, authsizes=range(4, TAG + 1))),
    Description.of(Type.RNG, "toyrng", "fake", "toyrng-fake", Facts()),
)


def keystream(key: bytes, iv: bytes, at: int, size: int) -> bytes:
    """`size` bytes of the toys' key stream from the byte `at`, a multiple of 16, on."""
    blocks = range(at // 16, (at + size + 15) // 16)
    return b"".join(hashlib.sha256(key + iv + b"%d" % block).digest()[:16] for block in blocks)[:size]


def mix(key: bytes, iv: bytes, at: int, data: Buffer) -> bytes:
    """What the toy ciphers do, both ways."""
    return bytes(a ^ b for a, b in zip(bytes(data), keystream(key, iv, at, len(data)), strict=True))


def tag_of(key: bytes, iv: bytes, assoc: bytes, text: bytes) -> bytes:
    """The toy AEAD's whole tag."""
    return hashlib.sha256(key + iv + b"%d" % len(assoc) + assoc + text).digest()[:TAG]


class ToyHash:
    """A running sum. It counts how many are open, and takes nothing once it is closed."""

    def __init__(self, engine: "FakeEngine", state: "hashlib._Hash") -> None:
        self._engine = engine
        self._state = state
        self._closed = False
        engine.open_runs += 1

    def update(self, data: Buffer, /) -> None:
        """Refuses empty parts, as AF_ALG's sockets would take them for something else."""
        assert len(data)
        assert not self._closed
        self._engine.burn("update")
        self._state.update(data)

    def digest(self) -> bytes:
        """The digest so far."""
        assert not self._closed
        self._engine.burn("digest")
        return self._state.digest()

    def copy(self) -> "ToyHash":
        """A second one in the same state."""
        self._engine.burn("copy")
        return ToyHash(self._engine, self._state.copy())

    def close(self) -> None:
        """Calling it twice is allowed."""
        self._engine.open_runs -= not self._closed
        self._closed = True


class ToyCipher:
    """A running stream. It only gets whole chunks, and the rest at the end."""

    def __init__(self, engine: "FakeEngine", key: bytes, iv: bytes, chunk: int) -> None:
        self._engine = engine
        self._key = key
        self._iv = iv
        self._chunk = chunk
        self._at = 0
        self._ended = False
        self._closed = False
        engine.open_runs += 1

    def update(self, data: Buffer, last: bool, out: memoryview, /) -> int:
        """Mix into `out`."""
        assert not self._ended
        assert not self._closed
        assert last or (len(data) and len(data) % self._chunk == 0)
        assert len(out) >= len(data)
        self._engine.burn("update")
        out[: len(data)] = mix(self._key, self._iv, self._at, data)
        self._at += len(data)
        self._ended = last
        self._engine.ended_runs += last
        return len(data)

    def close(self) -> None:
        """Calling it twice is allowed."""
        self._engine.open_runs -= not self._closed
        self._closed = True


class _Keyed(Transform):
    """What all toys share: a key, and the engine that may burn."""

    engine: "FakeEngine"
    key = b""

    def replace_key(self, key: Buffer) -> None:
        self.engine.burn("set_key")
        if not self.description.key_sizes.admits(len(key)):
            raise self.refuse_key(key)
        self.key = bytes(key)

    def close(self) -> None:
        if self in self.engine.transforms:
            self.engine.transforms.remove(self)
        self.key = b""


class ToySum(_Keyed, HashTransform):
    """SHA-256 behind the key."""

    def begin_hash(self) -> RunningHash:
        self.engine.burn("begin")
        return ToyHash(self.engine, hashlib.sha256(self.key))


class ToyStream(_Keyed, CipherTransform):
    """A stream xor."""

    def begin_cipher(self, operation: Operation, iv: Buffer | None) -> RunningCipher:
        self.engine.burn("begin")
        return ToyCipher(self.engine, self.key, bytes(iv or b""), self.description.chunk_size)


class ToyWhole(_Keyed, WholeTransform):
    """The same, but whole."""

    def crypt(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.engine.burn("crypt")
        if len(data) % self.description.block_size:
            raise InvalidValue(f"message of {len(data)} bytes: a multiple of {self.description.block_size}")
        out[: len(data)] = mix(self.key, bytes(iv or b""), 0, data)
        return len(data)


class ToyBox(_Keyed, AeadTransform):
    """The same with a tag."""

    def seal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.engine.burn("crypt")
        assoc, text = bytes(data[:assoclen]), mix(self.key, bytes(iv), 0, data[assoclen:])
        sealed = text + tag_of(self.key, bytes(iv), assoc, text)[: self.authsize]
        out[: len(sealed)] = sealed
        return len(sealed)

    def unseal(self, iv: Buffer, assoclen: int, data: Buffer, out: memoryview) -> int:
        self.engine.burn("crypt")
        end = len(data) - self.authsize
        assoc, text, tag = bytes(data[:assoclen]), bytes(data[assoclen:end]), bytes(data[end:])
        if self.engine.fail_tags or tag != tag_of(self.key, bytes(iv), assoc, text)[: self.authsize]:
            raise BadTag("the tag is wrong")
        out[: len(text)] = mix(self.key, bytes(iv), 0, text)
        return len(text)


class ToyRng(_Keyed, RngTransform):
    """Counts."""

    def fill(self, out: memoryview) -> None:
        self.engine.burn("fill")
        out[:] = bytes(index & 0xFF for index in range(len(out)))


class FakeEngine(Engine):
    """The toys.

    fuses: where to raise RuntimeError. open_runs, transforms: what is open now; ended_runs: ciphers that were told
    that their message ends.
    """

    name = "fake"

    def __init__(self) -> None:
        self.fuses: set[str] = set()
        self.fail_tags = False
        self.open_runs = 0
        self.ended_runs = 0
        self.transforms: list[Transform] = []

    def burn(self, point: str) -> None:
        """Raise RuntimeError if this point is to fail."""
        if point in self.fuses:
            raise RuntimeError(f"{CANARY} in {point}")

    def describe(self, type_: Type, name: str) -> Description | None:
        """By generic or driver name."""
        self.burn("describe")
        for description in _DESCRIPTIONS:
            if description.type is type_ and name in (description.name, description.driver):
                return description
        return None

    def open(self, description: Description, authsize: int | None) -> Transform:
        """A toy for a description."""
        self.burn("open")
        size = description.max_authsize if authsize is None else authsize
        if description.type is Type.AEAD and not 4 <= size <= TAG:
            raise InvalidValue(f"authsize {size}: 4 to {TAG}")
        kinds: dict[Type, type[_Keyed]] = {Type.HASH: ToySum, Type.AEAD: ToyBox, Type.RNG: ToyRng}
        streamed = ToyStream if description.chunk_size else ToyWhole
        transform = kinds.get(description.type, streamed)(description, size)
        transform.engine = self
        self.transforms.append(transform)
        return transform

    def names(self) -> Iterable[tuple[Type, str]]:
        """Every toy."""
        return [(description.type, description.name) for description in _DESCRIPTIONS]


def toy(name: str, engine: FakeEngine | None = None, key: bytes = bytes(16), authsize: int | None = None) -> Transform:
    """A toy by its name, with a key if it takes one."""
    engine = engine or FakeEngine()
    found = [engine.describe(type_, name) for type_ in Type]
    description = next(each for each in found if each is not None)
    transform = engine.open(description, authsize)
    if description.key_sizes.takes_key:
        transform.set_key(key)
    return transform


# Faults in a daemon of its own process: its interpreter calls `inject` at its start


class FileFuses:
    """Fuses that another process burns: a point fails while a file of its name is in the directory; the file's
    content names the exception.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def __contains__(self, point: str) -> bool:
        path = os.path.join(self._directory, point)
        if not os.path.exists(path):
            return False
        with open(path) as file:
            raise getattr(builtins, file.read().strip() or "RuntimeError")(f"{CANARY} in {point}")


def fuse(owner: Any, method: str, fuses: FileFuses, point: str) -> None:
    """Make a method of a class fail while its fuse burns."""
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def fused(*arguments: Any, **named: Any) -> Any:
        assert point not in fuses
        return inner(*arguments, **named)

    setattr(owner, method, fused)


def inject(directory: str) -> None:
    """Offer the toys as engine `fake`, and let its calls and the tree's fail by files in `directory`."""
    import cryptofs.engines.opening
    from cryptofs.contexts import Context, requests
    from cryptofs.nodes import Tree
    from cryptofs.nodes.base import StaticDirectory
    from cryptofs.nodes.crypto import CryptoFile, CryptoHandle

    fuses = FileFuses(directory)

    def engine() -> FakeEngine:
        fake = FakeEngine()
        fake.fuses = fuses  # type: ignore[assignment]
        return fake

    cryptofs.engines.opening.ENGINES["fake"] = engine
    for owner, method, point in (
        (Tree, "node", "tree-node"),
        (StaticDirectory, "lookup", "lookup"),
        (StaticDirectory, "entries", "readdir"),
        (CryptoFile, "open", "crypto-open"),
        (CryptoHandle, "write", "crypto-write"),
        (CryptoHandle, "call", "crypto-call"),
        (CryptoHandle, "ready", "crypto-poll"),
        (CryptoHandle, "close", "crypto-release"),
        (requests, "take", "crypto-read"),
        (Context, "status", "status"),
    ):
        fuse(owner, method, fuses, point)


_SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: seccomp's number of the architecture, the number of socket(2)."""
_AF_ALG = 38


def refuse_af_alg(number: int) -> None:
    """Have the kernel answer this process's socket(AF_ALG) with an errno from now on, as a container's filter does."""
    architecture, call = _SOCKET_CALLS[os.uname().machine]
    load, jump, give = 0x20, 0x15, 0x06
    steps = (
        (load, 0, 0, 4),
        (jump, 0, 5, architecture),
        (load, 0, 0, 0),
        (jump, 0, 3, call),
        (load, 0, 0, 16),
        (jump, 0, 1, _AF_ALG),
        (give, 0, 0, 0x0005_0000 | number),
        (give, 0, 0, 0x7FFF_0000),
    )
    program = b"".join(struct.pack("<HBBI", *step) for step in steps)
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
