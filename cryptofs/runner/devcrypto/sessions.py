"""One open /dev/crypto: its sessions, and what each ioctl means. It knows neither where the ioctl came from nor how the
program's memory is reached.
"""

import errno
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ...algorithms import Type
from ...errors import CryptofsError, InvalidValue, NotOffered, SystemFault
from ...records import Buffer
from ...wiping import wipe
from ..backend import Backend, RunTransform
from .authcrypt import plan_authcrypt
from .ciphers import CIPHERS, MACS, Cipher, Mac, open_cipher
from .crypt import Crypt, plan_crypt
from .keys import features, plan_key
from .numbers import (
    AUTH,
    CIPHER_KEY_MAX,
    CRYPT,
    HASH_COPY,
    INFO,
    KERNEL_DRIVER_ONLY,
    MAC_KEY_MAX,
    SESSION,
    U32,
    AuthOp,
    Command,
    CryptOp,
    Flag,
    SessionOp,
)
from .session import Allowance, CipherPart, HashPart, Piece, Plan, Session

PENDING_MAX = 64
"""Asynchronous calls of one open file whose results have not been fetched, as in cryptodev."""
_SESSION_AT = SESSION.size - 8
"""Where a session's number is in SESSION_OP and SESSION2_OP."""


class Memory(Protocol):
    """The memory of the program that calls. Pieces are (address, size). Errors: SystemFault (EFAULT)."""

    def read(self, address: int, size: int) -> bytes | bytearray: ...

    def read_key(self, address: int, size: int) -> bytearray:
        """The same, with no copy but the one that is returned."""
        ...

    def gather(self, pieces: Sequence[Piece], total: int) -> bytes | bytearray:
        """The first `total` bytes of pieces."""
        ...

    def scatter(self, pieces: Sequence[Piece], data: bytes | bytearray) -> None:
        """Fill pieces, the last of which may stay as they are."""
        ...


class Sessions:
    """The sessions of one open file. One call at a time; always `close` it."""

    def __init__(self, backend: Backend, allowance: Allowance) -> None:
        self._backend = backend
        self._allowance = allowance
        self._table: dict[int, Session] = {}
        self._pending: deque[tuple[Crypt, CryptofsError | None]] = deque()
        """Asynchronous calls that have been computed, each with why it failed, if it did."""
        self._plans: dict[Command, Callable[[int, Buffer], Plan]] = {
            Command.CIOCGSESSION: self._open,
            Command.CIOCGSESSION2: self._open,
            Command.CIOCFSESSION: self._finish,
            Command.CIOCCRYPT: self._crypt,
            Command.CIOCAUTHCRYPT: self._authcrypt,
            Command.CIOCASYNCCRYPT: self._submit,
            Command.CIOCASYNCFETCH: self._fetch,
            Command.CIOCGSESSINFO: self._inform,
            Command.CIOCCPHASH: self._copy_hash,
            Command.CIOCASYMFEAT: self._features,
            Command.CIOCKEY: lambda argument, structure: plan_key(backend, argument, structure),
        }

    def close(self) -> None:
        """Wipe all keys and give up the rest."""
        while self._table:
            self._end(self._table.popitem()[1])
        self._pending.clear()

    def _end(self, session: Session) -> None:
        session.close()
        self._allowance.give_back()

    @property
    def has_results(self) -> bool:
        """Whether CIOCASYNCFETCH has something to fetch: the file is readable."""
        return bool(self._pending)

    @property
    def has_room(self) -> bool:
        """Whether CIOCASYNCCRYPT takes another call: the file is writable."""
        return len(self._pending) < PENDING_MAX

    def ioctl(self, number: int, argument: int, memory: Memory) -> None:
        """One ioctl, except CRIOGET. number: the command; argument: an address.

        Errors: CryptofsError with the errno that cryptodev would give.
        """
        command = self.command(number)
        size = command.input_size
        plan = self.plan(command, argument, memory.read(argument, size) if size else b"")
        if plan.secret:
            keys = [memory.read_key(*piece) for piece in plan.reads]
            try:
                out = plan.run(keys)
            finally:
                wipe(*keys)
        else:
            out = plan.run(plan.split(memory.gather(plan.reads, plan.read_size)))
        if out:
            memory.scatter(plan.writes, out[0] if len(out) == 1 and isinstance(out[0], bytes) else b"".join(out))

    def command(self, number: int) -> Command:
        """The command of an ioctl's number. Errors: InvalidValue for one that this file does not take."""
        try:
            command = Command(number)
        except ValueError:
            command = Command.CRIOGET
        if command not in self._plans:
            raise InvalidValue(f"ioctl {number:#x}: not one of cryptodev's")
        return command

    def plan(self, command: Command, argument: int, structure: Buffer) -> Plan:
        """Check a call. structure: `command.input_size` bytes at the argument.

        Errors: CryptofsError. Nothing has been done yet, and the plan holds until the next call.
        """
        return self._plans[command](argument, structure)

    def _get(self, number: int) -> Session:
        session = self._table.get(number)
        if session is None:
            raise InvalidValue(f"session {number:#x}: this file has no such session")
        return session

    # Beginning and end of sessions

    def _open(self, argument: int, structure: Buffer) -> Plan:
        call = SessionOp._make(SESSION.unpack_from(structure))
        cipher, mac = _known(CIPHERS, call.cipher, "cipher"), _known(MACS, call.mac, "mac")
        if cipher is None and mac is None:
            raise InvalidValue("a session has a cipher, a mac, or both")
        if cipher is not None and cipher.type is Type.AEAD:
            # cryptodev takes a second key for composite ciphers alone, which no kernel has.
            if call.mac_key_size:
                raise InvalidValue(f"mac key of {call.mac_key_size} bytes: {cipher.name} takes none")
            mac = None
        key = _key_piece(call.key, call.key_size, CIPHER_KEY_MAX) if cipher is not None else (0, 0)
        mac_key = _key_piece(call.mac_key, call.mac_key_size, MAC_KEY_MAX) if mac is not None else (0, 0)
        if mac is not None and not mac.keyed:
            mac_key = (0, 0)
        reads = [piece for piece in (key, mac_key) if piece[1]]

        def run(pieces: Sequence[Buffer]) -> list[Buffer]:
            keys = iter(pieces)
            self._allowance.take()
            try:
                session = self._make(cipher, next(keys) if key[1] else b"", mac, next(keys) if mac_key[1] else b"")
            except BaseException:
                self._allowance.give_back()
                raise
            number = self._new_number()
            self._table[number] = session
            return [U32.pack(number)]

        return Plan(reads, [(argument + _SESSION_AT, U32.size)], run, secret=True)

    def _make(self, cipher: Cipher | None, key: Buffer, mac: Mac | None, mac_key: Buffer) -> Session:
        opened: list[RunTransform] = []
        try:
            if cipher is not None:
                opened.append(open_cipher(self._backend, cipher))
                opened[-1].set_key(key)
            if mac is not None:
                opened.append(self._backend.open(Type.HASH, mac.name))
                if mac.keyed:
                    opened[-1].set_key(mac_key)
        except CryptofsError as error:
            for transform in opened:
                transform.close()
            if isinstance(error, NotOffered):
                raise InvalidValue(error.message) from None
            raise
        return Session(
            None if cipher is None else CipherPart(cipher, opened[0]), None if mac is None else HashPart(opened[-1])
        )

    def _new_number(self) -> int:
        # As in cryptodev it is drawn: a program that uses one of another file is told so.
        number = 0
        while not number or number in self._table:
            number = secrets.randbits(31)
        return number

    def _finish(self, argument: int, structure: Buffer) -> Plan:
        (number,) = U32.unpack(structure)

        def run(pieces: Sequence[Buffer]) -> list[Buffer]:
            # cryptodev says nothing of a session that is not there.
            session = self._table.pop(number, None)
            if session is not None:
                self._end(session)
            return []

        return Plan([], [], run)

    # Data

    def _crypt(self, argument: int, structure: Buffer) -> Plan:
        call = CryptOp._make(CRYPT.unpack(structure))
        return plan_crypt(self._get(call.session), call)

    def _authcrypt(self, argument: int, structure: Buffer) -> Plan:
        call = AuthOp._make(AUTH.unpack(structure))
        return plan_authcrypt(self._get(call.session), call, argument)

    def _submit(self, argument: int, structure: Buffer) -> Plan:
        call = CryptOp._make(CRYPT.unpack(structure))
        session = self._get(call.session)
        if call.flags & Flag.NO_ZERO_COPY:
            raise InvalidValue("an asynchronous call cannot be one without zero copy")
        if not self.has_room:
            raise SystemFault(f"{PENDING_MAX} results wait to be fetched, which is all that may", errno.EBUSY)
        crypt = Crypt(session, call)

        def run(pieces: Sequence[Buffer]) -> list[Buffer]:
            out: list[Buffer] = []
            error = None
            try:
                out = crypt.run(pieces)
            except CryptofsError as failure:
                # It is the fetching call that fails.
                error = failure.again()
            self._pending.append((crypt, error))
            return out

        return Plan(crypt.reads, crypt.target, run)

    def _fetch(self, argument: int, structure: Buffer) -> Plan:
        if not self._pending:
            raise SystemFault("no result is there to be fetched", errno.EBUSY)
        crypt, error = self._pending[0]

        def run(pieces: Sequence[Buffer]) -> list[Buffer]:
            self._pending.popleft()
            if error is not None:
                raise error
            return [*crypt.result, crypt.structure()]

        return Plan([], [] if error is not None else [*crypt.results, (argument, CRYPT.size)], run)

    def _copy_hash(self, argument: int, structure: Buffer) -> Plan:
        target, source = HASH_COPY.unpack(structure)
        if target == source:
            raise SystemFault("the state of a session cannot be copied to itself", errno.EDEADLK)
        if target not in self._table or source not in self._table:
            raise SystemFault("this file has no such session", errno.ENOENT)
        to, of = self._table[target].mac, self._table[source].mac
        if to is None or of is None or to.transform.description.name != of.transform.description.name:
            raise InvalidValue("both sessions must hash, and by the same algorithm")

        def run(pieces: Sequence[Buffer]) -> list[Buffer]:
            to.copy(of)
            return []

        return Plan([], [], run)

    # Questions

    def _inform(self, argument: int, structure: Buffer) -> Plan:
        number, *names, _, padding, _ = INFO.unpack(structure)
        session = self._get(number)
        for at, part in ((0, session.cipher), (2, session.mac)):
            if part is not None:
                description = part.transform.description
                for field, name in enumerate((description.name, description.driver), at):
                    # What stands behind the end of a name stays.
                    said = name.encode() + b"\0"
                    names[field] = said + names[field][len(said) :]
        # OpenSSL and GnuTLS use no driver that a program could be without.
        info = INFO.pack(number, *names, 0, padding, KERNEL_DRIVER_ONLY)
        return Plan([], [(argument, INFO.size)], lambda pieces: [info])

    def _features(self, argument: int, structure: Buffer) -> Plan:
        return Plan([], [(argument, U32.size)], lambda pieces: [U32.pack(features(self._backend))])


_T = TypeVar("_T")


def _known(table: Mapping[int, _T], number: int, what: str) -> _T | None:
    """The algorithm of a number, or None for 0. Errors: InvalidValue."""
    if number and number not in table:
        raise InvalidValue(f"{what} {number}: one of {', '.join(map(str, table))}")
    return table.get(number)


def _key_piece(address: int, size: int, largest: int) -> Piece:
    """Where a key is. Errors: InvalidValue for one that is too long."""
    if size > largest:
        raise InvalidValue(f"key of {size} bytes: at most {largest}")
    return address, size
