"""Devices on a real mount: what their keys do, who may use them, and that nothing gives a key away or wears it out."""

import errno
import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import IN_GUEST, Daemon
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from cryptofs.cli import device as through
from cryptofs.client import Context, Pipeline
from cryptofs.errors import CryptofsError
from cryptofs.nodes.devices import DEVICE_STREAM
from cryptofs.records import PAYLOAD_MAX, Attr, Operation, Record, Value, build, parse_responses

pytestmark = pytest.mark.mount
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can be several users")

ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
OWNER, MEMBER, STRANGER, GROUP = 70_001, 70_002, 70_003, 70_100
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "devices.md"

CIPHER_KEY, MAC_KEY = bytes(range(100, 132)), bytes(range(200, 232))
KEYS = {
    "gcm": bytes(range(32)),
    "ccm": bytes(range(1, 33)),
    "rfc7539": bytes(range(2, 34)),
    "authenc": struct.pack("<HH", 8, 1) + struct.pack(">I", 32) + MAC_KEY + CIPHER_KEY,
    "cbc": bytes(range(3, 35)),
    "ctr": bytes(range(4, 36)),
    "xts": bytes(range(5, 69)),
    "chacha20": bytes(range(6, 38)),
    "hmac": bytes(range(7, 39)),
}
NAMES = {
    "gcm": ("aead", "gcm(aes)"),
    "ccm": ("aead", "ccm(aes)"),
    "rfc7539": ("aead", "rfc7539(chacha20,poly1305)"),
    "authenc": ("aead", "authenc(hmac(sha256),cbc(aes))"),
    "cbc": ("skcipher", "cbc(aes)"),
    "ctr": ("skcipher", "ctr(aes)"),
    "xts": ("skcipher", "xts(aes)"),
    "chacha20": ("skcipher", "chacha20"),
    "hmac": ("hash", "hmac(sha256)"),
}
AEADS = [name for name, (kind, _) in NAMES.items() if kind == "aead"]
CIPHERS = [name for name, (kind, _) in NAMES.items() if kind == "skcipher"]
BLOCKS = {"authenc", "cbc", "xts"}
NONCE = {name: 12 if name in ("gcm", "ccm", "rfc7539", "chacha20") else 16 for name in (*AEADS, *CIPHERS)}


# What another library makes of it


def _plain(cipher: Cipher, text: bytes) -> bytes:
    decryptor = cipher.decryptor()
    return decryptor.update(text) + decryptor.finalize()


def _open_authenc(nonce: bytes, text: bytes, assoc: bytes) -> bytes:
    mac = hmac.HMAC(MAC_KEY, hashes.SHA256())
    mac.update(nonce + assoc + text[:-32])
    mac.verify(text[-32:])
    return _plain(Cipher(algorithms.AES(CIPHER_KEY), modes.CBC(nonce)), text[:-32])


OPENERS: dict[str, Callable[[bytes, bytes, bytes], bytes]] = {
    "gcm": AESGCM(KEYS["gcm"]).decrypt,
    "ccm": AESCCM(KEYS["ccm"]).decrypt,
    "rfc7539": ChaCha20Poly1305(KEYS["rfc7539"]).decrypt,
    "authenc": _open_authenc,
    "cbc": lambda nonce, text, _: _plain(Cipher(algorithms.AES(KEYS["cbc"]), modes.CBC(nonce)), text),
    "ctr": lambda nonce, text, _: _plain(Cipher(algorithms.AES(KEYS["ctr"]), modes.CTR(nonce)), text),
    "xts": lambda nonce, text, _: _plain(Cipher(algorithms.AES(KEYS["xts"]), modes.XTS(nonce)), text),
    "chacha20": lambda nonce, text, _: _plain(
        Cipher(algorithms.ChaCha20(KEYS["chacha20"], bytes(4) + nonce), None), text
    ),
}


def opened(name: str, sealed: bytes, assoc: bytes = b"") -> bytes:
    """The plaintext of what a device made, by pyca."""
    size = NONCE[name]
    return OPENERS[name](sealed[:size], sealed[size:], assoc)


# The mount


def declare(name: str, key: Path, kind: str, algorithm: str, *more: str) -> str:
    """A device's section."""
    lines = (f"[devices.{name}]", f'type = "{kind}"', f'name = "{algorithm}"', f'key.file = "{key}"')
    return "\n".join((*lines, *more, ""))


def write_private(path: Path, data: bytes) -> Path:
    """A file as keys and configurations have to be: of a mode that lets nobody else in."""
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def let_in(mountpoint: Path) -> Path:
    """Let other users reach a mount below the tests' own directory."""
    for parent in (mountpoint.parent, mountpoint.parent.parent, mountpoint.parent.parent.parent):
        parent.chmod(0o755)
    return mountpoint


def options() -> tuple[str, ...]:
    """What a daemon is given besides its configuration."""
    return ("-o", "allow_other") if os.geteuid() == 0 else ()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device of each kind."""
    directory = tmp_path_factory.mktemp("devices")
    files = {name: write_private(directory / f"{name}.key", key) for name, key in KEYS.items()}
    mine = (f"user = {os.getuid()}", f"group = {os.getgid()}")
    text = "".join(declare(name, files[name], *NAMES[name], *mine) for name in KEYS)
    gcm = ("gcm", *NAMES["gcm"])
    text += declare("sealonly", files["gcm"], *gcm[1:], 'operations = ["encrypt"]', *mine)
    text += declare("openonly", files["gcm"], *gcm[1:], 'operations = ["decrypt"]', *mine)
    text += declare("caller", files["gcm"], *gcm[1:], 'nonce = "caller"', *mine)
    text += declare("short-tag", files["gcm"], *gcm[1:], "authsize = 12", *mine)
    if os.geteuid() == 0:
        text += declare("owned", files["hmac"], *NAMES["hmac"], f"user = {OWNER}", f"group = {GROUP}", 'mode = "0600"')
        text += declare("shared", files["hmac"], *NAMES["hmac"], f"user = {OWNER}", f"group = {GROUP}", 'mode = "0060"')
        text += declare("public", files["hmac"], *NAMES["hmac"], 'mode = "0666"')
    mountpoint = directory / "mount"
    mountpoint.mkdir()
    config = write_private(directory / "cryptofs.toml", text.encode())
    daemon = Daemon(mountpoint, *options(), "--config", str(config), log=directory / "log")
    try:
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log, daemon.log
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture
def device(mount: Path) -> Callable[[str], Context]:
    """Opens a device."""
    return lambda name: Context.of_device(name, mount=mount)


def refused(number: int, call: Callable[[], object]) -> str:
    """Check that a call fails with this errno; returns the message."""
    with pytest.raises((OSError, CryptofsError)) as caught:
        call()
    assert caught.value.errno == number, caught.value
    return str(caught.value)


def sample(name: str, size: int) -> bytes:
    """Data of about this size that the device's algorithm takes."""
    if name in BLOCKS:
        size = max(16, size - size % 16) if name == "xts" else size - size % 16
    return (b"plain text, " * (size // 12 + 1))[:size]


# Records

SIZES = (0, 1, 16, 4000, 32_000, 70_000, 1_000_000)


@pytest.mark.parametrize(
    ("name", "assoc"), [*((name, b"") for name in (*AEADS, *CIPHERS)), *((name, b"associated") for name in AEADS)]
)
def test_records(device: Callable[[str], Context], name: str, assoc: bytes) -> None:
    """The daemon's nonce stands before the message, of whatever size, and other libraries open it."""
    with device(name) as context:
        for size in SIZES:
            data = sample(name, size)
            sealed = context.encrypt(data, assoc=assoc)
            assert len(sealed) == NONCE[name] + len(data) + context.authsize
            assert opened(name, sealed, assoc) == data
            assert context.decrypt(sealed, assoc=assoc) == data
            if name in AEADS:
                for at in (0, NONCE[name] - 1, NONCE[name], len(sealed) - 1):
                    changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
                    refused(errno.EBADMSG, lambda changed=changed: context.decrypt(changed, assoc=assoc))
                refused(errno.EBADMSG, lambda sealed=sealed: context.decrypt(sealed, assoc=assoc + b"!"))
        for cut in range(NONCE[name]):
            assert "nonce" in refused(errno.EINVAL, lambda cut=cut: context.decrypt(bytes(cut)))


@pytest.mark.parametrize("name", [*AEADS, *CIPHERS])
@pytest.mark.parametrize("step", [1, 7, 16, 50])
def test_parts(device: Callable[[str], Context], name: str, step: int) -> None:
    """Parts cut anywhere, through nonce and associated data, give what one piece gives."""
    data = sample(name, 160)
    assoc = b"associated data" if name in AEADS else b""
    with device(name) as context:

        def in_parts(operation: Operation, text: bytes) -> bytes:
            context._id += 1
            records = []
            for at in range(0, len(text), step):
                first: dict[int, Value] = {Attr.ASSOCLEN: len(assoc)} if at == 0 and assoc else {}
                last = at + step >= len(text)
                records.append(Record(operation, 0 if last else 1, context._id, 0, first, text[at : at + step]))
            os.write(context.fileno(), b"".join(map(build, records)))
            answers: list[Record] = []
            while len(answers) < len(records):
                answers += parse_responses(os.pread(context.fileno(), 1 << 20, 0))
            assert {answer.status for answer in answers} == {0}, answers[-1].attributes
            return b"".join(bytes(answer.payload) for answer in answers)

        sealed = in_parts(ENCRYPT, assoc + data)
        assert opened(name, sealed, assoc) == data
        assert in_parts(DECRYPT, assoc + sealed) == data


@pytest.mark.parametrize("name", [*AEADS, *CIPHERS])
@pytest.mark.parametrize("size", [100, 30_000, 500_000])
def test_many_in_flight(device: Callable[[str], Context], name: str, size: int) -> None:
    """A pipeline of messages, in batches and by workers: each with a nonce of its own, none mixed up."""
    messages = [sample(name, size)[:-16] + b"%16d" % index for index in range(40)]
    with device(name) as context, Pipeline(context) as pipeline:
        sealed = [pending.result() for pending in [pipeline.encrypt(message) for message in messages]]
        assert [opened(name, each) for each in sealed] == messages
        assert len({each[: NONCE[name]] for each in sealed}) == len(messages)
        plain = [pending.result() for pending in [pipeline.decrypt(each) for each in sealed]]
        assert plain == messages


def test_digest(device: Callable[[str], Context]) -> None:
    """A keyed hash takes no nonce."""
    with device("hmac") as context:
        for size in SIZES:
            mac = hmac.HMAC(KEYS["hmac"], hashes.SHA256())
            mac.update(sample("hmac", size))
            assert context.digest(sample("hmac", size)) == mac.finalize()


def test_large_parts(device: Callable[[str], Context]) -> None:
    """The client's own parts are as large as a request can be; with a nonce their output is larger."""
    data = os.urandom(3_000_000)
    with device("ctr") as context:
        sealed = context.encrypt(data)
        assert opened("ctr", sealed) == data
        assert context.decrypt(sealed) == data


def test_largest_message(device: Callable[[str], Context]) -> None:
    """The largest that can be sealed can be opened, in two parts as its nonce makes it too large for one."""
    with device("gcm") as context:
        data = bytes(PAYLOAD_MAX - 16)
        sealed = context.encrypt(data)
        assert len(sealed) == PAYLOAD_MAX + 12
        assert opened("gcm", sealed) == data
        assert context.decrypt(sealed) == data


def test_iv_of_the_callers(device: Callable[[str], Context]) -> None:
    """It is refused, of whatever size and however the message is given, unless the device allows it."""
    for name in ("gcm", "ctr", "sealonly"):
        with device(name) as context:
            for size in (0, 12, 16):
                message = refused(errno.EINVAL, lambda context=context, size=size: context.encrypt(b"x", bytes(size)))
                assert "iv" in message
            message = refused(errno.EINVAL, lambda context=context: context.encrypt(bytes(100_000), bytes(12)))
            part = context.message(ENCRYPT, bytes(context.iv_size))
            refused(errno.EINVAL, lambda part=part: part.update(b"x"))
            ctl = context.directory / "ctl"
            ctl.write_text(f"reset iv=hex:{'00' * context.iv_size}")
            refused(errno.EINVAL, lambda context=context: (context.directory / "stream").write_bytes(b"x"))
    with device("caller") as context:
        assert context.encrypt(b"x", bytes(12)) == AESGCM(KEYS["gcm"]).encrypt(bytes(12), b"x", b"")
        assert context.decrypt(context.encrypt(b"x", bytes(12)), bytes(12)) == b"x"
        assert context.decrypt(context.encrypt(b"x")) == b"x"


def test_equal_messages_have_different_nonces(mount: Path) -> None:
    """Ten thousand equal messages of two processes at once."""
    code = """
import os, sys
from cryptofs.client import Context, Pipeline
with Context.of_device("gcm", mount=sys.argv[1]) as context, Pipeline(context) as pipeline:
    for pending in [pipeline.encrypt(b"the same") for _ in range(5000)]:
        print(pending.result().hex())
"""
    command = [sys.executable, "-c", code, str(mount)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as two,
    ):
        lines = one.communicate(timeout=100)[0].split() + two.communicate(timeout=100)[0].split()
    assert len(lines) == 10_000
    assert len({line[:24] for line in lines}) == 10_000
    assert opened("gcm", bytes.fromhex(lines[-1])) == b"the same"


# The key stays


def test_the_key_cannot_be_replaced(mount: Path, device: Callable[[str], Context]) -> None:
    """Not by set-key, not by configure, not through any file of the context."""
    for name in KEYS:
        with device(name) as context:
            refused(errno.EACCES, lambda context=context: context.set_key(bytes(32)))
            attributes: dict[int, Value] = {Attr.TYPE: "aead", Attr.NAME: "gcm(aes)", Attr.KEY: bytes(32)}
            configure = Record(Operation.CONFIGURE, attributes=attributes)
            refused(errno.EBUSY, lambda context=context, configure=configure: context.request(configure))
            ctl = context.directory / "ctl"
            refused(errno.EACCES, lambda ctl=ctl: ctl.write_text("set-key key=hex:" + "00" * 32))
            refused(errno.EBUSY, lambda ctl=ctl: ctl.write_text("configure type=hash name=sha256"))


def test_no_clone_out_of_a_device(mount: Path, device: Callable[[str], Context]) -> None:
    """The state of a keyed hash carries its key: it goes into contexts of the same device only, both ways."""
    with (
        device("hmac") as context,
        device("hmac") as same,
        device("hmac") as streamed,
        Context("hash", "hmac(sha256)", b"known", mount=mount) as other,
    ):
        context.message(DIGEST).update(b"begun")
        target = context._id
        other.message(DIGEST).update(b"begun")
        clone: dict[int, Value] = {Attr.TARGET: target, Attr.CONTEXT: other.number}
        refused(errno.EACCES, lambda: context.request(Record(Operation.CLONE, id=50, attributes=clone)))
        back: dict[int, Value] = {Attr.TARGET: other._id, Attr.CONTEXT: context.number}
        refused(errno.EACCES, lambda: other.request(Record(Operation.CLONE, id=50, attributes=back)))
        (streamed.directory / "ctl").write_text("reset operation=digest")
        with open(streamed.directory / "stream", "wb", buffering=0) as stream:
            stream.write(b"begun")
            refused(errno.EACCES, lambda: (streamed.directory / "ctl").write_text(f"clone context={other.number}"))
        within: dict[int, Value] = {Attr.TARGET: target, Attr.CONTEXT: same.number}
        context.request(Record(Operation.CLONE, id=60, attributes=within))
        same.request(Record(DIGEST, id=60, payload=b" ended"))


def test_the_key_is_in_no_file(daemon: Daemon, mount: Path, device: Callable[[str], Context]) -> None:
    """Every file that the mount has, every answer and the log, while devices are used and misused."""
    texts: list[bytes] = []
    contexts = [device(name) for name in KEYS]
    streams = [os.open(mount / "devices" / name / "decrypt", os.O_RDWR) for name in AEADS if name != "authenc"]
    try:
        for context in contexts:
            operation = DIGEST if context.type == "hash" else DECRYPT
            for record in (
                Record(Operation.INFO, id=1),
                Record(Operation.SET_KEY, id=2, attributes={Attr.KEY: bytes(5)}),
                Record(operation, id=3, attributes={Attr.IV: bytes(3)}),
                Record(operation, id=4, payload=b"short"),
            ):
                os.write(context.fileno(), build(record))
                texts.append(os.pread(context.fileno(), 65_536, 0))
            for name in ("ctl", "status"):
                texts.append((context.directory / name).read_bytes())
        for stream in streams:
            refused(errno.EBADMSG, lambda stream=stream: os.write(stream, b"no sealed file, for sure, and long enough"))
        texts += [path.read_bytes() for path in (mount / "contexts").glob("*/status")]
        texts += [path.read_bytes() for path in (mount / "devices").glob("*/status")]
        texts += [path.read_bytes() for path in (mount / "stats", mount / "version")]
    finally:
        for stream in streams:
            os.close(stream)
        for context in contexts:
            context.close()
    texts.append(daemon.log.encode())
    assert len(texts) > 60
    assert b"key: (hidden)" in b"".join(texts)
    for key in (*KEYS.values(), MAC_KEY, CIPHER_KEY):
        for form in (key[:16], key[:16].hex().encode(), key[:16].hex().upper().encode()):
            assert not any(form in text for text in texts)


def test_one_way(mount: Path, device: Callable[[str], Context]) -> None:
    """An operation that is not allowed is EACCES in every form."""
    with device("sealonly") as sealing, device("openonly") as opening:
        sealed = sealing.encrypt(b"text")
        assert opening.decrypt(sealed) == b"text"
        large = sealing.encrypt(bytes(500_000))
        for text in (sealed, large, b"", bytes(40)):
            refused(errno.EACCES, lambda text=text: sealing.decrypt(text))
            refused(errno.EACCES, lambda text=text: opening.encrypt(text))
            refused(errno.EACCES, lambda text=text: sealing.decrypt(text, assoc=b"a"))
            refused(errno.EACCES, lambda text=text: sealing.decrypt(text, bytes(12)))
        refused(errno.EACCES, lambda: sealing.message(DECRYPT).update(sealed))
        batch = b"".join(build(Record(DECRYPT, id=each, payload=sealed)) for each in range(3))
        os.write(sealing.fileno(), batch)
        answers = parse_responses(os.pread(sealing.fileno(), 65_536, 0))
        assert [answer.status for answer in answers] == [errno.EACCES] * 3
        for context, word in ((sealing, "decrypt"), (opening, "encrypt")):
            (context.directory / "ctl").write_text(f"reset operation={word}")
            refused(errno.EACCES, lambda context=context: (context.directory / "stream").write_bytes(sealed))
            assert b"stream-error: EACCES" in (context.directory / "status").read_bytes()
    for name, word in (("sealonly", "decrypt"), ("openonly", "encrypt")):
        refused(errno.EACCES, lambda name=name, word=word: os.open(mount / "devices" / name / word, os.O_RDWR))
    descriptor = os.open(mount / "devices" / "sealonly" / "encrypt", os.O_RDWR)
    try:
        mine = {path.name for path in (mount / "contexts").iterdir()}
        assert len(mine) == 1
        directory = mount / "contexts" / mine.pop()
        (directory / "ctl").write_text("reset operation=decrypt")
        refused(errno.EACCES, lambda: os.write(descriptor, sealed))
        # what failed does not pass for an empty message
        refused(errno.EACCES, lambda: os.read(descriptor, 100))
    finally:
        os.close(descriptor)


# Streams

# a system call of the guest's costs forty times as much
STREAM_SIZES = (1, 65_536) if IN_GUEST else (0, 1, 65_535, 65_536, 65_537, 200_001)


def shell(script: str, mount: Path, *arguments: str | Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a bash script with $M the mount."""
    command = ["bash", "-uc", script, "bash", *map(str, arguments)]
    environment = {**os.environ, "M": str(mount)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


# as the documents have it
IDIOM = 'exec 3<>"$M/devices/$1/$2" && cat "$3" >&3 && cat <&3 >"$4"'


def by_shell(mount: Path, device: str, word: str, source: Path, target: Path) -> bytes:
    """A file through a device's stream."""
    done = shell(IDIOM, mount, device, word, source, target)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


def by_command(mount: Path, device: str, word: str, source: Path, target: Path) -> bytes:
    """A file through `cryptofs encrypt` or `decrypt`."""
    command = [sys.executable, "-m", "cryptofs", word, "--device", device, "--mount", str(mount)]
    with source.open("rb") as stdin, target.open("wb") as stdout:
        subprocess.run(command, stdin=stdin, stdout=stdout, timeout=100, check=True)
    return target.read_bytes()


def by_client(mount: Path, device: str, word: str, source: Path, target: Path) -> bytes:
    """The same in this process."""
    sink = io.BytesIO()
    {"encrypt": through.encrypt, "decrypt": through.decrypt}[word](device, mount, io.BytesIO(source.read_bytes()), sink)
    target.write_bytes(sink.getvalue())
    return sink.getvalue()


def round_trips(mount: Path, tmp_path: Path, name: str, size: int, ways: tuple[Callable[..., bytes], ...]) -> None:
    """Seal and open in all combinations of ways."""
    plain, sealed, again = (tmp_path / each for each in ("plain", "sealed", "again"))
    plain.write_bytes(os.urandom(size))
    for seal in ways:
        assert len(seal(mount, name, "encrypt", plain, sealed)) > size
        for open_ in ways:
            assert open_(mount, name, "decrypt", sealed, again) == plain.read_bytes()


@pytest.mark.parametrize("size", STREAM_SIZES)
@pytest.mark.parametrize("name", ["gcm", "ccm", "rfc7539", "short-tag", "cbc", "ctr", "chacha20", "xts"])
def test_streams_and_client(mount: Path, tmp_path: Path, name: str, size: int) -> None:
    """What the shell seals the client opens, and the other way round."""
    round_trips(mount, tmp_path, name, size, (by_shell, by_client))


@pytest.mark.parametrize("size", [0, 65_536, 3_000_000])
def test_streams_and_command(mount: Path, tmp_path: Path, size: int) -> None:
    """The same with the command itself."""
    round_trips(mount, tmp_path, "gcm", size, (by_shell, by_command))


def test_one_after_the_other(mount: Path, tmp_path: Path) -> None:
    """A stream serves one message after the other, each with nonces of its own, and a digest's its own."""
    script = """
    exec 3<>"$M/devices/gcm/encrypt" 4<>"$M/devices/gcm/decrypt" 5<>"$M/devices/hmac/digest"
    for each in one two one; do
        printf "$each" >&3; cat <&3 >"$1/$each"; cat "$1/$each" >&4; cat <&4; echo
        printf "$each" >&5; cat <&5 | od -An -v -tx1 | tr -d ' \\n'; echo
    done"""
    done = shell(script, mount, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert lines[0::2] == ["one", "two", "one"]
    mac = hmac.HMAC(KEYS["hmac"], hashes.SHA256())
    mac.update(b"one")
    assert lines[1] == lines[5] == mac.finalize().hex() != lines[3]


def test_line_by_line(mount: Path) -> None:
    """A shell writes each line by itself: many small writes are no more than the bytes that they have."""
    script = """
    exec 3<>"$M/devices/ctr/encrypt" 4<>"$M/devices/ctr/decrypt"
    for ((i = 0; i < 9000; i++)); do echo "line $i" >&3 || exit 1; done
    cat <&3 >&4 && cat <&4"""
    done = shell(script, mount)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"line {index}\n" for index in range(9000))


def test_the_bound_of_a_stream(mount: Path, tmp_path: Path) -> None:
    """16 MiB go through one descriptor; more is EFBIG, and what the reader then gets does not pass for the whole."""
    plain, sealed, again = (tmp_path / each for each in ("plain", "sealed", "again"))
    plain.write_bytes(os.urandom(DEVICE_STREAM))
    by_shell(mount, "gcm", "encrypt", plain, sealed)
    assert by_shell(mount, "gcm", "decrypt", sealed, again) == plain.read_bytes()
    with plain.open("ab") as file:
        file.write(bytes(300_000))
    script = """
    exec 3<>"$M/devices/gcm/encrypt"
    cat "$1" >&3; echo "write $?"
    cat "$M"/contexts/*/status | grep stream-error
    cat <&3 >"$2"; echo "read $?" """
    done = shell(script, mount, plain, sealed)
    assert "write 1" in done.stdout
    assert "read 1" in done.stdout
    assert done.stderr.count("File too large") == 2, done.stderr
    assert f"EFBIG: {DEVICE_STREAM} bytes of output wait" in done.stdout
    assert "cryptofs encrypt --device" in done.stdout
    assert refused(errno.EBADMSG, lambda: by_client(mount, "gcm", "decrypt", sealed, again))
    by_client(mount, "gcm", "encrypt", plain, sealed)
    assert by_client(mount, "gcm", "decrypt", sealed, again) == plain.read_bytes()


def test_a_second_reader_makes_it_a_pipe(mount: Path, tmp_path: Path) -> None:
    """With a reader of its own a stream has no bound."""
    plain, sealed, again = (tmp_path / each for each in ("plain", "sealed", "again"))
    plain.write_bytes(os.urandom(40_000_000))
    script = """
    exec 3<>"$M/devices/gcm/encrypt"
    for each in "$M"/contexts/*; do cat "$each/stream" >"$2" 3>&- & done
    sleep 0.3; cat "$1" >&3 || exit 1
    exec 3>&-; wait"""
    shell(script, mount, plain, sealed)
    # closing the last descriptor of the device ends the context: its reader is told, rather than given an end of file
    assert refused(errno.EBADMSG, lambda: by_client(mount, "gcm", "decrypt", sealed, again))


def test_only_for_reading_and_writing(mount: Path) -> None:
    """One open is one message: a stream opened one way only has no other end."""
    for flags in (os.O_RDONLY, os.O_WRONLY):
        refused(errno.EINVAL, lambda flags=flags: os.open(mount / "devices" / "gcm" / "encrypt", flags))


def test_which_files(mount: Path) -> None:
    """The files of a device are those of its type; what takes whole blocks with a tag has no streams."""
    listed = {name: set(os.listdir(mount / "devices" / name)) for name in KEYS}
    assert listed["gcm"] == listed["cbc"] == {"crypto", "encrypt", "decrypt", "status"}
    assert listed["hmac"] == {"crypto", "digest", "status"}
    assert listed["authenc"] == {"crypto", "status"}
    refused(errno.EINVAL, lambda: through.encrypt("authenc", mount, io.BytesIO(b""), io.BytesIO()))
    status = dict(line.split(": ") for line in (mount / "devices/sealonly/status").read_text().splitlines())
    assert status["device"] == "sealonly"
    assert status["operations"] == "encrypt"
    assert (status["key"], status["nonce"], status["nonce-size"]) == ("(hidden)", "daemon", "12")


def test_tampered_through_the_mount(mount: Path, tmp_path: Path) -> None:
    """The shell's reader gets an error in place of the end of the file, and the command a status of 1."""
    plain, sealed, bad = (tmp_path / each for each in ("plain", "sealed", "bad"))
    plain.write_bytes(os.urandom(200_000))
    whole = by_client(mount, "gcm", "encrypt", plain, sealed)
    segment = 12 + 65_536 + 16
    wrong = {
        "cut": whole[:-1],
        "cut in the header": whole[:20],
        "empty": b"",
        "cut between segments": whole[: 32 + segment],
        "extended": whole + b"x",
        "swapped": whole[:32]
        + whole[32 + segment : 32 + 2 * segment]
        + whole[32 : 32 + segment]
        + whole[32 + 2 * segment :],
        "another identity": whole[:16] + bytes(16) + whole[32:],
        "flipped": whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
    }
    for what, data in wrong.items():
        bad.write_bytes(data)
        script = 'exec 3<>"$M/devices/gcm/decrypt"; cat "$1" >&3; cat <&3 >"$2"; echo "read $?"'
        done = shell(script, mount, bad, tmp_path / "out")
        assert done.stdout == "read 1\n", what
        assert "Bad message" in done.stderr, what
        if what != "empty":
            assert plain.read_bytes() != (tmp_path / "out").read_bytes()
        out = tmp_path / "out"
        message = refused(errno.EBADMSG, lambda out=out: by_client(mount, "gcm", "decrypt", bad, out))
        assert "segment" in message or len(data) < 32


def test_cbc_streams_are_openssl_s(mount: Path, tmp_path: Path) -> None:
    """IV and ciphertext, padded: `openssl enc` opens it, and makes what a device opens."""
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    for size in (0, 15, 16, 70_001):
        plain.write_bytes(os.urandom(size))
        text = by_shell(mount, "cbc", "encrypt", plain, sealed)
        command = ["openssl", "enc", "-aes-256-cbc", "-K", KEYS["cbc"].hex(), "-iv"]
        done = subprocess.run([*command, text[:16].hex(), "-d"], input=text[16:], capture_output=True, check=True)
        assert done.stdout == plain.read_bytes()
        made = subprocess.run([*command, "0f" * 16], input=plain.read_bytes(), capture_output=True, check=True).stdout
        sealed.write_bytes(b"\x0f" * 16 + made)
        assert by_shell(mount, "cbc", "decrypt", sealed, tmp_path / "again") == plain.read_bytes()
    # in the middle of a block: what a cut between two leaves may look like padding by chance
    sealed.write_bytes(sealed.read_bytes()[:-8])
    assert shell(IDIOM, mount, "cbc", "decrypt", sealed, tmp_path / "again").returncode == 1


def blocks(language: str) -> list[str]:
    """The examples in the document."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.mark.parametrize("size", STREAM_SIZES)
def test_the_documents_opener(mount: Path, tmp_path: Path, size: int) -> None:
    """The opener that the document gives opens what streams make, and nothing that was changed."""
    (code,) = [block for block in blocks("python") if "def open_sealed" in block]
    names: dict[str, Callable[..., bytes]] = {}
    exec(code, names)
    open_sealed = names["open_sealed"]
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.write_bytes(os.urandom(size))
    data = by_shell(mount, "gcm", "encrypt", plain, sealed)
    assert open_sealed(KEYS["gcm"], data) == plain.read_bytes()
    for wrong in (data[:-1], data + b"x", data[:32], data[: 32 + 65_564], bytes([data[0] ^ 1]) + data[1:]):
        if wrong != data:
            with pytest.raises((ValueError, InvalidTag)):
                open_sealed(KEYS["gcm"], wrong)


def test_the_documents_client(mount: Path, device: Callable[[str], Context], tmp_path: Path) -> None:
    """The examples in Python and C run as they stand."""
    (code,) = [block for block in blocks("python") if "of_device" in block]
    code = code.replace('"backup"', '"gcm"')
    environment = {**os.environ, "CRYPTOFS_MOUNT": str(mount)}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=True)
    (source,) = blocks("c")
    (tmp_path / "seal.c").write_text(source.replace("/run/cryptofs/devices/backup", f"{mount}/devices/gcm"))
    subprocess.run(["cc", "-Wall", "-Werror", "-o", tmp_path / "seal", tmp_path / "seal.c"], timeout=60, check=True)
    done = subprocess.run([tmp_path / "seal"], input=b"from C", capture_output=True, timeout=60, check=True)
    assert opened("gcm", done.stdout) == b"from C"
    with device("gcm") as context:
        assert context.decrypt(done.stdout) == b"from C"


# Who may

AS_USER = """
import os, sys
for name in sys.argv[1:]:
    try:
        os.close(os.open(name, os.O_RDWR))
        print("OK")
    except OSError as error:
        print(error.errno)
"""


class AsUser:
    """A program that runs as somebody else, in a fork: the interpreter's own file may be out of his reach."""

    def __init__(self, uid: int, gid: int, groups: list[int], code: str, *arguments: str | Path) -> None:
        reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(writer)
            self._reader = reader
            return
        status = 1
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            sys.argv = ["-c", *map(str, arguments)]
            exec(compile(code, "-c", "exec"), {})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def lines(self) -> list[str]:
        """What it printed, once it has ended."""
        with open(self._reader) as pipe:
            text = pipe.read()
        assert os.waitpid(self._pid, 0)[1] == 0, text
        return text.splitlines()


def as_user(uid: int, gid: int, groups: list[int], code: str, *arguments: str | Path) -> list[str]:
    """What a program prints that runs as somebody else."""
    return AsUser(uid, gid, groups, code, *arguments).lines()


@needs_root
def test_who_may_open(mount: Path) -> None:
    """Owner, group, supplementary group, mode, root: as for any file."""
    let_in(mount)
    names = [
        mount / "devices" / device / file for device in ("owned", "shared", "public") for file in ("crypto", "digest")
    ]
    no = str(errno.EACCES)
    expected = {
        (OWNER, OWNER, ()): ["OK", no, "OK"],
        (MEMBER, GROUP, ()): [no, "OK", "OK"],
        (MEMBER, MEMBER, (GROUP,)): [no, "OK", "OK"],
        (STRANGER, STRANGER, ()): [no, no, "OK"],
        (0, 0, ()): ["OK", "OK", "OK"],
    }
    for (uid, gid, groups), answers in expected.items():
        assert as_user(uid, gid, list(groups), AS_USER, *names) == [each for each in answers for _ in range(2)]


RULES = """\
[policy]
profile = "standard"
contexts = 3
requests = 4
queue-bytes = 200000
[policy.users.70002]
rate = 20
requests = 0
queue-bytes = 0
[policy.groups.70100]
allow = ["md5"]
contexts = 5
"""

AS_CLIENT = """
import errno, os, sys
mount, requests = sys.argv[1], [bytes.fromhex(each) for each in sys.argv[2:]]
fds = []
try:
    for _ in range(100):
        fds.append(os.open(mount + "/crypto", os.O_RDWR))
except OSError as error:
    print(len(fds), errno.errorcode[error.errno])
number = os.pread(fds[0], 100, 0).decode().strip()
for name in ("md5", "sha256"):
    ctl = os.open(f"{mount}/contexts/{number}/ctl", os.O_RDWR)
    try:
        os.write(ctl, f"configure type=hash name={name}".encode())
        print(name, "OK")
    except OSError as error:
        print(name, errno.errorcode[error.errno], os.read(ctl, 1000).decode().replace("\\n", " "))
    if os.path.exists(mount + "/algorithms/hash/" + name):
        print(name, "listed")
taken = 0
for request in requests:
    try:
        os.write(fds[0], request)
        taken += 1
    except OSError as error:
        print("taken", taken, errno.errorcode[error.errno])
        break
else:
    print("taken", taken)
status = open(f"{mount}/contexts/{number}/status").read()
print([line for line in status.split("\\n") if line.startswith("last-error")])
"""


@needs_root
def test_rules_and_quotas_of_two_users(tmp_path: Path) -> None:
    """What one user holds is nobody else's matter; what is refused says why."""
    config = write_private(tmp_path / "cryptofs.toml", RULES.encode())
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    daemon = Daemon(mountpoint, *options(), "--config", str(config), log=tmp_path / "log")
    try:
        let_in(mountpoint)
        small = [build(Record(DIGEST, id=each)).hex() for each in range(30)]
        large = [build(Record(DIGEST, id=each, payload=bytes(40_000))).hex() for each in range(2)]
        held = os.open(mountpoint / "crypto", os.O_RDWR)
        lines = as_user(STRANGER, STRANGER, [], AS_CLIENT, mountpoint, *small)
        assert lines[0] == "3 EDQUOT"
        assert lines[1].startswith("md5 EACCES error: EACCES message: hash 'md5': the policy does not allow you")
        assert lines[2:4] == ["sha256 OK", "sha256 listed"]
        assert lines[4] == "taken 4 EDQUOT"
        assert f"EDQUOT: uid {STRANGER}: 4 requests wait to be read and 1 more are asked: at most 4" in lines[5]
        # everything was given back with the process; the bytes are counted, too
        assert "taken 2" in as_user(STRANGER, STRANGER, [], AS_CLIENT, mountpoint, *large)[4]
        too_large = [build(Record(DIGEST, id=1, payload=bytes(99_990))).hex()]
        assert "taken 0 EDQUOT" in as_user(STRANGER, STRANGER, [], AS_CLIENT, mountpoint, *too_large)
        rated = as_user(MEMBER, MEMBER, [], AS_CLIENT, mountpoint, *small)
        assert rated[4].startswith("taken 2")
        assert rated[4].endswith("EDQUOT")
        assert "at most 20 a second" in rated[5]
        grouped = as_user(OWNER, OWNER, [GROUP], AS_CLIENT, mountpoint, *small)
        assert grouped[:3] == ["5 EDQUOT", "md5 OK", "md5 listed"]
        os.close(held)
        log = daemon.log
        assert f"uid={STRANGER}" in log
        assert "refused=EDQUOT" in log
        assert "refused=EACCES" in log
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


# Reload


class Reloaded:
    """A daemon whose configuration changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mountpoint = directory / "mount"
        self.mountpoint.mkdir()
        self.config = directory / "cryptofs.toml"
        self.daemon: Daemon

    def key(self, name: str, byte: int) -> Path:
        """A key file."""
        return write_private(self.directory / name, bytes([byte]) * 32)

    def start(self, text: str) -> None:
        """Serve."""
        write_private(self.config, text.encode())
        log = self.directory / "log"
        self.daemon = Daemon(self.mountpoint, *options(), "--config", str(self.config), log=log)

    def reload(self, text: str, expected: str = "reloaded:") -> str:
        """Change the file and tell the daemon; returns what it logs then."""
        write_private(self.config, text.encode())
        before = len(self.daemon.log)
        self.daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while not re.search(r"reloaded: .*\n|reload failed.*\n", said := self.daemon.log[before:]):
            assert self.daemon.process.poll() is None, self.daemon.log
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        assert expected in said
        return said

    def device(self, name: str) -> Context:
        """Open a device."""
        return Context.of_device(name, mount=self.mountpoint)


@pytest.fixture
def reloaded(tmp_path: Path) -> Iterator[Reloaded]:
    """A daemon of one's own, whose end is checked."""
    server = Reloaded(tmp_path)
    try:
        yield server
        assert server.daemon.stop() == 0
        assert "Traceback" not in server.daemon.log
    finally:
        if server.daemon.process.poll() is None:
            server.daemon.kill()


def test_reload(reloaded: Reloaded) -> None:
    """Devices come, change and go; contexts that are open go on with what they have."""
    one, two = reloaded.key("one", 1), reloaded.key("two", 2)
    owner = f"user = {os.getuid()}"

    def gcm(name: str, key: Path) -> str:
        return declare(name, key, "aead", "gcm(aes)", owner)

    stay = gcm("stays", one)
    reloaded.start(stay + gcm("changes", one) + gcm("goes", one))
    with reloaded.device("stays") as stays, reloaded.device("changes") as changes, reloaded.device("goes") as goes:
        stream = os.open(reloaded.mountpoint / "devices/goes/encrypt", os.O_RDWR)
        path = os.open(reloaded.mountpoint / "devices/changes/crypto", os.O_PATH)
        os.write(stream, b"begun")
        sealed = [each.encrypt(b"before") for each in (stays, changes, goes)]
        messages = stays.message(ENCRYPT)
        messages.update(b"in ")
        # the content of a key file is looked at only for a device that is declared anew
        write_private(one, bytes([9]) * 32)
        reloaded.reload(stay + gcm("changes", two) + gcm("new", two))
        for context, text in zip((stays, changes, goes), sealed, strict=True):
            assert context.decrypt(text) == b"before"
            again = context.encrypt(b"after")
            assert AESGCM(bytes([1]) * 32).decrypt(again[:12], again[12:], b"") == b"after"
        whole = messages.finish(b"parts")
        assert AESGCM(bytes([1]) * 32).decrypt(whole[:12], whole[12:], b"") == b"in parts"
        assert len(os.read(stream, 1 << 20)) == 32 + 28 + 5
        assert sorted(os.listdir(reloaded.mountpoint / "devices")) == ["changes", "new", "stays"]
        refused(errno.ENOENT, lambda: reloaded.device("goes"))
        # who was let in by the old one's mode opens the new one by its name only
        refused(errno.ENOENT, lambda: os.open(f"/proc/self/fd/{path}", os.O_RDWR))
        os.close(path)
        os.close(stream)
        with reloaded.device("changes") as changed, reloaded.device("stays") as same:
            text = changed.encrypt(b"new key")
            assert AESGCM(bytes([2]) * 32).decrypt(text[:12], text[12:], b"") == b"new key"
            refused(errno.EBADMSG, lambda: changed.decrypt(sealed[1]))
            assert same.decrypt(sealed[0]) == b"before"
    # over and over, nothing is left of what has gone
    for index in range(20):
        reloaded.reload(gcm("changes", one if index % 2 else two))
        with reloaded.device("changes") as context:
            assert context.decrypt(context.encrypt(b"x")) == b"x"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("[policy]\nrate = -1\n", ":2: policy.rate: "),
        ("[devices.x]\nkind = 1\n", ":2: devices.x.kind: unknown key"),
        ("\n\nnonsense\n", ":3: "),
        ("[policy]\nallow = " + "[" * 5000 + "\n", "too deep"),
        (
            '[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "/no/such/key"\n',
            "key source gone: file /no/such/key",
        ),
        (
            '[devices.d]\ntype = "aead"\nname = "nope(aes)"\nkey.file = "KEY"\n',
            "device d: aead 'nope(aes)': no engine offers it",
        ),
        (
            '[devices.d]\ntype = "aead"\nname = "rfc7539(chacha20,poly1305)"\nauthsize = 3\nkey.file = "KEY"\n',
            "authsize 3",
        ),
        ('[devices.d]\ntype = "aead"\nname = "rfc4106(gcm(aes))"\nkey.file = "KEY"\n', "KEY"),
        (
            '[devices.d]\ntype = "skcipher"\nname = "ctr(aes)"\noperations = ["decrypt"]\nkey.file = "KEY"\n',
            "encrypts what it",
        ),
    ],
)
def test_a_bad_file_keeps_the_old_one(reloaded: Reloaded, wrong: str, why: str) -> None:
    """The log says what is wrong and where; what was served is served on."""
    key = reloaded.key("key", 1)
    good = declare("d", key, "aead", "gcm(aes)", f"user = {os.getuid()}")
    reloaded.start(good)
    with reloaded.device("d") as context:
        said = reloaded.reload(wrong.replace('"KEY"', f'"{key}"'), "reload failed, the old configuration holds")
        assert why.replace("KEY", str(key)) in said
        with reloaded.device("d") as another:
            assert another.decrypt(context.encrypt(b"x")) == b"x"
    reloaded.reload(good)


@needs_root
def test_reload_of_policy(reloaded: Reloaded) -> None:
    """A new policy holds for new contexts."""
    reloaded.start("")
    let_in(reloaded.mountpoint)
    with Context("hash", "sha256", mount=reloaded.mountpoint) as before:
        reloaded.reload('[policy]\nprofile = "none"\nallow = ["sha512"]\n')
        assert before.digest(b"")
        refused(errno.EACCES, lambda: Context("hash", "sha256", mount=reloaded.mountpoint))
        Context("hash", "sha512", mount=reloaded.mountpoint).close()
        assert os.listdir(reloaded.mountpoint / "algorithms/hash") == ["sha512"]


@needs_root
def test_reload_against_opens(reloaded: Reloaded) -> None:
    """A device that changes its owner, again and again, while both owners open it: each gets his own key or nothing."""
    keys = {OWNER: reloaded.key("one", 1), MEMBER: reloaded.key("two", 2)}

    def text(uid: int) -> str:
        return declare("d", keys[uid], "aead", "gcm(aes)", f"user = {STRANGER}", f"group = {uid}", 'mode = "0660"')

    reloaded.start(text(OWNER))
    let_in(reloaded.mountpoint)
    code = """
import os, sys, time
path, request = sys.argv[1], bytes.fromhex(sys.argv[2])
end = time.monotonic() + 4
seen = set()
while time.monotonic() < end:
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError as error:
        seen.add(str(error.errno))
        continue
    os.write(fd, request)
    answer = os.pread(fd, 65536, 0)
    seen.add("OK" if len(answer) > 24 + 12 else "wrong")
    if len(seen) < 40:
        print(answer[24:].hex())
    os.close(fd)
print(" ".join(sorted(seen)))
"""
    request = build(Record(ENCRYPT, id=1, payload=b"text")).hex()
    path = reloaded.mountpoint / "devices/d/crypto"
    running = [AsUser(uid, uid, [], code, path, request) for uid in keys]
    for index in range(16):
        reloaded.reload(text((MEMBER, OWNER)[index % 2]))
        time.sleep(0.1)
    for uid, process, byte in zip(keys, running, (1, 2), strict=True):
        *texts, seen = process.lines()
        assert set(seen.split()) <= {"OK", str(errno.EACCES), str(errno.ENOENT)}, uid
        assert "OK" in seen
        for each in texts:
            sealed = bytes.fromhex(each)
            assert AESGCM(bytes([byte]) * 32).decrypt(sealed[:12], sealed[12:], b"") == b"text", uid


def test_no_key_no_start(tmp_path: Path) -> None:
    """A key that is not there ends the start: status 1, one line that names device and source."""
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    config = tmp_path / "cryptofs.toml"
    cases = {
        declare("d", tmp_path / "gone", "aead", "gcm(aes)"): f"device d: key source gone: file {tmp_path}/gone",
        declare("d", write_private(tmp_path / "short", bytes(5)), "aead", "gcm(aes)"): "key of 5 bytes",
        '[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.credential = "none"\n': "gone: credential 'none'",
    }
    for text, expected in cases.items():
        write_private(config, text.encode())
        command = [sys.executable, "-m", "cryptofs", "mount", str(mountpoint), "--config", str(config)]
        if os.geteuid() == 0:
            command.append("--allow-root")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr
        assert not os.path.ismount(mountpoint)
