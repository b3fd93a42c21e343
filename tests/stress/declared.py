"""What the attacked daemon is configured with: devices whose keys are canaries, and rules for the hostile users."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from .kinds import CANARY, DEVICE_KINDS, ROTATED, RSA_PRIME

FIRST_UID = 65_000
"""The hostile clients' uids begin here, where there are several."""
_PIECE = 16

DEVICES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(DEVICE_KINDS, ("", "0666")),
    "ctr": ('nonce = "caller"', "0666"),
    "drop": ('operations = ["encrypt"]', "0666"),
    # the same key as drop: what that seals, only its owner opens
    "restore": ('operations = ["decrypt"]', "0600"),
}
"""By name: what its section says besides type, name and key; its mode."""

STREAMS: dict[str, tuple[str, ...]] = {
    "gcm": ("encrypt", "decrypt"),
    "cbc": ("encrypt", "decrypt"),
    "mac": ("digest",),
    "drop": ("encrypt",),
    "signer": ("sign",),
}
"""Stream files by device, of those that anybody may use."""
CLOSED = (*[("drop", "decrypt")] * 3, ("restore", "decrypt"), ("restore", "crypto"), ("restore", "encrypt"))
"""Device and file of what a hostile client may not open."""

DENIED = ("md5", "crc32c", "ecb(aes)")
"""Names that the first hostile user is refused."""
CONTEXTS_MAX = 60
REQUESTS_MAX = 1000
QUEUE_BYTES_MAX = 4 * 1024 * 1024
RATE_MAX = 3000

RULES = (
    f"deny = {list(DENIED)}\nprofile = 'standard'\ncontexts = {CONTEXTS_MAX}\n"
    f"requests = {REQUESTS_MAX}\nqueue-bytes = {QUEUE_BYTES_MAX}\n",
    f"profile = 'standard'\nqueue-bytes = {QUEUE_BYTES_MAX}\n",
    f"rate = {RATE_MAX}\n",
)
"""What holds for the hostile users, in their order."""


@dataclass(frozen=True)
class Keys:
    """The devices' keys. They are drawn for this run, so whatever looks like one of them is one of them."""

    gcm: bytes
    authenc_mac: bytes
    authenc_cipher: bytes
    cbc: bytes
    ctr: bytes
    mac: bytes
    drop: bytes
    signer: bytes
    rotated: bytes

    @classmethod
    def drawn(cls, rng: Random) -> "Keys":
        """32 bytes each."""
        return cls(*(rng.randbytes(32) for _ in cls.__dataclass_fields__))

    def files(self) -> dict[str, bytes]:
        """What a device's key file holds, by device."""
        authenc = struct.pack("<HH", 8, 1) + struct.pack(">I", len(self.authenc_cipher))
        signer = Ed25519PrivateKey.from_private_bytes(self.signer)
        return {
            "gcm": self.gcm,
            "authenc": authenc + self.authenc_mac + self.authenc_cipher,
            "cbc": self.cbc,
            "ctr": self.ctr,
            "mac": self.mac,
            "drop": self.drop,
            "restore": self.drop,
            ROTATED: self.rotated,
            "signer": signer.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        }


class Secrets:
    """Bytes that nobody may be shown: raw, or as hexadecimal digits."""

    def __init__(self, keys: Keys) -> None:
        named = {"a hostile client's own": CANARY[:16], "a hostile client's own RSA": RSA_PRIME}
        named |= {f"the device's {name}": getattr(keys, name) for name in keys.__dataclass_fields__}
        self._pieces = [
            (form, name)
            for name, key in named.items()
            for at in range(0, len(key) - _PIECE + 1, _PIECE)
            for form in _forms(key[at : at + _PIECE])
        ]

    def shown(self, data: bytes) -> str | None:
        """Whose key these bytes show a piece of, or None."""
        return next((name for piece, name in self._pieces if piece in data), None)


def _forms(piece: bytes) -> tuple[bytes, bytes, bytes]:
    digits = piece.hex()
    return piece, digits.encode(), digits.upper().encode()


def write(directory: Path, keys: Keys, several_users: bool) -> Path:
    """Write the configuration and the key files below `directory`; returns the configuration's path.

    several_users: whether the hostile clients have uids, and so rules, of their own.
    """
    sections = []
    if several_users:
        sections += [f"[policy.users.{FIRST_UID + index}]\n{rule}" for index, rule in enumerate(RULES)]
    for name, data in keys.files().items():
        more, mode = DEVICES[name]
        settings = DEVICE_KINDS[{"restore": "drop"}.get(name, name)].configuration
        type_, algorithm = settings.values()
        if name == ROTATED:
            path = key_set(directory)
            path.mkdir(0o700, exist_ok=True)
            _private(path / "1", data)
        else:
            path = _private(directory / f"{name}.key", data)
        sections.append(
            f'[devices.{name}]\ntype = "{type_}"\nname = "{algorithm}"\nuser = {os.geteuid()}\n'
            f'mode = "{mode}"\nkey.{"directory" if path.is_dir() else "file"} = "{path}"\n{more}\n'
        )
    return _private(directory / "cryptofs.toml", "\n".join(sections).encode())


def key_set(directory: Path) -> Path:
    """Where the versions of the rotated device's key are."""
    return directory / f"{ROTATED}.keys"


def _private(path: Path, data: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(data)
    return path
