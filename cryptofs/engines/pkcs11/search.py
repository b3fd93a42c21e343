"""Finding a token and a key by what their owner knows. Two that match are refused with the list of both."""

from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass, TokenFlag

from ...errors import printable
from ...formats.token_uri import TokenObject

_TOLD_MAX = 8


def identity(token: pkcs11.Token) -> tuple[str, bytes, str, str]:
    """What tells a token from all others."""
    return token.label, token.serial, token.manufacturer_id, token.model


def find_token(library: Any, wanted: TokenObject) -> pkcs11.Token:
    """The token. Errors: pkcs11's; NoSuchToken, MultipleTokensReturned with the tokens."""
    present: list[pkcs11.Token] = [token for token in library.get_tokens() if token.flags & TokenFlag.TOKEN_INITIALIZED]
    found = [token for token in present if _matches(token, wanted)]
    if not found:
        raise pkcs11.NoSuchToken(f"no {wanted.place} is present{_told([_token(each) for each in present])}")
    if len(found) > 1:
        told = _told([_token(each) for each in found])
        raise pkcs11.MultipleTokensReturned(f"{len(found)} tokens match: name the serial, too{told}")
    return found[0]


def _matches(token: pkcs11.Token, wanted: TokenObject) -> bool:
    serial = token.serial.decode("utf-8", "replace")
    own = ((wanted.token, token.label), (wanted.serial, serial), (wanted.model, token.model))
    return all(given in (None, has) for given, has in (*own, (wanted.manufacturer, token.manufacturer_id)))


def _token(token: pkcs11.Token) -> str:
    return TokenObject(token.label, token.serial.decode("utf-8", "replace"), token.manufacturer_id, token.model).place


def find_key(session: pkcs11.Session, wanted: TokenObject) -> Any:
    """The secret key. Errors: pkcs11's; NoSuchKey, MultipleObjectsReturned with the keys."""
    template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY}
    if wanted.label is not None:
        template[Attribute.LABEL] = wanted.label
    if wanted.id is not None:
        template[Attribute.ID] = wanted.id
    # to its end: a search that is left before keeps its session busy until the iterator is collected
    found = list(session.get_objects(template))
    if not found:
        raise pkcs11.NoSuchKey(f"the token has no secret {wanted.key}")
    if len(found) > 1:
        told = _told([TokenObject(label=key[Attribute.LABEL], id=key[Attribute.ID]).key for key in found])
        raise pkcs11.MultipleObjectsReturned(
            f"the token has {len(found)} of secret {wanted.key}: name the id, too{told}"
        )
    return found[0]


def _told(candidates: list[str]) -> str:
    if not candidates:
        return ""
    more = [f"and {len(candidates) - _TOLD_MAX} more"] if len(candidates) > _TOLD_MAX else []
    return f" ({'; '.join([*map(printable, sorted(candidates)[:_TOLD_MAX]), *more])})"
