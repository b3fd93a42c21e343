"""From TOML's values to the models: every table key by key, so that all errors are found at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from msgspec import NODEFAULT, ValidationError, convert
from msgspec.structs import fields

from .models import READERS, Table

Place = tuple[str, ...]
T = TypeVar("T", bound=Table)
_WRONG = object()


@dataclass
class Reading:
    """One reading of a file; `wrong` lists the errors, each with its place."""

    wrong: list[tuple[Place, str]] = field(default_factory=list)

    def table(self, model: type[T], raw: Any, place: Place = ()) -> T | None:
        """A table as its model, or None if it has an error."""
        found = self._table(model, raw, place)
        return found if isinstance(found, model) else None

    def _table(self, model: type[T], raw: Any, place: Place) -> T | object:
        if not isinstance(raw, dict):
            return self._refuse(place, "expected a table")
        known = {each.encode_name: each for each in fields(model)}
        found = {known[key].name: self._value(known[key].type, raw[key], (*place, key)) for key in raw if key in known}
        unknown = [key for key in raw if key not in known]
        missing = [
            key
            for key, each in known.items()
            if key not in raw and each.default is NODEFAULT and each.default_factory is NODEFAULT
        ]
        for key in unknown:
            self._refuse((*place, key), "unknown key")
        for key in missing:
            self._refuse((*place, key), "required, but not given")
        if missing or unknown or any(value is _WRONG for value in found.values()):
            return _WRONG
        try:
            return model(**found)
        except ValueError as error:
            return self._refuse(place, str(error))

    def _value(self, wanted: Any, raw: Any, place: Place) -> Any:
        if isinstance(wanted, type) and issubclass(wanted, Table):
            return self._table(wanted, raw, place)
        if isinstance(raw, str) and not raw.isprintable():
            return self._refuse(place, "an unprintable character")
        if wanted in READERS:
            return self._try(READERS[wanted], raw, place)
        arguments = get_args(wanted)
        origin = get_origin(wanted)
        if isinstance(wanted, UnionType) or (arguments and type(None) in arguments):
            # One kind or none; TOML has no word for none.
            return self._value(arguments[0], raw, place)
        if origin is dict:
            return self._tables(arguments[0], arguments[1], raw, place)
        if origin is tuple and arguments[0] in READERS:
            return self._list(arguments[0], raw, place)
        if origin is Literal:
            return raw if raw in arguments else self._refuse(place, f"one of {_spell(arguments)}")
        return self._try(lambda value: convert(value, wanted), raw, place)

    def _tables(self, key_type: Any, model: Any, raw: Any, place: Place) -> Any:
        if not isinstance(raw, dict):
            return self._refuse(place, "expected a table")
        found: dict[Any, Any] = {}
        names: dict[Any, str] = {}
        for name, value in raw.items():
            key = self._try(READERS[key_type], name, (*place, name))
            if key in names and key is not _WRONG:
                self._refuse((*place, name), f"the same as {names[key]}")
            names[key] = name
            found[key] = self._value(model, value, (*place, name))
        return _WRONG if _WRONG in found or any(value is _WRONG for value in found.values()) else found

    def _list(self, of: Any, raw: Any, place: Place) -> Any:
        if not isinstance(raw, list):
            return self._refuse(place, "expected an array")
        found = [self._try(READERS[of], value, (*place, str(index))) for index, value in enumerate(raw)]
        return _WRONG if any(value is _WRONG for value in found) else tuple(found)

    def _try(self, reader: Callable[[Any], Any], raw: Any, place: Place) -> Any:
        try:
            return reader(raw)
        except ValidationError as error:
            why = str(error).replace("`", "").replace("Expected", "expected")
            # Reported only if a number belongs here. Otherwise the key may be in the wrong place.
            return self._refuse(place, f"{raw}: {why}" if why.startswith("expected int ") else why)
        except ValueError as error:
            return self._refuse(place, str(error))

    def _refuse(self, place: Place, why: str) -> object:
        self.wrong.append((place, why))
        return _WRONG


def _spell(words: tuple[str, ...]) -> str:
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}" if first else last
