"""New keys, made by the token itself: no process ever has their bytes."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from ...errors import EngineFault, InvalidValue, NotOffered, SystemFault
from ...formats.token_uri import TokenObject
from .search import find_key, find_token
from .token import Pin, fault, refusal, user_pin

_MAKERS = {
    KeyType.AES: (Mechanism.AES_KEY_GEN, (Attribute.ENCRYPT, Attribute.DECRYPT)),
    KeyType.GENERIC_SECRET: (Mechanism.GENERIC_SECRET_KEY_GEN, (Attribute.SIGN, Attribute.VERIFY)),
}
"""By type: what makes a key, and what it may do."""
_USES = (
    Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.SIGN, Attribute.VERIFY, Attribute.WRAP, Attribute.UNWRAP,
    Attribute.DERIVE,
)  # fmt: skip


@contextmanager
def new_key(module: str, wanted: TokenObject, pin: Pin, kind: KeyType, size: int) -> Iterator[None]:
    """Have a token make a key of `size` bytes with the label and id of `wanted`; it goes again if the block fails.

    The key is sensitive, and not extractable. Errors: InvalidValue for a key without a name; SystemFault (EEXIST) if
    the token has such a key; KeyUnavailable, PinRefused; NotOffered for a token that makes no such keys.
    """
    if wanted.label is None and wanted.id is None:
        raise InvalidValue("the URI names no key: give object=LABEL, id=…, or both")
    try:
        slot = find_token(pkcs11.lib(module), wanted)
        with pin() as given:
            session = slot.open(rw=True, user_pin=user_pin(given))
    except pkcs11.PKCS11Error as error:
        raise refusal(error) from None
    try:
        mechanism, uses = _MAKERS[kind]
        if mechanism not in slot.slot.get_mechanisms():
            raise NotOffered(f"the {wanted.place} makes no keys of type {kind.name}")
        key = _made(session, wanted, kind, size, mechanism, uses)
        try:
            yield
        except BaseException:
            key.destroy()
            raise
    finally:
        session.close()


def _made(
    session: Any, wanted: TokenObject, kind: KeyType, size: int, mechanism: Mechanism, uses: tuple[Attribute, ...]
) -> Any:
    _check_free(session, wanted)
    template = {
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        **{use: use in uses for use in _USES},
    }
    try:
        key = session.generate_key(
            kind, size * 8, id=wanted.id, label=wanted.label, store=True, mechanism=mechanism, template=template
        )
    except pkcs11.PKCS11Error as error:
        raise fault(error, f"a new {wanted.key} of {size} bytes") from None
    try:
        if not key[Attribute.SENSITIVE] or key[Attribute.EXTRACTABLE]:
            raise EngineFault(f"the token made a {wanted.key} that could be taken out: it was destroyed")
        # Tokens know no "create only", so another process may have made one meanwhile.
        find_key(session, wanted)
    except BaseException as error:
        key.destroy()
        if isinstance(error, pkcs11.MultipleObjectsReturned):
            raise _exists(wanted) from None
        raise
    return key


def _check_free(session: Any, wanted: TokenObject) -> None:
    """Check that no secret key has the id, or without one the label. Keys with an id may share a label: a device names
    versions so. Errors: SystemFault."""
    name = {Attribute.LABEL: wanted.label} if wanted.id is None else {Attribute.ID: wanted.id}
    template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY, **name}
    try:
        found = list(session.get_objects(template))
    except pkcs11.PKCS11Error as error:
        raise fault(error, wanted.key) from None
    if found:
        raise _exists(wanted)


def _exists(wanted: TokenObject) -> SystemFault:
    what = wanted.key if wanted.id is None else f"key with id {wanted.id.hex()}"
    return SystemFault(f"the {wanted.place} has a secret {what} already: it is not replaced", errno.EEXIST)
