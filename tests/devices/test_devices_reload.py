"""A reload of the configuration: devices come, change and go; what is wrong keeps the old one."""

import errno
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import declare, write_private
from helpers.daemons import SHARED, Daemon
from helpers.device_mount import ENCRYPT, KEYS, NAMES, refused
from helpers.other_user import MEMBER, OWNER, STRANGER, AsUser, as_user, let_in, needs_root
from helpers.waiting import wait_until

from cryptofs.client import Context
from cryptofs.records import Record, build, parse_responses

pytestmark = pytest.mark.mount


def reload_said(daemon: Daemon, before: int) -> str:
    """The log behind its first `before` characters, once a reload has been told of."""
    ended = re.compile(r"reloaded: .*\n|reload failed.*\n")
    wait_until(lambda: ended.search(daemon.log[before:]), 20, lambda: daemon.log[before:])
    return daemon.log[before:]


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
        self.daemon = Daemon(self.mountpoint, *SHARED, "--config", str(self.config), log=log)

    def reload(self, text: str, expected: str = "reloaded:") -> str:
        """Change the file and tell the daemon; returns what it logs then."""
        write_private(self.config, text.encode())
        before = len(self.daemon.log)
        self.daemon.process.send_signal(signal.SIGHUP)
        said = reload_said(self.daemon, before)
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
        return declare(name, "aead", "gcm(aes)", key, owner)

    stay = gcm("stays", one)
    reloaded.start(stay + gcm("changes", one) + gcm("goes", one))
    with reloaded.device("stays") as stays, reloaded.device("changes") as changes, reloaded.device("goes") as goes:
        stream = os.open(reloaded.mountpoint / "devices/goes/encrypt", os.O_RDWR)
        path = os.open(reloaded.mountpoint / "devices/changes/crypto", os.O_PATH)
        os.write(stream, b"begun")
        sealed = [each.encrypt(b"before") for each in (stays, changes, goes)]
        messages = stays.message(ENCRYPT)
        messages.update(b"in ")
        said = reloaded.reload(stay + gcm("changes", two) + gcm("new", two))
        assert "new devices: new; devices declared again: changes; devices gone: goes\n" in said
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


def test_reload_takes_a_new_key(reloaded: Reloaded) -> None:
    """New bytes under the same name: new opens have the new key, open contexts the old one, and the log says whose key
    has changed; a device whose key is the same stays as it is. Requests in flight come to their end.
    """
    keys = {name: reloaded.key(name, 1) for name in ("gcm", "xts", "authenc", "hmac", "hex")}
    write_private(keys["xts"], KEYS["xts"])
    write_private(keys["authenc"], KEYS["authenc"])
    write_private(keys["hex"], b"01" * 32)
    owner = f"user = {os.getuid()}"
    text = "".join(declare(name, *NAMES[name], keys[name], owner) for name in ("gcm", "xts", "authenc", "hmac"))
    text += declare("hex", "aead", "gcm(aes)", keys["hex"], owner, 'key.encoding = "hex"')
    reloaded.start(text)

    def inode(name: str) -> int:
        return (reloaded.mountpoint / "devices" / name / "crypto").stat().st_ino

    with reloaded.device("gcm") as before:
        before.encrypt(b"counted")
        nodes = {name: inode(name) for name in keys}
        # the same keys, in new files and in other words
        for path in keys.values():
            write_private(path.with_name("new"), path.read_bytes()).rename(path)
        write_private(keys["hex"], b"01" * 32 + b"\n")
        assert reloaded.reload(text).count("new keys") == 0
        assert {name: inode(name) for name in keys} == nodes
        assert "messages: 1\n" in (reloaded.mountpoint / "devices/gcm/status").read_text()
        waiting = [Record(ENCRYPT, id=number, payload=bytes(200_000)) for number in range(4)]
        os.write(before.fileno(), b"".join(map(build, waiting)))
        write_private(keys["gcm"], bytes([2]) * 32)
        changed = write_private(keys["xts"].with_name("new"), bytes(range(64)))
        changed.rename(keys["xts"])
        write_private(keys["authenc"], KEYS["authenc"][:-1] + b"x")
        said = reloaded.reload(text)
        assert "new keys: authenc, gcm, xts\n" in said.replace("gcm, xts, authenc", "authenc, gcm, xts")
        assert bytes([2]).hex() * 32 not in reloaded.daemon.log
        answers: list[Record] = []
        while len(answers) < len(waiting):
            answers += parse_responses(os.read(before.fileno(), 1 << 20))
        for answer in answers:
            sealed = bytes(answer.payload)
            assert AESGCM(bytes([1]) * 32).decrypt(sealed[:12], sealed[12:], b"") == bytes(200_000)
        with reloaded.device("gcm") as after:
            for context, byte in ((before, 1), (after, 2)):
                sealed = context.encrypt(b"text")
                assert AESGCM(bytes([byte]) * 32).decrypt(sealed[:12], sealed[12:], b"") == b"text"
        assert inode("hmac") == nodes["hmac"]
        assert inode("gcm") != nodes["gcm"]


def test_a_key_that_went_bad_keeps_everything(reloaded: Reloaded) -> None:
    """One key file that a start would refuse: the reload is refused as a whole, with file, line and key; another
    device's new key and the new policy are not taken either.
    """
    one, two = reloaded.key("one", 1), reloaded.key("two", 2)
    owner = f"user = {os.getuid()}"
    text = declare("good", "aead", "gcm(aes)", one, owner) + declare("bad", "aead", "gcm(aes)", two, owner)
    reloaded.start(text)
    write_private(one, bytes([3]) * 32)

    def refused_as_a_whole(why: str) -> None:
        said = reloaded.reload(text + "[policy]\ncontexts = 0\n", "reload failed, the old configuration stays")
        assert f"{reloaded.config}:9: devices.bad.key.file: " in said
        assert why in said
        with reloaded.device("good") as good, reloaded.device("bad") as bad:
            for context, byte in ((good, 1), (bad, 2)):
                sealed = context.encrypt(b"x")
                assert AESGCM(bytes([byte]) * 32).decrypt(sealed[:12], sealed[12:], b"") == b"x"
        two.unlink(missing_ok=True)
        reloaded.key("two", 2)

    write_private(two, bytes(31))
    refused_as_a_whole("key of 31 bytes")
    two.chmod(0o640)
    refused_as_a_whole("mode 0640")
    two.unlink()
    refused_as_a_whole("no such file (ENOENT)")
    two.rename(two.with_name("elsewhere"))
    two.symlink_to(two.with_name("elsewhere"))
    refused_as_a_whole("a symbolic link, which is not followed (ELOOP)")
    write_private(two, b"")
    refused_as_a_whole("it is empty")
    assert "new keys: good\n" in reloaded.reload(text)


def test_what_a_reload_does_not_take(reloaded: Reloaded) -> None:
    """[daemon] is for the start: the line says so, and a wrong engine there is refused before a start fails by it."""
    reloaded.start("")
    assert "[daemon] has changed: restart the daemon to apply it\n" in reloaded.reload("[daemon]\naudit = false\n")
    said = reloaded.reload('[daemon]\nengines = ["quantum"]\n', "reload failed")
    assert ":2: daemon.engines: engine 'quantum'" in said


@needs_root
def test_keys_that_the_daemon_may_not_read(tmp_path: Path) -> None:
    """A daemon that gave up root: the policy is reloaded, and the line names the keys that could not be looked at; a
    new device with such a key is refused, and the refusal says to restart, and why.
    """
    (tmp_path / "mount").mkdir()
    let_in(tmp_path / "mount")
    key = write_private(tmp_path / "key", bytes(32))
    config = write_private(tmp_path / "cryptofs.toml", declare("d", "aead", "gcm(aes)", key).encode())
    config.chmod(0o644)
    log = tmp_path / "log"
    daemon = Daemon(tmp_path / "mount", "--engines", "openssl", "--user", "nobody", "--config", str(config), log=log)

    def reload(text: str) -> str:
        config.write_text(text)
        before = len(daemon.log)
        daemon.process.send_signal(signal.SIGHUP)
        return reload_said(daemon, before)

    try:
        text = config.read_text()
        said = reload(text + "[policy]\ncontexts = 9\n")
        assert "reloaded: " in said
        assert "keys that could not be looked at (the daemon has given up root: restart it" in said
        assert said.rstrip().endswith("): d")
        said = reload(text + declare("new", "aead", "gcm(aes)", key))
        uid = pwd.getpwnam("nobody").pw_uid
        assert f"devices.new.key.file: file {key}: uid {uid} may not read it (EACCES): the daemon has given up" in said
        assert "restart it" in said
    finally:
        daemon.stop()


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
            ":1: devices.d: aead 'nope(aes)': no engine offers it",
        ),
        (
            '[devices.d]\ntype = "aead"\nname = "rfc7539(chacha20,poly1305)"\nauthsize = 3\nkey.file = "KEY"\n',
            "authsize 3",
        ),
        # what no reader of TOML can hold, and what no file can be called
        ("[policy]\ncontexts = " + "9" * 5000 + "\n", ":2: a number of too many digits"),
        ('[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "/a\\u0000b"\n', ":4: devices.d.key.file: "),
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
    good = declare("d", "aead", "gcm(aes)", key, f"user = {os.getuid()}")
    reloaded.start(good)
    with reloaded.device("d") as context:
        said = reloaded.reload(wrong.replace('"KEY"', f'"{key}"'), "reload failed, the old configuration stays")
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


_NAMES = '[policy]\nprofile = "none"\nallow = ["{}"]\n[policy.users.0]\nprofile = "all"\n'
_READ = """
import os, sys
for path in sys.argv[1:]:
    try:
        os.stat(path), open(path).read()
        print("read")
    except OSError as error:
        print(type(error).__name__)
"""


@needs_root
def test_a_denied_name_is_not_remembered(reloaded: Reloaded) -> None:
    """What root has looked up, listed and read stays hidden from a user whom the policy denies it, by its name and by
    a file descriptor; a name that a reload denies is gone at once.
    """
    reloaded.start(_NAMES.format("sha256"))
    names = [let_in(reloaded.mountpoint) / "algorithms/hash" / name for name in ("md5", "sha256")]
    for path in names:
        path.read_text()
    subprocess.run(["ls", "-l", names[0].parent], capture_output=True, timeout=20, check=True)
    assert as_user(STRANGER, STRANGER, [], _READ, *names) == ["FileNotFoundError", "read"]
    held = os.open(names[0], os.O_PATH)
    os.set_inheritable(held, True)
    try:
        assert as_user(STRANGER, STRANGER, [], _READ, f"/proc/self/fd/{held}") == ["PermissionError"]
    finally:
        os.close(held)
    reloaded.reload(_NAMES.format("md5"))
    assert as_user(STRANGER, STRANGER, [], _READ, *names) == ["read", "FileNotFoundError"]


@needs_root
def test_reload_against_opens(reloaded: Reloaded) -> None:
    """A device that changes its owner, again and again, while both owners open it: each gets his own key or nothing."""
    keys = {OWNER: reloaded.key("one", 1), MEMBER: reloaded.key("two", 2)}

    def text(uid: int) -> str:
        return declare("d", "aead", "gcm(aes)", keys[uid], f"user = {STRANGER}", f"group = {uid}", 'mode = "0660"')

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
        declare(
            "d", "aead", "gcm(aes)", tmp_path / "gone"
        ): f"{config}:4: devices.d.key.file: key source gone: file {tmp_path}/gone",
        declare("d", "aead", "gcm(aes)", write_private(tmp_path / "short", bytes(5))): "key of 5 bytes",
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
