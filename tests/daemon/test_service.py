"""What the daemon tells a service manager and takes from it, with the test as the manager; the unit files."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.waiting import wait_until

from cryptofs.client import Context
from cryptofs.contexts.table import CONTEXTS_MAX, HANDLES_MAX, STATE_MAX
from cryptofs.daemon import service
from cryptofs.daemon.privileges import take_away
from cryptofs.mountinfo import mounts_on

pytestmark = pytest.mark.mount
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: needs root")

SYSTEM = Path(__file__).parents[2] / "scripts" / "system"
CRYPTOFS = (sys.executable, "-m", "cryptofs")


class Manager:
    """A notification socket; gathers lines and keeps descriptors by name, as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.stored: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 10)
            told = dict(line.split("=", 1) for line in data.decode().splitlines())
            if told.get("FDSTORE") == "1":
                self.stored[told["FDNAME"]] = descriptors[0]
            elif told.get("FDSTOREREMOVE") == "1":
                if told["FDNAME"] in self.stored:
                    os.close(self.stored.pop(told["FDNAME"]))
            elif told.get("BARRIER") == "1":
                os.close(descriptors[0])
            self.lines += data.decode().splitlines()

    def wait(self, line: str, seconds: float = 10, after: int = 0) -> int:
        """Wait for a line; returns its place. `after`: look from there."""
        deadline = time.monotonic() + seconds
        while line not in self.lines[after:]:
            assert time.monotonic() < deadline, (line, self.lines)
            time.sleep(0.01)
        return self.lines.index(line, after)

    def close(self) -> None:
        """Let go of everything."""
        self._stop = True
        self._thread.join(5)
        self._socket.close()
        for descriptor in self.stored.values():
            os.close(descriptor)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A manager that programs of this test find."""
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    yield made
    made.close()


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A directory; what a test leaves mounted there is taken away."""
    path = tmp_path / "mount"
    path.mkdir()
    yield path
    if os.geteuid() == 0:
        take_away(path)


def start(*arguments: str, descriptors: dict[str, int] | None = None, **more: str) -> subprocess.Popen[str]:
    """The daemon, with descriptors handed over as systemd does: from 3 on, named in the environment."""
    given = descriptors or {}
    moves = " ".join(f"{10 + i}<&{fd}" for i, fd in enumerate(given.values()))
    places = " ".join(f"{3 + i}<&{10 + i}" for i in range(len(given)))
    listen = f"LISTEN_PID=$$ LISTEN_FDS={len(given)} LISTEN_FDNAMES={':'.join(given)} " if given else ""
    words = " ".join((*CRYPTOFS, "mount", *arguments, "--allow-root", "--engines", "openssl", "-v"))
    script = f"exec {moves}; exec {places}; {listen} exec {words}"
    return subprocess.Popen(
        ["bash", "-c", script],
        env={**os.environ, **more},
        pass_fds=tuple(given.values()),
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    """Stop it; what it said."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=20)[1]
    assert process.returncode == 0, output
    return output


def test_readiness_and_status(manager: Manager, mountpoint: Path) -> None:
    """READY only when the mount answers; STATUS has the engines; STOPPING at the end."""
    process = start(str(mountpoint))
    try:
        manager.wait("READY=1")
        assert (mountpoint / "version").read_text().startswith("cryptofs")
        assert any(re.fullmatch(r"STATUS=engines openssl; \d+ contexts open", line) for line in manager.lines)
    finally:
        end(process)
    manager.wait("STOPPING=1")
    assert "WATCHDOG=1" not in manager.lines


def test_reload_is_told(manager: Manager, mountpoint: Path) -> None:
    """SIGHUP: RELOADING, what holds now, READY again."""
    process = start(str(mountpoint))
    try:
        ready = manager.wait("READY=1")
        process.send_signal(signal.SIGHUP)
        reloading = manager.wait("RELOADING=1", after=ready)
        again = manager.wait("READY=1", after=reloading)
        assert any(line.startswith("STATUS=") for line in manager.lines[reloading:again])
    finally:
        end(process)


def test_signs_of_life_stop_with_the_daemon(manager: Manager, mountpoint: Path) -> None:
    """WATCHDOG comes while requests are answered, and not from a stopped daemon; killed in that state, it leaves no
    process and no client that hangs.
    """
    process = start(str(mountpoint), WATCHDOG_USEC="300000")
    try:
        place = manager.wait("WATCHDOG=1")
        place = manager.wait("WATCHDOG=1", after=place + 1)
        manager.wait("WATCHDOG=1", after=place + 1)
        stats = (mountpoint / "stats").read_text()
        assert re.search(r"^cryptofs_\w*contexts\w* 1\.0$", stats, re.MULTILINE), stats
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        count = manager.lines.count("WATCHDOG=1")
        time.sleep(1)
        assert manager.lines.count("WATCHDOG=1") == count
        # a request of the asking process lies in the daemon now, unanswered
        process.kill()
        process.communicate(timeout=5)
        began = time.monotonic()
        with pytest.raises(OSError):
            os.listdir(mountpoint)
        assert time.monotonic() - began < 1
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], capture_output=True, check=False)


@pytest.mark.parametrize(
    "rule", ["contexts = 0", 'profile = "none"', "queue-bytes = 50", "requests = 1\nqueue-bytes = 1", "rate = 1"]
)
def test_signs_of_life_are_under_no_rule(manager: Manager, mountpoint: Path, tmp_path: Path, rule: str) -> None:
    """A policy that leaves the daemon's own user nothing does not look like a daemon that serves nobody."""
    config = tmp_path / "cryptofs.toml"
    config.write_text(f"[policy]\n{rule}\n")
    config.chmod(0o600)
    process = start(str(mountpoint), "--config", str(config), WATCHDOG_USEC="300000")
    try:
        place = manager.wait("READY=1")
        for _ in range(5):
            place = manager.wait("WATCHDOG=1", after=place + 1)
    finally:
        output = end(process)
    assert "does not answer" not in output


@as_root
def test_a_mount_point_of_root_is_closed(mountpoint: Path) -> None:
    """Whoever serves: where root mounts, nobody writes plaintext into the bare directory."""
    mountpoint.chmod(0o777)
    process = start(str(mountpoint))
    try:
        assert process.stderr is not None
        while "mounted" not in process.stderr.readline():
            pass
        assert mountpoint.stat().st_mode & 0o7777 == 0o755
    finally:
        end(process)
    assert mountpoint.stat().st_mode & 0o7777 == 0


@as_root
def test_a_mount_is_handed_over(manager: Manager, mountpoint: Path, tmp_path: Path) -> None:
    """hand-over mounts and stores; the service finds the mount, has it forgotten, and serves; take-back closes it."""
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o400)
    config = tmp_path / "cryptofs.toml"
    config.write_text(
        f'[devices.disk]\nkey.file = "{key}"\n[devices.token]\nkey.pkcs11 = "x"\nkey.pin-file = "{key}"\n'
        f'[devices.uri]\nkey.pkcs11 = "pkcs11:object=x?pin-source=file:{key}"\n'
    )
    options = ("--user", "nobody", "--key", f"backup={key}", "--config", str(config))
    subprocess.run([*CRYPTOFS, "hand-over", str(mountpoint), *options], check=True, timeout=20)
    assert set(manager.stored) == {"control", "fuse", "key-backup", "key-disk", "pin-token", "pin-uri"}
    assert len(mounts_on(mountpoint)) == 1
    process = start(str(mountpoint), "--service", descriptors=manager.stored)
    try:
        manager.wait("READY=1")
        assert manager.stored == {}
        assert (mountpoint / "version").read_text().startswith("cryptofs")
        assert len(mounts_on(mountpoint)) == 1
        with Context("hash", "sha256", mount=mountpoint):
            pass
    finally:
        said = end(process)
    # a service keeps its audit trail, whether there is a configuration or not
    assert f"open uid={os.geteuid()} pid={os.getpid()} context=" in said
    assert f"configure uid={os.geteuid()} pid={os.getpid()} context=" in said
    # it cannot unmount, but nobody hangs
    with pytest.raises(OSError):
        os.listdir(mountpoint)
    subprocess.run([*CRYPTOFS, "take-back", str(mountpoint)], check=True, timeout=20)
    assert len(mounts_on(mountpoint)) == 0
    assert mountpoint.stat().st_mode & 0o7777 == 0
    assert not service.control_path(mountpoint).exists()


# A reload whose outcome is known


GCM = '[devices.{}]\ntype = "aead"\nname = "gcm(aes)"\nkey.file = "{}"\n'


class Served:
    """A service that was handed its mount, as the unit does it, and that reads a configuration."""

    def __init__(self, manager: Manager, mountpoint: Path) -> None:
        self.manager = manager
        self.mountpoint = mountpoint
        self.config = mountpoint.parent / "cryptofs.toml"
        self.process: subprocess.Popen[str]

    def key(self, name: str, byte: int, size: int = 32) -> Path:
        """A key file."""
        path = self.mountpoint.parent / name
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(bytes([byte]) * size)
        return path

    def write(self, text: str) -> None:
        """A configuration."""
        self.config.write_text(text)
        self.config.chmod(0o600)

    def step(self, name: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """One of the privileged steps."""
        command = [*CRYPTOFS, name, str(self.mountpoint), "--user", "nobody", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self) -> None:
        """Hand over and serve."""
        assert self.step("hand-over").returncode == 0
        stored = self.manager.stored
        self.process = start(str(self.mountpoint), "--service", "--config", str(self.config), descriptors=stored)
        self.manager.wait("READY=1")

    def seals_with(self, device: str, byte: int) -> bool:
        """Whether a device has this key."""
        with Context.of_device(device, mount=self.mountpoint) as context:
            sealed = context.encrypt(b"text")
        return AESGCM(bytes([byte]) * 32).decrypt(sealed[:12], sealed[12:], b"") == b"text"


@pytest.fixture
def served(manager: Manager, mountpoint: Path) -> Iterator[Served]:
    """A service, whose end is checked."""
    made = Served(manager, mountpoint)
    made.write(GCM.format("one", made.key("one", 1)))
    made.start()
    try:
        yield made
    finally:
        said = end(made.process)
        subprocess.run([*CRYPTOFS, "take-back", str(mountpoint)], check=True, timeout=20)
    assert "Traceback" not in said


@as_root
def test_reload_hands_keys_over(served: Served) -> None:
    """The privileged step opens the key files that the configuration names now: the first device with another key, and
    a file that was replaced, need no restart. Its status is the outcome, and it says what has changed.
    """
    served.key("one", 3)
    served.write(GCM.format("one", served.key("one", 3)) + GCM.format("two", served.key("two", 2)))
    # by a signal nobody hands anything over: here the daemon is root, and finds the replaced file by its path
    done = served.step("reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("; new devices: two; new keys: one\n"), done.stdout
    assert served.seals_with("one", 3)
    assert served.seals_with("two", 2)
    again = served.step("reload")
    assert "new" not in again.stdout
    before = len(os.listdir(f"/proc/{served.process.pid}/fd"))
    for byte in range(4, 9):
        served.key("one", byte)
        assert served.step("reload").stdout.endswith("; new keys: one\n")
    assert served.seals_with("one", 8)
    assert len(os.listdir(f"/proc/{served.process.pid}/fd")) == before
    told = [line for line in served.manager.lines if line.startswith(("RELOADING", "STATUS", "READY"))]
    assert [line.partition("=")[0] for line in told[-3:]] == ["RELOADING", "STATUS", "READY"]
    assert "new keys: one; engines openssl" in told[-2]


@as_root
def test_a_refused_reload_fails(served: Served) -> None:
    """Status 1, the reason on standard error, and what held before holds on."""
    key = served.mountpoint.parent / "one"
    good = GCM.format("one", key)

    def refused(says: str) -> None:
        done = served.step("reload")
        assert done.returncode == 1
        assert says.replace("KEY", str(key)) in done.stderr
        assert "Traceback" not in done.stderr
        assert served.seals_with("one", 1)
        served.write(good)
        served.key("one", 1)

    served.write(good + "colour = 1\n")
    refused("cryptofs.toml:5: devices.one.colour: unknown key")
    served.key("one", 1, 5)
    refused("cryptofs.toml:4: devices.one.key.file: file KEY: key of 5 bytes")
    key.chmod(0o644)
    refused("key of device 'one': KEY: mode 0644")
    key.unlink()
    refused("key of device 'one': KEY: no such file (ENOENT)")
    key.rename(key.with_name("elsewhere"))
    key.symlink_to(key.with_name("elsewhere"))
    refused("key of device 'one': KEY: a symbolic link, which is not followed (ELOOP)")
    key.unlink()
    os.mkfifo(key, 0o600)
    refused("key of device 'one': KEY: not a regular file")
    assert served.step("reload").returncode == 0


@as_root
def test_callers_of_the_control_socket(served: Served) -> None:
    """Only root may connect; who says nothing, or nonsense, or hands over what is not wanted, keeps nobody from being
    heard, and leaves no descriptor. Reloads at the same time come one after the other.
    """
    path = service.control_path(served.mountpoint)
    assert path.stat().st_mode & 0o7777 == 0o600
    as_nobody = "import socket,sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"
    refused = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "--", "/usr/bin/python3", "-c", as_nobody, str(path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "PermissionError" in refused.stderr
    before = len(os.listdir(f"/proc/{served.process.pid}/fd"))
    with open("/dev/null", "rb") as file:
        for message, descriptors in ((b"nonsense", [file.fileno()] * 3), (b"key-a\0/x", []), (b"x" * 9000, [])):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                caller.settimeout(20)
                caller.connect(str(path))
                socket.send_fds(caller, [message], descriptors)
                assert caller.recv(100).startswith(b"refused ")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(str(path))
            socket.send_fds(caller, [b"key-a\0/x"], [file.fileno()])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(path))
        threads = [threading.Thread(target=served.step, args=("reload",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert served.step("reload").returncode == 0
    assert served.seals_with("one", 1)
    wait_until(lambda: len(os.listdir(f"/proc/{served.process.pid}/fd")) == before)


@as_root
def test_reload_without_a_service(manager: Manager, mountpoint: Path, tmp_path: Path) -> None:
    """No service, or an older one that has no such socket: the step fails and says to restart. A socket that somebody
    else has put there gets no key.
    """
    served = Served(manager, mountpoint)
    served.write(GCM.format("one", served.key("one", 1)))
    done = served.step("reload")
    assert done.returncode == 1
    assert "restart it" in done.stderr
    path = service.control_path(mountpoint)
    script = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
os.setresuid(70001, 70001, 70001)
listener.listen()
print("ready", flush=True)
listener.settimeout(30)
caller, _ = listener.accept()
print(socket.recv_fds(caller, 100, 4)[:2], flush=True)
"""
    command = ["/usr/bin/python3", "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        done = served.step("reload")
        assert "uid 70001 listens there" in done.stderr
        assert other.stdout.readline() == "(b'', [])\n"
    path.unlink()


@as_root
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--key", "backup=/nonexistent/key"), "key of device 'backup': /nonexistent/key: no such file (ENOENT)"),
        (("--user", "nosuchuser"), "no such user"),
        (("--key", "backup"), "DEVICE=FILE"),
        (("--key", "backup=/dev/null"), "not a regular file"),
        (("--config", "BAD"), "key of device 'x': /a\\x00b: no such file (ENOENT)"),
    ],
)
def test_a_failing_hand_over_leaves_no_mount(
    manager: Manager, mountpoint: Path, arguments: tuple[str, ...], says: str
) -> None:
    """The reason in one line, nothing mounted, nothing stored."""
    bad = mountpoint.parent / "bad.toml"
    bad.write_text('[devices.x]\nkey.file = "/a\\u0000b"\n')
    given = [str(bad) if each == "BAD" else each for each in arguments]
    command = [*CRYPTOFS, "hand-over", str(mountpoint), "--user", "nobody", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert manager.stored == {}
    assert len(mounts_on(mountpoint)) == 0
    assert not service.control_path(mountpoint).exists()


@as_root
@pytest.mark.parametrize(
    "text", [b"x = " + b"[" * 20_000, b"\xff", b"[devices]\nx = 3\n", b"[devices.x]\nkey.file = 3\n"]
)
def test_a_bad_configuration_is_the_services_to_find(
    manager: Manager, mountpoint: Path, tmp_path: Path, text: bytes
) -> None:
    """hand-over says that it opens no key file of it, and does the rest: the service tells file, line and key."""
    config = tmp_path / "cryptofs.toml"
    config.write_bytes(text)
    command = [*CRYPTOFS, "hand-over", str(mountpoint), "--user", "nobody", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    try:
        assert done.returncode == 0, done.stderr
        assert f"{config}: opening no key file" in done.stderr
        assert "Traceback" not in done.stderr
        assert set(manager.stored) == {"control", "fuse"}
    finally:
        subprocess.run([*CRYPTOFS, "take-back", str(mountpoint)], check=True, timeout=20)


@as_root
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o601])
def test_a_key_that_others_may_read_is_not_handed_over(
    manager: Manager, mountpoint: Path, tmp_path: Path, mode: int
) -> None:
    """Opened as root, a key file's mode and owner have to be right all the same, by option and by configuration."""
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(mode)
    config = tmp_path / "cryptofs.toml"
    config.write_text(f'[devices.disk]\nkey.file = "{key}"\n')

    def refused(*options: str) -> str:
        command = [*CRYPTOFS, "hand-over", str(mountpoint), "--user", "nobody", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1
        assert manager.stored == {}
        assert len(mounts_on(mountpoint)) == 0
        return done.stderr

    for options in (("--key", f"disk={key}"), ("--config", str(config))):
        assert f"key of device 'disk': {key}: mode {mode:04o}: it may have none of the bits 0077" in refused(*options)
    key.chmod(0o600)
    os.chown(key, 70_001, 0)
    assert "owned by uid 70001" in refused("--key", f"disk={key}")


@as_root
def test_hand_over_needs_a_manager(mountpoint: Path) -> None:
    """Without one nobody would ever serve the mount: it is taken away again."""
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    command = [*CRYPTOFS, "hand-over", str(mountpoint), "--user", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment, check=False)
    assert "no service manager" in done.stderr
    assert len(mounts_on(mountpoint)) == 0


def test_descriptors_are_taken_once() -> None:
    """By name, close-on-exec, only for the process that is meant, and the environment forgets them."""
    script = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from cryptofs.daemon.service import stored_descriptors
found = stored_descriptors()
assert found == stored_descriptors()
print(sorted(found), [os.get_inheritable(fd) for fd in found.values()], any(n.startswith("LISTEN") for n in os.environ))
"""
    shell = 'exec 3</dev/null 4</dev/null 5</dev/null; exec "$@"'
    for other, expected in ((0, "['fuse', 'key-a'] [False, False] False"), (1, "[] [] False")):
        done = subprocess.run(
            ["bash", "-c", shell, "sh", sys.executable, "-c", script, str(other)],
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "fuse:key-a:fuse"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_what_a_manager_is_told(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each; without a manager nothing is told, and a manager that has gone is an error."""
    service.tell("STATUS", "12 contexts")
    service.tell("READY")
    manager.wait("READY=1")
    assert manager.lines == ["STATUS=12 contexts", "READY=1"]
    monkeypatch.delenv("NOTIFY_SOCKET")
    service.tell("READY")
    time.sleep(0.1)
    assert len(manager.lines) == 2
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/notify")
    with pytest.raises(service.ServiceError, match="READY"):
        service.tell("READY")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_watchdog_time(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], seconds: float | None) -> None:
    """Given in microseconds, and perhaps for another process."""
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert service.watchdog_seconds() == seconds


# The unit


@pytest.fixture(params=["cryptofs.service", "cryptofs-cuse.service"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each unit as it is installed, for a program that is there."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("NOT RUN: systemd-analyze is missing")
    program = tmp_path / "bin" / "cryptofs"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (SYSTEM / request.param).read_text()
    for name, value in (("PREFIX", str(tmp_path)), ("MOUNTPOINT", "/run/cryptofs"), ("PARENT", "/run")):
        text = text.replace(f"@{name}@", value)
    file = tmp_path / str(request.param)
    file.write_text(text)
    return file


def test_unit_verifies(unit: Path) -> None:
    """systemd-analyze verify says nothing, and does say something of a unit that has an error."""
    clean = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (clean.returncode, clean.stdout + clean.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("RestrictRealtime", "RestrictUnreal"))
    wrong = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "RestrictUnreal" in wrong.stderr


def test_unit_is_little_exposed(unit: Path) -> None:
    """systemd-analyze security: 1.0 or better; the device's begins as root, and has to be 2.5 or better."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", unit], capture_output=True, text=True, check=True
    )
    score = re.search(r"exposure level[^0-9]*([0-9.]+)", done.stdout)
    assert score is not None
    assert float(score[1]) <= {"cryptofs.service": 1.0, "cryptofs-cuse.service": 2.5}[unit.name]


def test_unit_bounds_memory() -> None:
    """Its bound leaves room for all that the daemon's own bounds admit, and it is not spared where memory is short."""
    settings = dict(
        line.split("=", 1) for line in (SYSTEM / "cryptofs.service").read_text().splitlines() if "=" in line
    )
    most = int(settings["MemoryMax"].removesuffix("G")) << 30
    queued = 512 << 20
    assert most >= STATE_MAX + CONTEXTS_MAX * 5000 + HANDLES_MAX * 2000 + queued
    assert int(settings.get("OOMScoreAdjust", "0")) >= 0
