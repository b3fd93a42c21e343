"""Algorithm types, names and what is known of a transform before it is opened.

Names are the Linux crypto API's: `cbc(aes)`, `hmac(sha256)`, `rfc4106(gcm(aes))`, or a driver's name.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from ..errors import InvalidValue

NAME_MAX = 63
"""Largest algorithm name, bytes: what a sockaddr_alg holds besides its final NUL."""


class Type(StrEnum):
    """The algorithm types, by the names that AF_ALG gives them."""

    HASH = "hash"
    SKCIPHER = "skcipher"
    AEAD = "aead"
    RNG = "rng"
    COMPRESSION = "compression"
    AKCIPHER = "akcipher"
    SIG = "sig"
    KPP = "kpp"


def parse_type(text: str) -> Type:
    """The type by name. Errors: InvalidValue with the names there are."""
    try:
        return Type(text)
    except ValueError:
        raise InvalidValue(f"type {text[:40]!r}: one of {', '.join(Type)}") from None


@dataclass(frozen=True)
class Name:
    """A parsed name: `cbc(aes)` is the template cbc with the argument aes; a plain name has no arguments."""

    template: str
    arguments: tuple["Name", ...] = ()

    def __str__(self) -> str:
        if not self.arguments:
            return self.template
        return f"{self.template}({','.join(map(str, self.arguments))})"


_TOKEN = re.compile(r"[A-Za-z0-9_.+/-]+|[(),]")


def check_name(text: str) -> str:
    """The name itself if its form is one that the kernel could know. Errors: InvalidValue."""
    parse_name(text)
    return text


def parse_name(text: str) -> Name:
    """Parse a name into templates. Errors: InvalidValue for a name that is too long or not of the form."""
    if not 0 < len(text) <= NAME_MAX:
        raise InvalidValue(f"name of {len(text)} bytes: 1 to {NAME_MAX}")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise InvalidValue(f"name {text!r}: letters, digits, -_.+/ and balanced parentheses")
    tokens.append("")
    name, used = _parse(tokens, 0, text)
    if used != len(tokens) - 1:
        raise InvalidValue(f"name {text!r}: nothing may follow the closing parenthesis")
    return name


def _parse(tokens: list[str], at: int, text: str) -> tuple[Name, int]:
    template = tokens[at]
    if template in ("", "(", ")", ","):
        raise InvalidValue(f"name {text!r}: a template or algorithm is missing")
    at += 1
    if tokens[at] != "(":
        return Name(template), at
    arguments = []
    while tokens[at] in ("(", ","):
        argument, at = _parse(tokens, at + 1, text)
        arguments.append(argument)
    if tokens[at] != ")":
        raise InvalidValue(f"name {text!r}: a closing parenthesis is missing")
    return Name(template, tuple(arguments)), at + 1


@dataclass(frozen=True)
class KeySizes:
    """The key sizes an algorithm takes, bytes: listed ones, or a range; `required` is false for optional keys."""

    listed: tuple[int, ...] = ()
    smallest: int = 0
    largest: int = 0
    required: bool = True

    @property
    def takes_key(self) -> bool:
        return bool(self.listed or self.largest)

    def admits(self, size: int) -> bool:
        if self.listed:
            return size in self.listed
        return self.smallest <= size <= self.largest

    def __str__(self) -> str:
        if self.listed:
            return " ".join(map(str, self.listed))
        if not self.largest:
            return "none"
        return f"{self.smallest}..{self.largest}"


NO_KEY = KeySizes(required=False)
ANY_KEY = KeySizes(smallest=0, largest=8192)


@dataclass(frozen=True)
class Levels:
    """The levels that a compression takes, and the one that it has where none is given."""

    lowest: int
    highest: int
    default: int

    def admits(self, level: int) -> bool:
        return self.lowest <= level <= self.highest

    def __str__(self) -> str:
        return f"{self.lowest}..{self.highest}"


@dataclass(frozen=True)
class Description:
    """What is known of an algorithm; sizes in bytes, 0 where the algorithm has no such thing.

    chunk_size: of a message in parts, output is given in multiples of this; 0 where a message can only be
    computed whole. levels: of a compression, None where it has none. source: /proc/crypto for AF_ALG, the published
    algorithms otherwise.
    """

    type: Type
    name: str
    engine: str
    driver: str
    block_size: int = 1
    chunk_size: int = 0
    iv_size: int = 0
    key_sizes: KeySizes = NO_KEY
    digest_size: int = 0
    max_authsize: int = 0
    levels: Levels | None = None

    @property
    def chains(self) -> bool:
        """Whether a part's output shows what the next part will be mixed with (cbc, cfb): then who sees the one before
        it chooses the next has a say in what the block cipher gets. A mode that is not known is taken for such.
        """
        return self.chunk_size > 0 and parse_name(self.name).template not in _INDEPENDENT

    def tags(self) -> str:
        """The description as `tag: value` lines."""
        rows = [
            ("type", self.type.value),
            ("name", self.name),
            ("engine", self.engine),
            ("driver", self.driver),
            ("block-size", self.block_size),
            ("iv-size", self.iv_size),
            ("key-sizes", self.key_sizes),
            ("digest-size", self.digest_size),
            ("max-authsize", self.max_authsize),
        ]
        if self.type is Type.COMPRESSION:
            rows.append(("levels", str(self.levels or "none")))
        return "".join(f"{tag}: {value}\n" for tag, value in rows)


_STREAMED = {"ecb": 0, "cbc": 0, "ctr": 16, "ofb": 16, "cfb": 16}
_STREAM_CIPHERS = frozenset({"chacha20", "xchacha20", "xchacha12"})
_INDEPENDENT = frozenset({"ecb", "ctr", "ofb"}) | _STREAM_CIPHERS
"""Modes in which no output has a part in what follows it: blocks by themselves, and keystreams of key and IV alone."""


def chunk_size(name: Name, block_size: int) -> int:
    """How the output of a skcipher message in parts is cut, bytes; 0 where the message must be whole.

    Only modes known to chain from part to part are streamed: for xts AF_ALG gives wrong output in parts
    without an error, so anything unknown is taken for whole.
    """
    if name.template in _STREAM_CIPHERS:
        return 64
    if name.template not in _STREAMED or not name.arguments or name.arguments[0].arguments:
        return 0
    return _STREAMED[name.template] or block_size
