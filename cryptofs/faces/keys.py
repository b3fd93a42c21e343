"""The key pairs of a mount's devices that the calling user may use."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..client import Context

_ELSEWHERE = (errno.EACCES, errno.EPERM, errno.ENOENT)
"""Another user's device, or one that a reload has just removed."""


RSA_ANY_DIGEST = "pkcs1(rsa,none)"
"""The algorithm that signs the description of a digest and the digest."""


@dataclass(frozen=True)
class DeviceKey:
    """A device with a key pair. public: its public half, as SubjectPublicKeyInfo in DER."""

    device: str
    algorithm: str
    public: bytes


@dataclass(frozen=True)
class DeviceKeys:
    """The devices of a mount that have a key pair. only: the names of those to use; empty: all that the user may
    open."""

    mount: Path
    only: frozenset[str] = frozenset()

    def find(self, algorithms: Mapping[str, str]) -> list[DeviceKey]:
        """The devices of these algorithms that tell their public key, by their names; devices of other users are left
        out. algorithms: by their names, an operation that the device must allow.

        Errors: OSError if the mount does not answer.
        """
        return [key for name in self._names() if (key := self._look_at(name, algorithms)) is not None]

    @contextmanager
    def open(self, key: DeviceKey) -> Iterator[Context]:
        """A context of the key's device, if that still has this key. Errors: OSError (ENOKEY if it has another one)."""
        with Context.of_device(key.device, mount=self.mount) as context:
            if context.public_key("der") != key.public:
                raise OSError(errno.ENOKEY, f"device {key.device} has another key now")
            yield context

    def _names(self) -> list[str]:
        devices = sorted(path.name for path in (self.mount / "devices").iterdir())
        return [name for name in devices if not self.only or name in self.only]

    def _look_at(self, name: str, algorithms: Mapping[str, str]) -> DeviceKey | None:
        try:
            # Not an open of every `crypto`: each makes a context, and a line of the audit trail.
            status = (self.mount / "devices" / name / "status").read_text()
            told = dict(line.split(": ", 1) for line in status.splitlines())
            needed = {algorithms.get(told["name"]), "public-key"}
            if not needed.issubset(told["operations"].split()):
                return None
            with Context.of_device(name, mount=self.mount) as context:
                public = context.public_key("der")
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                raise
            return None
        return DeviceKey(name, told["name"], public)
