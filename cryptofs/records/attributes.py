"""The attributes: one row each, with all that the codec and the text form know of it."""

from enum import IntEnum


class Kind(IntEnum):
    """How an attribute's value is laid out."""

    U32 = 1
    U64 = 2
    TEXT = 3
    BYTES = 4


class Attr(IntEnum):
    """The attributes by number, each with the kind of its value, its largest size (bytes), and whether it is secret."""

    TYPE = 1, Kind.TEXT, 31
    NAME = 2, Kind.TEXT, 63
    KEY = 3, Kind.BYTES, 8192, True
    AUTHSIZE = 4, Kind.U32, 4
    ENGINE = 5, Kind.TEXT, 31
    DRIVER = 6, Kind.TEXT, 127
    OPERATION = 7, Kind.TEXT, 31
    IV = 8, Kind.BYTES, 64
    ASSOCLEN = 9, Kind.U32, 4
    MESSAGE = 10, Kind.TEXT, 1024
    LENGTH = 11, Kind.U32, 4
    TARGET = 12, Kind.U64, 8
    CONTEXT = 13, Kind.U64, 8
    NONBLOCKING = 14, Kind.U32, 4
    BLOCK_SIZE = 15, Kind.U32, 4
    IV_SIZE = 16, Kind.U32, 4
    KEY_SIZES = 17, Kind.TEXT, 255
    DIGEST_SIZE = 18, Kind.U32, 4
    MAX_AUTHSIZE = 19, Kind.U32, 4
    QUEUE_REQUESTS = 20, Kind.U32, 4
    QUEUE_BYTES = 21, Kind.U32, 4
    LEVEL = 22, Kind.U32, 4
    KEY_VERSION = 23, Kind.U32, 4
    SIGNATURE = 32, Kind.BYTES, 5120
    PEER_KEY = 33, Kind.BYTES, 2560
    CIPHERTEXT = 34, Kind.BYTES, 2048
    KEY_FORMAT = 35, Kind.TEXT, 31
    KEY_BITS = 36, Kind.U32, 4
    SIGNATURE_CONTEXT = 37, Kind.BYTES, 255

    def __new__(cls, number: int, kind: Kind, largest: int, secret: bool = False) -> "Attr":
        self = int.__new__(cls, number)
        self._value_ = number
        return self

    def __init__(self, number: int, kind: Kind, largest: int, secret: bool = False) -> None:
        self.kind, self.largest, self.secret = kind, largest, secret

    @property
    def word(self) -> str:
        """The attribute's name in text: lower case, words joined by a hyphen."""
        return self.name.lower().replace("_", "-")


ATTRIBUTES: dict[int, Attr] = {int(each): each for each in Attr}
ATTRIBUTE_WORDS: dict[str, Attr] = {each.word: each for each in Attr}
