"""The keyctl engine: RSA keys that are kept and used in the kernel.

A context's key goes into the keyring of the daemon's process when it is set, and is forgotten by the kernel when the
context closes; in between, the daemon's memory has no private key that could leak. The kernel computes (its RSA is
neither blinded nor of constant time). Keys that are on keyrings already are not taken by their serials: the daemon
would lend every key that it may use itself to every program.

`pkcs1pad(rsa)` encryption is left out: the kernel answers a wrong padding with an error, which is the oracle of
Bleichenbacher's attack.
"""

import contextlib
import errno
import itertools
from collections.abc import Iterable

from ...algorithms import Description, Name, Type, driver_name, look_up, parse_name
from ...errors import (
    EngineFault,
    InvalidValue,
    KeyMissing,
    KeyRejected,
    OutOfResources,
    OverQuota,
    SignatureMalformed,
    symbol,
)
from ...records import Attr, Buffer, Operation
from ...wiping import wipe
from .. import rsa_key
from ..base import Answer, Engine, Operands, Transform
from ..public import PublicKeyTransform, operand
from . import calls

_DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_LARGEST = 512
_CIPHER = frozenset({Operation.ENCRYPT, Operation.DECRYPT})
_SIGNATURE = frozenset({Operation.SIGN, Operation.VERIFY})
_NEEDS = {
    Operation.ENCRYPT: calls.CAN_ENCRYPT,
    Operation.DECRYPT: calls.CAN_DECRYPT,
    Operation.SIGN: calls.CAN_SIGN,
    Operation.VERIFY: calls.CAN_VERIFY,
}
_CALLS = {Operation.ENCRYPT: calls.ENCRYPT, Operation.DECRYPT: calls.DECRYPT, Operation.SIGN: calls.SIGN}
_serials = itertools.count(1)

NAMES: tuple[tuple[Type, str], ...] = (
    (Type.AKCIPHER, "rsa"),
    *((Type.AKCIPHER, f"pkcs1pad(rsa,{digest})") for digest in _DIGESTS),
    *((Type.SIG, f"pkcs1(rsa,{digest})") for digest in _DIGESTS),
)


class KeyctlEngine(Engine):
    """Offers RSA where the kernel does public key operations on its keys."""

    name = "keyctl"

    def __init__(self) -> None:
        self.kernel_keys = calls.quota() // 2  # the rest is for keys of devices, and for those that are being replaced
        self.available = calls.has_public_keys()
        if self.available:
            # before any thread starts, as each has its own view of the keyrings
            try:
                calls.make_process_keyring()
            except OSError:
                self.available = False

    def describe(self, type_: Type, name: str) -> Description | None:
        facts = look_up(type_, name) if self.available and (type_, name) in NAMES else None
        if facts is None:
            return None
        return Description.of(type_, name, self.name, driver_name(name, self.name), facts)

    def open(self, description: Description, authsize: int | None) -> Transform:
        description.choose_authsize(authsize)
        return KernelRsa(description, parse_name(description.name))

    def names(self) -> Iterable[tuple[Type, str]]:
        return NAMES if self.available else ()


class KernelRsa(PublicKeyTransform):
    """A transform whose key is in the kernel."""

    kernel_keys = 1

    slow_keys = True  # the kernel verifies a certificate that is signed with its own key

    def __init__(self, description: Description, name: Name) -> None:
        digest = str(name.arguments[1]) if len(name.arguments) == 2 else ""
        self.operations = _SIGNATURE if digest else _CIPHER
        self.streamed = frozenset(each for each in self.operations if each.row.stream)
        super().__init__(description)
        self._how = f"enc=pkcs1 hash={digest}".encode() if digest else b"enc=raw"
        hashed = look_up(Type.HASH, digest)
        self._digest_size = hashed.digest_size if hashed is not None else 0
        self._serial = 0
        self._information = calls.Information()

    def room(self, operation: Operation, size: int) -> int:
        return _LARGEST

    def replace_key(self, key: Buffer) -> None:
        held = bytearray(key)
        try:
            self._check_parts(held)
            serial = calls.add_asymmetric(f"cryptofs:{next(_serials)}".encode(), held)
        except OSError as error:
            raise self._refused(key, error) from None
        finally:
            wipe(held)
        try:
            information = calls.query(serial, self._how)
        except OSError as error:
            self._forget(serial)
            raise self._refused(key, error) from None
        self._forget(self._serial)
        self._serial, self._information = serial, information

    def _check_parts(self, key: bytearray) -> None:
        try:
            try:
                rsa_key.read(key)
            except rsa_key.WrongPart:
                raise
            except ValueError:
                rsa_key.read_certificate(key)
        except rsa_key.WrongPart as error:
            raise InvalidValue(f"key of {len(key)} bytes: {error}") from None
        except ValueError:
            raise self._wrong_form(key) from None

    def _refused(self, key: Buffer, error: OSError) -> Exception:
        if error.errno == errno.EDQUOT:
            return OverQuota("key: the kernel's quota of keys is used up (/proc/sys/kernel/keys)")
        if error.errno in (errno.ENOMEM, errno.ENFILE):
            return OutOfResources("key: the kernel has no memory for it")
        return self._wrong_form(key)

    def _wrong_form(self, key: Buffer) -> InvalidValue:
        return InvalidValue(
            f"key of {len(key)} bytes: {self.description.name} on keyctl takes an RSA key: PKCS#8 (for which the "
            "kernel needs its module pkcs8_key_parser) or an X.509 certificate, in DER"
        )

    def perform(self, operation: Operation, operands: Operands, data: Buffer) -> Answer:
        if not self._information.operations & _NEEDS[operation]:
            raise KeyMissing(f"{operation.word}: the key is of a certificate, only the public half")
        if self._digest_size and len(data) != self._digest_size:
            raise InvalidValue(f"payload of {len(data)} bytes: a digest of {self._digest_size} bytes")
        if operation is Operation.VERIFY:
            self._verify(operand(operation, operands, Attr.SIGNATURE), bytes(data))
            return b"", {}
        size = self._size
        given = bytes(data) if self._digest_size else bytes(data).lstrip(b"\0").rjust(size, b"\0")
        # 0 and 1 are their own powers: later kernels refuse them, so all do here
        if not self._digest_size and (len(given) != size or given <= bytes(size - 1) + b"\1"):
            raise InvalidValue(f"message of {len(data)} bytes: a number above 1 and below the modulus less 1")
        try:
            return calls.operate(_CALLS[operation], self._serial, self._how, given, size).rjust(size, b"\0"), {}
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOVERFLOW):
                raise InvalidValue(f"{operation.word}: the kernel does not take it with this key") from None
            raise EngineFault(f"{operation.word}: the kernel answered {symbol(error.errno)}") from None

    @property
    def _size(self) -> int:
        return int(self._information.key_size + 7) // 8

    def _verify(self, signature: bytes, data: bytes) -> None:
        if len(signature) != self._size:
            raise InvalidValue(f"signature of {len(signature)} bytes: with this key {self._size}")
        try:
            calls.verify(self._serial, self._how, data, signature)
        except OSError as error:
            if error.errno in (errno.EBADMSG, errno.EINVAL):
                # EINVAL: the padding's first byte, or a number that is not below the modulus; the size is right
                raise SignatureMalformed(
                    f"signature of {len(signature)} bytes: its padding is not that of PKCS #1 v1.5 under this key"
                ) from None
            if error.errno == errno.EKEYREJECTED:
                raise KeyRejected("the signature is not that of this message under this key") from None
            raise EngineFault(f"verify: the kernel answered {symbol(error.errno)}") from None

    def _forget(self, serial: int) -> None:
        if serial:
            with contextlib.suppress(OSError):
                calls.invalidate(serial)

    def close(self) -> None:
        self.keyed = False
        self._forget(self._serial)
        self._serial = 0
