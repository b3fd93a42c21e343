"""The binary interface of cryptodev: the numbers of its ioctls, its structures and its flags.

It is that of cryptodev-linux 1.14, in the machine's byte order, for 64-bit programs. construct is the definition. The
`struct.Struct`s that calls use take their formats from its fields, and a test compares the two with a C compiler's.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

from construct import Bytes, Int16un, Int32sn, Int32un, Int64un, Struct

from ...records.layout import field_codes

NAME_SIZE = 64
"""Bytes of a name in SESSION_INFO_OP, its final NUL included."""
PARAMETERS_MAX = 8

SESSION_OP: Any = Struct(
    "cipher" / Int32un,
    "mac" / Int32un,
    "key_size" / Int32un,
    "padding" / Int32un,
    "key" / Int64un,
    "mac_key_size" / Int32un,
    "padding_2" / Int32un,
    "mac_key" / Int64un,
    "session" / Int32un,
    "padding_3" / Int32un,
)
# The BSDs' and OCF's: the driver's number takes the place of the padding.
SESSION2_OP: Any = Struct(
    *SESSION_OP.subcons[:-1],
    "driver" / Int32sn,
    "iv_size" / Int32sn,
    "mac_size" / Int32sn,
    "reserved" / Int32sn,
    "reserved_2" / Int32sn,
)
CRYPT_OP: Any = Struct(
    "session" / Int32un,
    "operation" / Int16un,
    "flags" / Int16un,
    "size" / Int32un,
    "padding" / Int32un,
    "source" / Int64un,
    "target" / Int64un,
    "mac" / Int64un,
    "iv" / Int64un,
)
CRYPT_AUTH_OP: Any = Struct(
    "session" / Int32un,
    "operation" / Int16un,
    "flags" / Int16un,
    "size" / Int32un,
    "auth_size" / Int32un,
    "auth" / Int64un,
    "source" / Int64un,
    "target" / Int64un,
    "tag" / Int64un,
    "tag_size" / Int32un,
    "padding" / Int32un,
    "iv" / Int64un,
    "iv_size" / Int32un,
    "padding_2" / Int32un,
)
SESSION_INFO_OP: Any = Struct(
    "session" / Int32un,
    "cipher_name" / Bytes(NAME_SIZE),
    "cipher_driver" / Bytes(NAME_SIZE),
    "mac_name" / Bytes(NAME_SIZE),
    "mac_driver" / Bytes(NAME_SIZE),
    "alignment_mask" / Int16un,
    "padding" / Int16un,
    "flags" / Int32un,
)
HASH_COPY_OP: Any = Struct("target" / Int32un, "source" / Int32un)
KEY_OP: Any = Struct(
    "operation" / Int32un, "status" / Int32un, "inputs" / Int16un, "outputs" / Int16un, "padding" / Int32un
)
PARAMETER: Any = Struct("pointer" / Int64un, "bits" / Int32un, "padding" / Int32un)
"""After KEY_OP: PARAMETERS_MAX numbers, the inputs first, each little-endian."""
NUMBER: Any = Struct("value" / Int32un)


def _packer(definition: Any) -> struct.Struct:
    return struct.Struct("=" + field_codes(definition))


SESSION, SESSION2 = _packer(SESSION_OP), _packer(SESSION2_OP)
CRYPT, AUTH, INFO = _packer(CRYPT_OP), _packer(CRYPT_AUTH_OP), _packer(SESSION_INFO_OP)
HASH_COPY, KEY, U32 = _packer(HASH_COPY_OP), _packer(KEY_OP), _packer(NUMBER)
KEY_PARAMETER = _packer(PARAMETER)
KEY_SIZE = KEY.size + PARAMETERS_MAX * KEY_PARAMETER.size

_WRITES, _READS = 1 << 30, 2 << 30


def _command(directions: int, number: int, size: int) -> int:
    return directions | size << 16 | ord("c") << 8 | number


class Command(IntEnum):
    """The ioctls."""

    CRIOGET = _command(_READS | _WRITES, 101, U32.size)
    CIOCGSESSION = _command(_READS | _WRITES, 102, SESSION.size)
    CIOCGSESSION2 = _command(_READS | _WRITES, 106, SESSION2.size)
    CIOCFSESSION = _command(_WRITES, 103, U32.size)
    CIOCCRYPT = _command(_READS | _WRITES, 104, CRYPT.size)
    CIOCKEY = _command(_READS | _WRITES, 105, KEY_SIZE)
    CIOCASYMFEAT = _command(_READS, 106, U32.size)
    CIOCGSESSINFO = _command(_READS | _WRITES, 107, INFO.size)
    CIOCAUTHCRYPT = _command(_READS | _WRITES, 109, AUTH.size)
    CIOCASYNCCRYPT = _command(_WRITES, 110, CRYPT.size)
    CIOCASYNCFETCH = _command(_READS, 111, CRYPT.size)
    CIOCCPHASH = _command(_WRITES, 112, HASH_COPY.size)

    @property
    def input_size(self) -> int:
        """Bytes at the argument that the call reads."""
        return (self >> 16) & 0x3FFF if self & _WRITES else 0


class Flag(IntFlag):
    """Flags of CRYPT_OP and CRYPT_AUTH_OP."""

    UPDATE = 1
    FINAL = 2
    WRITE_IV = 4
    NO_ZERO_COPY = 8
    TLS = 16
    SRTP = 32
    RESET = 64


ENCRYPT, DECRYPT = 0, 1
"""Values of `operation`."""
KERNEL_DRIVER_ONLY = 1
"""Flag of SESSION_INFO_OP: the driver is in the kernel only."""
CIPHER_KEY_MAX, MAC_KEY_MAX = 64, 512
DIGEST_MAX = 64
AUTH_MAX = 4096
"""Most associated data of CIOCAUTHCRYPT, except with Flag.SRTP: cryptodev has a page for it."""
SRTP_HEADER_MAX = 256
"""Most bytes before the text in the data that Flag.SRTP authenticates."""


class SessionOp(NamedTuple):
    """SESSION_OP, and the beginning of SESSION2_OP."""

    cipher: int
    mac: int
    key_size: int
    padding: int
    key: int
    mac_key_size: int
    padding_2: int
    mac_key: int
    session: int
    padding_3: int


class CryptOp(NamedTuple):
    """CRYPT_OP."""

    session: int
    operation: int
    flags: int
    size: int
    padding: int
    source: int
    target: int
    mac: int
    iv: int


class AuthOp(NamedTuple):
    """CRYPT_AUTH_OP."""

    session: int
    operation: int
    flags: int
    size: int
    auth_size: int
    auth: int
    source: int
    target: int
    tag: int
    tag_size: int
    padding: int
    iv: int
    iv_size: int
    padding_2: int
