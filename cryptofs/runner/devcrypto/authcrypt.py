"""CIOCAUTHCRYPT: encryption and authentication in one call, by an AEAD or in the ways of TLS and SRTP.

Where a tag does not match, nothing is written: cryptodev leaves the text in the program's buffer.
"""

import hmac
from collections.abc import Callable, Sequence

from ...algorithms import Type
from ...errors import BadTag, InvalidValue
from ...records import Buffer, Operation
from .crypt import operation_of
from .numbers import AUTH, AUTH_MAX, SRTP_HEADER_MAX, AuthOp, Flag
from .session import CipherPart, HashPart, Piece, Plan, Session, check_size

_Compute = Callable[[Sequence[Buffer]], tuple[list[Buffer], AuthOp]]
"""Takes what was read; returns what is to be written, and the structure as the program gets it back."""


def plan_authcrypt(session: Session, call: AuthOp, argument: int) -> Plan:
    """CIOCAUTHCRYPT. Errors: InvalidValue, TooLarge."""
    if call.flags & (Flag.TLS | Flag.SRTP) and call.source != call.target:
        raise InvalidValue("source and target differ: TLS and SRTP work in place")
    operation = operation_of(call.operation)
    cipher = session.cipher
    if cipher is None:
        raise InvalidValue("CIOCAUTHCRYPT takes a session with a cipher")
    check_size(call.size)
    check_size(call.auth_size)
    mac, transform = session.mac, cipher.transform
    call = call._replace(tag_size=call.tag_size or session.digest_size or transform.authsize)
    encrypts = operation is Operation.ENCRYPT
    if call.flags & Flag.SRTP:
        reads, writes, compute = _srtp(cipher, mac, call, encrypts)
    elif transform.description.type is Type.AEAD:
        reads, writes, compute = _aead(cipher, call, encrypts)
    elif call.flags & Flag.TLS:
        reads, writes, compute = _tls(cipher, mac, call, encrypts)
    else:
        raise InvalidValue(f"{transform.description.name} is no AEAD: CIOCAUTHCRYPT needs a flag for TLS or SRTP")
    iv = [(call.iv, session.iv_size)] if call.iv and session.iv_size else []
    writes_iv = iv if call.flags & Flag.WRITE_IV else []

    def run(pieces: Sequence[Buffer]) -> list[Buffer]:
        session.reset_hash()
        if iv:
            cipher.iv = bytes(pieces[-1])
        out, changed = compute(pieces)
        return [*out, *([cipher.iv] if writes_iv else []), AUTH.pack(*changed)]

    return Plan([*reads, *iv], [*writes, *writes_iv, (argument, AUTH.size)], run)


def _check_auth_size(call: AuthOp) -> None:
    if call.auth_size > AUTH_MAX:
        raise InvalidValue(f"{call.auth_size} bytes of associated data: at most {AUTH_MAX}")


def _check_tag_size(mac: HashPart | None, call: AuthOp) -> None:
    if mac is not None and call.tag_size > mac.digest_size:
        name = mac.transform.description.name
        raise InvalidValue(f"tag of {call.tag_size} bytes: {name} has at most {mac.digest_size}")


def _taken(*pieces: Piece) -> list[Piece]:
    return [piece for piece in pieces if piece[1]]


def _aead(cipher: CipherPart, call: AuthOp, encrypts: bool) -> tuple[list[Piece], list[Piece], _Compute]:
    _check_auth_size(call)
    transform, size, tag_size = cipher.transform, call.size, call.tag_size
    if tag_size > transform.authsize:
        # A session keeps the size that was chosen last.
        raise InvalidValue(f"tag of {tag_size} bytes: this session has at most {transform.authsize}")
    transform.description.choose_authsize(tag_size)
    if not encrypts and size < tag_size:
        raise InvalidValue(f"{size} bytes to decrypt: the tag alone has {tag_size}")
    length = size + tag_size if encrypts else size - tag_size
    tag = call.target + (size if encrypts else length)

    def compute(pieces: Sequence[Buffer]) -> tuple[list[Buffer], AuthOp]:
        if tag_size != transform.authsize:
            transform.set_authsize(tag_size)
        given = pieces[: bool(call.auth_size) + bool(size)]
        data = given[0] if len(given) == 1 else b"".join(given)
        way = Operation.ENCRYPT if encrypts else Operation.DECRYPT
        out = transform.once(way, cipher.iv or None, call.auth_size, data)
        return ([out] if length else []), call._replace(size=length, tag=tag)

    return _taken((call.auth, call.auth_size), (call.source, size)), _taken((call.target, length)), compute


def _tls(
    cipher: CipherPart, mac: HashPart | None, call: AuthOp, encrypts: bool
) -> tuple[list[Piece], list[Piece], _Compute]:
    """The tag covers the text, and then both are padded and encrypted."""
    _check_auth_size(call)
    _check_tag_size(mac, call)
    if not call.target:
        raise InvalidValue("no target")
    block, size = cipher.transform.description.block_size, call.size
    tag_size = call.tag_size if mac is not None else 0
    reads = _taken((call.auth, call.auth_size), (call.source, size))

    def split(pieces: Sequence[Buffer]) -> tuple[Buffer, bytes]:
        auth: Buffer = pieces[0] if call.auth_size else b""
        return auth, bytes(pieces[bool(call.auth_size)]) if size else b""

    if encrypts:
        length = size + tag_size
        length += block - length % block if block > 1 else 0
        if not length:
            raise InvalidValue("no data")

        def encrypt(pieces: Sequence[Buffer]) -> tuple[list[Buffer], AuthOp]:
            auth, text = split(pieces)
            if mac is not None:
                mac.update(auth)
                text += mac.digest(text)[:tag_size]
            fill = length - len(text)
            text += bytes([fill - 1]) * fill if fill else b""
            return [cipher.crypt(Operation.ENCRYPT, text)], call._replace(size=length)

        return reads, [(call.target, length)], encrypt

    if not size or size % block:
        raise InvalidValue(f"{size} bytes to decrypt: a multiple of {block}, and not 0")
    if tag_size > size:
        raise InvalidValue(f"{size} bytes to decrypt: the tag alone has {tag_size}")

    def decrypt(pieces: Sequence[Buffer]) -> tuple[list[Buffer], AuthOp]:
        auth, data = split(pieces)
        out = bytes(cipher.crypt(Operation.DECRYPT, data))
        length, right = size, True
        if block > 1:
            padding = out[-1] + 1
            # What is wrong with the padding must not be told apart from a wrong tag.
            right = padding + tag_size <= size and out[size - padding :] == bytes([padding - 1]) * padding
            length -= padding if right else 0
        if mac is not None:
            length -= tag_size
            mac.update(auth)
            computed = mac.digest(out[:length])[:tag_size]
            if not hmac.compare_digest(computed, out[length : length + tag_size]) or not right:
                raise BadTag("the tag or the padding does not match")
        return [out], call._replace(size=length)

    return reads, [(call.target, size)], decrypt


def _srtp(
    cipher: CipherPart, mac: HashPart | None, call: AuthOp, encrypts: bool
) -> tuple[list[Piece], list[Piece], _Compute]:
    """The tag covers a header and what has been encrypted after it."""
    if not cipher.kind.streams:
        raise InvalidValue(f"{cipher.kind.name}: SRTP takes stream ciphers only")
    _check_tag_size(mac, call)
    size, tag_size = call.size, call.tag_size
    before = call.source - call.auth
    if not 0 <= before <= SRTP_HEADER_MAX:
        raise InvalidValue(f"the text begins {before} bytes after the authenticated data: 0 to {SRTP_HEADER_MAX}")
    if not call.auth_size or before + size > call.auth_size:
        raise InvalidValue(f"{call.auth_size} bytes of authenticated data: they contain {before + size}")
    if not size and not (encrypts and tag_size):
        raise InvalidValue("no data")
    reads: list[Piece] = [(call.auth, call.auth_size)]
    tag: list[Piece] = [(call.tag, tag_size)] if mac is not None and tag_size else []

    def tag_of(data: Buffer) -> list[Buffer]:
        return [mac.digest(data)[:tag_size]] if mac is not None and tag_size else []

    if encrypts:

        def encrypt(pieces: Sequence[Buffer]) -> tuple[list[Buffer], AuthOp]:
            data = bytearray(pieces[0])
            data[before : before + size] = out = cipher.crypt(Operation.ENCRYPT, bytes(data[before : before + size]))
            return ([out] if size else []) + tag_of(data), call

        return reads, [*_taken((call.target, size)), *tag], encrypt

    if tag and tag_size > size:
        raise InvalidValue(f"tag of {tag_size} bytes: more than the {size} bytes of data")

    def decrypt(pieces: Sequence[Buffer]) -> tuple[list[Buffer], AuthOp]:
        data = bytes(pieces[0])
        for computed, given in zip(tag_of(data), pieces[1 : 1 + len(tag)], strict=True):
            if not hmac.compare_digest(computed, given):
                raise BadTag("the tag does not match")
        return [cipher.crypt(Operation.DECRYPT, data[before : before + size])], call

    return [*reads, *tag], [(call.target, size)], decrypt
