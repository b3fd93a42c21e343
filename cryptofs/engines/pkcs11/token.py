"""PKCS#11 modules, tokens and keys, by python-pkcs11.

What has to be known of it:
- it initialises a module without telling it of threads, so a module computes for one thread at a time: every call is
  under the module's lock;
- a process logs in to a token once, for all its sessions, and python-pkcs11 logs out when the session that logged in is
  closed: so a token is logged in to once and stays so while a key of it is in use;
- a PIN is wanted as `str`, of which only `encode` is called: `_Pin` gives a bytearray there, which can be wiped.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from ...errors import CryptofsError, EngineFault, KeyUnavailable, OutOfResources

Result = TypeVar("Result")

_GONE = (
    pkcs11.DeviceRemoved,
    pkcs11.KeyHandleInvalid,
    pkcs11.ObjectHandleInvalid,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.UserNotLoggedIn,
)
_SHORTAGES = (pkcs11.DeviceMemory, pkcs11.HostMemory, pkcs11.SessionCount)


def _reason(error: pkcs11.PKCS11Error) -> str:
    """The error's class, and what it says: of a library that does not load, a label that is not there; never data."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def fault(error: pkcs11.PKCS11Error, subject: str) -> CryptofsError:
    """The error for a call that the request has no part in."""
    if isinstance(error, _GONE):
        return KeyUnavailable(f"key source gone: {subject}: {_reason(error)}")
    kind = OutOfResources if isinstance(error, _SHORTAGES) else EngineFault
    return kind(f"{subject}: the token fails with {_reason(error)}")


class _Pin:
    """Gives a PIN to python-pkcs11 without a copy that cannot be wiped."""

    def __init__(self, pin: bytearray) -> None:
        self._pin = pin

    def encode(self, _encoding: str) -> bytearray:
        return self._pin


_registry = threading.RLock()
_locks: dict[str, threading.RLock] = {}
_tokens: dict[tuple[str, str], "Token"] = {}


class Token:
    """A token that this process is logged in to; use `open` and `release`. lock: the module's."""

    def __init__(self, token: pkcs11.Token, session: pkcs11.Session, lock: threading.RLock) -> None:
        self.lock = lock
        self._token = token
        self._session = session
        self._users = 0
        self.mechanisms = frozenset(token.slot.get_mechanisms())

    @classmethod
    def open(cls, module: str, label: str, read_pin: Callable[[], bytearray | None]) -> "Token":
        """The token by its label; `read_pin` is asked where nobody has logged in yet, and the caller wipes the PIN.

        Errors: KeyUnavailable.
        """
        with _registry:
            lock = _locks.setdefault(module, threading.RLock())
        with _registry, lock:
            token = _tokens.get((module, label))
            if token is None or not token._alive():
                try:
                    token = cls._log_in(module, label, read_pin(), lock)
                except pkcs11.PKCS11Error as error:
                    raise KeyUnavailable(_reason(error)) from None
                _tokens[module, label] = token
            token._users += 1
            return token

    @classmethod
    def _log_in(cls, module: str, label: str, pin: bytearray | None, lock: threading.RLock) -> "Token":
        library = pkcs11.lib(module)
        token = _only(library.get_tokens(token_label=label))
        try:
            session = token.open(user_pin=None if pin is None else cast(str, _Pin(pin)))
        except pkcs11.UserAlreadyLoggedIn:
            session = token.open()
        return cls(token, session, lock)

    def _alive(self) -> bool:
        # not by a search, which python-pkcs11 would try to end once more when the session is gone
        try:
            with self.lock:
                self._session.generate_random(64)
        except pkcs11.RandomNoRNG:
            return True
        except pkcs11.PKCS11Error:
            return False
        return True

    def find(self, label: str, session: pkcs11.Session | None = None) -> Any:
        """The secret key by its label. Errors: pkcs11's; NoSuchKey, MultipleObjectsReturned."""
        found = self._search({Attribute.LABEL: label}, session)
        if not found:
            raise pkcs11.NoSuchKey
        if len(found) > 1:
            raise pkcs11.MultipleObjectsReturned
        return found[0]

    def _search(self, attributes: dict[Attribute, Any], session: pkcs11.Session | None = None) -> list[Any]:
        # to its end: a search that is left before keeps its session busy until the iterator is collected
        with self.lock:
            return list((session or self._session).get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, **attributes}))

    @contextmanager
    def own_session(self) -> Iterator[pkcs11.Session]:
        """A session for an operation in parts. Errors: pkcs11's."""
        with self.lock:
            session = self._token.open()
        try:
            yield session
        finally:
            with self.lock:
                session.close()

    def hold(self) -> "Token":
        """The same token, to be released once more."""
        with _registry:
            self._users += 1
        return self

    def release(self) -> None:
        """Let go of the token; the last one logs out."""
        with _registry, self.lock:
            self._users -= 1
            if self._users:
                return
            for place, token in list(_tokens.items()):
                if token is self:
                    del _tokens[place]
            try:
                self._session.close()
            except pkcs11.PKCS11Error:
                # the token is gone, and the session with it
                return


def _only(tokens: Iterator[pkcs11.Token]) -> pkcs11.Token:
    found = list(tokens)
    if not found:
        raise pkcs11.NoSuchToken("no token of this label is present")
    if len(found) > 1:
        raise pkcs11.MultipleTokensReturned("more than one token has this label")
    return found[0]


class TokenKey:
    """A key in a token, by its label, and what it computes there."""

    def __init__(self, token: Token, label: str) -> None:
        """Errors: KeyUnavailable."""
        self.token = token
        self.label = label
        try:
            with token.lock:
                self._key = token.find(label)
                self.type = KeyType(self._key.key_type)
        except pkcs11.NoSuchKey:
            raise KeyUnavailable(f"key source gone: the token has no secret key {label!r}") from None
        except pkcs11.MultipleObjectsReturned:
            raise KeyUnavailable(f"the token has more than one secret key {label!r}") from None
        except (pkcs11.PKCS11Error, ValueError) as error:
            raise KeyUnavailable(f"key {label!r} in the token: {type(error).__name__}") from None
        self.may_encrypt = isinstance(self._key, pkcs11.EncryptMixin)
        self.may_decrypt = isinstance(self._key, pkcs11.DecryptMixin)
        self.may_sign = isinstance(self._key, pkcs11.SignMixin)

    def encrypt(self, data: bytes, mechanism: Mechanism, parameter: Any) -> bytes:
        """A whole message or piece. Errors: pkcs11's."""
        with self.token.lock:
            return cast(bytes, self._key.encrypt(data, mechanism=mechanism, mechanism_param=parameter))

    def decrypt(self, data: bytes, mechanism: Mechanism, parameter: Any) -> bytes:
        """A whole message or piece. Errors: pkcs11's."""
        with self.token.lock:
            return cast(bytes, self._key.decrypt(data, mechanism=mechanism, mechanism_param=parameter))

    def sign(self, data: bytes, mechanism: Mechanism) -> bytes:
        """The MAC of a whole message. Errors: pkcs11's."""
        with self.token.lock:
            return cast(bytes, self._key.sign(data, mechanism=mechanism))

    def sign_parts(self, parts: Iterator[bytes], mechanism: Mechanism) -> bytes:
        """The MAC of a message in parts, in a session of its own. Errors: pkcs11's, and what `parts` raises.

        The module's lock is held while this runs; `parts` may let go of it while it waits.
        """
        with self.token.own_session() as session, self.token.lock:
            key = self.token.find(self.label, session)
            return cast(bytes, key.sign(parts, mechanism=mechanism))

    def answers(self) -> bool:
        """Whether the token still knows the key."""
        try:
            with self.token.lock:
                return bool(self._key[Attribute.CLASS] == ObjectClass.SECRET_KEY)
        except pkcs11.PKCS11Error:
            return False
