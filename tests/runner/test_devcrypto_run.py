"""/dev/crypto under `cryptofs run --devcrypto`: a static program, and every way to open the file."""

import errno
import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.compiling import compiled
from helpers.configs import declare
from helpers.daemons import serving_config
from helpers.machine import TESTS
from helpers.running import OPENSSL, run

OPTIONS = (*OPENSSL, "--devcrypto")
DEVICE = "/dev/crypto"
KEY, IV = b"0123456789abcdef", bytes(16)

pytestmark = pytest.mark.skipif(Path(DEVICE).exists(), reason="NOT RUN: this machine has a /dev/crypto")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in C, without any library."""
    return compiled("devcrypto", tmp_path_factory.mktemp("client"), options=("-static",))


def output(client: Path, *arguments: object, status: int = 0) -> str:
    """What the program prints."""
    done = run(client, DEVICE, *arguments, options=OPTIONS)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("size", [16, 1024, 131072])
def test_a_static_program(client: Path, size: int) -> None:
    """Sessions, ciphers, digests, AEADs and asynchronous calls: the library's bytes."""
    data = b"\7" * size
    encrypted = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(data)
    assert output(client, "cbc", size).split() == [encrypted.hex(), hmac.digest(KEY, data, "sha256").hex()]
    assert output(client, "gcm", size).split() == [AESGCM(KEY).encrypt(IV[:12], data, b"\7" * 8).hex()]
    digests = [hashlib.sha256(data).hexdigest(), hashlib.sha256(data * 2).hexdigest()]
    assert output(client, "hash", size).split() == digests


def test_asynchronous_calls_and_poll(client: Path) -> None:
    """A poll sleeps until another process's call has a result."""
    data = b"\7" * 64
    first = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(data)
    # To fetch the child's result also writes its IV, with which the parent's own call begins.
    second = Cipher(algorithms.AES(KEY), modes.CBC(first[-16:])).encryptor().update(data)
    assert output(client, "later", 64).split() == [second.hex(), second[-16:].hex()]


def test_errors(client: Path) -> None:
    """Memory that is not there is EFAULT; what cryptodev does not know is EINVAL; so is read(2)."""
    assert [int(each) for each in output(client, "bad").split()] == [14, 14, 14, 22, 22]
    assert output(client, "info") == "cbc(aes) hmac(sha256) 1 17\n"


def test_a_second_descriptor(client: Path) -> None:
    """CRIOGET: the same sessions, also after the first one was closed."""
    expected = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update(b"\7" * 16)
    # The second call has the IV of the structure again.
    assert output(client, "copy") == expected.hex() + "\n"


def test_processes_that_share_a_file(client: Path) -> None:
    """Eight children on one session: each gets right bytes."""
    assert output(client, "many", 8, 50) == "0\n"


def test_without_the_option(client: Path) -> None:
    """The file is not there."""
    done = run(client, DEVICE, "info")
    assert done.returncode == 10
    assert "No such file" in done.stderr


OPENS = """
import ctypes, fcntl, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def serves(descriptor):
    buffer = bytearray(b"\\7\\7\\7\\7")
    try:
        fcntl.ioctl(descriptor, 0x8004636A, buffer)
        return buffer[1:] == bytes(3)
    except OSError:
        return False
    finally:
        os.close(descriptor)

def look(name, call):
    try:
        descriptor = call()
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "")
        print(name, serves(descriptor))
    except OSError as error:
        print(name, error.errno)

def how(directory, path, flags, resolve=0):
    block = (ctypes.c_uint64 * 3)(flags, 0, resolve)
    return libc.syscall(437, directory, path, block, 24)

place = sys.argv[1]
os.chdir(place)
os.symlink("/dev/crypto", "absolute")
os.symlink("absolute", "second")
os.symlink("/dev", "directory")
os.symlink("round", "round")
os.symlink("elsewhere", "dangling")
open("crypto", "w").close()
dev = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
rw = os.O_RDWR
look("plain", lambda: os.open("/dev/crypto", rw))
look("slashes", lambda: os.open("//dev/./shm/..//crypto", rw))
look("symlink", lambda: os.open("second", rw))
look("by-directory", lambda: os.open("directory/crypto", rw))
look("openat", lambda: os.open("crypto", rw, dir_fd=dev))
look("openat2", lambda: how(dev, b"crypto", rw))
look("creat", lambda: libc.creat(b"/dev/crypto", 0o600))
look("create", lambda: os.open("/dev/crypto", rw | os.O_CREAT, 0o600))
look("exclusive", lambda: os.open("/dev/crypto", rw | os.O_CREAT | os.O_EXCL))
look("nofollow", lambda: os.open("absolute", rw | os.O_NOFOLLOW))
look("nofollow-plain", lambda: os.open("/dev/crypto", rw | os.O_NOFOLLOW))
look("no-symlinks", lambda: how(-100, b"second", rw, 4))
look("beneath", lambda: how(dev, b"/dev/crypto", rw, 8))
look("path", lambda: os.open("/dev/crypto", os.O_PATH))
look("namesake", lambda: os.open("crypto", rw))
look("below", lambda: os.open("/dev/crypto/x", rw))
look("other", lambda: os.open("/dev/crypt", rw))
look("dangling", lambda: os.open("dangling", rw))
look("round", lambda: os.open("round", rw))
look("bad", lambda: libc.open(ctypes.c_void_p(16), rw))
os.chdir("/dev")
look("relative", lambda: os.open("crypto", rw))
look("up", lambda: os.open("../dev/crypto", rw))
"""

OPENED = {
    "plain": "True",
    "slashes": "True",
    "symlink": "True",
    "by-directory": "True",
    "openat": "True",
    "openat2": "True",
    "creat": "True",
    "create": "True",
    "exclusive": errno.EEXIST,
    "nofollow": errno.ELOOP,
    "nofollow-plain": "True",
    "no-symlinks": errno.ELOOP,
    "beneath": errno.EXDEV,
    "path": errno.ENOENT,
    "namesake": "False",
    "below": errno.ENOENT,
    "other": errno.ENOENT,
    "dangling": errno.ENOENT,
    "round": errno.ELOOP,
    "bad": errno.EFAULT,
    "relative": "True",
    "up": "True",
}


def test_every_way_to_open_it(tmp_path: Path) -> None:
    """By whatever call and path, as the program sees its files; all other opens are the kernel's."""
    done = run(sys.executable, "-c", OPENS, tmp_path, options=OPTIONS)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {name: str(value) for name, value in OPENED.items()}
    assert not Path(DEVICE).exists(), "no call has made a file of that name"


def test_another_root(client: Path, tmp_path: Path) -> None:
    """A program that has changed its root has the device in the /dev that it sees."""
    if os.geteuid():
        pytest.skip("NOT RUN: only root can change its root")
    (tmp_path / "dev").mkdir()
    subprocess.run(["cp", client, tmp_path / "client"], check=True)
    (tmp_path / "link").symlink_to("/dev/crypto")
    done = run("chroot", tmp_path, "/client", "/link", "info", options=OPTIONS)
    assert (done.returncode, done.stdout) == (0, "cbc(aes) hmac(sha256) 1 17\n"), done.stderr


def test_a_mount_and_its_devices(tmp_path: Path) -> None:
    """A key of the form device:NAME is the device's, and the daemon computes."""
    secret = b"a key that no program may read"
    text = declare("mac", "hash", "hmac(sha256)", "{mac}")
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from helpers.devcrypto import *;"
        "program = Program.of_file(os.open('/dev/crypto', os.O_RDWR));"
        "number = program.session(mac=HMAC_SHA256, mac_key=b'device:mac');"
        "print(program.digest(number, b'text')[:32].hex())"
    )
    with serving_config(tmp_path, text, mac=secret) as daemon:
        done = run(sys.executable, "-c", program, TESTS, options=("--mount", str(daemon.mountpoint), "--devcrypto"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hmac.digest(secret, b"text", "sha256").hex()
