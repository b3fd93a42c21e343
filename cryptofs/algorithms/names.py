"""Algorithm types and names, and the sizes of keys and the levels that they take.

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
    """The type by name. Errors: InvalidValue with the existing names."""
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
    """The name itself if the kernel could know a name of this form. Errors: InvalidValue."""
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
    """The levels of a compression, and its default."""

    lowest: int
    highest: int
    default: int

    def admits(self, level: int) -> bool:
        return self.lowest <= level <= self.highest

    def __str__(self) -> str:
        return f"{self.lowest}..{self.highest}"


_FLAT = str.maketrans({"(": "-", ",": "-", ")": None})


def driver_name(name: str, suffix: str) -> str:
    """The driver name of a generic one, in the kernel's style: `cbc-aes-openssl` for `cbc(aes)`."""
    return f"{name.translate(_FLAT)}-{suffix}"
