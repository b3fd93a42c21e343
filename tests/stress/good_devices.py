"""The good client's part on devices: what they seal, it opens with the keys themselves, and the other way round."""

import contextlib
import errno
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from cryptography.hazmat.primitives.padding import PKCS7

from cryptofs.client import Context
from cryptofs.records import Attr, Operation, Record

from .declared import Keys
from .device_files import SEGMENT, segments
from .kinds import ROTATED
from .rotation import RotatedDevice

_MAGIC = b"cryptofs file 1\n"
_PIECE = 100_000
_CONTEXTS = ("gcm", "authenc", "cbc", "ctr", "mac", "drop", "restore", "signer", ROTATED)

Check = Callable[[bytes], bool]


def _associated(identity: bytes, index: int, last: bool) -> bytes:
    return identity + index.to_bytes(8, "big") + bytes([last])


class GoodDevices:
    """Each check takes data and says whether all was right. keys: the devices' own.

    nonces: those that were seen, with the device's name before them. numbers: of the contexts that are open.
    """

    def __init__(self, mount: Path, rng: Random, keys: Keys) -> None:
        self._mount = mount
        self._rng = rng
        self._keys = keys
        self._signer = Ed25519PrivateKey.from_private_bytes(keys.signer).public_key()
        self._contexts: dict[str, Context] = {}
        self.nonces: list[bytes] = []
        self.rotated = RotatedDevice(keys.rotated, rng, partial(self._through, ROTATED), partial(self._seen, ROTATED))

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(context.number for context in self._contexts.values())

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Check, ...]]:
        """Open a context of each device; gives the checks."""
        with contextlib.ExitStack() as stack:
            for name in _CONTEXTS:
                self._contexts[name] = stack.enter_context(Context.of_device(name, mount=self._mount))
            yield (
                self._gcm_device,
                self._gcm_stream,
                self._authenc_device,
                self._cbc_stream,
                self._ctr_device,
                self._mac_device,
                self._drop_and_restore,
                self._signer_device,
                self._rotated_device,
            )
        self._contexts.clear()

    def _seen(self, device: str, nonce: bytes) -> bytes:
        self.nonces.append(device.encode() + nonce)
        return nonce

    def _through(self, device: str, file: str, data: bytes) -> bytes:
        """A message through a stream file, in writes of any size. Errors: OSError."""
        fd = os.open(self._mount / "devices" / device / file, os.O_RDWR)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view[: self._rng.randrange(1, _PIECE)]) :]
            return b"".join(iter(lambda: os.read(fd, _PIECE), b""))
        finally:
            os.close(fd)

    def _gcm_device(self, data: bytes) -> bool:
        context, assoc, text = self._contexts["gcm"], data[:20], data[20:]
        sealed = context.encrypt(text, assoc=assoc)
        nonce = self._seen("gcm", sealed[:12])
        right = AESGCM(self._keys.gcm).decrypt(nonce, sealed[12:], assoc) == text
        own = self._rng.randbytes(12)
        foreign = own + AESGCM(self._keys.gcm).encrypt(own, text, assoc)
        return right and context.decrypt(sealed, assoc=assoc) == text == context.decrypt(foreign, assoc=assoc)

    def _gcm_stream(self, data: bytes) -> bool:
        sealed = self._through("gcm", "encrypt", data)
        return self._open_file("gcm", self._keys.gcm, sealed) == data == self._through("gcm", "decrypt", sealed)

    def _open_file(self, device: str, key: bytes, sealed: bytes) -> bytes:
        """Open a sealed file, by docs/devices.md. Errors: InvalidTag."""
        pieces = segments(sealed)
        if sealed[:16] != _MAGIC or len(pieces[-1]) >= 12 + SEGMENT + 16:
            return b"no sealed file"
        identity = sealed[16:32]
        plain = []
        for index, piece in enumerate(pieces):
            associated = _associated(identity, index, index == len(pieces) - 1)
            plain.append(AESGCM(key).decrypt(self._seen(device, piece[:12]), piece[12:], associated))
        return b"".join(plain)

    def _authenc_device(self, data: bytes) -> bool:
        context, assoc = self._contexts["authenc"], data[:12]
        text = data[: len(data) - len(data) % 16]
        sealed = context.encrypt(text, assoc=assoc)
        nonce = self._seen("authenc", sealed[:16])
        tagged = hmac.digest(self._keys.authenc_mac, nonce + assoc + sealed[16:-32], "sha256")
        plain = _decrypted(Cipher(AES(self._keys.authenc_cipher), CBC(nonce)), sealed[16:-32])
        return tagged == sealed[-32:] and plain == text == context.decrypt(sealed, assoc=assoc)

    def _cbc_stream(self, data: bytes) -> bool:
        sealed = self._through("cbc", "encrypt", data)
        padded = _decrypted(Cipher(AES(self._keys.cbc), CBC(self._seen("cbc", sealed[:16]))), sealed[16:])
        remover = PKCS7(128).unpadder()
        plain = remover.update(padded) + remover.finalize()
        whole = data[: len(data) - len(data) % 16]
        context = self._contexts["cbc"]
        by_records = context.encrypt(whole)
        self._seen("cbc", by_records[:16])
        return plain == data == self._through("cbc", "decrypt", sealed) and context.decrypt(by_records) == whole

    def _ctr_device(self, data: bytes) -> bool:
        context = self._contexts["ctr"]
        sealed = context.encrypt(data)
        nonce = self._seen("ctr", sealed[:16])
        own = self._rng.randbytes(16)
        given = _decrypted(Cipher(AES(self._keys.ctr), CTR(own)), context.encrypt(data, own))
        return _decrypted(Cipher(AES(self._keys.ctr), CTR(nonce)), sealed[16:]) == data == given

    def _mac_device(self, data: bytes) -> bool:
        right = hmac.digest(self._keys.mac, data, "sha256")
        return self._contexts["mac"].digest(data) == right == self._through("mac", "digest", data)

    def _drop_and_restore(self, data: bytes) -> bool:
        """What one seals and cannot open, the other opens and cannot seal."""
        sealed = self._through("drop", "encrypt", data)
        opened = self._through("restore", "decrypt", sealed) == data == self._open_file("drop", self._keys.drop, sealed)
        refused = []
        for device, operation in (("drop", Operation.DECRYPT), ("restore", Operation.ENCRYPT)):
            record = Record(operation, 0, 1, 0, {Attr.ASSOCLEN: 0}, sealed[32 : 32 + 4096])
            refused.append(self._refusal(device, record))
        return opened and refused == [errno.EACCES, errno.EACCES]

    def _refusal(self, device: str, record: Record) -> int | None:
        try:
            self._contexts[device].request(record, 8192)
        except OSError as error:
            return error.errno
        return None

    def _rotated_device(self, data: bytes) -> bool:
        return self.rotated.is_right(self._contexts[ROTATED], data)

    def _signer_device(self, data: bytes) -> bool:
        context = self._contexts["signer"]
        digest = hashlib.sha512(data).digest()
        signature = context.sign(digest)
        self._signer.verify(signature, digest)
        return context.verify(signature, digest) and self._through("signer", "sign", digest) == signature


def _decrypted(cipher: Cipher[CBC] | Cipher[CTR], text: bytes) -> bytes:
    decryptor = cipher.decryptor()
    return decryptor.update(text) + decryptor.finalize()
