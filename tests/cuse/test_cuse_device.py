"""A real device node: a static C program, other users, signals, and a mount with devices behind it."""

import errno
import hashlib
import hmac
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.compiling import compiled
from helpers.configs import declare
from helpers.cuse import CUSE, Device, device, has_cuse
from helpers.daemons import serving_config
from helpers.devcrypto import AES_CBC, ENCRYPT, HMAC_SHA256, NULL, Program, errno_of
from helpers.machine import IN_GUEST
from helpers.other_user import AS_NOBODY
from helpers.waiting import PATIENCE

pytestmark = pytest.mark.skipif(
    not has_cuse() and not IN_GUEST, reason=f"NOT RUN: no {CUSE} here; ./scripts/test runs it in the guest"
)

KEY, IV = b"0123456789abcdef", bytes(16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that serves as an unprivileged user."""
    with device(tmp_path_factory.mktemp("cuse"), "--user", "nobody") as found:
        yield found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in C, without any library."""
    return compiled("devcrypto", tmp_path_factory.mktemp("client"), options=("-static",))


def run(client: Path, device: Path, *arguments: object, status: int = 0) -> str:
    """What the program prints."""
    command = [client, device, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("size", [16, 1024, 65536])
def test_a_static_program(made: Device, client: Path, size: int) -> None:
    """Sessions, ciphers, digests, AEADs and asynchronous calls: the library's bytes."""
    data = b"\7" * size
    encrypted = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(data)
    assert run(client, made.path, "cbc", size).split() == [encrypted.hex(), hmac.digest(KEY, data, "sha256").hex()]
    assert run(client, made.path, "gcm", size).split() == [AESGCM(KEY).encrypt(IV[:12], data, b"\7" * 8).hex()]
    digests = [hashlib.sha256(data).hexdigest(), hashlib.sha256(data * 2).hexdigest()]
    assert run(client, made.path, "hash", size).split() == digests
    # To fetch the child's result also writes its IV, with which the parent's own call begins.
    second = Cipher(algorithms.AES(KEY), modes.CBC(encrypted[-16:])).encryptor().update(data)
    assert run(client, made.path, "later", size).split() == [second.hex(), second[-16:].hex()]


def test_errors_of_the_kernel_and_of_the_device(made: Device, client: Path) -> None:
    """Memory that is not there is EFAULT; what cryptodev does not know is EINVAL; so is CRIOGET here, and read(2)."""
    assert [int(each) for each in run(client, made.path, "bad").split()] == [14, 14, 14, 22, 22]
    assert "CRIOGET: Invalid argument" in run(client, made.path, "copy", status=10)
    assert "Message too long" in run(client, made.path, "cbc", 131072, status=10)
    assert run(client, made.path, "info") == "cbc(aes) hmac(sha256) 1 17\n"


def test_processes_that_share_a_file(made: Device, client: Path) -> None:
    """Eight children on one session: each gets right bytes."""
    assert run(client, made.path, "many", 8, 20) == "0\n"


def test_from_python(made: Device) -> None:
    """Real ioctls of this process, as the tests of the sessions make them."""
    descriptor = os.open(made.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        program = Program.of_file(descriptor)
        number = program.session(AES_CBC, KEY, HMAC_SHA256, b"key")
        out, digest, _ = program.crypt(number, ENCRYPT, b"x" * 32, IV)
        assert out == Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(b"x" * 32)
        assert digest[:32] == hmac.digest(b"key", b"x" * 32, "sha256")
        program.finish(number)
        assert errno_of(lambda: program.crypt(number, ENCRYPT, b"x" * 32, IV)) == errno.EINVAL
    finally:
        os.close(descriptor)


def test_only_its_owner_may_open_it(made: Device, tmp_path: Path, client: Path) -> None:
    """0600 of root by default; another mode and group as asked for. The server itself keeps no privilege."""
    found = made.path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 0, 0)
    opening = [*AS_NOBODY, "sh", "-c", f"exec 3<>{made.path}"]
    done = subprocess.run(opening, capture_output=True, text=True, timeout=20 * PATIENCE, check=False)
    assert done.returncode
    assert "ermission denied" in done.stderr
    status = Path(f"/proc/{made.process.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "Uid:\t0" not in status
    taken = subprocess.run(
        [sys.executable, "-m", "cryptofs", "cuse", "--name", made.path.name, "--allow-root"],
        capture_output=True, text=True, timeout=60 * PATIENCE, check=False,
    )  # fmt: skip
    assert taken.returncode == 1
    assert "EEXIST" in taken.stderr
    assert run(client, made.path, "info"), "the other one still serves"


def test_mode_owner_and_end(tmp_path: Path, client: Path) -> None:
    """As asked for; a program that has the device open when it ends gets an error, and the node goes."""
    with device(tmp_path, "--mode", "0660", "--owner", "nobody", "--group", "nogroup") as found:
        node = found.path.stat()
        assert (stat.S_IMODE(node.st_mode), node.st_uid) == (0o660, 65534)
        with open(found.path, "r+b", buffering=0) as file:
            program = Program.of_file(file.fileno())
            assert program.session(NULL)
            waiting = subprocess.Popen([client, found.path, "wait"], stdout=subprocess.PIPE)
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == b"open\n"
            assert found.stop() == 0
            assert errno_of(lambda: program.session(NULL)) in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
            waiting.terminate()
            assert waiting.wait(10 * PATIENCE) == -signal.SIGTERM
            waiting.stdout.close()


def test_a_server_that_is_killed(tmp_path: Path, client: Path) -> None:
    """The node goes with it, and programs get errors."""
    with device(tmp_path) as found, open(found.path, "r+b", buffering=0) as file:
        program = Program.of_file(file.fileno())
        assert program.session(NULL)
        found.process.kill()
        found.process.wait(10 * PATIENCE)
        assert errno_of(lambda: program.session(NULL))
        assert not found.path.exists()


def test_a_mount_and_its_devices(tmp_path: Path) -> None:
    """With --mount the daemon computes, and a key of the form device:NAME is the device's."""
    secret = b"a key that no program may read"
    text = declare("mac", "hash", "hmac(sha256)", "{mac}")
    with (
        serving_config(tmp_path, text, mac=secret) as daemon,
        device(tmp_path, "--mount", str(daemon.mountpoint)) as found,
    ):
        descriptor = os.open(found.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            program = Program.of_file(descriptor)
            number = program.session(mac=HMAC_SHA256, mac_key=b"device:mac")
            assert program.digest(number, b"text")[:32] == hmac.digest(secret, b"text", "sha256")
            cipher = program.session(AES_CBC, KEY)
            expected = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(b"x" * 32)
            assert program.crypt(cipher, ENCRYPT, b"x" * 32, IV)[0] == expected
            assert errno_of(lambda: program.session(mac=HMAC_SHA256, mac_key=b"device:other")) == errno.ENOENT
        finally:
            os.close(descriptor)
