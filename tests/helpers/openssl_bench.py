"""Transforms of the OpenSSL engine, whole and in parts."""

import itertools

from cryptofs.algorithms import Type, look_up
from cryptofs.engines.base import Transform
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.engines.openssl.authenc import pack_keys
from cryptofs.records import Operation

ENGINE = OpensslEngine()


SLACK = 16


KEY = bytes(range(64))


SECRET = bytes(0xA0 ^ byte for byte in range(64))


def key_for(type_: Type, name: str) -> bytes | None:
    """Some key that the algorithm takes."""
    sizes = look_up(type_, name).key_sizes
    if "authenc(" in name:
        size = next((size for part, size in _CIPHER_KEYS.items() if part in name), 32)
        return bytes(pack_keys(KEY[:20], SECRET[:size]))
    if not sizes.takes_key:
        return None
    return SECRET[: sizes.listed[-1] if sizes.listed else min(sizes.largest, 24)]


_CIPHER_KEYS = {"des3_ede": 24, "cbc(des)": 8, "rfc3686": 36, "cipher_null": 0}
"""Bytes of the cipher's key in an authenc blob, where they are not 32."""


def assoclen_for(type_: Type, name: str) -> int:
    """How much associated data the algorithm takes: 16 bytes, or none."""
    return 16 if type_ is Type.AEAD and 16 in look_up(type_, name).assoclens else 0


def opened(type_: Type, name: str, key: bytes | None = None, authsize: int | None = None) -> Transform:
    description = ENGINE.describe(type_, name)
    assert description is not None
    transform = ENGINE.open(description, authsize)
    key = key_for(type_, name) if key is None else key
    if key is not None and description.key_sizes.takes_key:
        transform.set_key(key)
    return transform


def once(transform: Transform, operation: Operation, data: bytes, iv: bytes | None = None, assoclen: int = 0) -> bytes:
    out = memoryview(bytearray(transform.room(operation, len(data)) + SLACK))
    iv_view = None if iv is None else memoryview(iv)
    return bytes(out[: transform.once(operation, iv_view, assoclen, memoryview(data), out)])


def parts(
    transform: Transform, operation: Operation, pieces: list[bytes], iv: bytes | None = None, assoclen: int = 0
) -> bytes:
    message = transform.start(operation, iv, assoclen)
    given_out = b""
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        out = memoryview(bytearray(message.room(len(piece), last) + SLACK))
        given_out += out[: message.update(memoryview(piece), last, out)]
    message.close()
    message.close()
    return given_out


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]
