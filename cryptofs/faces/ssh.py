"""The protocol of OpenSSH's agent, for the devices that sign.

An SSH key is a public key. Several devices may have the same key pair for different digests, as `pkcs1(rsa,sha256)` and
`pkcs1(rsa,sha512)` do; together they are one SSH key.
"""

import base64
import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ..algorithms import digest_info
from .keys import RSA_ANY_DIGEST, DeviceKey, DeviceKeys
from .server import receive

log = logging.getLogger("cryptofs")

MESSAGE_MAX = 256 * 1024
"""Bytes of a message, in both directions, as in OpenSSH."""

# Numbers of the protocol. To every other message the answer is SSH_AGENT_FAILURE.
_FAILURE, _SUCCESS = 5, 6
_REQUEST_IDENTITIES, _IDENTITIES_ANSWER = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_EXTENSION = 27
_BIND = b"session-bind@openssh.com"
"""The extension by which ssh says what a connection is for, before others may use it."""
_RSA_SHA2_256, _RSA_SHA2_512 = 2, 4
"""Flags of a sign request. Other keys take none."""


class Malformed(Exception):
    """A message that is not of the protocol. Its text is for the log."""


class Refused(Exception):
    """A request that the agent does not serve. Its text is for the log."""


# Strings, as in RFC 4251


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _mpint(number: int) -> bytes:
    # One more byte if the first bit is set, because the number is signed.
    return _string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        return bytes(self._take(self.number()))

    def byte(self) -> int:
        return self._take(1)[0]

    def end(self) -> None:
        if len(self._left):
            raise Malformed(f"{len(self._left)} bytes after the end of a message")

    def _take(self, size: int) -> memoryview:
        if size > len(self._left):
            raise Malformed(f"{size} bytes expected, {len(self._left)} left")
        taken, self._left = self._left[:size], self._left[size:]
        return taken


# What SSH signs

_LOGIN = 50
"""SSH_MSG_USERAUTH_REQUEST"""
_SIGNED_DATA = b"SSHSIG"


def _is_of_ssh(data: bytes, key: bytes) -> bool:
    """Whether these data are a login with this key (RFC 4252, section 7), or what `ssh-keygen -Y sign` signs."""
    try:
        if data.startswith(_SIGNED_DATA):
            reader = _Reader(data[len(_SIGNED_DATA) :])
            for _part in ("namespace", "reserved", "digest's name", "digest"):
                reader.string()
            reader.end()
            return True
        reader = _Reader(data)
        _session, number = reader.string(), reader.byte()
        _user, service, method = reader.string(), reader.string(), reader.string()
        signs, _algorithm, blob = reader.byte(), reader.string(), reader.string()
        if method == b"publickey-hostbound-v00@openssh.com":
            reader.string()
        reader.end()
    except Malformed:
        return False
    return (number, service, signs, blob) == (_LOGIN, b"ssh-connection", 1, key) and method.startswith(b"publickey")


# Signatures


def _as_it_is(signature: bytes) -> bytes:
    return signature


def _of_der(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return _mpint(r) + _mpint(s)


def _of_halves(signature: bytes) -> bytes:
    half = len(signature) // 2
    return b"".join(_mpint(int.from_bytes(each, "big")) for each in (signature[:half], signature[half:]))


@dataclass(frozen=True)
class _Scheme:
    """How a device's algorithm makes an SSH signature. name: of the signature; digest: what the device signs, None for
    the message itself; flag: of the sign request; blob: SSH's form of the device's signature."""

    name: bytes
    digest: str | None
    flag: int = 0
    blob: Callable[[bytes], bytes] = _as_it_is


_RSA_256 = _Scheme(b"rsa-sha2-256", "sha256", _RSA_SHA2_256)
_RSA_512 = _Scheme(b"rsa-sha2-512", "sha512", _RSA_SHA2_512)
_SCHEMES: Mapping[str, tuple[_Scheme, ...]] = {
    "ed25519": (_Scheme(b"ssh-ed25519", None),),
    "pkcs1(rsa,sha256)": (_RSA_256,),
    "pkcs1(rsa,sha512)": (_RSA_512,),
    RSA_ANY_DIGEST: (_RSA_256, _RSA_512),
    **{
        form.format(f"ecdsa-nist-{curve}"): (_Scheme(b"ecdsa-sha2-nist" + curve.encode(), digest, 0, blob),)
        for curve, digest in (("p256", "sha256"), ("p384", "sha384"), ("p521", "sha512"))
        for form, blob in (("{}", _of_der), ("x962({})", _of_der), ("p1363({})", _of_halves))
    },
}
"""By the names of devices' algorithms."""

ALGORITHMS = dict.fromkeys(_SCHEMES, "sign")
"""What the devices of the agent must be able to do."""


@dataclass
class SshKey:
    """One key, as ssh sees it. blob: the public key in SSH's form; devices: by the flag of a sign request."""

    blob: bytes
    devices: dict[int, tuple[DeviceKey, _Scheme]] = field(default_factory=dict)

    @property
    def comment(self) -> str:
        """The names of its devices."""
        return " ".join(dict.fromkeys(key.device for key, _ in self.devices.values()))

    def choose(self, flags: int) -> tuple[DeviceKey, _Scheme] | None:
        """The device for a sign request with these flags; None if it asks for a digest that no device has.

        An RSA key without a flag would sign with SHA-1, which no verifier should take: it signs with SHA-2 instead.
        """
        flag = flags & _RSA_SHA2_256 or flags & _RSA_SHA2_512
        if flag in self.devices or 0 in self.devices:
            return self.devices.get(0) or self.devices[flag]
        return None if flag else self.devices[min(self.devices)]


class SshAgent:
    """Answers the messages of one connection. For one thread at a time."""

    def __init__(self, keys: DeviceKeys) -> None:
        self._keys = keys
        self._is_forwarded = False

    def keys(self) -> list[SshKey]:
        """The keys that the agent has now. Errors: OSError if the mount does not answer."""
        found: dict[bytes, SshKey] = {}
        for key in self._keys.find(ALGORITHMS):
            blob = _public_blob(key.public)
            # The first of several devices that do the same.
            devices = found.setdefault(blob, SshKey(blob)).devices
            for scheme in _SCHEMES[key.algorithm]:
                devices.setdefault(scheme.flag, (key, scheme))
        return list(found.values())

    def answer(self, message: bytes) -> bytes:
        """The answer to a message, both without their size in front. Errors: Malformed: close the connection."""
        try:
            if message[0] == _REQUEST_IDENTITIES:
                return self._list()
            if message[0] == _SIGN_REQUEST:
                return self._sign(_Reader(message[1:]))
            if message[0] == _EXTENSION and message.startswith(_string(_BIND), 1):
                return self._bind(_Reader(message[1:]))
            log.info(
                "ssh-agent: message %d: it lists keys and signs; the mount's configuration has the keys", message[0]
            )
        except (OSError, Refused) as error:
            log.info("ssh-agent: refused: %s", error)
        return bytes([_FAILURE])

    def _list(self) -> bytes:
        answer, count = bytearray(), 0
        for key in self.keys():
            entry = _string(key.blob) + _string(key.comment.encode())
            if 5 + len(answer) + len(entry) > MESSAGE_MAX:
                log.warning(
                    "ssh-agent: the list of keys ends after %d: a message has at most %d bytes", count, MESSAGE_MAX
                )
                break
            answer += entry
            count += 1
        return bytes([_IDENTITIES_ANSWER]) + count.to_bytes(4, "big") + answer

    def _bind(self, reader: _Reader) -> bytes:
        """What ssh says before it forwards a connection to a host: from then on, others speak."""
        _name, _host_key, _session, _signature = (reader.string() for _ in range(4))
        # Never back: the host speaks on the same connection.
        self._is_forwarded |= bool(reader.byte())
        reader.end()
        return bytes([_SUCCESS])

    def _sign(self, reader: _Reader) -> bytes:
        blob, data, flags = reader.string(), reader.string(), reader.number()
        reader.end()
        if self._is_forwarded and not _is_of_ssh(data, blob):
            raise Refused("a forwarded connection: it signs logins and what ssh-keygen -Y sign makes, nothing else")
        wanted = next((key for key in self.keys() if key.blob == blob), None)
        if wanted is None:
            raise Refused("no device of this user has the key")
        chosen = wanted.choose(flags)
        if chosen is None:
            raise Refused(
                f"{wanted.comment}: no signature with the flags {flags:#x} (2: rsa-sha2-256, 4: rsa-sha2-512)"
            )
        key, scheme = chosen
        if scheme.digest is not None:
            data = hashlib.new(scheme.digest, data).digest()
            if key.algorithm == RSA_ANY_DIGEST:
                data = digest_info.describe(scheme.digest)[0] + data
        with self._keys.open(key) as context:
            signature = context.sign(data)
        return bytes([_SIGN_RESPONSE]) + _string(_string(scheme.name) + _string(scheme.blob(signature)))


def _public_blob(public: bytes) -> bytes:
    line = load_der_public_key(public).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return base64.b64decode(line.split()[1])


async def serve_client(keys: DeviceKeys, stream: trio.SocketStream) -> None:
    """Answer a client's messages until it goes, or sends one that is not of the protocol. Errors: Closed."""
    agent = SshAgent(keys)
    while True:
        size = int.from_bytes(await receive(stream, 4), "big")
        if not 0 < size <= MESSAGE_MAX:
            log.warning("ssh-agent: a message of %d bytes: a message has 1 to %d", size, MESSAGE_MAX)
            return
        message = await receive(stream, size)
        try:
            # In a thread, because the mount may have to compute, or may not answer at all.
            answer = await trio.to_thread.run_sync(functools.partial(agent.answer, message), abandon_on_cancel=True)
        except Malformed as error:
            log.warning("ssh-agent: %s", error)
            return
        await stream.send_all(_string(answer))
