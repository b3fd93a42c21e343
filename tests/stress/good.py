"""The good client: it works all the time beside the hostile ones and checks every byte against its own computation."""

import functools
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from cryptofs.client import Context
from cryptofs.records import Operation

from .declared import Keys
from .good_devices import GoodDevices

_SIZES = (0, 16, 32, 64, 1024, 4096, 16_384)
_LARGE = (100_000, 1_000_000)
_SHOWN = 10
_REMEMBERED = 50_000


@dataclass
class GoodResult:
    """What it did. longest: seconds that its slowest request took; nonces: as in AttackResult."""

    requests: int = 0
    bytes: int = 0
    longest: float = 0.0
    nonces: list[bytes] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    newest: int = 0
    """Version of the rotated key."""

    def add(self, other: "GoodResult") -> None:
        """Take a later round into account."""
        self.requests += other.requests
        self.bytes += other.bytes
        self.longest = max(self.longest, other.longest)
        self.nonces += other.nonces
        self.wrong += other.wrong
        self.newest = max(self.newest, other.newest)


class GoodClient:
    """Five contexts and those of devices, and what each must answer.

    seed: of its data; keys: the devices'; tell: gets the contexts' numbers.
    """

    def __init__(self, mount: Path, seed: str, keys: Keys, tell: Callable[[tuple[int, ...]], None]) -> None:
        self._rng = Random(seed)
        self._mount = mount
        self._tell = tell
        self._key = self._rng.randbytes(32)
        self._devices = GoodDevices(mount, self._rng, keys)
        self._random_seen: set[bytes] = set()
        self.result = GoodResult()

    def run(self, until: Callable[[], bool]) -> GoodResult:
        """Work until told to stop; the contexts are closed then."""
        self.result = GoodResult()
        key = self._key
        with (
            Context("hash", "sha256", mount=self._mount) as sha,
            Context("hash", "hmac(sha256)", key, mount=self._mount) as mac,
            Context("skcipher", "cbc(aes)", key, mount=self._mount) as cbc,
            Context("aead", "gcm(aes)", key, mount=self._mount) as gcm,
            Context("rng", "stdrng", mount=self._mount) as rng,
            self._devices.opened() as device_checks,
        ):
            self._tell((sha.number, mac.number, cbc.number, gcm.number, rng.number, *self._devices.numbers))
            checks: tuple[tuple[Callable[[Context, bytes], bool], Context], ...] = (
                (self._digest, sha),
                (self._parts, sha),
                (self._hmac, mac),
                (self._cbc, cbc),
                (self._gcm, gcm),
                (self._rng_fresh, rng),
            )
            while not until():
                size = self._rng.choice(_SIZES if self._rng.random() < 0.99 else _LARGE)
                data = self._rng.randbytes(size)
                for check, context in checks:
                    self._once(check.__name__, functools.partial(check, context, data), data)
                check_device = device_checks[int(self._rng.random() * len(device_checks))]
                self._once(check_device.__name__, functools.partial(check_device, data), data)
        self.result.nonces = self._devices.nonces
        self._devices.nonces = []
        self.result.newest = self._devices.rotated.newest
        self._tell(())
        return self.result

    def _once(self, name: str, check: Callable[[], bool], data: bytes) -> None:
        began = time.monotonic()
        what = f"good client: {name.strip('_')} of {len(data)} bytes"
        try:
            wrong = None if check() else f"{what} is wrong"
        except (OSError, InvalidTag, InvalidSignature) as error:
            wrong = f"{what}: {error or type(error).__name__}"
        if wrong and len(self.result.wrong) < _SHOWN:
            self.result.wrong.append(wrong)
        self.result.longest = max(self.result.longest, time.monotonic() - began)
        self.result.requests += 1
        self.result.bytes += len(data)

    def _digest(self, context: Context, data: bytes) -> bool:
        return context.digest(data) == hashlib.sha256(data).digest()

    def _parts(self, context: Context, data: bytes) -> bool:
        message = context.message(Operation.DIGEST)
        half = len(data) // 2
        return message.update(data[:half]) + message.finish(data[half:]) == hashlib.sha256(data).digest()

    def _hmac(self, context: Context, data: bytes) -> bool:
        return context.digest(data) == hmac.digest(self._key, data, "sha256")

    def _cbc(self, context: Context, data: bytes) -> bool:
        iv = self._rng.randbytes(16)
        data = data[: len(data) - len(data) % 16]
        encryptor = Cipher(AES(self._key), CBC(iv)).encryptor()
        sealed = encryptor.update(data) + encryptor.finalize()
        return context.encrypt(data, iv) == sealed and context.decrypt(sealed, iv) == data

    def _gcm(self, context: Context, data: bytes) -> bool:
        iv = self._rng.randbytes(12)
        assoc, text = data[:20], data[20:]
        sealed = AESGCM(self._key).encrypt(iv, text, assoc)
        return context.encrypt(text, iv, assoc) == sealed and context.decrypt(sealed, iv, assoc) == text

    def _rng_fresh(self, context: Context, data: bytes) -> bool:
        """As long as asked for, and never the same 16 bytes: by chance that takes 2^64 of them."""
        size = 16 + len(data) % 4096
        drawn = context.generate(size)
        fresh = drawn[:16] not in self._random_seen
        if len(self._random_seen) < _REMEMBERED:
            self._random_seen.add(drawn[:16])
        return fresh and len(drawn) == size
