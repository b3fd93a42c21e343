"""The calls of PKCS#11 that a program makes through p11-kit: one token whose objects are the devices' key pairs.

Everything belongs to one connection, and ends with it. The token needs no login: who may use a device is decided by the
mount, for the user.
"""

import functools
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from ..keys import DeviceKeys
from ..server import receive
from .numbers import CAN_DECRYPT, CAN_SIGN, PRIVATE_KEY, UNKNOWN, Error, Sign
from .objects import DIGESTS, OBJECT_KINDS, KeyPair, Refusal, error_of, is_secret, pairs
from .wire import MESSAGE_MAX, OPTIONS_MAX, Malformed, OnlySize, Reader, Text, build, size_of

log = logging.getLogger("cryptofs")

SESSIONS_MAX = 256
"""Of one connection."""
_SLOT = 0
_HANDSHAKE = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
_VERSION = (2, 40)
_NAME = "cryptofs"
_TOKEN_PRESENT = 1
_TOKEN_FLAGS = 0x402
"""Initialised, and write-protected."""
_SERIAL_SESSION, _WRITES = 4, 2


@dataclass
class _Signing:
    pair: KeyPair
    mechanism: Sign
    data: Any
    """The running digest, or the data themselves."""

    def update(self, data: bytes) -> None:
        if not isinstance(self.data, bytearray):
            self.data.update(data)
            return
        if len(self.data) + len(data) > self.pair.size:
            raise Refusal(Error.DATA_LEN_RANGE, f"{self.pair.label}: a digest of more than {self.pair.size} bytes")
        self.data += data

    def result(self) -> bytes:
        return bytes(self.data) if isinstance(self.data, bytearray) else bytes(self.data.digest())


@dataclass
class _Session:
    flags: int
    found: list[int] | None = None
    """What a search has not given out; None without a search."""
    signing: _Signing | None = None
    decrypting: KeyPair | None = None
    answer: bytes | None = field(default=None, repr=False)
    """What was computed and did not fit into the program's buffer."""


class Calls:
    """The state of one connection. For one thread at a time."""

    def __init__(self, keys: DeviceKeys) -> None:
        self._keys = keys
        self._is_greeted = False
        self._sessions: dict[int, _Session] = {}
        self._last_session = 0
        self._handles: dict[tuple[bytes, int], int] = {}
        self._objects: dict[int, tuple[KeyPair, int]] = {}

    def answer(self, message: bytes) -> bytes:
        """The answer to a message. Errors: Malformed: close the connection."""
        reader = Reader(message)
        number, signature = reader.call()
        try:
            call = _CALLS.get(number)
            if call is None:
                raise Refusal(Error.FUNCTION_NOT_SUPPORTED, f"call {number}")
            if signature != call.request:
                raise Malformed(f"call {number}: signature {signature[:20]!r} instead of {call.request!r}")
            values = reader.values(signature)
            if not self._is_greeted and number != _INITIALIZE:
                raise Malformed(f"call {number} before C_Initialize")
            return build(number, call.response, call.run(self, *values))
        except Refusal as refusal:
            log.info("pkcs11: %s", refusal)
            return build(0, "u", [refusal.error])
        except OSError as error:
            log.info("pkcs11: refused: %s", error)
            return build(0, "u", [error_of(error)])

    # The module and its one slot

    def initialize(self, handshake: bytes, _has_reserved: int, _reserved: bytes) -> list[Any]:
        if handshake != _HANDSHAKE:
            raise Malformed("not the handshake of p11-kit")
        self._is_greeted = True
        return []

    def finalize(self) -> list[Any]:
        self._sessions.clear()
        return []

    def info(self) -> list[Any]:
        return [_VERSION, Text(_NAME, 32), 0, Text("devices of a cryptofs mount", 32), (0, 1)]

    def slots(self, _with_token: int, room: int | None) -> list[Any]:
        return [_fitted([_SLOT], room)]

    def slot_info(self, slot: int) -> list[Any]:
        _check_slot(slot)
        return [Text(f"{_NAME} {self._keys.mount}", 64), Text(_NAME, 32), _TOKEN_PRESENT, (0, 1), (0, 1)]

    def token_info(self, slot: int) -> list[Any]:
        _check_slot(slot)
        texts = [Text(_NAME, 32), Text(_NAME, 32), Text("devices", 16), Text("1", 16)]
        sessions = [0, len(self._sessions), 0, len(self._sessions)]
        pin, memory = [0, 0], [UNKNOWN] * 4
        return [*texts, _TOKEN_FLAGS, *sessions, *pin, *memory, (0, 1), (0, 1), Text("", 16)]

    def mechanisms(self, slot: int, room: int | None) -> list[Any]:
        _check_slot(slot)
        return [_fitted([int(each) for each in Sign], room)]

    def mechanism_info(self, slot: int, number: int) -> list[Any]:
        _check_slot(slot)
        mechanism = _mechanism(number)
        if mechanism is Sign.ECDSA:
            return [256, 521, CAN_SIGN]
        return [1024, 8192, CAN_SIGN | CAN_DECRYPT if mechanism is Sign.RSA_PKCS else CAN_SIGN]

    # Sessions

    def open_session(self, slot: int, flags: int) -> list[Any]:
        _check_slot(slot)
        if len(self._sessions) >= SESSIONS_MAX:
            raise Refusal(Error.SESSION_COUNT, f"at most {SESSIONS_MAX}")
        self._last_session += 1
        self._sessions[self._last_session] = _Session(flags & (_SERIAL_SESSION | _WRITES))
        return [self._last_session]

    def close_session(self, handle: int) -> list[Any]:
        self._session(handle)
        del self._sessions[handle]
        return []

    def close_all_sessions(self, slot: int) -> list[Any]:
        _check_slot(slot)
        self._sessions.clear()
        return []

    def session_info(self, handle: int) -> list[Any]:
        flags = self._session(handle).flags
        # The state of a session whose user is logged in.
        return [_SLOT, 3 if flags & _WRITES else 1, flags, 0]

    def log_in(self, handle: int, _who: int, _pin: bytes) -> list[Any]:
        # Any PIN: the mount knows the user already.
        self._session(handle)
        return []

    def log_out(self, handle: int) -> list[Any]:
        self._session(handle)
        return []

    def _session(self, handle: int) -> _Session:
        if handle not in self._sessions:
            raise Refusal(Error.SESSION_HANDLE_INVALID, f"{handle}")
        return self._sessions[handle]

    # Objects

    def begin_search(self, handle: int, template: dict[int, bytes | int | None]) -> list[Any]:
        session = self._session(handle)
        if session.found is not None:
            raise Refusal(Error.OPERATION_ACTIVE, "a search")
        session.found = []
        for pair in pairs(self._keys):
            for kind in OBJECT_KINDS:
                number = self._handles.setdefault((pair.public, kind), len(self._handles) + 1)
                self._objects[number] = pair, kind
                attributes = pair.attributes(kind)
                if all(attributes.get(name) == value for name, value in template.items()):
                    session.found.append(number)
        return []

    def search(self, handle: int, room: int | None) -> list[Any]:
        session = self._session(handle)
        if session.found is None:
            raise Refusal(Error.OPERATION_NOT_INITIALIZED, "a search")
        given, session.found = session.found[: room or 0], session.found[room or 0 :]
        return [given]

    def end_search(self, handle: int) -> list[Any]:
        self._session(handle).found = None
        return []

    def attributes(self, handle: int, number: int, wanted: list[tuple[int, int]]) -> list[Any]:
        self._session(handle)
        pair, kind = self._object(number, Error.OBJECT_HANDLE_INVALID)
        known = pair.attributes(kind)
        found: list[tuple[int, bytes | int | None]] = []
        code = 0
        for name, room in wanted:
            value = known.get(name)
            if value is None:
                code = code or (Error.ATTRIBUTE_SENSITIVE if is_secret(kind, name) else Error.ATTRIBUTE_TYPE_INVALID)
            elif room and room < size_of(name, value):
                value, code = None, code or Error.BUFFER_TOO_SMALL
            found.append((name, value))
        return [found, code]

    def _object(self, number: int, error: Error) -> tuple[KeyPair, int]:
        if number not in self._objects:
            raise Refusal(error, f"{number}")
        return self._objects[number]

    def _private(self, number: int) -> KeyPair:
        pair, kind = self._object(number, Error.KEY_HANDLE_INVALID)
        if kind != PRIVATE_KEY:
            raise Refusal(Error.KEY_FUNCTION_NOT_PERMITTED, f"{pair.label}: its public key")
        return pair

    # Signing and decrypting

    def begin_sign(self, handle: int, mechanism: int | None, number: int) -> list[Any]:
        session = self._session(handle)
        if mechanism is None:
            session.signing = session.answer = None
            return []
        if session.signing is not None:
            raise Refusal(Error.OPERATION_ACTIVE, "a signature")
        how = _mechanism(mechanism)
        pair = self._private(number)
        pair.check_sign(how)
        session.signing = _Signing(pair, how, hashlib.new(DIGESTS[how]) if how in DIGESTS else bytearray())
        session.answer = None
        return []

    def sign(self, handle: int, data: bytes, room: int | None) -> list[Any]:
        session, signing = self._signing(handle)
        if room is None or room < signing.pair.size:
            return [OnlySize(signing.pair.size)]
        return self._finish(session, signing, data)

    def sign_part(self, handle: int, data: bytes) -> list[Any]:
        session, signing = self._signing(handle)
        try:
            signing.update(data)
        except Refusal:
            session.signing = None
            raise
        return []

    def end_sign(self, handle: int, room: int | None) -> list[Any]:
        session, signing = self._signing(handle)
        if room is None or room < signing.pair.size:
            return [OnlySize(signing.pair.size)]
        return self._finish(session, signing, b"")

    def _signing(self, handle: int) -> tuple[_Session, _Signing]:
        session = self._session(handle)
        if session.signing is None:
            raise Refusal(Error.OPERATION_NOT_INITIALIZED, "a signature")
        return session, session.signing

    def _finish(self, session: _Session, signing: _Signing, data: bytes) -> list[Any]:
        # Ended, whatever comes.
        session.signing = None
        signing.update(data)
        return [signing.pair.sign(self._keys, signing.mechanism, signing.result())]

    def begin_decrypt(self, handle: int, mechanism: int | None, number: int) -> list[Any]:
        session = self._session(handle)
        session.answer = None
        if mechanism is None:
            session.decrypting = None
            return []
        if session.decrypting is not None:
            raise Refusal(Error.OPERATION_ACTIVE, "a decryption")
        if _mechanism(mechanism) is not Sign.RSA_PKCS:
            raise Refusal(Error.MECHANISM_INVALID, f"{mechanism:#x}")
        pair = self._private(number)
        pair.check_decrypt()
        session.decrypting = pair
        return []

    def decrypt(self, handle: int, data: bytes, room: int | None) -> list[Any]:
        session = self._session(handle)
        pair = session.decrypting
        if pair is None:
            raise Refusal(Error.OPERATION_NOT_INITIALIZED, "a decryption")
        if room is None:
            return [OnlySize(pair.size)]
        if session.answer is None:
            # Kept for a program whose buffer is too small: it calls again with the same data.
            try:
                session.answer = pair.decrypt(self._keys, data)
            except OSError:
                session.decrypting = None
                raise
        if room < len(session.answer):
            return [OnlySize(len(session.answer))]
        plain, session.answer, session.decrypting = session.answer, None, None
        return [plain]


def _check_slot(slot: int) -> None:
    if slot != _SLOT:
        raise Refusal(Error.SLOT_ID_INVALID, f"{slot}")


def _mechanism(number: int) -> Sign:
    try:
        return Sign(number)
    except ValueError:
        raise Refusal(Error.MECHANISM_INVALID, f"{number:#x}") from None


def _fitted(numbers: list[int], room: int | None) -> list[int] | OnlySize:
    return OnlySize(len(numbers)) if room is None or room < len(numbers) else numbers


@dataclass(frozen=True)
class _Call:
    request: str
    response: str
    run: Callable[..., list[Any]]


_INITIALIZE = 1
_CALLS = {
    _INITIALIZE: _Call("ayyay", "", Calls.initialize),
    2: _Call("", "", Calls.finalize),
    3: _Call("", "vsusv", Calls.info),
    4: _Call("yfu", "au", Calls.slots),
    5: _Call("u", "ssuvv", Calls.slot_info),
    6: _Call("u", "ssssuuuuuuuuuuuvvs", Calls.token_info),
    7: _Call("ufu", "au", Calls.mechanisms),
    8: _Call("uu", "uuu", Calls.mechanism_info),
    10: _Call("uu", "u", Calls.open_session),
    11: _Call("u", "", Calls.close_session),
    12: _Call("u", "", Calls.close_all_sessions),
    13: _Call("u", "uuuu", Calls.session_info),
    18: _Call("uuay", "", Calls.log_in),
    19: _Call("u", "", Calls.log_out),
    24: _Call("uufA", "aAu", Calls.attributes),
    26: _Call("uaA", "", Calls.begin_search),
    27: _Call("ufu", "au", Calls.search),
    28: _Call("u", "", Calls.end_search),
    33: _Call("uMu", "", Calls.begin_decrypt),
    34: _Call("uayfy", "ay", Calls.decrypt),
    42: _Call("uMu", "", Calls.begin_sign),
    43: _Call("uayfy", "ay", Calls.sign),
    44: _Call("uay", "", Calls.sign_part),
    45: _Call("ufy", "ay", Calls.end_sign),
}
"""By their numbers: the signatures of request and response, and what answers."""


async def serve_client(keys: DeviceKeys, stream: trio.SocketStream) -> None:
    """Answer a program's messages until it goes, or sends one that is not of the protocol. Errors: Closed."""
    calls = Calls(keys)
    # The highest version of the protocol that the program knows. We know 0.
    await receive(stream, 1)
    await stream.send_all(b"\0")
    while True:
        head = await receive(stream, 12)
        code, options, size = (head[at : at + 4] for at in (0, 4, 8))
        if int.from_bytes(options, "big") > OPTIONS_MAX or int.from_bytes(size, "big") > MESSAGE_MAX:
            log.warning("pkcs11: a message of more than %d bytes", MESSAGE_MAX)
            return
        await receive(stream, int.from_bytes(options, "big"))
        message = await receive(stream, int.from_bytes(size, "big"))
        try:
            # In a thread, because the mount may have to compute, or may not answer at all.
            answer = await trio.to_thread.run_sync(functools.partial(calls.answer, message), abandon_on_cancel=True)
        except Malformed as error:
            log.warning("pkcs11: %s", error)
            return
        await stream.send_all(code + bytes(4) + len(answer).to_bytes(4, "big") + answer)
