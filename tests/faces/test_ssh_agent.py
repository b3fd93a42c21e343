"""The SSH agent, with OpenSSH's own programs and git, and with a client that does not follow the protocol."""

import base64
import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from helpers.daemons import Daemon
from helpers.other_user import MEMBER, OWNER, as_user, let_in, needs_root
from helpers.signing import DEVICES, KEYS, openssh, signing_mount
from helpers.waiting import PATIENCE, wait_until

from cryptofs.cli.faces import print_variables
from cryptofs.faces.keys import DeviceKeys
from cryptofs.faces.server import CLIENTS_MAX, serve_command
from cryptofs.faces.ssh import ALGORITHMS

pytestmark = pytest.mark.mount

SSH = [sys.executable, "-m", "cryptofs", "ssh-agent"]
FAILURE = b"\0\0\0\1\5"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices that sign."""
    with signing_mount(tmp_path_factory.mktemp("signing")) as daemon:
        yield daemon


@contextmanager
def agent(mount: Path, directory: Path, *options: str) -> Iterator[Path]:
    """An agent's socket; its log is beside it."""
    path = directory / "agent"
    with (directory / "agent.log").open("wb") as log:
        line = [*SSH, "--mount", str(mount), "-D", "-v", "-a", str(path), *options]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"SSH_AUTH_SOCK={path}; export SSH_AUTH_SOCK;\n".encode()
        yield path
        process.send_signal(signal.SIGTERM)
        assert process.wait(30 * PATIENCE) == 0
    assert not path.exists()
    assert "Traceback" not in (directory / "agent.log").read_text()


@pytest.fixture(scope="module")
def served(mount: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an agent for the devices of this user."""
    names = [
        option for name in [*DEVICES, "raw", "mute", "checker", "sha1", "curve", "gcm"] for option in ("--device", name)
    ]
    with agent(mount, tmp_path_factory.mktemp("agent"), *names) as path:
        yield path


def tool(served: Path, *command: object, status: int = 0, **more: object) -> str:
    """What a program prints that uses the agent, on both outputs."""
    environment = {**os.environ, "SSH_AUTH_SOCK": str(served), "HOME": str(served.parent)}
    line = [str(each) for each in command]
    given: dict[str, object] = {"stdin": subprocess.DEVNULL, "env": environment, "timeout": 60 * PATIENCE, **more}
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **given)  # type: ignore[call-overload]
    assert done.returncode == status, done.stdout
    return str(done.stdout)


def public_file(served: Path, key: str) -> Path:
    """A file with a public key."""
    path = served.parent / f"{key}.pub"
    path.write_text(openssh(KEYS[key]) + "\n")
    return path


# OpenSSH's own programs


def test_the_list(served: Path) -> None:
    """Each key once, with its devices' names; devices that cannot sign, or keep their public key, are not in it."""
    listed = [tuple(line.rsplit(" ", line.count(" ") - 1)) for line in tool(served, "ssh-add", "-L").splitlines()]
    keys = {line[0]: line[1:] for line in listed}
    assert keys == {
        openssh(KEYS["ed"]): ("ed",),
        openssh(KEYS["p256"]): ("p256",),
        openssh(KEYS["p384"]): ("p384",),
        openssh(KEYS["p521"]): ("p521",),
        openssh(KEYS["rsa"]): ("rsa-256", "rsa-512"),
        openssh(KEYS["rsa-raw"]): ("raw",),
        openssh(KEYS["rsa-one"]): ("only-256",),
    }
    assert "256 SHA256:" in tool(served, "ssh-add", "-l")


@pytest.mark.parametrize("key", KEYS)
def test_signatures(served: Path, key: str) -> None:
    """ssh-add signs with each key and verifies it, by rsa-sha2-256 for RSA."""
    tool(served, "ssh-add", "-T", public_file(served, key))


@pytest.mark.parametrize("key", ["ed", "p256", "p384", "p521", "rsa", "rsa-raw"])
def test_signed_files(served: Path, key: str) -> None:
    """ssh-keygen signs a file by the agent, with rsa-sha2-512 for RSA, and verifies it without."""
    public = public_file(served, key)
    data = served.parent / "data"
    data.write_bytes(os.urandom(200_000))
    data.with_name("data.sig").unlink(missing_ok=True)
    tool(served, "ssh-keygen", "-Y", "sign", "-n", "file", "-f", public, data)
    signers = served.parent / "signers"
    signers.write_text(f"me {openssh(KEYS[key])}\n")
    check = ("ssh-keygen", "-Y", "verify", "-f", signers, "-I", "me", "-n", "file", "-s", f"{data}.sig")
    with data.open() as source:
        assert "Good" in tool(served, *check, stdin=source)
    data.write_bytes(b"another")
    with data.open() as source:
        tool(served, *check, stdin=source, status=255)


def test_a_signature_that_no_device_makes(served: Path) -> None:
    """A key for SHA-256 alone does not sign with SHA-512; the log says so."""
    data = served.parent / "data"
    data.write_bytes(b"data")
    tool(served, "ssh-keygen", "-Y", "sign", "-n", "file", "-f", public_file(served, "rsa-one"), data, status=255)
    assert "only-256: no signature with the flags 0x4" in (served.parent / "agent.log").read_text()


def test_signed_commits(served: Path) -> None:
    """git signs a commit with a device's key and verifies it."""
    repository = served.parent / "repository"
    signers = served.parent / "signers"
    signers.write_text(f"me@example.org {openssh(KEYS['ed'])}\n")
    git = ("git", "-C", repository, "-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={signers}")
    tool(served, "git", "init", "-q", repository)
    by = ("-c", f"user.signingKey=key::{openssh(KEYS['ed'])}", "-c", "user.name=Me", "-c", "user.email=me@example.org")
    tool(served, *git, *by, "commit", "-q", "--allow-empty", "-S", "-m", "Begin")
    assert 'Good "git" signature for me@example.org' in tool(served, *git, "verify-commit", "HEAD")


@pytest.mark.parametrize("arguments", [("-D",), ("-x",), ("-d", "x")])
def test_the_list_cannot_be_changed(served: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The agent adds, removes and locks nothing, and goes on."""
    (tmp_path / "x.pub").write_text(openssh(KEYS["ed"]) + "\n")
    line = [tmp_path / "x" if each == "x" else each for each in arguments]
    # ssh-add asks for a password to lock with
    asking = {"SSH_ASKPASS": "/bin/true", "SSH_ASKPASS_REQUIRE": "force"}
    environment = {**os.environ, **asking, "SSH_AUTH_SOCK": str(served)}
    tool(served, "ssh-add", *line, status=1, env=environment)
    assert len(tool(served, "ssh-add", "-L").splitlines()) == len(KEYS)


@needs_root
def test_devices_of_others(mount: Path) -> None:
    """A user's agent has the devices that this user may open."""
    let_in(mount)
    code = "print(*(key.device for key in DeviceKeys(Path(sys.argv[1])).find({'ed25519': 'sign'})))"
    code = f"import sys\nfrom pathlib import Path\nfrom cryptofs.faces.keys import DeviceKeys\n{code}"
    assert as_user(OWNER, OWNER, [], code, mount) == ["everybody theirs"]
    assert as_user(MEMBER, MEMBER, [], code, mount) == ["everybody"]
    assert [key.device for key in DeviceKeys(mount, frozenset({"theirs", "ed"})).find(ALGORITHMS)] == ["ed", "theirs"]


# The command


def test_with_a_command(mount: Path, tmp_path: Path) -> None:
    """It serves while a command runs, in a directory of its own, and has its status."""
    script = 'ssh-add -L | head -n 1; stat -c %a "$SSH_AUTH_SOCK" "${SSH_AUTH_SOCK%/*}"; exit 3'
    names = ["--device", "ed", "--device", "gcm", "--device", "nowhere"]
    line = [*SSH, "--mount", str(mount), *names, "--", "sh", "-c", script]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment, timeout=60 * PATIENCE)
    assert (done.stdout, done.returncode) == (f"{openssh(KEYS['ed'])} ed\n600\n700\n", 3), done.stderr
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" device gcm", " device nowhere"]
    assert list(tmp_path.iterdir()) == []
    line = [*SSH, "--mount", str(mount), "--", "no-such-program"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
    assert (done.stdout, done.returncode) == ("", 127)
    assert done.stderr.startswith("cryptofs: ssh-agent: ENOENT: no-such-program"), done.stderr


def test_the_environment_of_the_command(mount: Path) -> None:
    """It is the caller's and the socket, whatever Python makes of the locale."""
    given = {each: os.environ[each] for each in ("PATH", "PYTHONPATH") if each in os.environ}
    line = [*SSH, "--mount", str(mount), "--device", "ed", "--", "env"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=given, timeout=60 * PATIENCE)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names == {*given, "SSH_AUTH_SOCK", "SSH_AGENT_PID"}


def test_in_the_background(mount: Path, tmp_path: Path) -> None:
    """It prints what a shell evaluates, and serves until SIGTERM."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    line = [*SSH, "--mount", str(mount), "-s"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment, timeout=60 * PATIENCE)
    (path,) = tmp_path.glob("cryptofs-*/agent.*")
    pid = int(done.stdout.split()[-1].rstrip(";"))
    try:
        assert done.stdout == (
            f"SSH_AUTH_SOCK={path}; export SSH_AUTH_SOCK;\nSSH_AGENT_PID={pid}; export SSH_AGENT_PID;\n"
            f"echo Agent pid {pid};\n"
        )
        assert len(tool(path, "ssh-add", "-l").splitlines()) >= len(KEYS)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not list(tmp_path.iterdir()))
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text())


def test_for_csh(capsys: pytest.CaptureFixture[str]) -> None:
    """What csh evaluates."""
    print_variables({"SSH_AUTH_SOCK": "/a b/agent", "SSH_AGENT_PID": "7"}, csh=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["setenv SSH_AUTH_SOCK '/a b/agent';", "setenv SSH_AGENT_PID 7;"]


def test_errors(mount: Path, served: Path, tmp_path: Path) -> None:
    """A socket that another agent has, and a place without a mount."""
    for arguments, message in (
        (("--mount", mount, "-a", served), "EADDRINUSE"),
        (
            (
                "--mount",
                tmp_path,
            ),
            "no cryptofs is mounted here",
        ),
    ):
        line = [*SSH, *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert stat.S_IMODE(served.stat().st_mode) == 0o600


# Clients that do not follow the protocol


@contextmanager
def client(served: Path) -> Iterator[socket.socket]:
    """A connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # Without a deadline, with which it would not wait for room in the socket's backlog.
        connection.connect(str(served))
        connection.settimeout(20 * PATIENCE)
        yield connection


def string(data: bytes) -> bytes:
    """A string of the protocol, and a message as well."""
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("number", [1, 3, 7, 9, 17, 18, 19, 20, 22, 23, 25, 26, 27, 99, 255])
def test_other_messages(served: Path, number: int) -> None:
    """Old versions, changes of the list, locks, extensions and unknown numbers: a failure, and the connection stays."""
    with client(served) as connection:
        connection.sendall(string(bytes([number]) + string(b"restrict-destination-v00@openssh.com")))
        assert connection.recv(100) == FAILURE
        connection.sendall(string(b"\x0b"))
        assert connection.recv(100)[4] == 12


@pytest.mark.parametrize(
    "message",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        (256 * 1024 + 1).to_bytes(4, "big"),
        string(b"\x0d"),
        string(b"\x0d" + string(b"key")[:-1]),
        string(b"\x0d" + b"\xff\xff\xff\xff" + b"x"),
        string(b"\x0d" + string(b"key") + string(b"data") + bytes(5)),
        string(b"\x1b" + string(b"session-bind@openssh.com")),
        string(b"\x1b" + string(b"session-bind@openssh.com") + 3 * string(b"") + b"\1\1"),
    ],
)
def test_malformed_messages(served: Path, message: bytes) -> None:
    """The connection ends, and others go on."""
    with client(served) as connection:
        connection.sendall(message)
        assert connection.recv(100) == b""
    tool(served, "ssh-add", "-l")


def test_an_unknown_key(served: Path) -> None:
    """A signature with a key that no device has is refused; so is one of 256 KiB, whole."""
    with client(served) as connection:
        connection.sendall(string(b"\x0d" + string(b"key") + string(b"data") + bytes(4)))
        assert connection.recv(100) == FAILURE
        large = b"\x0d" + string(b"key") + string(bytes(256 * 1024 - 1 - 4 - 3 - 4 - 4)) + bytes(4)
        connection.sendall(string(large))
        assert connection.recv(100) == FAILURE


# Connections that ssh forwards to another host


def ask(connection: socket.socket, message: bytes) -> bytes:
    """The answer to a message, with its size."""
    connection.sendall(string(message))
    answer = connection.recv(4, socket.MSG_WAITALL)
    return answer + connection.recv(int.from_bytes(answer, "big"), socket.MSG_WAITALL)


def bind(forwards: bool) -> bytes:
    """What ssh says before others use a connection: here of an RSA host."""
    parts = (b"session-bind@openssh.com", openssh(KEYS["rsa"]).encode(), bytes(32), bytes(256))
    return b"\x1b" + b"".join(map(string, parts)) + bytes([forwards])


def login(blob: bytes, *, number: int = 50, method: bytes = b"publickey", end: bytes = b"") -> bytes:
    """What a client signs to log in with a key."""
    head = string(bytes(32)) + bytes([number]) + string(b"me") + string(b"ssh-connection")
    return head + string(method) + b"\1" + string(b"ssh-ed25519") + string(blob) + end


SIGNED_FILE = b"SSHSIG" + string(b"file") + string(b"") + string(b"sha512") + string(bytes(64))


def test_what_a_forwarded_connection_signs(served: Path) -> None:
    """Logins with the key, and signatures of ssh-keygen; nothing that has a meaning elsewhere, such as in TLS."""
    blob = base64.b64decode(openssh(KEYS["ed"]).split()[1])
    bound = b"publickey-hostbound-v00@openssh.com"
    signed = (login(blob), login(blob, method=bound, end=string(b"host")), SIGNED_FILE)
    refused = (
        *(os.urandom(1024), b"", bytes(32), b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)),
        *(login(blob[::-1]), login(blob, number=51), login(blob, method=b"password"), login(blob) + b"\0"),
        *(login(blob, method=bound), SIGNED_FILE + b"x", SIGNED_FILE[:-1]),
    )
    with client(served) as connection:
        assert ask(connection, bind(forwards=False)) == b"\0\0\0\1\6"
        for data in (*signed, *refused):
            answer = ask(connection, b"\x0d" + string(blob) + string(data) + bytes(4))
            assert answer[4] == 14
            name, signature = answer[13:24], answer[28:]
            assert name == b"ssh-ed25519"
            KEYS["ed"].public_key().verify(signature, data)
        assert ask(connection, bind(forwards=True)) == b"\0\0\0\1\6"
        # Nobody takes it back.
        assert ask(connection, bind(forwards=False)) == b"\0\0\0\1\6"
        for data in (*signed, *refused):
            answer = ask(connection, b"\x0d" + string(blob) + string(data) + bytes(4))
            assert answer[4] == (14 if data in signed else 5), data


def test_slow_clients(served: Path) -> None:
    """Clients that stop within a message, or read no answers, do not hold others up."""
    idle = []
    try:
        for _ in range(100):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            idle.append(connection)
            connection.connect(str(served))
            connection.sendall(b"\0\0\1\0\x0d")
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        idle.append(deaf)
        deaf.connect(str(served))
        deaf.settimeout(0.5 * PATIENCE)
        with pytest.raises(TimeoutError):
            deaf.sendall(string(b"\x63") * 1_000_000)
        tool(served, "ssh-add", "-T", public_file(served, "ed"))
    finally:
        for connection in idle:
            connection.close()


def test_more_clients_than_it_serves(served: Path) -> None:
    """The 257th connection is closed at once; when others end, there is room again."""
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS_MAX):
            stack.enter_context(client(served))
        refused = stack.enter_context(client(served))
        assert refused.recv(1) == b""
    wait_until(lambda: is_served(served))
    assert f"{CLIENTS_MAX} connections are open" in (served.parent / "agent.log").read_text()


def is_served(served: Path) -> bool:
    """Whether a new connection gets an answer."""
    with client(served) as connection, contextlib.suppress(OSError):
        connection.sendall(string(b"\x63"))
        return connection.recv(100) == FAILURE
    return False


def test_a_fault_in_serving_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong for one client, the others and the command beside them go on."""
    path = tmp_path / "socket"

    async def fail(stream: trio.SocketStream) -> None:
        if await stream.receive_some(1) == b"x":
            raise KeyError("a mistake")
        await stream.send_all(b"served")

    code = """
import socket, sys
for sent, got in ((b"x", b""), (b"y", b"served")):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[1])
        client.sendall(sent)
        assert client.recv(10) == got
sys.exit(7)
"""
    with caplog.at_level("ERROR", "cryptofs"):
        assert serve_command(path, fail, [sys.executable, "-c", code, str(path)], {}) == 7
    assert "its connection is closed" in caplog.text


def test_another_key_of_a_device(mount: Path) -> None:
    """A device that has another key than the program asked for does not sign."""
    keys = DeviceKeys(mount, frozenset({"ed"}))
    (key,) = keys.find(ALGORITHMS)
    with pytest.raises(OSError, match="another key") as caught, keys.open(replace(key, public=b"before a reload")):
        pass
    assert caught.value.errno == errno.ENOKEY


@needs_root
def test_another_user(served: Path) -> None:
    """If the socket's mode was widened, another user is refused all the same."""
    let_in(served)
    served.chmod(0o666)
    code = f"""
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.connect({str(served)!r})
    try:
        connection.sendall(bytes.fromhex("000000010b"))
        print(connection.recv(100))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""
    assert as_user(MEMBER, MEMBER, [], code) == ["b''"]
    assert f"uid {MEMBER} is refused" in (served.parent / "agent.log").read_text()
    served.chmod(0o600)
