"""A device whose key gets a new version in each round: what it answers, and that nothing it sealed is lost."""

import errno
import hashlib
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import write_private
from helpers.daemons import Daemon

from cryptofs.client import Context
from cryptofs.formats import sealed as format_
from cryptofs.records import Attr, Operation, Record

from .device_files import SEGMENT, segments

_KEPT = 8
"""Versions that are kept. The ones before go with the next rotation."""
_SURE = _KEPT - 2
"""Versions before the newest one seen that must open: a rotation may be under way."""
_REMEMBERED = 200
_TEXT_MAX = 100_000


def key_of(secret: bytes, version: int) -> bytes:
    """The key of a version."""
    return secret if version == 1 else hashlib.sha256(secret + version.to_bytes(4, "big")).digest()


def rotate(daemon: Daemon, directory: Path, secret: bytes, version: int) -> None:
    """Give the key another version, remove one that is too old, and have the daemon reload."""
    # With another name first: the daemon must not find half of a file.
    path = write_private(directory / ".new", key_of(secret, version))
    path.rename(directory / str(version))
    (directory / str(version - _KEPT)).unlink(missing_ok=True)
    daemon.process.send_signal(signal.SIGHUP)


@dataclass
class _Made:
    """What was sealed, as a record or as a file."""

    sealed: bytes
    text: bytes
    version: int
    is_file: bool


class RotatedDevice:
    """What the good client does with the device. newest: the highest version that an answer or a file has named.

    through: passes data through a stream file; seen: takes each nonce.
    """

    def __init__(
        self, secret: bytes, rng: Random, through: Callable[[str, bytes], bytes], seen: Callable[[bytes], object]
    ) -> None:
        self._secret = secret
        self._rng = rng
        self._through = through
        self._seen = seen
        self._made: deque[_Made] = deque(maxlen=_REMEMBERED)
        self.newest = 0

    def is_right(self, context: Context, data: bytes) -> bool:
        """Seal data, and open it and something older."""
        text = data[:_TEXT_MAX]
        made = self._file(text) if self._rng.random() < 0.3 else self._record(context, text)
        if made is None:
            return False
        self.newest = max(self.newest, made.version)
        self._made.append(made)
        return all(self._opens(context, each) for each in (made, self._rng.choice(self._made)))

    def _record(self, context: Context, text: bytes) -> _Made | None:
        answer = context.request(Record(Operation.ENCRYPT, 0, context.new_id(), 0, {}, text), len(text) + 28)
        sealed, version = bytes(answer.payload), _version(answer)
        self._seen(sealed[:12])
        plain = AESGCM(key_of(self._secret, version)).decrypt(sealed[:12], sealed[12:], b"")
        return _Made(sealed, text, version, False) if plain == text else None

    def _file(self, text: bytes) -> _Made | None:
        sealed = self._through("encrypt", text)
        size = format_.head_size(sealed)
        version, bound, plain = format_.parse_head(sealed).version or 1, sealed[16:size], b""
        pieces = segments(sealed[size - 32 :])
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            self._seen(piece[:12])
            associated = bound + index.to_bytes(8, "big") + bytes([last])
            plain += AESGCM(key_of(self._secret, version)).decrypt(piece[:12], piece[12:], associated)
        whole = plain == text and len(pieces[-1]) < 12 + SEGMENT + 16
        return _Made(sealed, text, version, True) if whole else None

    def _opens(self, context: Context, made: _Made) -> bool:
        try:
            if made.is_file:
                return self._through("decrypt", made.sealed) == made.text
            record = Record(Operation.DECRYPT, 0, context.new_id(), 0, {}, made.sealed)
            answer = context.request(record, len(made.sealed))
            return bytes(answer.payload) == made.text and _version(answer) == made.version
        except OSError as error:
            gone = made.version <= self.newest - _SURE
            return gone and error.errno in (errno.ENOKEY, errno.EBADMSG)
        except InvalidTag:
            return False


def _version(answer: Record) -> int:
    """Of the key: a device whose only version is 1 does not name it."""
    version = answer.attributes.get(Attr.KEY_VERSION, 1)
    assert isinstance(version, int)
    return version
