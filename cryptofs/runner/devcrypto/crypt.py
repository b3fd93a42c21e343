"""CIOCCRYPT: encrypt, decrypt or hash."""

from collections.abc import Sequence

from ...algorithms import Type
from ...errors import InvalidValue
from ...records import Buffer, Operation
from .numbers import CRYPT, DECRYPT, ENCRYPT, CryptOp, Flag
from .session import Piece, Plan, Session, check_size


def operation_of(number: int) -> Operation:
    """What `operation` of a structure asks for. Errors: InvalidValue."""
    if number not in (ENCRYPT, DECRYPT):
        raise InvalidValue(f"operation {number}: {ENCRYPT} (encrypt) or {DECRYPT} (decrypt)")
    return Operation.DECRYPT if number == DECRYPT else Operation.ENCRYPT


class Crypt:
    """One CRYPT_OP of a session. Its data goes out at once, the rest with `results`: an asynchronous call brings that
    later.
    """

    def __init__(self, session: Session, call: CryptOp) -> None:
        """Errors: InvalidValue, TooLarge."""
        self._operation = operation_of(call.operation)
        self._session = session
        self._call = call
        check_size(call.size)
        if session.cipher is not None:
            description = session.cipher.transform.description
            if description.type is Type.AEAD:
                raise InvalidValue(f"{description.name}: an AEAD takes CIOCAUTHCRYPT only")
            if call.size % description.block_size:
                raise InvalidValue(f"{call.size} bytes of data: a multiple of {description.block_size}")
        ends = bool(call.flags & Flag.FINAL) or not call.flags & Flag.UPDATE or not call.size
        source = [(call.source, call.size)] if call.size else []
        self._iv_at = [(call.iv, session.iv_size)] if call.iv and session.iv_size else []
        self.reads: list[Piece] = source + self._iv_at
        """What it needs."""
        self.target: list[Piece] = [(call.target, call.size)] if source and session.cipher is not None else []
        """Where the data goes."""
        self._digests = [(call.mac, session.digest_size)] if ends and session.mac is not None else []
        self._tells_iv = self._iv_at if call.flags & Flag.WRITE_IV else []
        self.results: list[Piece] = self._digests + self._tells_iv
        """Where the digest and the IV go."""
        self.result: list[Buffer] = []
        """What goes to `results`, once it has run."""

    def run(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """Compute; returns the data for `target`."""
        call, cipher, mac = self._call, self._session.cipher, self._session.mac
        data: Buffer = pieces[0] if call.size else b""
        # A call with other flags continues what the last one began.
        if not call.flags or call.flags & Flag.RESET:
            self._session.reset_hash()
        text, out = data, []
        if cipher is not None:
            if self._iv_at:
                cipher.iv = bytes(pieces[-1])
            if call.size:
                out = [cipher.crypt(self._operation, data)]
            if out and self._operation is Operation.DECRYPT:
                text = out[0]
        if mac is not None:
            if self._digests:
                self.result.append(mac.digest(text))
            else:
                mac.update(text)
        if cipher is not None and self._tells_iv:
            self.result.append(cipher.iv)
        return out

    def structure(self) -> bytes:
        """The structure, as the program gets it back."""
        return CRYPT.pack(*self._call)


def plan_crypt(session: Session, call: CryptOp) -> Plan:
    """CIOCCRYPT, which leaves its structure as it is. Errors: InvalidValue, TooLarge."""
    crypt = Crypt(session, call)

    def run(pieces: Sequence[Buffer]) -> list[Buffer]:
        return [*crypt.run(pieces), *crypt.result]

    return Plan(crypt.reads, [*crypt.target, *crypt.results], run)
