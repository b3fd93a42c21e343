"""The service as it is installed, under a real systemd as the first process of a guest; see scripts/test-systemd."""

import contextlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.other_user import AS_NOBODY, readable
from helpers.waiting import wait_until

from cryptofs.client import Context

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not os.environ.get("CRYPTOFS_SYSTEMD"),
        reason="NOT RUN: needs systemd as the first process; ./scripts/test-systemd runs it in the guest",
    ),
]

MOUNT = Path("/run/cryptofs")
UNIT = "cryptofs.service"
KILLS = int(os.environ.get("CRYPTOFS_KILLS", "20"))
LOADS = 3
CANARY = bytes.fromhex("c0ffee5ec2e7ca9a12ab00d1e5c0ded0")


def run(*command: str, timeout: float = 60, check: bool = True) -> str:
    """A command's output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{journal()[-3000:]}"
    return done.stdout + done.stderr


def show(name: str) -> str:
    """A property of the service."""
    return run("systemctl", "show", "-P", name, UNIT).strip()


def main_pid() -> int:
    """The daemon's process id."""
    pid = int(show("MainPID"))
    assert pid > 0, journal()[-3000:]
    return pid


def journal(since: float = 0) -> str:
    """What the journal has of the service, since a time of time.time()."""
    run("journalctl", "--sync", check=False)
    done = subprocess.run(
        ["journalctl", "-u", UNIT, "--no-pager", "-o", "cat", "--since", f"@{int(since)}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def fields(pid: int, name: str = "status") -> dict[str, str]:
    """/proc/<pid>/status as a table."""
    lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def is_mounted() -> bool:
    """Whether cryptofs is mounted at the service's mount point, without touching it."""
    return f" {MOUNT} fuse.cryptofs " in Path("/proc/self/mounts").read_text()


def digest_as_nobody() -> str:
    """What an unprivileged program gets for an empty file."""
    return run(*AS_NOBODY, "/opt/cryptofs/bin/cryptofs", "hash", "--mount", str(MOUNT), "/dev/null").split()[0]


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@contextlib.contextmanager
def drop_in(*lines: str) -> Iterator[None]:
    """Further settings of the unit for a while."""
    directory = Path(f"/run/systemd/system/{UNIT}.d")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "test.conf"
    file.write_text("[Service]\n" + "\n".join(lines) + "\n")
    run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        file.unlink()
        run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def installed() -> None:
    """What scripts/install does last on a machine that runs systemd."""
    run("systemd-sysusers", "/usr/local/lib/sysusers.d/cryptofs.conf")
    run("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/cryptofs.conf")
    run("systemctl", "daemon-reload")


@pytest.fixture
def service(installed: None) -> Iterator[int]:
    """The running service; gives the daemon's process id."""
    run("systemctl", "reset-failed", UNIT, check=False)
    run("systemctl", "start", UNIT)
    yield main_pid()
    if show("ActiveState") not in ("active", "inactive"):
        run("systemctl", "stop", UNIT, check=False)


def test_unit_is_clean(installed: None) -> None:
    """systemd itself has nothing to say against the unit, and finds it little exposed."""
    assert run("systemd-analyze", "verify", UNIT) == ""
    score = re.search(r"exposure level[^0-9]*([0-9.]+)", run("systemd-analyze", "security", UNIT))
    assert score is not None
    assert float(score[1]) <= 1.0


def test_before_the_start_nobody_can_write_there(installed: None) -> None:
    """tmpfiles.d makes the mount point root's own, mode 0000."""
    run("systemctl", "stop", UNIT)
    assert not is_mounted()
    found = MOUNT.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0)


def test_started_means_that_it_answers(service: int) -> None:
    """`systemctl start` returns when the mount answers; the status line says what serves."""
    assert run(*AS_NOBODY, "cat", str(MOUNT / "version")).startswith("cryptofs ")
    assert show("StatusText").startswith("engines af_alg, openssl, ")
    assert show("Type") == "notify"
    options = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {MOUNT} " in line)
    assert {"nosuid", "nodev", "default_permissions", "allow_other"} <= set(options.split()[3].split(","))


def test_the_daemon_has_no_privilege(service: int) -> None:
    """Its own user, no capability, no way to get one, seccomp, no core, undumpable, memory locked."""
    uid = run("id", "-u", "cryptofs").strip()
    for pid in [service, *(int(child) for child in run("pgrep", "-P", str(service)).split())]:
        status = fields(pid)
        assert status["Uid"].split() == [uid] * 4
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[capabilities], 16) == 0, capabilities
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
        # what is undumpable belongs to root, and not even its own user may look into it
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
        as_itself = ("setpriv", "--reuid", uid, "--clear-groups", "--", "cat", f"/proc/{pid}/environ")
        assert "Permission denied" in run(*as_itself, check=False)
    assert int(fields(service)["VmLck"].split()[0]) > 0


def test_the_manager_keeps_no_descriptor(service: int) -> None:
    """Otherwise the mount would outlive the daemon, and its clients would hang."""
    assert show("NFileDescriptorStore") == "0"


def test_an_unprivileged_program_is_served_by_the_kernel(service: int) -> None:
    """nobody gets the digest; the engine is AF_ALG."""
    assert digest_as_nobody() == EMPTY
    with Context("hash", "sha256", mount=MOUNT) as context:
        assert context.engine == "af_alg"
        assert context.digest(b"").hex() == EMPTY


def test_a_signal_ends_a_reader_of_another_user(service: int) -> None:
    """The sandbox lets the daemon see that a signal waits for a program: it ends at once, not at the bound."""
    with Context("hash", "sha256", mount=MOUNT) as context:
        stream = context.directory / "stream"
        os.chdir("/")
        # root's own context: only its opener's user opens the stream
        with stream.open("wb", buffering=0), subprocess.Popen(["cat", str(stream)], stdout=subprocess.PIPE) as reader:
            time.sleep(0.5)
            assert reader.poll() is None
            began = time.monotonic()
            reader.terminate()
            reader.wait(15)
            assert time.monotonic() - began < 2


def test_reload(service: int) -> None:
    """systemctl reload: the same process, open contexts live on, the status line says what holds."""
    begun = time.time()
    with Context("hash", "sha256", mount=MOUNT) as context:
        run("systemctl", "reload", UNIT)
        wait_until(lambda: "reload" in journal(begun).lower(), 30)
        wait_until(lambda: show("ActiveState") == "active", 30)
        assert context.digest(b"").hex() == EMPTY
    assert main_pid() == service
    assert int(show("NRestarts")) == 0


def test_watchdog_sees_a_stopped_daemon(service: int) -> None:
    """SIGSTOP: systemd kills it, starts it again, and the mount answers."""
    # shipped are 10 s; the daemon sees three signs of life in that
    begun = time.time()
    time.sleep(12)
    assert main_pid() == service, "a healthy daemon is left alone"
    os.kill(service, signal.SIGSTOP)
    wait_until(lambda: show("MainPID") not in (str(service), "0"), 30)
    wait_until(lambda: show("ActiveState") == "active", 30)
    assert digest_as_nobody() == EMPTY
    assert "watchdog timeout" in journal(begun).lower()
    assert show("NFileDescriptorStore") == "0"


class Client:
    """tests/helpers/load_client.py as nobody, and what it says."""

    def __init__(self, size: int) -> None:
        self._files = contextlib.ExitStack()
        script = self._files.enter_context(readable("load_client.py")) / "load_client.py"
        # an interpreter that nobody may run
        command = [*AS_NOBODY, "/opt/cryptofs/bin/python", "-I", str(script), str(MOUNT), str(size)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[list[str]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.split())

    def first(self, word: str, after: float) -> float | None:
        """When it first said this after a time."""
        return next((float(line[1]) for line in list(self.lines) if line[0] == word and float(line[1]) > after), None)

    def wait(self, word: str, after: float) -> float:
        """Wait until it says this after a time; when that was."""
        wait_until(lambda: self.first(word, after), 20)
        return self.first(word, after) or 0

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(20)
        self._reader.join(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._files.close()


def kill_again_and_again() -> tuple[list[float], list[float]]:
    """SIGKILL to the daemon while four clients work, KILLS times.

    Gives the seconds after which each client had its error, and those after which all were served again, each sorted.
    """
    clients = [Client(size) for size in (256, 4096, 65536, 524288)]
    errors, backs = [], []
    try:
        for round_ in range(KILLS):
            for client in clients:
                client.wait("up", 0)
            # at another moment of their work each time
            time.sleep(0.3 + 0.017 * (round_ % 20))
            pid = main_pid()
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            for client in clients:
                errors.append(client.wait("error", killed) - killed)
            backs.append(max(client.wait("up", killed) for client in clients) - killed)
            print(
                f"kill {round_ + 1}: errors within {max(errors[-4:]):.3f} s, back after {backs[-1]:.3f} s", flush=True
            )
        assert not any(client.first("wrong", 0) for client in clients)
    finally:
        for client in clients:
            client.close()
    return sorted(errors), sorted(backs)


def seconds_to_load() -> float:
    """What a fresh interpreter takes to load the daemon, on this machine and now: the middle of five."""
    command = ("/opt/cryptofs/bin/python", "-I", "-c", "import cryptofs.daemon.serve")
    taken = []
    for _ in range(5):
        begun = time.monotonic()
        run(*command)
        taken.append(time.monotonic() - begun)
    return sorted(taken)[2]


@pytest.mark.timeout(60 + KILLS * 15)
def test_killed_under_load(service: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every client gets an error within 1 s, and all are served again within 2 s.

    The one processor of the guest is at the mercy of its host, so what is over 2 s is told. What fails the test, if it
    comes twice, is a middle that is also over LOADS times what the machine needs to load the daemon.
    """
    for attempt in range(2):
        errors, backs = kill_again_and_again()
        middle = backs[len(backs) // 2]
        late = [f"{back:.2f}" for back in backs if back >= 2]
        with capsys.disabled():
            print(
                f"\n{KILLS} kills: errors within {errors[-1]:.3f} s; all served again after {backs[0]:.2f} s at "
                f"best, {middle:.2f} s in the middle, {backs[-1]:.2f} s at worst"
            )
            if late:
                print(f"NOT HELD: back within 2 s in {len(late)} of {KILLS}: {' '.join(late)} s")
        assert errors[-1] < 1
        assert backs[-1] < 30
        if middle < 2:
            break
        bound = LOADS * seconds_to_load()
        with capsys.disabled():
            print(f"the bound for the middle on this machine, now: {bound:.2f} s")
        if middle < bound:
            break
        assert attempt == 0, f"back after {middle:.2f} s in the middle, twice"
    assert show("NFileDescriptorStore") == "0"
    # nothing piles up
    assert Path("/proc/self/mounts").read_text().count("fuse.cryptofs") == 1
    assert len(run("pgrep", "-u", "cryptofs").split()) == 2


def test_a_failing_start_says_why(installed: None) -> None:
    """A bad option: the journal has the reason in one line, and the mount point is left unusable."""
    run("systemctl", "stop", UNIT)
    begun = time.time()
    line = "ExecStart=/opt/cryptofs/bin/cryptofs mount /run/cryptofs --service --engines quantum"
    with drop_in("ExecStart=", line, "Restart=no"):
        assert subprocess.run(["systemctl", "start", UNIT], capture_output=True, check=False).returncode != 0
        assert "engine 'quantum': one of" in journal(begun)
        assert "Traceback" not in journal(begun)
        assert not is_mounted()
        assert MOUNT.stat().st_mode & 0o7777 == 0
    run("systemctl", "reset-failed", UNIT)


def test_stop_leaves_a_mount_point_that_takes_no_file(service: int) -> None:
    """Stopped with a context open and a reader at work: unmounted, root's own, mode 0000; nobody can write there."""
    context = Context("hash", "sha256", mount=MOUNT)
    try:
        run("systemctl", "stop", UNIT)
        assert show("Result") == "success"
        assert not is_mounted()
        with pytest.raises(OSError):
            context.digest(b"")
    finally:
        context.close()
    found = MOUNT.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0)
    writing = run(*AS_NOBODY, "sh", "-c", f"echo plaintext > {MOUNT}/encrypt", check=False)
    assert "Permission denied" in writing
    assert list(MOUNT.iterdir()) == []
    assert run("pgrep", "-u", "cryptofs", check=False) == ""


def test_fstab(installed: None) -> None:
    """mount(8) with the type cryptofs: served by the unprivileged user; umount(8) ends it and leaves mode 0000."""
    directory = Path("/run/by-fstab")
    directory.mkdir()
    with Path("/etc/fstab").open("a") as table:
        table.write(f"none {directory} cryptofs setuid=cryptofs,engines=openssl,noauto,nofail,x-test 0 0\n")
    run("mount", str(directory))
    try:
        with Context("hash", "sha256", mount=directory) as context:
            assert context.digest(b"").hex() == EMPTY
            assert context.engine == "openssl"
        uid = run("id", "-u", "cryptofs").strip()
        assert uid in run("ps", "-o", "uid=", "-C", "cryptofs").split()
    finally:
        run("umount", str(directory))
    wait_until(lambda: not run("pgrep", "-u", "cryptofs", check=False), 30)
    wait_until(lambda: directory.stat().st_mode & 0o7777 == 0, 5)


_AS_NOBODY_DIGEST = """
import os, sys
file = os.open(sys.argv[1] + "/devices/canary/digest", os.O_RDWR)
os.write(file, b"abc")
print(os.read(file, 64).hex())
"""


def test_a_device_whose_key_only_root_may_read(installed: None) -> None:
    """The key file is opened by hand-over: nobody uses the key, neither nobody nor the daemon's user can read the file.

    A reload with an error in the file keeps what holds and says where the error is; a start with one fails and says so.
    """
    run("systemctl", "stop", UNIT)
    directory = Path("/etc/cryptofs")
    directory.mkdir(exist_ok=True)
    key, config = directory / "canary.key", directory / "cryptofs.toml"
    key.write_bytes(CANARY)
    key.chmod(0o600)
    text = f'[devices.canary]\ntype = "hash"\nname = "hmac(sha256)"\nmode = "0666"\nkey.file = "{key}"\n'
    config.write_text(text)
    config.chmod(0o644)
    command = (*AS_NOBODY, "/opt/cryptofs/bin/python", "-I", "-c", _AS_NOBODY_DIGEST, str(MOUNT))
    expected = hmac.digest(CANARY, b"abc", "sha256").hex()
    try:
        run("systemctl", "start", UNIT)
        assert run(*command).strip() == expected
        assert "Permission denied" in run(
            "setpriv", "--reuid", "cryptofs", "--clear-groups", "cat", str(key), check=False
        )
        assert show("NFileDescriptorStore") == "0"
        begun = time.time()
        pid = main_pid()
        config.write_text(text + "colour = 1\n")
        assert subprocess.run(["systemctl", "reload", UNIT], capture_output=True, check=False).returncode != 0
        assert "colour" in journal(begun)
        wait_until(lambda: show("ActiveState") == "active", 30)
        # the signs of life go on, and leave it there
        time.sleep(4)
        assert "cryptofs.toml" in show("StatusText")
        assert run(*command).strip() == expected
        # a file that was replaced, and the first device of another name, need no restart
        other = directory / "other.key"
        other.touch(0o600)
        other.write_bytes(CANARY[::-1])
        other.rename(key)
        config.write_text(text + text.replace("canary]", "second]"))
        run("systemctl", "reload", UNIT)
        assert main_pid() == pid
        assert "new devices: second; new keys: canary;" in show("StatusText")
        changed = hmac.digest(CANARY[::-1], b"abc", "sha256").hex()
        assert [digest_of_device(name) for name in ("canary", "second")] == [changed, changed]
        key.write_bytes(b"")
        assert subprocess.run(["systemctl", "reload", UNIT], capture_output=True, check=False).returncode != 0
        assert digest_of_device("canary") == changed
        config.write_text(text + "colour = 1\n")
        with drop_in("Restart=no"):
            assert subprocess.run(["systemctl", "restart", UNIT], capture_output=True, check=False).returncode != 0
        assert not is_mounted()
        assert CANARY.hex() not in journal(begun)
    finally:
        run("systemctl", "stop", UNIT)
        run("systemctl", "reset-failed", UNIT, check=False)
        config.unlink()
        key.unlink()


@contextlib.contextmanager
def configured(text: str) -> Iterator[None]:
    """The service with another configuration for a while."""
    run("systemctl", "stop", UNIT)
    directory = Path("/etc/cryptofs")
    directory.mkdir(exist_ok=True)
    config = directory / "cryptofs.toml"
    before = config.read_bytes() if config.exists() else None
    config.write_text(text)
    config.chmod(0o644)
    try:
        yield
    finally:
        run("systemctl", "stop", UNIT)
        run("systemctl", "reset-failed", UNIT, check=False)
        config.unlink()
        if before is not None:
            config.write_bytes(before)


def digest_of_device(name: str) -> str:
    """What nobody gets from a device for `abc`."""
    script = _AS_NOBODY_DIGEST.replace("devices/canary", f"devices/{name}")
    return run(*AS_NOBODY, "/opt/cryptofs/bin/python", "-I", "-c", script, str(MOUNT)).strip()


DEVICE = '[devices.canary]\ntype = "hash"\nname = "hmac(sha256)"\nmode = "0666"\n'


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_key_from_a_credential(installed: None, encrypted: bool) -> None:
    """A device's key comes from systemd, decrypted by it where the file on disk is not to be read."""
    source = Path("/etc/cryptofs.credential")
    source.touch(0o600)
    source.write_bytes(CANARY)
    setting = f"LoadCredential=canary:{source}"
    if encrypted:
        sealed = Path("/etc/cryptofs.cred")
        run("systemd-creds", "encrypt", "--with-key=host", "--name=canary", str(source), str(sealed))
        assert CANARY not in sealed.read_bytes()
        setting = f"LoadCredentialEncrypted=canary:{sealed}"
    with configured(DEVICE + 'key.credential = "canary"\n'), drop_in(setting):
        if encrypted:
            source.unlink()
        run("systemctl", "start", UNIT)
        assert digest_of_device("canary") == hmac.digest(CANARY, b"abc", "sha256").hex()
        assert "(hidden)" in (MOUNT / "devices/canary/status").read_text()
    source.unlink(missing_ok=True)


def test_a_key_from_the_keyring(installed: None) -> None:
    """The user keyring of the service's user: systemd's own user namespace would hide it."""
    add = ("setpriv", "--reuid", "cryptofs", "--clear-groups", "keyctl", "padd", "user", "canary", "@u")
    subprocess.run(add, input=CANARY, capture_output=True, check=True)
    with configured(DEVICE + 'key.keyring = "canary"\n'), drop_in("PrivateUsers=no"):
        run("systemctl", "start", UNIT)
        assert digest_of_device("canary") == hmac.digest(CANARY, b"abc", "sha256").hex()


def test_the_audit_trail(installed: None) -> None:
    """Opens, configurations and refusals are in the journal with their values as fields."""
    with configured('[policy]\nprofile = "standard"\ncontexts = 1\n'):
        run("systemctl", "start", UNIT)
        invocation = f"_SYSTEMD_INVOCATION_ID={show('InvocationID')}"
        with Context("hash", "sha256", mount=MOUNT), pytest.raises(OSError):
            Context("hash", "sha256", mount=MOUNT)
        refused = run(*AS_NOBODY, "/opt/cryptofs/bin/cryptofs", "hash", "-n", "md5", "/dev/null", check=False)
        assert "policy" in refused
        run("journalctl", "--sync", check=False)

        def events(*matches: str) -> list[dict[str, str]]:
            lines = run("journalctl", "-b", "-o", "json", invocation, *matches).splitlines()
            return [json.loads(line) for line in lines if line.startswith("{")]

        mine = events("CRYPTOFS_EVENT=configure", f"CRYPTOFS_PID={os.getpid()}")
        assert [(each["CRYPTOFS_UID"], each["CRYPTOFS_TYPE"], each["CRYPTOFS_NAME"]) for each in mine] == [
            ("0", "hash", "sha256")
        ]
        assert [each["CRYPTOFS_REFUSED"] for each in events("CRYPTOFS_EVENT=open", "CRYPTOFS_REFUSED=EDQUOT")]
        (denied,) = events("CRYPTOFS_REFUSED=EACCES")
        assert denied["CRYPTOFS_UID"] == "65534"
        assert "md5" in denied["MESSAGE"]
        assert denied["SYSLOG_IDENTIFIER"] == "cryptofs"


def test_no_key_in_the_journal(service: int) -> None:
    """Keys set well and badly, by record and by text, with logging on: none is in the journal."""
    begun = time.time() - 1
    with Context("skcipher", "cbc(aes)", CANARY, mount=MOUNT) as context:
        context.encrypt(bytes(16), bytes(16))
        with pytest.raises(OSError):
            (context.directory / "ctl").write_text(f"set-key key=hex:{CANARY.hex()}ff\n")
    with pytest.raises(OSError):
        Context("skcipher", "cbc(aes)", CANARY + b"x", mount=MOUNT)
    run("systemctl", "restart", UNIT)
    text = run("journalctl", "-b", "--no-pager", "-o", "export")
    assert "Started cryptofs.service" in text
    for form in (CANARY.hex(), CANARY.hex().upper(), repr(CANARY), CANARY.decode("latin-1")):
        assert form not in text
    assert "mounted" in journal(begun)


INSTALL = Path(__file__).parents[2] / "scripts" / "install"
PROGRAM = Path("/opt/cryptofs")


def test_install_over_a_running_service(service: int, tmp_path: Path) -> None:
    """An upgrade: a new process serves the new version at the same place. One that does not start, or that does not
    take the configuration, leaves the former version serving, and says so.
    """
    source = tmp_path / "from"
    copy = source / "opt" / "cryptofs"
    copy.parent.mkdir(parents=True)
    run("cp", "-a", str(PROGRAM), str(copy), timeout=120)
    (package,) = copy.glob("lib/python3*/site-packages/cryptofs")

    def install() -> subprocess.CompletedProcess[str]:
        command = [str(INSTALL), "--from", str(source)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    version = (MOUNT / "version").read_text()
    built = package / "_version.py"
    built.write_text("version, commit_id = '9.8.7', None\n")
    begun = time.time()
    done = install()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9.8.7" in (MOUNT / "version").read_text()
    assert "9.8.7" not in version
    assert main_pid() != service
    assert digest_as_nobody() == EMPTY
    assert Path("/proc/self/mounts").read_text().count("fuse.cryptofs") == 1
    assert run("systemctl", "show", "-P", "NeedDaemonReload", UNIT).strip() == "no"
    assert "Traceback" not in journal(begun)
    pid = main_pid()
    with configured_beside('[policy]\ncolour = "red"\n'):
        done = install()
        assert done.returncode == 1
        assert "policy.colour: unknown key" in done.stderr
        assert "nothing was changed" in done.stderr
        assert main_pid() == pid
    daemon = package / "daemon" / "serve.py"
    text = daemon.read_text()
    daemon.write_text(text + "\nraise SystemExit(3)\n")
    built.write_text("version, commit_id = '9.9.9', None\n")
    done = install()
    assert done.returncode == 1
    assert "the former one is installed again and serves" in done.stderr
    assert "9.8.7" in (MOUNT / "version").read_text()
    assert digest_as_nobody() == EMPTY
    assert sorted(path.name for path in PROGRAM.parent.glob("cryptofs*")) == ["cryptofs"]


@contextlib.contextmanager
def configured_beside(text: str) -> Iterator[None]:
    """Another configuration file for a while, beside a service that goes on."""
    config = Path("/etc/cryptofs/cryptofs.toml")
    config.parent.mkdir(exist_ok=True)
    before = config.read_bytes() if config.exists() else None
    config.write_text(text)
    config.chmod(0o644)
    try:
        yield
    finally:
        config.unlink()
        if before is not None:
            config.write_bytes(before)


# A mount that is lost to its path


def test_a_mount_that_was_taken_away_is_made_again(service: int) -> None:
    """`umount -l` leaves the daemon its clients and its watchdog's open file: it ends, and systemd starts it again."""
    begun = time.time()
    with Context("hash", "sha256", mount=MOUNT) as context:
        run("umount", "-l", str(MOUNT))
        # the connection lives on, and that is what a daemon that asks no path would see
        assert context.digest(b"").hex() == EMPTY
        wait_until(lambda: show("MainPID") not in (str(service), "0"), 30)
    wait_until(lambda: show("ActiveState") == "active", 30)
    assert digest_as_nobody() == EMPTY
    assert "the mount was removed from its path" in journal(begun)
    assert "watchdog timeout" not in journal(begun).lower()


def test_a_mount_that_is_covered_is_no_service(service: int) -> None:
    """A tmpfs over it: the service fails and says why; the tmpfs stays."""
    begun = time.time()
    with drop_in("Restart=no"):
        run("mount", "-t", "tmpfs", "none", str(MOUNT))
        try:
            wait_until(lambda: show("ActiveState") == "failed", 30)
            assert "tmpfs is mounted over the mount" in journal(begun)
            assert f" {MOUNT} tmpfs " in Path("/proc/self/mounts").read_text()
        finally:
            run("umount", str(MOUNT))
    run("systemctl", "reset-failed", UNIT)
    run("systemctl", "start", UNIT)
    assert digest_as_nobody() == EMPTY


# Clients in hardened units; docs/containers.md


HASH = f"/opt/cryptofs/bin/cryptofs hash --mount {MOUNT} /dev/null"


def in_unit(*settings: str) -> str:
    """What a transient unit with these settings gets for a digest."""
    options = [word for setting in settings for word in ("-p", setting)]
    return run("systemd-run", "--wait", "--pipe", "--quiet", *options, "sh", "-c", f"{HASH} 2>&1", check=False)


@pytest.mark.parametrize("hardened", ["ProtectSystem=strict", "DynamicUser=yes"])
def test_a_hardened_client_names_the_mount(service: int, hardened: str) -> None:
    """The whole tree is read-only there: EROFS, unless the unit names the mount."""
    refused = in_unit(hardened)
    assert EMPTY not in refused
    assert "read-only" in refused.lower()
    assert EMPTY in in_unit(hardened, f"ReadWritePaths=-{MOUNT}")


@pytest.mark.parametrize("first", ["service", "client"])
def test_a_hardened_client_keeps_the_mount_over_a_restart(service: int, first: str) -> None:
    """The new mount reaches the unit's own namespace, whichever was started first."""
    if first == "client":
        run("systemctl", "stop", UNIT)
    script = f"while :; do {HASH} || echo none; sleep 0.2; done"
    options = ("-p", "DynamicUser=yes", "-p", f"ReadWritePaths=-{MOUNT}")
    run("systemd-run", "--unit=hardened", "--quiet", *options, "sh", "-c", script)

    def said(since: float) -> str:
        run("journalctl", "--sync", check=False)
        return run("journalctl", "-u", "hardened", "-o", "cat", "--since", f"@{int(since)}")

    try:
        if first == "client":
            wait_until(lambda: "none" in said(0), 20)
        else:
            wait_until(lambda: EMPTY in said(0), 20)
        run("systemctl", "restart", UNIT)
        time.sleep(1)
        since = time.time() + 1
        wait_until(lambda: EMPTY in said(since), 20)
    finally:
        run("systemctl", "stop", "hardened", check=False)


def test_the_suite_runs_as_it_says() -> None:
    """The first process is systemd."""
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert sys.platform == "linux"
