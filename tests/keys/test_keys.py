"""Where keys come from: what is refused, what is wiped, and that no key is in any text; keyrings with a real kernel.

The keyring tests with AF_ALG need the guest: `scripts/guest .venv/bin/python -m pytest tests/keys/test_keys.py`.
"""

import ctypes
import errno
import itertools
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.fake_engine import FakeEngine

from cryptofs.algorithms import Type
from cryptofs.engines.af_alg import AfAlgEngine
from cryptofs.engines.af_alg.transform import KernelTransform
from cryptofs.engines.base import Transform
from cryptofs.engines.keyctl.payload import read
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.errors import CryptofsError, InvalidValue, KeyUnavailable, NotOffered, NotSupported
from cryptofs.formats.token_uri import TokenObject
from cryptofs.keys import KEY_MAX, ByteSource, CredentialKey, FileKey, KeyringKey, KeySource, TokenKey, keyctl, secret
from cryptofs.records import Operation

ENCRYPT, DIGEST = Operation.ENCRYPT, Operation.DIGEST
CANARY = b"canary-key-71f4-0123456789abcdef"
assert len(CANARY) == 32
OPENSSL = OpensslEngine()
IV = bytes(range(16))
root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root")


def key_file(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def ciphertext(transform: Transform) -> bytes:
    with closing(transform):
        return _cbc(transform)


def _cbc(transform: Transform) -> bytes:
    out = memoryview(bytearray(64))
    return bytes(out[: transform.once(ENCRYPT, IV, 0, bytes(32), out)])


def opened(source: KeySource, *engines: object) -> bytes:
    """What a source's key encrypts a fixed message to."""
    return ciphertext(source.open(engines or (OPENSSL,), Type.SKCIPHER, "cbc(aes)", None))  # type: ignore[arg-type]


def with_bytes(key: bytes) -> bytes:
    description = OPENSSL.describe(Type.SKCIPHER, "cbc(aes)")
    assert description is not None
    transform = OPENSSL.open(description, None)
    transform.set_key(key)
    return ciphertext(transform)


def everything_said(error: BaseException) -> str:
    """The error with all it came from, and its traceback's lines."""
    return str(error) + repr(error) + "".join(traceback.format_exception(error))


class Secrets:
    """Every bytearray that a source has made."""

    def __init__(self) -> None:
        self.seen: list[bytearray] = []

    def spy(self, function: Callable[..., bytearray]) -> Callable[..., bytearray]:
        def spying(*arguments: object) -> bytearray:
            made = function(*arguments)
            assert any(made)
            self.seen.append(made)
            return made

        return spying

    @property
    def wiped(self) -> bool:
        return bool(self.seen) and not any(any(one) for one in self.seen)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """Watches every place where a secret comes into the process or takes another form."""
    watch = Secrets()
    monkeypatch.setattr("cryptofs.keys.files.read_whole", watch.spy(secret.read_whole))
    monkeypatch.setattr("cryptofs.keys.files.from_hexadecimal", watch.spy(secret.from_hexadecimal))
    monkeypatch.setattr("cryptofs.keys.keyring.read", watch.spy(read))
    return watch


# Files


def test_file(tmp_path: Path, secrets: Secrets) -> None:
    """A raw key, to the byte: a newline at its end belongs to it."""
    assert opened(FileKey(key_file(tmp_path, CANARY))) == with_bytes(CANARY)
    assert opened(FileKey(key_file(tmp_path, CANARY[:31] + b"\n"))) == with_bytes(CANARY[:31] + b"\n")
    assert len(secrets.seen) == 2
    assert secrets.wiped


@pytest.mark.parametrize("end", ["", "\n"])
def test_hexadecimal(tmp_path: Path, secrets: Secrets, end: str) -> None:
    """Digits of both cases, and one newline at the end."""
    digits = CANARY.hex()
    path = key_file(tmp_path, (digits[:32].upper() + digits[32:] + end).encode())
    assert opened(FileKey(path, hexadecimal=True)) == with_bytes(CANARY)
    assert len(secrets.seen) == 2
    assert secrets.wiped


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610, 0o601, 0o666, 0o444])
def test_mode(tmp_path: Path, mode: int) -> None:
    """A file that group or others may reach is refused, and the error says how it is."""
    with pytest.raises(KeyUnavailable, match=f"mode {mode:04o}") as caught:
        opened(FileKey(key_file(tmp_path, CANARY, mode)))
    assert str(tmp_path / "key") in caught.value.message


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_modes_that_do(tmp_path: Path, mode: int) -> None:
    """The owner's bits do not matter."""
    assert opened(FileKey(key_file(tmp_path, CANARY, mode))) == with_bytes(CANARY)


@root
def test_owner(tmp_path: Path) -> None:
    """A file of another user is refused; root's and one's own are not."""
    path = key_file(tmp_path, CANARY)
    os.chown(path, 12345, 0)
    with pytest.raises(KeyUnavailable, match="uid 12345"):
        opened(FileKey(path))


@root
def test_as_another_user(tmp_path: Path) -> None:
    """A process without rights opens its own file, and no other."""
    os.chmod(tmp_path, 0o711)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    path = key_file(tmp_path, CANARY)
    expected = with_bytes(CANARY)
    os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        assert opened(FileKey(path)) == expected
    finally:
        os.seteuid(0)
    os.chown(path, 0, 0)
    os.seteuid(65534)
    try:
        with pytest.raises(KeyUnavailable, match="EACCES"):
            opened(FileKey(path))
    finally:
        os.seteuid(0)


def test_what_is_no_file(tmp_path: Path) -> None:
    """Links, directories, fifos, devices and what is not there are refused at once."""
    path = key_file(tmp_path, CANARY)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "directory").mkdir(0o700)
    cases = {
        "link": "symbolic link",
        "fifo": "not a regular file",
        "directory": "not a regular file",
        "nowhere": "key source gone: file .*nowhere: no such file",
        "key/below": "key source gone",
    }
    for name, said in cases.items():
        with pytest.raises(KeyUnavailable, match=said) as caught:
            opened(FileKey(tmp_path / name))
        assert caught.value.errno == errno.ENOKEY
    with pytest.raises(KeyUnavailable, match="not a regular file"):
        opened(FileKey(Path("/dev/zero")))


def test_sizes(tmp_path: Path) -> None:
    """Empty, too large, and the largest."""
    with pytest.raises(KeyUnavailable, match="empty"):
        opened(FileKey(key_file(tmp_path, b"")))
    with pytest.raises(InvalidValue, match=f"{KEY_MAX + 1} bytes: at most {KEY_MAX}"):
        FileKey(key_file(tmp_path, bytes(KEY_MAX + 1))).read()
    assert FileKey(key_file(tmp_path, bytes(KEY_MAX))).read() == bytes(KEY_MAX)
    assert FileKey(key_file(tmp_path, b"00" * KEY_MAX + b"\n"), hexadecimal=True).read() == bytes(KEY_MAX)
    with pytest.raises(InvalidValue):
        FileKey(key_file(tmp_path, b"00" * KEY_MAX + b"00"), hexadecimal=True).read()
    # no memory is taken for a file that only claims to be large
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "sparse").chmod(0o600)
    with pytest.raises(InvalidValue):
        FileKey(tmp_path / "sparse").read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"canary", "character 3 is no"),
        (b"00112233canary", "character 11 is no"),
        (b"001", "3 characters"),
        (b"\n", "0 characters"),
        (b"0011\n\n", "5 characters"),
        (b"00 11\n", "5 characters"),
        (b"00\n11\n", "5 characters"),
        (b" 0011 ", "character 1 is no"),
        (b"0x0011", "character 2 is no"),
        (b"\xc2\xb2\xc2\xb3", "character 1 is no"),
        (b"0011\r\n", "5 characters"),
    ],
    ids=range(11),
)
def test_wrong_hexadecimal(tmp_path: Path, secrets: Secrets, text: bytes, said: str) -> None:
    """The error tells where, and no part of the text; what was read is wiped."""
    source = FileKey(key_file(tmp_path, text), hexadecimal=True)
    with pytest.raises(KeyUnavailable, match=said) as caught:
        opened(source)
    assert "canary" not in everything_said(caught.value)
    if len(text) > 3:
        assert text.decode("latin-1").strip() not in everything_said(caught.value).replace(str(tmp_path), "")
    assert len(secrets.seen) == 1
    assert secrets.wiped


def test_changing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets: Secrets) -> None:
    """A file that grows or shrinks between its size and its bytes is half a key: refused."""
    path = key_file(tmp_path, CANARY)
    original = os.preadv
    for size in (33, 31):

        def change(descriptor: int, buffers: list[memoryview], offset: int, size: int = size) -> int:
            os.truncate(path, size)
            return original(descriptor, buffers, offset)

        monkeypatch.setattr(os, "preadv", change)
        with pytest.raises(KeyUnavailable, match="changed"):
            opened(FileKey(path))
        monkeypatch.setattr(os, "preadv", original)
        path.write_bytes(CANARY)


def test_handed_over(tmp_path: Path) -> None:
    """A descriptor of a starter is read from its start each time, wherever it is, and stays open."""
    path = key_file(tmp_path, CANARY, 0o644)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.lseek(descriptor, 7, os.SEEK_SET)
        source = FileKey(path, descriptor=descriptor)
        path.unlink()
        for _ in range(2):
            assert opened(source) == with_bytes(CANARY)
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 7
    finally:
        os.close(descriptor)
    with pytest.raises(KeyUnavailable, match="EBADF"):
        opened(source)
    ends = os.pipe()
    try:
        with pytest.raises(KeyUnavailable, match="not a regular file"):
            opened(FileKey(path, descriptor=ends[0]))
    finally:
        os.close(ends[0])
        os.close(ends[1])


def test_memory_file() -> None:
    """A memfd of a starter does as well."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, CANARY)
        assert opened(FileKey(Path("memory"), descriptor=descriptor)) == with_bytes(CANARY)
    finally:
        os.close(descriptor)


# What a key is used for


@pytest.mark.parametrize(
    ("type_", "name", "authsize", "kind"),
    [
        (Type.SKCIPHER, "cbc(nothing)", None, NotOffered),
        (Type.HASH, "sha256", None, InvalidValue),  # takes no key
        (Type.SKCIPHER, "xts(aes)", None, InvalidValue),  # equal halves
        (Type.SKCIPHER, "cbc(des3_ede)", None, InvalidValue),  # 24 bytes
        (Type.AEAD, "gcm(aes)", 5, InvalidValue),
    ],
)
def test_keys_that_do_not_fit(
    tmp_path: Path, secrets: Secrets, type_: Type, name: str, authsize: int | None, kind: type[CryptofsError]
) -> None:
    """Each refusal has its class; the key is wiped, and in no part of the error."""
    source = FileKey(key_file(tmp_path, CANARY[:16] * 2))
    with pytest.raises(kind) as caught:
        source.open((OPENSSL,), type_, name, authsize)
    assert "canary" not in everything_said(caught.value)
    assert secrets.wiped


def test_wrong_size_names_both(tmp_path: Path) -> None:
    """The source, and the sizes that would do."""
    path = key_file(tmp_path, CANARY[:31])
    with pytest.raises(InvalidValue, match=f"file {path}: key of 31 bytes: cbc\\(aes\\) takes 16 24 32 bytes"):
        opened(FileKey(path))


def test_first_engine_that_offers(tmp_path: Path) -> None:
    """Engines are asked in order; one that lacks the name is passed over."""
    source = FileKey(key_file(tmp_path, CANARY))
    with closing(source.open((FakeEngine(), OPENSSL), Type.SKCIPHER, "cbc(aes)", None)) as transform:
        assert transform.description.engine == "openssl"
    with closing(source.open((FakeEngine(), OPENSSL), Type.SKCIPHER, "cbc(toy)", None)) as transform:
        assert transform.description.engine == "fake"
    with pytest.raises(NotOffered, match="none"):
        source.open((), Type.SKCIPHER, "cbc(aes)", None)


def test_engine_that_fails(tmp_path: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever set_key raises: the transform is closed and the key wiped."""
    closed: list[Transform] = []
    monkeypatch.setattr("helpers.fake_engine.FakeEngine.open", _failing(closed, FakeEngine.open))
    for error in (ZeroDivisionError, KeyboardInterrupt, InvalidValue("no")):
        _raised[0] = error
        with pytest.raises((ZeroDivisionError, KeyboardInterrupt, InvalidValue)):
            FileKey(key_file(tmp_path, CANARY)).open((FakeEngine(),), Type.SKCIPHER, "cbc(toy)", None)
    assert len(closed) == 3
    assert secrets.wiped


_raised: list[BaseException | type[BaseException]] = [ZeroDivisionError]


def _failing(closed: list[Transform], original: Callable[..., Transform]) -> Callable[..., Transform]:
    def open_failing(*arguments: object) -> Transform:
        transform = original(*arguments)

        def refuse(key: object) -> None:
            raise _raised[0]

        def close() -> None:
            closed.append(transform)

        transform.set_key, transform.close = refuse, close  # type: ignore[method-assign]
        return transform

    return open_failing


# Credentials


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def test_credential(credentials: Path, secrets: Secrets) -> None:
    """As systemd leaves it: 0400, or 0440 where an access list lets the service's user in."""
    for mode in (0o400, 0o440):
        path = key_file(credentials, CANARY, mode)
        assert opened(CredentialKey("key")) == with_bytes(CANARY)
        path.unlink()
    path = key_file(credentials, CANARY.hex().encode(), 0o400)
    assert opened(CredentialKey("key", hexadecimal=True)) == with_bytes(CANARY)
    assert secrets.wiped


@pytest.mark.parametrize("mode", [0o460, 0o444, 0o442, 0o450])
def test_credential_mode(credentials: Path, mode: int) -> None:
    """Anything more than that is refused."""
    key_file(credentials, CANARY, mode)
    with pytest.raises(KeyUnavailable, match=f"{mode:04o}"):
        opened(CredentialKey("key"))


@pytest.mark.parametrize("name", ["", ".", "..", "../key", "a/b", "/etc/passwd", "a\0b", "a\nb", "x" * 256])
def test_credential_names(credentials: Path, name: str) -> None:
    """A name is one file name."""
    with pytest.raises(KeyUnavailable, match="one file name"):
        opened(CredentialKey(name))


def test_credential_missing(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credential, and no credentials at all."""
    with pytest.raises(KeyUnavailable, match="key source gone: credential 'key': no such file"):
        opened(CredentialKey("key"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "relative")
    with pytest.raises(KeyUnavailable, match="absolute"):
        opened(CredentialKey("key"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(KeyUnavailable, match="CREDENTIALS_DIRECTORY is not set"):
        opened(CredentialKey("key"))


# Keyrings

_LIBC = ctypes.CDLL(None, use_errno=True)
_ADD_KEY, _KEYCTL = {"x86_64": (248, 250)}.get(platform.machine(), (217, 219))
_USER, _PROCESS, _REVOKE, _UNLINK, _SET_TIMEOUT = -4, -2, 3, 9, 15
_numbers = itertools.count()


def add_key(kind: str, description: str, payload: bytes, ring: int = _USER) -> int:
    serial = _LIBC.syscall(_ADD_KEY, kind.encode(), description.encode(), payload, ctypes.c_size_t(len(payload)), ring)
    if serial < 0:
        raise OSError(ctypes.get_errno(), "add_key")
    return int(serial)


def has_keyrings() -> bool:
    try:
        serial = add_key("user", "cryptofs-test-probe", b"x", _PROCESS)
    except OSError:
        return False
    _LIBC.syscall(_KEYCTL, _UNLINK, serial, _PROCESS)
    return True


keyrings = pytest.mark.skipif(
    not has_keyrings(), reason="NOT RUN: keyrings are not permitted here; ./scripts/test runs it in the guest"
)


@pytest.fixture
def add() -> Iterator[Callable[..., str]]:
    """Adds keys to the user keyring and gives their description; they are unlinked in the end."""
    added: list[int] = []

    def make(payload: bytes = CANARY, kind: str = "user") -> str:
        description = f"cryptofs:test-{os.getpid()}-{next(_numbers)}"
        added.append(add_key(kind, description, payload))
        return description

    make.serials = added  # type: ignore[attr-defined]
    yield make
    for serial in added:
        _LIBC.syscall(_KEYCTL, _UNLINK, serial, _USER)


def thread_keyring() -> list[str]:
    """The keys that the thread's own keyring holds."""
    serial = _LIBC.syscall(_KEYCTL, 0, -1, 0)
    if serial < 0:
        return []
    text = ctypes.create_string_buffer(1024)
    size = _LIBC.syscall(_KEYCTL, 11, serial, text, ctypes.c_size_t(1024))
    return [text.raw[:size].hex()] if size else []


@keyrings
def test_keyring_bytes(add: Callable[..., str], secrets: Secrets) -> None:
    """OpenSSL gets a user key's bytes, which are wiped; the thread keeps nothing of it."""
    assert opened(KeyringKey(add())) == with_bytes(CANARY)
    assert len(secrets.seen) == 1
    assert secrets.wiped
    assert thread_keyring() == []


@keyrings
def test_keyring_wrong_size(add: Callable[..., str], secrets: Secrets) -> None:
    """A key that does not fit is wiped as well."""
    with pytest.raises(InvalidValue, match="takes 16 24 32 bytes") as caught:
        opened(KeyringKey(add(CANARY[:31])))
    assert "canary-key" not in everything_said(caught.value)
    assert secrets.wiped
    with pytest.raises(InvalidValue, match=f"more than {KEY_MAX}"):
        opened(KeyringKey(add(bytes(KEY_MAX + 1))))


@keyrings
def test_only_the_users_keyring(add: Callable[..., str]) -> None:
    """A key stays in the user's keyring, and one of another keyring is not found."""
    description = add()
    for _ in range(2):
        assert opened(KeyringKey(description)) == with_bytes(CANARY)
    elsewhere = f"cryptofs:test-{os.getpid()}-process"
    serial = add_key("user", elsewhere, CANARY, _PROCESS)
    try:
        with pytest.raises(KeyUnavailable, match="key source gone"):
            opened(KeyringKey(elsewhere))
    finally:
        _LIBC.syscall(_KEYCTL, _UNLINK, serial, _PROCESS)


@keyrings
def test_keyring_gone(add: Callable[..., str]) -> None:
    """Missing, revoked, and expired."""
    with pytest.raises(KeyUnavailable, match=r"key source gone: .*no such key .ENOKEY") as caught:
        opened(KeyringKey("cryptofs:test-nothing"))
    assert caught.value.errno == errno.ENOKEY
    revoked, expired = add(), add()
    _LIBC.syscall(_KEYCTL, _REVOKE, add.serials[0])  # type: ignore[attr-defined]
    with pytest.raises(KeyUnavailable, match=r"key source gone: .*revoked"):
        opened(KeyringKey(revoked))
    _LIBC.syscall(_KEYCTL, _SET_TIMEOUT, add.serials[1], 1)  # type: ignore[attr-defined]
    time.sleep(1.5)
    with pytest.raises(KeyUnavailable, match=r"key source gone: .*(expired|no such key)"):
        opened(KeyringKey(expired))


@keyrings
def test_logon_key_needs_the_kernel(add: Callable[..., str]) -> None:
    """OpenSSL alone cannot have a logon key, and the error says why; no process could read it."""
    description = add(kind="logon")
    with pytest.raises(KeyUnavailable, match=r"openssl takes keys as bytes only.*cannot read keys of type logon"):
        opened(KeyringKey(description, kind="logon"))
    with pytest.raises(OSError), keyctl.held("logon", description) as serial:
        read(serial, KEY_MAX)
    # the same description with another type is another key
    with pytest.raises(KeyUnavailable, match="no such key"):
        opened(KeyringKey(description, kind="user"))


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "keyring"}, {"kind": "asymmetric"}, {"description": ""}, {"description": "a\0b"}],
)
def test_keyring_settings(wrong: dict[str, str]) -> None:
    """What cannot be is refused when it is written down."""
    with pytest.raises(InvalidValue):
        KeyringKey(**{"description": "x", **wrong})


def test_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is made with a number that is not this machine's."""
    monkeypatch.setattr(platform, "machine", lambda: "unknown")
    with pytest.raises(KeyUnavailable, match="ENOSYS"):
        opened(KeyringKey("x"))


def takes_serials() -> bool:
    """Whether this kernel has ALG_SET_KEY_BY_KEY_SERIAL: it is in UML's 7.2 and not in Debian's 6.1."""
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    return release >= (6, 2)


ALGORITHMS = [
    (Type.SKCIPHER, "cbc(aes)", 16),
    (Type.SKCIPHER, "ctr(aes)", 16),
    (Type.AEAD, "gcm(aes)", 12),
    (Type.HASH, "hmac(sha256)", 0),
]


@pytest.mark.af_alg
@keyrings
@pytest.mark.parametrize(("type_", "name", "iv_size"), ALGORITHMS)
def test_serial_gives_the_same_bytes(
    add: Callable[..., str], secrets: Secrets, type_: Type, name: str, iv_size: int
) -> None:
    """A key by its number computes what its bytes compute, and never comes into the process."""
    operation = DIGEST if type_ is Type.HASH else ENCRYPT
    outputs = []
    for source, engine in ((KeyringKey(add()), AfAlgEngine()), (KeyringKey(add()), OPENSSL)):
        secrets.seen.clear()
        with closing(source.open((engine,), type_, name, None)) as transform:
            assert transform.keyed
            assert transform.key_set
            for _ in range(2):
                out = memoryview(bytearray(128))
                outputs.append(bytes(out[: transform.once(operation, IV[:iv_size] or None, 0, CANARY, out)]))
        if engine is not OPENSSL and takes_serials():
            assert secrets.seen == []
        else:
            assert secrets.wiped
    assert len(set(outputs)) == 1


@pytest.mark.af_alg
@keyrings
def test_logon_key(add: Callable[..., str]) -> None:
    """A logon key works in AF_ALG alone, where the kernel can; OpenSSL after it does not matter."""
    source = KeyringKey(add(kind="logon"), kind="logon")
    if takes_serials():
        assert opened(source, AfAlgEngine(), OPENSSL) == with_bytes(CANARY)
        assert opened(source, OPENSSL, AfAlgEngine()) == with_bytes(CANARY)
    else:
        with pytest.raises(KeyUnavailable, match="af_alg cannot take a key from the keyring"):
            opened(source, AfAlgEngine(), OPENSSL)


@pytest.mark.af_alg
@keyrings
def test_serial_refusals(add: Callable[..., str]) -> None:
    """A wrong size is EINVAL, and a transform that had a key keeps it; a number that is no key is ENOKEY."""
    if not takes_serials():
        pytest.skip("NOT RUN: this kernel has no ALG_SET_KEY_BY_KEY_SERIAL")
    with pytest.raises(InvalidValue, match="takes 16 24 32 bytes"):
        opened(KeyringKey(add(CANARY[:31], kind="logon"), kind="logon"), AfAlgEngine())
    with pytest.raises(InvalidValue, match="takes no key"):
        KeyringKey(add()).open((AfAlgEngine(),), Type.HASH, "sha256", None)
    with closing(KeyringKey(add()).open((AfAlgEngine(),), Type.SKCIPHER, "cbc(aes)", None)) as transform:
        assert isinstance(transform, KernelTransform)
        before = _cbc(transform)
        for serial in (0x7FFF_FFFF, add_key("keyring", "cryptofs:test-ring", b"")):
            with pytest.raises((KeyUnavailable, NotSupported)):
                transform.set_key_serial(serial)
        wrong = add(CANARY[:15])
        with keyctl.held("user", wrong) as number, pytest.raises(InvalidValue):
            transform.set_key_serial(number)
        assert _cbc(transform) == before
        with keyctl.held("user", add(CANARY[:16])) as number:
            transform.set_key_serial(number)
        assert _cbc(transform) == with_bytes(CANARY[:16])
        # the kernel has its own copy: what is opened goes on
        _LIBC.syscall(_KEYCTL, _REVOKE, add.serials[-1])  # type: ignore[attr-defined]
        assert _cbc(transform) == with_bytes(CANARY[:16])
    _LIBC.syscall(_KEYCTL, _UNLINK, serial, _USER)


@pytest.mark.af_alg
@keyrings
def test_session_without_the_users_keyring(add: Callable[..., str]) -> None:
    """A service's session keyring is empty: its user's key is found, read and used all the same."""
    description, logon = add(), add(kind="logon")
    child = os.fork()
    if not child:
        status = 1
        try:
            _LIBC.syscall(_KEYCTL, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING: a new one
            good = opened(KeyringKey(description)) == with_bytes(CANARY)
            if takes_serials():
                good = good and opened(KeyringKey(logon, kind="logon"), AfAlgEngine()) == with_bytes(CANARY)
            status = not good
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


# No copy in memory

_HOLDER = """
import sys
from pathlib import Path
from cryptofs.algorithms import Type
from cryptofs.engines.openssl import OpensslEngine
from cryptofs.keys import FileKey, KeyringKey
source = {"file": lambda: FileKey(Path(sys.argv[2])), "hex": lambda: FileKey(Path(sys.argv[2]), True),
          "keyring": lambda: KeyringKey(sys.argv[2])}[sys.argv[1]]()
transform = source.open((OpensslEngine(),), Type[sys.argv[3]], sys.argv[4], None)
print("open", flush=True)
sys.stdin.readline()
transform.close()
del transform
print("closed", flush=True)
sys.stdin.readline()
"""


def copies(pid: int, needles: list[bytes]) -> int:
    """How often any of these bytes are in the memory of a process."""
    found = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            places, rights = line.split()[:2]
            begin, end = (int(place, 16) for place in places.split("-"))
            if "r" not in rights or begin >= 1 << 47:
                continue
            try:
                memory.seek(begin)
                content = memory.read(end - begin)
            except OSError:
                continue
            found += sum(content.count(needle) for needle in needles)
    return found


@root
@pytest.mark.parametrize(
    ("form", "type_", "name"),
    [
        ("file", "AEAD", "gcm(aes)"),
        ("file", "SKCIPHER", "cbc(aes)"),
        ("file", "HASH", "hmac(sha256)"),
        ("hex", "AEAD", "gcm(aes)"),
        pytest.param("keyring", "AEAD", "gcm(aes)", marks=keyrings),
    ],
)
def test_memory(tmp_path: Path, add: Callable[..., str], form: str, type_: str, name: str) -> None:
    """Seen from outside, a process has no copy of a key when its transform is closed: raw or as digits."""
    place = str(key_file(tmp_path, CANARY.hex().encode() if form == "hex" else CANARY))
    if form == "keyring":
        place = add()
    command = [sys.executable, "-c", _HOLDER, form, place, type_, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        # what tells that the search can find something: the path, and, while it is in use, most keys
        assert copies(process.pid, [place.encode()]) > 0
        if name == "cbc(aes)":
            assert copies(process.pid, [CANARY]) > 0
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"closed\n"
        assert copies(process.pid, [CANARY, CANARY.hex().encode()]) == 0
        process.stdin.close()


# No key in any text


def test_sources_say_what_they_are(tmp_path: Path) -> None:
    """Descriptions and representations name the place."""
    sources: dict[str, KeySource] = {
        f"file {tmp_path}/key": FileKey(key_file(tmp_path, CANARY)),
        "credential 'backup'": CredentialKey("backup"),
        "logon key 'cryptofs:backup' in the user keyring": KeyringKey("cryptofs:backup", "logon"),
        "key 'backup' in the token 'cryptofs' of /m.so": TokenKey(
            Path("/m.so"), TokenObject("cryptofs", label="backup"), FileKey(tmp_path / "key")
        ),
    }
    for description, source in sources.items():
        assert source.describe() == description
        if isinstance(source, ByteSource) and isinstance(source, FileKey):
            secret.wipe(source.read())
        assert "canary-key" not in repr(source) + str(source) + repr(vars(source))


def test_wiping() -> None:
    """Zeroed in place, whatever else looks at it."""
    one = bytearray(CANARY)
    view = memoryview(one)
    secret.wipe(one)
    assert bytes(view) == bytes(32)
    text = bytearray(b"1234\n")
    assert secret.without_newline(text) == b"1234"
    assert text == bytes(5)
    same = bytearray(b"1234")
    assert secret.without_newline(same) is same
