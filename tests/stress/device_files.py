"""Hostile acts on the stream files of devices: tampered files, messages left in the middle, what may not be opened."""

import errno
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from . import hostile
from .declared import CLOSED, STREAMS
from .result import symbol
from .sidefiles import SideFiles
from .talk import Talker, patiently

_HEAD = 32
SEGMENT = 65_536
NONCE, TAG = 12, 16
_SEALED = NONCE + SEGMENT + TAG
_SIZES = (0, 1, 15, 16, 100, 5000)
_LARGE = (SEGMENT - 1, SEGMENT, SEGMENT + 1, 150_000)
_CUTS = (1, 16, 31, 33, 4096, 20_000)
"""Bytes of one write."""
_FLOOD = 20 * 1024 * 1024
_PIECE = 131_072

STREAM_ERRNOS = {errno.EDQUOT, errno.EFBIG, errno.EAGAIN, errno.ECANCELED}
"""What a stream file may answer besides the errnos of its operation."""


def segments(sealed: bytes) -> list[bytes]:
    """The segments of a sealed file, by docs/devices.md."""
    return [sealed[at : at + _SEALED] for at in range(_HEAD, len(sealed), _SEALED)]


@dataclass
class Outcome:
    """What a message through a stream file gave: the bytes read, the errnos met, how much was written."""

    data: bytes = b""
    errnos: list[int] = field(default_factory=list)
    written: int = 0


# How a sealed file is changed


def _flip(rng: Random, sealed: bytes) -> bytes:
    data = bytearray(sealed)
    data[rng.randrange(len(data))] ^= 1 << rng.getrandbits(3)
    return bytes(data)


def _cut(rng: Random, sealed: bytes) -> bytes:
    return sealed[: rng.randrange(len(sealed))]


def _cut_head(rng: Random, sealed: bytes) -> bytes:
    return sealed[: rng.randrange(_HEAD + 1)]


def _cut_segment(rng: Random, sealed: bytes) -> bytes:
    pieces = segments(sealed)
    return sealed[:_HEAD] + b"".join(pieces[: rng.randrange(len(pieces))])


def _swap(rng: Random, sealed: bytes) -> bytes:
    pieces = segments(sealed)
    rng.shuffle(pieces)
    return sealed[:_HEAD] + b"".join(pieces)


def _twice(rng: Random, sealed: bytes) -> bytes:
    return sealed + (sealed[_HEAD:] if rng.random() < 0.5 else sealed)


def _extend(rng: Random, sealed: bytes) -> bytes:
    return sealed + rng.randbytes(rng.choice((1, 12, 28, 100)))


def _headless(rng: Random, sealed: bytes) -> bytes:
    return sealed[_HEAD:]


def _noise(rng: Random, sealed: bytes) -> bytes:
    return sealed[:16] + rng.randbytes(rng.choice((0, 16, 17, 44, 200)))


TAMPERINGS = (_flip, _flip, _cut, _cut_head, _cut_segment, _swap, _twice, _extend, _headless, _noise)


class DeviceFiles:
    """The acts. foreign: whether devices of mode 0600 are another user's."""

    def __init__(self, mount: Path, talk: Talker, side: SideFiles, foreign: bool) -> None:
        self._mount = mount
        self._talk = talk
        self._side = side
        self._closed = CLOSED if foreign else CLOSED[:1]
        self._acts: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.40, self._tamper),
            (0.58, self._abandon),
            (0.68, self._interleave),
            (0.84, self._wrong_open),
            (0.89, self._meddle),
            (1.0, self._anything),
        )

    def act(self) -> None:
        """One of them."""
        chance = self._talk.rng.random()
        next(act for bound, act in self._acts if chance < bound)()

    # Whole messages

    def _path(self, device: str, file: str) -> Path:
        return self._mount / "devices" / device / file

    def _open(self, device: str, file: str) -> int:
        path = self._path(device, file)
        return patiently(lambda: os.open(path, os.O_RDWR))

    def _write(self, fd: int, data: bytes, outcome: Outcome) -> None:
        """Write until all is written or a write fails."""
        rng = self._talk.rng
        size = max(rng.choice(_CUTS), len(data) // 10)
        while outcome.written < len(data):
            self._talk.count(1, True)
            try:
                outcome.written += os.write(fd, data[outcome.written : outcome.written + size])
            except OSError as error:
                self._note(outcome, error)
                return

    def _read(self, fd: int, outcome: Outcome) -> None:
        """Read to the end of the file or an error."""
        rng = self._talk.rng
        pieces = []
        try:
            while piece := os.read(fd, rng.choice((1, 100, 4096)) if rng.random() < 0.05 else _PIECE):
                pieces.append(piece)
        except OSError as error:
            self._note(outcome, error)
        outcome.data += b"".join(pieces)
        self._talk.look(outcome.data, "a stream file")

    def _note(self, outcome: Outcome, error: OSError) -> None:
        outcome.errnos.append(error.errno or 0)
        self._talk.result.verdicts[symbol(error.errno)] += 1
        if error.errno == errno.EDQUOT:
            self._talk.result.limits["stream queue-bytes"] += 1
        if error.errno == errno.EFBIG:
            self._talk.result.limits["device stream"] += 1

    def _pass(self, device: str, file: str, data: bytes) -> Outcome:
        """One message through a stream file."""
        outcome = Outcome()
        self._talk.result.files += 1
        fd = self._open(device, file)
        try:
            self._write(fd, data, outcome)
            self._read(fd, outcome)
        finally:
            os.close(fd)
        self._judge(file, outcome)
        return outcome

    def _judge(self, file: str, outcome: Outcome, also: Collection[int] = ()) -> None:
        allowed = self._talk.errnos.operation(file) | STREAM_ERRNOS | set(also)
        for number in outcome.errnos:
            if number not in allowed:
                self._talk.fault(f"stream file {file}: {symbol(number)}")

    def _plain(self) -> bytes:
        rng = self._talk.rng
        return rng.randbytes(rng.choice(_SIZES if rng.random() < 0.9 else _LARGE))

    def _sealed(self, device: str, plain: bytes) -> bytes | None:
        """Sealed by the device; None where a quota said no."""
        outcome = self._pass(device, "encrypt", plain)
        if outcome.errnos:
            return None
        self._check_sealed(device, plain, outcome.data)
        return outcome.data

    def _check_sealed(self, device: str, plain: bytes, sealed: bytes) -> None:
        pieces = segments(sealed)
        for piece in pieces:
            self._talk.note_nonce(device, piece[:NONCE])
        count = len(plain) // SEGMENT + 1
        if len(sealed) != _HEAD + len(plain) + count * (NONCE + TAG) or len(pieces) != count:
            self._talk.fault(f"{len(plain)} bytes sealed by {device} are {len(sealed)}")

    def _check_opened(self, sealed: bytes, plain: bytes, whole: bool) -> None:
        """What opens is the text, or, of a file that was changed, a beginning of it, and then an error."""
        outcome = self._pass("gcm", "decrypt", sealed)
        if errno.EDQUOT in outcome.errnos:
            return
        if not plain.startswith(outcome.data):
            self._talk.fault(f"a sealed file of {len(sealed)} bytes opened to bytes that never were in it")
        if whole and (outcome.errnos or outcome.data != plain):
            self._talk.fault(f"a sealed file of {len(plain)} bytes did not open: {outcome.errnos}")
        if not whole and errno.EBADMSG not in outcome.errnos:
            self._talk.fault(f"a changed file of {len(sealed)} bytes opened: {outcome.errnos}")

    # The acts

    def _tamper(self) -> None:
        rng = self._talk.rng
        plain = self._plain()
        device = "gcm" if rng.random() < 0.8 else "drop"
        sealed = self._sealed(device, plain)
        if sealed is None:
            return
        if rng.random() < 0.1:
            self._check_opened(sealed, plain if device == "gcm" else b"", device == "gcm")
            return
        self._talk.result.tampered += 1
        changed = rng.choice(TAMPERINGS)(rng, sealed)
        self._check_opened(changed, plain if device == "gcm" else b"", changed == sealed and device == "gcm")

    def _abandon(self) -> None:
        """Close in the middle of a message, with output unread or not."""
        rng = self._talk.rng
        device = rng.choice(tuple(STREAMS))
        file = rng.choice(STREAMS[device])
        outcome = Outcome()
        turned: set[int] = set()
        fd = self._open(device, file)
        try:
            for _ in range(rng.choice((0, 1, 2))):
                outcome.written = 0
                self._write(fd, rng.randbytes(rng.choice(_SIZES)), outcome)
                if outcome.errnos:
                    break
                if rng.random() < 0.3:
                    # that ends the message: what is written behind it is refused
                    turned = {errno.EBUSY}
                    try:
                        self._talk.look(os.read(fd, rng.choice((1, 10, 4096))), "a stream file")
                    except OSError as error:
                        self._note(outcome, error)
        finally:
            os.close(fd)
        self._judge(file, outcome, turned)

    def _interleave(self) -> None:
        """Two opens of one file at the same time: two messages."""
        plains = self._plain(), self._plain()
        outcomes = Outcome(), Outcome()
        fds: list[int] = []
        try:
            fds += [self._open("gcm", "encrypt")]
            fds += [self._open("gcm", "encrypt")]
            for part in range(2):
                for fd, plain, outcome in zip(fds, plains, outcomes, strict=True):
                    half = len(plain) // 2
                    outcome.written = 0
                    self._write(fd, plain[half:] if part else plain[:half], outcome)
            for fd, outcome in zip(fds, outcomes, strict=True):
                self._read(fd, outcome)
        finally:
            for fd in fds:
                os.close(fd)
        for plain, outcome in zip(plains, outcomes, strict=True):
            self._judge("encrypt", outcome)
            if not outcome.errnos:
                self._check_sealed("gcm", plain, outcome.data)
                self._check_opened(outcome.data, plain, True)

    def _wrong_open(self) -> None:
        """Files that are not this user's, operations that the device does not allow, one direction only."""
        talk, rng = self._talk, self._talk.rng
        talk.count(1, True)
        mode = rng.choice((os.O_RDWR, os.O_RDONLY, os.O_WRONLY)) | rng.choice((0, os.O_TRUNC, os.O_APPEND, os.O_CREAT))
        if rng.random() < 0.5:
            device, file = rng.choice(self._closed)
            if talk.attempt(f"open {device}/{file}", {errno.EACCES}, lambda: self._opened(device, file, mode)) == 0:
                talk.fault(f"{device}/{file} opens")
            talk.result.limits["device"] += 1
            return
        device = rng.choice(tuple(STREAMS))
        file = rng.choice((*STREAMS[device], "status", "sign", "digest", "nothing"))
        allowed = talk.errnos.device_open
        if talk.attempt(f"open {device}/{file}", allowed, lambda: self._opened(device, file, mode)) == 0 and (
            file in STREAMS[device] and mode & os.O_ACCMODE != os.O_RDWR
        ):
            talk.fault(f"{device}/{file} opens for one direction")
        talk.look(self._path(device, "status").read_bytes(), "a device's status")

    def _opened(self, device: str, file: str, mode: int) -> None:
        os.close(os.open(self._path(device, file), mode, 0o600))

    def _meddle(self) -> None:
        """While a message is under way: its context's own files, wrong calls, then on with it."""
        talk, rng = self._talk, self._talk.rng
        device = rng.choice(tuple(STREAMS))
        file = rng.choice(STREAMS[device])
        before = self._side.contexts()
        fd = self._open(device, file)
        outcome = Outcome()
        try:
            self._write(fd, rng.randbytes(100), outcome)
            for directory in self._side.opened_since(before):
                self._side.control_with(directory, hostile.line(rng))
                talk.look((directory / "status").read_bytes(), "a status")
                other = os.open(directory / "stream", os.O_RDWR | os.O_NONBLOCK)
                try:
                    allowed = talk.errnos.control | STREAM_ERRNOS
                    talk.attempt("stream", allowed, lambda other=other: os.write(other, b"and more"))  # type: ignore[misc]
                    talk.attempt("stream", allowed, lambda other=other: talk.look(os.read(other, 100), "a stream"))  # type: ignore[misc]
                finally:
                    os.close(other)
            self._side.ioctl(fd)
            self._side.wrong_calls(fd, seekable=False)
            outcome.written = 0
            self._write(fd, rng.randbytes(100), outcome)
            self._read(fd, outcome)
        finally:
            os.close(fd)
        # what was reset to decrypt has decryption's errnos
        allowed = talk.errnos.control | STREAM_ERRNOS
        for number in outcome.errnos:
            if number not in allowed:
                talk.fault(f"{device}/{file}, meddled with: {symbol(number)}")

    def _anything(self) -> None:
        """Bytes at random, through any stream file."""
        rng = self._talk.rng
        device = rng.choice(tuple(STREAMS))
        self._pass(device, rng.choice(STREAMS[device]), self._plain())

    def flood(self) -> None:
        """More than a descriptor holds, or than the user's quota: the writer is told, and the reader, too."""
        outcome = Outcome()
        piece = bytes(_PIECE)
        fd = self._open("gcm", "encrypt")
        try:
            total = 0
            while total < _FLOOD and not outcome.errnos:
                outcome.written = 0
                self._write(fd, piece, outcome)
                total += outcome.written
            self._read(fd, outcome)
        finally:
            os.close(fd)
        self._judge("encrypt", outcome)
        if len(outcome.errnos) != 2:
            self._talk.fault(f"{total} bytes unread in one descriptor: {outcome.errnos}")
