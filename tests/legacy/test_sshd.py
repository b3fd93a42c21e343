"""A real sshd on the loopback, from Debian's package, and ssh that logs in with keys of devices."""

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.signing import KEYS, openssh, signing_mount
from helpers.sources import Packages
from helpers.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.legacy, pytest.mark.mount]

# sshd wants its own user and directory where it runs as root; the machine gets neither.
_AS_ROOT = """
set -e
mount -t tmpfs tmpfs /run
mkdir -m 0755 /run/sshd
{ cat /etc/passwd; echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin'; } >"$1"
mount --bind "$1" /etc/passwd
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with devices that sign."""
    with signing_mount(tmp_path_factory.mktemp("signing")) as daemon:
        yield daemon


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def sshd(packages: Packages, directory: Path) -> Iterator[int]:
    """An sshd that takes the keys of the devices; gives its port."""
    if not shutil.which("ssh"):
        pytest.skip("NOT RUN: no ssh (package openssh-client)")
    packages.need("openssh-server")
    program = packages.program("sshd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "host"], check=True, timeout=60)
    (directory / "authorized").write_text("".join(openssh(key) + "\n" for key in KEYS.values()))
    (directory / "known").write_text(f"[127.0.0.1]:{port} {(directory / 'host.pub').read_text()}")
    # Later versions have programs of their own for a connection.
    parts = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    found = {word: packages.root / "usr/lib/openssh" / name for word, name in parts.items()}
    lines = [
        *(f"{word} {path}" for word, path in found.items() if path.exists()),
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {directory}/host",
        f"AuthorizedKeysFile {directory}/authorized",
        *("StrictModes no", "UsePAM no", "PasswordAuthentication no", "PidFile none", "PrintMotd no"),
    ]
    (directory / "config").write_text("\n".join(lines) + "\n")
    line = [str(program), "-D", "-e", "-f", str(directory / "config")]
    if os.geteuid() == 0:
        line = ["unshare", "--mount", "sh", "-c", _AS_ROOT, "sh", str(directory / "passwd"), *line]
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(line, env=packages.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or _is_listening(port), 20, (directory / "sshd.log").read_text)
        assert process.poll() is None, (directory / "sshd.log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(30 * PATIENCE)


def logged_in(
    face: str, options: tuple[str, ...], again: tuple[str, ...], mount: Path, directory: Path, port: int
) -> None:
    """Log in with what a face of cryptofs gives to ssh, and from there once more."""
    ssh = [
        *("ssh", "-F", "none", "-p", str(port), "-l", getpass.getuser(), *options),
        *(f"-o{word}" for word in ("BatchMode=yes", "StrictHostKeyChecking=yes")),
        f"-oUserKnownHostsFile={directory}/known",
    ]
    # A forwarded agent signs logins, and nothing at random.
    test = f"if ssh-add -T {directory}/key.pub; then echo 'signs at random'; fi"
    there = f"{test}; printf 'in '; {shlex.join([*ssh, '127.0.0.1', 'echo again'])}" if again else "echo in again"
    line = [sys.executable, "-m", "cryptofs", face, "--mount", str(mount), "--", *ssh, *again, "127.0.0.1", there]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=90 * PATIENCE)
    log = (directory / "sshd.log").read_text()
    assert (done.stdout, done.returncode) == ("in again\n", 0), log + done.stderr


@pytest.mark.parametrize(
    ("key", "options"),
    [
        *((key, ()) for key in ("ed", "p256", "p384", "p521", "rsa", "rsa-raw")),
        ("rsa-one", ("-oPubkeyAcceptedAlgorithms=rsa-sha2-256",)),
    ],
)
def test_login(packages: Packages, mount: Path, tmp_path: Path, key: str, options: tuple[str, ...]) -> None:
    """ssh logs in by the agent with a device's key, and from there once more by the forwarded agent."""
    (tmp_path / "key.pub").write_text(openssh(KEYS[key]) + "\n")
    with sshd(packages, tmp_path) as port:
        logged_in(
            "ssh-agent", ("-i", f"{tmp_path}/key.pub", "-oIdentitiesOnly=yes", *options), ("-A",), mount, tmp_path, port
        )


@pytest.mark.parametrize("key", ["p256", "rsa"])
def test_login_by_pkcs11(packages: Packages, mount: Path, tmp_path: Path, key: str) -> None:
    """ssh logs in with a device's key by p11-kit's client, without an agent."""
    module = next(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"), None)
    if module is None:
        pytest.skip("NOT RUN: no p11-kit-client.so (package p11-kit-modules)")
    with sshd(packages, tmp_path) as port:
        (tmp_path / "authorized").write_text(openssh(KEYS[key]) + "\n")
        logged_in("pkcs11-server", ("-I", str(module), "-oIdentityAgent=none"), (), mount, tmp_path, port)
