"""PKCS#11 modules, tokens and keys, by python-pkcs11.

What you need to know about it:
- It initialises a module without support for threads, so a module computes for one thread at a time. Every call holds
  the module's lock.
- A process logs in to a token once, for all its sessions, and python-pkcs11 logs out when the session that logged in is
  closed. So we log in once, and stay logged in while one of the token's keys is in use.
- A module does not see a token that was reinserted until the module is initialised again. That ends every session of
  all its tokens, and numbers new sessions from the beginning: an old handle may then belong to another session.
- It wants a PIN as `str`, but calls only `encode` on it. `_Pin` returns a bytearray there, which can be wiped.
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass

from ...errors import CryptofsError, EngineFault, KeyUnavailable, OutOfResources, PinRefused
from ...formats.token_uri import TokenObject
from .search import find_key, find_token, identity

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
_PIN_REFUSED = (
    pkcs11.PinExpired,
    pkcs11.PinIncorrect,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.PinLocked,
)
_SHORTAGES = (pkcs11.DeviceMemory, pkcs11.HostMemory, pkcs11.SessionCount)


def _reason(error: pkcs11.PKCS11Error) -> str:
    """The error's class and its text, for example for a library that does not load, or a missing label; never data."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def fault(error: pkcs11.PKCS11Error, subject: str) -> CryptofsError:
    """The error for a failure that the request did not cause."""
    if isinstance(error, _GONE):
        return KeyUnavailable(f"key source gone: {subject}: {_reason(error)}")
    kind = OutOfResources if isinstance(error, _SHORTAGES) else EngineFault
    return kind(f"{subject}: the token fails with {_reason(error)}")


class _Pin:
    """Passes a PIN to python-pkcs11 without a copy that cannot be wiped."""

    def __init__(self, pin: bytearray) -> None:
        self._pin = pin

    def encode(self, _encoding: str) -> bytearray:
        return self._pin


def user_pin(pin: bytearray | None) -> str | None:
    """A PIN in the form that python-pkcs11 takes; None for a token that needs none."""
    return None if pin is None else cast(str, _Pin(pin))


_registry = threading.RLock()
_locks: dict[str, threading.RLock] = {}
_tokens: dict[tuple[str, TokenObject], "Token"] = {}


Pin = Callable[[], AbstractContextManager[bytearray | None]]
"""Gives the PIN for a login and wipes it afterwards; None for a token that needs no PIN."""

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
"""Seconds between a failed login and the next one; they double each time."""


class Token:
    """A token that this process is logged in to; use `open` and `release`. lock: the module's.

    generation: counts the logins. A handle from an earlier login is invalid.
    """

    def __init__(self, module: str, wanted: TokenObject, pin: Pin, lock: threading.RLock) -> None:
        self.lock = lock
        self.generation = 0
        self._place = (module, wanted)
        self._pin = pin
        self._users = 0
        self._keys: set[TokenKey] = set()
        self._streams = 0
        self._token: pkcs11.Token
        self._session: pkcs11.Session | None = None
        self.mechanisms: frozenset[Mechanism] = frozenset()
        self._refused = ""
        self._wait = _FIRST_WAIT
        self._next = 0.0

    @classmethod
    def open(cls, module: str, wanted: TokenObject, pin: Pin) -> "Token":
        """The token of an object. `pin` is asked before the first login, and kept for a later one.

        It tries a login at once, even if an earlier one was refused or has to wait. Errors: KeyUnavailable, PinRefused.
        """
        with _registry:
            lock = _locks.setdefault(module, threading.RLock())
        with _registry, lock:
            place = (module, wanted.its_token)
            try:
                token = _tokens.get(place) or _of_another_name(*place) or cls(*place, pin, lock)
                token._pin = pin
                if not token._is_well():
                    token._log_in()
            except pkcs11.PKCS11Error as error:
                raise refusal(error) from None
            _tokens[place] = token
            token._users += 1
            return token

    def revive(self, seen: int) -> None:
        """Log in again to a token that was lost after the login `seen`, unless another thread has done so already.

        After a failure the next try waits. After a refused PIN only `open` tries again, because a token locks after a
        few tries. Errors: KeyUnavailable, PinRefused.
        """
        with _registry, self.lock:
            if self.generation != seen:
                return
            if self._refused:
                raise PinRefused(
                    f"key source gone: the token refused the PIN ({self._refused}): a reload tries it again"
                )
            now = time.monotonic()
            if now < self._next:
                raise KeyUnavailable(f"key source gone: the next login is tried in {self._next - now:.0f} s")
            try:
                self._log_in()
            except (pkcs11.PKCS11Error, KeyUnavailable) as error:
                if isinstance(error, _PIN_REFUSED):
                    self._refused = type(error).__name__
                self._next = time.monotonic() + self._wait
                self._wait = min(2 * self._wait, _LONGEST_WAIT)
                failed = refusal(error) if isinstance(error, pkcs11.PKCS11Error) else error
                raise type(failed)(f"key source gone: {failed.message}") from None

    def _log_in(self) -> None:
        library = pkcs11.lib(self._place[0])
        others = [token for token in _tokens.values() if token.lock is self.lock]
        if self.generation and not any(token._streams or (token is not self and token._is_well()) for token in others):
            library.reinitialize()
            for token in others:
                token._session = None
        try:
            slot = find_token(library, self._place[1])
        except pkcs11.NoSuchToken:
            if any(each._session is not None for each in others):
                raise
            # the module may have looked before the token came
            library.reinitialize()
            slot = find_token(library, self._place[1])
        with self._pin() as pin:
            try:
                session = slot.open(user_pin=user_pin(pin))
            except pkcs11.UserAlreadyLoggedIn:
                session = slot.open()
        self._token, self._session = slot, session
        self.mechanisms = frozenset(slot.slot.get_mechanisms())
        self.generation += 1
        self._refused, self._wait, self._next = "", _FIRST_WAIT, 0.0

    def _is_well(self) -> bool:
        """Whether the session is alive, and the keys in use still exist."""
        if self._session is None:
            return False
        # Not by a search: python-pkcs11 would try to end it again after the session has gone.
        try:
            with self.lock:
                self._session.generate_random(64)
        except pkcs11.RandomNoRNG:
            pass
        except pkcs11.PKCS11Error:
            return False
        return not self._keys or any(key.answers() for key in self._keys)

    @property
    def session(self) -> pkcs11.Session:
        """The session that is logged in. Errors: pkcs11's, where the token was lost."""
        if self._session is None:
            raise pkcs11.SessionClosed
        return self._session

    def find(self, wanted: TokenObject, session: pkcs11.Session | None = None) -> Any:
        """The secret key. Errors: pkcs11's; NoSuchKey, MultipleObjectsReturned."""
        with self.lock:
            return find_key(session or self.session, wanted)

    @contextmanager
    def own_session(self) -> Iterator[pkcs11.Session]:
        """A session for an operation in parts. Errors: pkcs11's."""
        with self.lock:
            if self._session is None:
                raise pkcs11.SessionClosed
            session = self._token.open()
            self._streams += 1
        try:
            yield session
        finally:
            with self.lock:
                self._streams -= 1
                session.close()

    def hold(self) -> "Token":
        """The same token, to be released once more."""
        with _registry:
            self._users += 1
        return self

    def release(self) -> None:
        """Release the token; the last release logs out."""
        with _registry, self.lock:
            self._users -= 1
            if self._users:
                return
            for place, token in list(_tokens.items()):
                if token is self:
                    del _tokens[place]
            session, self._session = self._session, None
            try:
                if session is not None:
                    session.close()
            except pkcs11.PKCS11Error:
                # the token is gone, and the session with it
                return


def _of_another_name(module: str, wanted: TokenObject) -> Token | None:
    """The token that this process is logged in to, if others know it by other attributes. Errors: pkcs11's.

    A login belongs to the process, so two of them to one token would end together.
    """
    others = [token for (path, _), token in _tokens.items() if path == module and token._session is not None]
    if not others:
        return None
    try:
        found = identity(find_token(pkcs11.lib(module), wanted))
    except pkcs11.NoSuchToken:
        return None
    return next((token for token in others if identity(token._token) == found), None)


def refusal(error: pkcs11.PKCS11Error) -> KeyUnavailable:
    """The error for a login that failed."""
    return (PinRefused if isinstance(error, _PIN_REFUSED) else KeyUnavailable)(_reason(error))


_CIPHERS = (Mechanism.AES_ECB, Mechanism.AES_CBC, Mechanism.AES_CTR, Mechanism.AES_GCM)
_CHALLENGE = os.urandom(32)
"""After another login, a key's answer to this shows whether it is the same key. The answer does not reveal the key."""


def _parameter(mechanism: Mechanism) -> Any:
    block = _CHALLENGE[:16]
    match mechanism:
        case Mechanism.AES_CBC:
            return block
        case Mechanism.AES_CTR:
            return struct.pack("@L16s", 128, block)
        case Mechanism.AES_GCM:
            return GCMParams(block[:12], None, 128)
    return None


class TokenKey:
    """A key in a token, and what it computes there.

    When a lost token is back, the key is found again, if it is the same one.
    """

    def __init__(self, token: Token, wanted: TokenObject, mechanism: Mechanism) -> None:
        """mechanism: what it will be used with. Errors: KeyUnavailable."""
        self.token = token
        self.wanted = wanted
        self._mechanism = mechanism
        with token.lock:
            self._key = self._find()
            self._generation = token.generation
            try:
                self.type = KeyType(self._key.key_type)
            except (pkcs11.PKCS11Error, ValueError) as error:
                raise KeyUnavailable(f"{wanted.key} in the token: {type(error).__name__}") from None
            self.may_encrypt = isinstance(self._key, pkcs11.EncryptMixin)
            self.may_decrypt = isinstance(self._key, pkcs11.DecryptMixin)
            self.may_sign = isinstance(self._key, pkcs11.SignMixin)
            self._mark = self._answer(self._key)
            token._keys.add(self)

    def close(self) -> None:
        """Release the token."""
        self.token._keys.discard(self)
        self.token.release()

    def _find(self) -> Any:
        try:
            return self.token.find(self.wanted)
        except pkcs11.NoSuchKey as error:
            raise KeyUnavailable(f"key source gone: {error}") from None
        except pkcs11.MultipleObjectsReturned as error:
            raise KeyUnavailable(str(error)) from None
        except pkcs11.PKCS11Error as error:
            raise KeyUnavailable(f"{self.wanted.key} in the token: {type(error).__name__}") from None

    def _answer(self, key: Any) -> bytes | None:
        try:
            if isinstance(key, pkcs11.SignMixin) and self._mechanism not in _CIPHERS:
                return key.sign(_CHALLENGE, mechanism=self._mechanism)
            compute = key.encrypt if isinstance(key, pkcs11.EncryptMixin) else key.decrypt
            parameter = _parameter(self._mechanism)
            return cast(bytes, compute(_CHALLENGE, mechanism=self._mechanism, mechanism_param=parameter))
        except (pkcs11.PKCS11Error, AttributeError):
            # The key does not permit this. Only its use shows what it permits.
            return None

    def _run(self, compute: Callable[[Any], Result]) -> Result:
        """What the key computes; once more if the token was lost and can be logged in to again. Errors: pkcs11's,
        KeyUnavailable.
        """
        with self.token.lock:
            seen = self._generation
            if seen == self.token.generation and self.token._session is not None:
                try:
                    return compute(self._key)
                except _GONE:
                    pass
        # Without the module's lock, because the registry's lock must be taken first.
        self.token.revive(seen)
        with self.token.lock:
            self._take_up()
            return compute(self._key)

    def _take_up(self) -> None:
        if self._generation == self.token.generation:
            return
        key = self._find()
        if self._answer(key) != self._mark:
            raise KeyUnavailable(
                f"key source gone: the token has another {self.wanted.key} now: a reload takes it for new opens"
            )
        self._key, self._generation = key, self.token.generation

    def encrypt(self, data: bytes, mechanism: Mechanism, parameter: Any) -> bytes:
        """A whole message or piece. Errors: pkcs11's, KeyUnavailable."""
        return self._run(lambda key: cast(bytes, key.encrypt(data, mechanism=mechanism, mechanism_param=parameter)))

    def decrypt(self, data: bytes, mechanism: Mechanism, parameter: Any) -> bytes:
        """A whole message or piece. Errors: pkcs11's, KeyUnavailable."""
        return self._run(lambda key: cast(bytes, key.decrypt(data, mechanism=mechanism, mechanism_param=parameter)))

    def sign(self, data: bytes, mechanism: Mechanism) -> bytes:
        """The MAC of a whole message. Errors: pkcs11's, KeyUnavailable."""
        return self._run(lambda key: cast(bytes, key.sign(data, mechanism=mechanism)))

    def sign_parts(self, parts: Iterator[bytes], mechanism: Mechanism) -> bytes:
        """The MAC of a message in parts, in a session of its own. Errors: pkcs11's, KeyUnavailable, and what `parts`
        raises.

        The module's lock is held during this; `parts` may release it while it waits. If the token is lost in the
        meantime, the message fails, because the token no longer has its beginning.
        """
        self._run(lambda key: key[Attribute.CLASS])
        with self.token.own_session() as session, self.token.lock:
            key = self.token.find(self.wanted, session)
            return cast(bytes, key.sign(parts, mechanism=mechanism))

    def answers(self) -> bool:
        """Whether the token still knows the key."""
        try:
            with self.token.lock:
                if self._generation != self.token.generation or self.token._session is None:
                    return False
                return bool(self._key[Attribute.CLASS] == ObjectClass.SECRET_KEY)
        except pkcs11.PKCS11Error:
            return False
