"""Digests, checksums and MACs.

Each transform keeps one object that has its key and no data. A message is a copy of it. A copy costs less than a new
object, sets no key again, and several threads may take one at once.
"""

import hashlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, Protocol, Self

from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia, TripleDES
from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4

from ...algorithms import Description, Name
from ...errors import KeyMissing
from ...records import Buffer, Operation
from ..kinds import HashTransform, RunningHash
from .keys import keep, wipe
from .macs import MACS

_DIGEST = Operation.DIGEST


class Copied(Protocol):
    """A hash whose state can be copied."""

    def update(self, data: Buffer, /) -> None: ...
    def copy(self) -> Self: ...


class State(Copied, Protocol):
    """A hash with hashlib's interface."""

    def digest(self) -> bytes: ...


class FinalState(Copied, Protocol):
    """A hash with pyca's interface: its digest ends it."""

    def finalize(self) -> bytes: ...


class Checksum:
    """The kernel's crc32 or crc32c: `value` is its register, `inverted` whether the digest inverts it."""

    def __init__(self, advance: Callable[[Buffer, int], int], value: int, inverted: bool) -> None:
        # zlib and crc32c take and give the register inverted.
        self._advance = advance
        self._value = value ^ 0xFFFFFFFF
        self._inverted = inverted

    def update(self, data: Buffer, /) -> None:
        self._value = self._advance(data, self._value)

    def digest(self) -> bytes:
        return (self._value if self._inverted else self._value ^ 0xFFFFFFFF).to_bytes(4, "little")

    def copy(self) -> "Checksum":
        return Checksum(self._advance, self._value ^ 0xFFFFFFFF, self._inverted)


class NestedHmac:
    """HMAC of a digest that pyca's HMAC does not know (the shorter ones of BLAKE2), RFC 2104."""

    def __init__(self, inner: State, outer: State) -> None:
        self._inner = inner
        self._outer = outer

    @classmethod
    def of(cls, new: Callable[[], State], block_size: int, key: Buffer) -> "NestedHmac":
        """With its key set; block_size: of the digest, bytes."""
        if len(key) > block_size:
            shortened = new()
            shortened.update(key)
            key = shortened.digest()
        inner, outer = new(), new()
        for state, byte in ((inner, 0x36), (outer, 0x5C)):
            pad = bytearray([byte]) * block_size
            for at, value in enumerate(key):
                pad[at] ^= value
            state.update(pad)
            wipe(pad)
        return cls(inner, outer)

    def update(self, data: Buffer, /) -> None:
        self._inner.update(data)

    def digest(self) -> bytes:
        outer = self._outer.copy()
        outer.update(self._inner.digest())
        return outer.digest()

    def copy(self) -> "NestedHmac":
        return NestedHmac(self._inner.copy(), self._outer)


def _new_crc32(key: Buffer | None) -> State:
    return Checksum(zlib.crc32, int.from_bytes(key or b"\0\0\0\0", "little"), inverted=False)


def _new_crc32c(key: Buffer | None) -> State:
    # Only now: the package loads its own command line with it, which takes as long as the ciphers.
    from crc32c import crc32c

    return Checksum(crc32c, int.from_bytes(key or b"\xff\xff\xff\xff", "little"), inverted=True)


# usedforsecurity=False: the kernel gives digests that a FIPS build of OpenSSL would refuse.
_HASHLIB: dict[str, Callable[[], State]] = {
    name: partial(getattr(hashlib, name.replace("-", "_")), usedforsecurity=False)
    for name in (
        *("md5", "sha1", "sha224", "sha256", "sha384", "sha512"),
        *("sha3-224", "sha3-256", "sha3-384", "sha3-512"),
    )
}
_HASHLIB |= {
    name: partial(hashlib.new, other, usedforsecurity=False)
    for name, other in {"rmd160": "ripemd160", "sha512-224": "sha512_224", "sha512-256": "sha512_256"}.items()
}
# By name: the function, the size of the digest. Any: two classes with the same arguments.
_BLAKE2: dict[str, tuple[Any, int]] = {
    **{f"blake2b-{8 * size}": (hashlib.blake2b, size) for size in (20, 32, 48, 64)},
    **{f"blake2s-{8 * size}": (hashlib.blake2s, size) for size in (16, 20, 28, 32)},
}
DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha512-224": hashes.SHA512_224(),
    "sha512-256": hashes.SHA512_256(),
    "sha3-224": hashes.SHA3_224(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
    "blake2b-512": hashes.BLAKE2b(64),
    "blake2s-256": hashes.BLAKE2s(32),
    "sm3": hashes.SM3(),
}
_PYCA: dict[str, hashes.HashAlgorithm] = {
    "sm3": hashes.SM3(),
    "shake128": hashes.SHAKE128(32),
    "shake256": hashes.SHAKE256(64),
}
"""Those that hashlib has not everywhere, or whose digest it wants a size for."""
# Any: their annotations want bytes, but they take any buffer.
_CMAC: dict[str, Any] = {"aes": AES, "camellia": Camellia, "des3_ede": TripleDES, "sm4": SM4}


def keyed_hmac(digest: str, key: Buffer) -> FinalState:
    """HMAC of one of the SHA family, with its key set. Errors: KeyError for another digest."""
    return hmac.HMAC(key, DIGESTS[digest])


class OpensslHash(HashTransform):
    """A hash whose messages are copies of one kept object. new: makes that object. end: its method that gives the
    digest, hashlib's or pyca's `finalize`."""

    def __init__(self, description: Description, new: Callable[[Buffer | None], Copied], end: str = "digest") -> None:
        super().__init__(description)
        self._new = new
        self._end_name = end
        self._digest_size = description.digest_size
        self._copy: Callable[[], Copied] = _no_state
        if self.keyed:
            self._keep(new(None))

    def _keep(self, state: Copied) -> None:
        self._copy = state.copy
        self._end: Callable[[Any], bytes] = getattr(type(state), self._end_name)

    def replace_key(self, key: Buffer) -> None:
        self._keep(self._new(key))

    def close(self) -> None:
        self.keyed = False
        self._copy = _no_state

    def begin_hash(self) -> RunningHash:
        return _Run(self._copy(), self._end)

    def once(self, operation: Operation, iv: Buffer | None, assoclen: int, data: Buffer, out: memoryview) -> int:
        if operation is not _DIGEST or iv or assoclen or not self.keyed:
            self.check(operation, iv, assoclen)
        state = self._copy()
        state.update(data)
        out[: self._digest_size] = self._end(state)
        return self._digest_size

    def short(self, operation: int, iv: bytes | None, data: bytes) -> bytes | None:
        if operation != _DIGEST or iv is not None or not self.keyed:
            return None
        state = self._copy()
        state.update(data)
        return self._end(state)


def _no_state() -> NoReturn:
    raise KeyMissing("the transform is closed or has no key yet")


class _Run:
    """A message in parts."""

    def __init__(self, state: Copied, end: Callable[[Any], bytes]) -> None:
        self._state = state
        self._end = end
        self.update = state.update

    def digest(self) -> bytes:
        return self._end(self._state)

    def copy(self) -> "_Run":
        return _Run(self._state.copy(), self._end)

    def close(self) -> None:
        return


def _new_blake2(function: Any, size: int, key: Buffer | None) -> State:
    state: State = function(digest_size=size, key=key or b"", usedforsecurity=False)
    return state


def _new_cmac(cipher: Any, key: Buffer | None) -> FinalState:
    secret = keep(key or b"")
    state: Any = cmac.CMAC(cipher(secret))
    wipe(secret)
    kept: FinalState = state
    return kept


def build(description: Description, name: Name) -> HashTransform:
    """A transform for a parsed generic name. Errors: KeyError if the name is not served."""
    if description.name in MACS:
        return MACS[description.name](description)
    inner = name.arguments[0].template if name.arguments else ""
    match name.template:
        case "hmac" if inner in DIGESTS:
            return OpensslHash(description, lambda key: keyed_hmac(inner, key or b""), "finalize")
        case "hmac":
            plain = partial(_new_blake2, *_BLAKE2[inner], None) if inner in _BLAKE2 else _HASHLIB[inner]
            return OpensslHash(description, lambda key: NestedHmac.of(plain, description.block_size, key or b""))
        case "cmac":
            return OpensslHash(description, partial(_new_cmac, _CMAC[inner]), "finalize")
        case template if template in _PYCA:
            return OpensslHash(description, lambda _key: hashes.Hash(_PYCA[template]), "finalize")
        case "crc32":
            return OpensslHash(description, _new_crc32)
        case "crc32c":
            return OpensslHash(description, _new_crc32c)
        case template if template in _BLAKE2:
            return OpensslHash(description, partial(_new_blake2, *_BLAKE2[template]))
        case template:
            new = _HASHLIB[template]
            return OpensslHash(description, lambda _key: new())
