"""PKCS#11 URIs (RFC 7512): which token, and which object in it.

Stricter than the RFC, because a URI that selects more than its author meant would take another key: an attribute that
is unknown or that cannot be compared is refused, and so are blanks.
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from ..errors import InvalidValue, printable

SCHEME = "pkcs11:"
_TYPES = ("public", "private", "cert", "secret-key", "data")
_BYTES_MAX = {"token": 32, "manufacturer": 32, "model": 16, "serial": 16, "object": 255, "id": 255}
"""Sizes of the fields of PKCS#11; the last two are bounds of this project."""
_NOT_COMPARED = {
    *("library-manufacturer", "library-description", "library-version"),
    *("slot-manufacturer", "slot-description", "slot-id"),
}
_VALUE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&/?|-]|%[0-9A-Fa-f]{2})*")
_WITH_PIN = re.compile(r"[:?&;]pin-value\b")
_PIN_VALUE = (
    "pin-value: the PIN would be readable wherever the URI is: write it into a file of mode 0600 and name that with "
    "pin-source=file:PATH, or use pin-credential"
)


@dataclass(frozen=True)
class TokenObject:
    """An object of a token, and how to reach it; None for what is not given.

    label, id, type: of the object. module: path of the module's library. pin_source: path of the file with the PIN.
    """

    token: str | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    label: str | None = None
    id: bytes | None = None
    type: str | None = None
    module: str | None = field(default=None, compare=False)
    pin_source: str | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, uri: str) -> "TokenObject":
        """A URI's meaning. Errors: InvalidValue, never with a value of the URI."""
        if not uri.startswith(SCHEME):
            raise InvalidValue(f"a PKCS#11 URI begins with {SCHEME}")
        if _WITH_PIN.search(uri):
            # First, because no message may show what stands around a PIN.
            raise InvalidValue(_PIN_VALUE)
        path, _, query = uri.removeprefix(SCHEME).partition("?")
        return cls(**_path(_attributes(path, ";")), **_query(_attributes(query, "&")))

    @property
    def its_token(self) -> "TokenObject":
        """The token alone."""
        return TokenObject(self.token, self.serial, self.manufacturer, self.model)

    @property
    def key(self) -> str:
        """The object, for messages."""
        named = "key" if self.label is None else f"key {self.label!r}"
        return named if self.id is None else f"{named} with id {self.id.hex()}"

    @property
    def place(self) -> str:
        """The token, for messages."""
        more = {"serial": self.serial, "manufacturer": self.manufacturer, "model": self.model}
        given = [f"{word} {value!r}" for word, value in more.items() if value is not None]
        named = "token" if self.token is None else f"token {self.token!r}"
        return f"{named} with {', '.join(given)}" if given else named


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidValue(f"attribute {_shown(name)}: it has no value: NAME=VALUE, separated by {separator}")
        if name in found:
            raise InvalidValue(f"attribute {_shown(name)}: given twice")
        if not _VALUE.fullmatch(value):
            raise InvalidValue(f"attribute {_shown(name)}: write blanks, and characters such as % and ;, as %20")
        found[name] = unquote_to_bytes(value)
    return found


def _path(given: dict[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "type":
            found[name] = _text(name, value)
            if found[name] not in _TYPES:
                raise InvalidValue(f"attribute type: one of {', '.join(_TYPES)}")
        elif name in _NOT_COMPARED:
            raise InvalidValue(
                f"attribute {name}: not supported: name the token by token, serial, manufacturer or model"
            )
        elif name not in _BYTES_MAX:
            raise InvalidValue(f"attribute {_shown(name)}: not one of {', '.join(sorted(_BYTES_MAX))}, type")
        elif len(value) > _BYTES_MAX[name]:
            raise InvalidValue(f"attribute {name}: {len(value)} bytes: at most {_BYTES_MAX[name]}")
        elif name == "id":
            found[name] = value
        else:
            found["label" if name == "object" else name] = _text(name, value)
    return found


def _query(given: dict[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        match name:
            case "module-path":
                found["module"] = _text(name, value)
            case "pin-source":
                found["pin_source"] = _pin_file(_text(name, value))
            case "module-name":
                raise InvalidValue("attribute module-name: not supported: give the library's path with module-path")
            case _:
                raise InvalidValue(f"attribute {_shown(name)}: not one of module-path, pin-source")
    return found


def _pin_file(source: str) -> str:
    path = source.removeprefix("file://") if source.startswith("file:///") else source.removeprefix("file:")
    if not path.startswith("/"):
        raise InvalidValue("attribute pin-source: an absolute path, or file: and one; no program is run for a PIN")
    return path


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidValue(f"attribute {name}: not UTF-8") from None
    if not text.isprintable():
        raise InvalidValue(f"attribute {name}: an unprintable character")
    return text


def _shown(name: str) -> str:
    return repr(printable(name[:40]))
