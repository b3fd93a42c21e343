"""`cryptofs key`: what is made, where it goes, what is shown of it, and that files are whole or untouched."""

import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.configs import write_private
from helpers.daemons import SHARED, Daemon
from helpers.waiting import wait_until

from cryptofs.algorithms import Type
from cryptofs.algorithms.public import PUBLIC_NAMES
from cryptofs.cli import key_rewrap
from cryptofs.cli.commands import commands
from cryptofs.client import Context, encrypt_file
from cryptofs.engines.opening import open_engines
from cryptofs.errors import CryptofsError, NotSupported
from cryptofs.formats import sealed
from cryptofs.keys.making import new_key
from cryptofs.keys.writing import add_version, write_new

OPENSSL = open_engines(("openssl",))
GCM = ("--type", "aead", "-n", "gcm(aes)")


def run(*arguments: str, status: int = 0) -> str:
    """One command, in this process; returns its output."""
    done = CliRunner().invoke(commands, ["key", *arguments], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert status, (done.output, done.exception)
        return f"{done.output}{done.exception}"
    assert done.return_value in (status or None, status), done.output
    return done.output


@pytest.mark.parametrize(
    ("type_", "name", "size"),
    [
        (Type.AEAD, "gcm(aes)", 32),
        (Type.SKCIPHER, "xts(aes)", 64),
        (Type.SKCIPHER, "chacha20", 32),
        (Type.HASH, "hmac(sha512)", 64),
        (Type.HASH, "cmac(aes)", 32),
        (Type.AEAD, "rfc4106(gcm(aes))", 36),
        (Type.AEAD, "authenc(hmac(sha256),cbc(aes))", 8 + 32 + 32),
    ],
)
def test_sizes(type_: Type, name: str, size: int) -> None:
    """The largest that is listed, the digest's, or that of both keys; never the same key."""
    made = [bytes(new_key(OPENSSL, type_, name)) for _ in range(2)]
    assert [len(each) for each in made] == [size, size]
    assert made[0] != made[1]


@pytest.mark.parametrize(("type_", "name"), [(type_, name) for type_, names in PUBLIC_NAMES.items() for name in names])
def test_private_keys(type_: Type, name: str) -> None:
    """Each algorithm of key pairs: its engine takes the key, and it has a private half."""
    if "rsa" in name and name not in ("rsa", "pkcs1(rsa,sha256)"):
        return
    if "dh)" in name or name == "dh":
        with pytest.raises(NotSupported, match="makes no keys"):
            new_key(OPENSSL, type_, name)
        return
    made = new_key(OPENSSL, type_, name, bits=2048 if "rsa" in name else None)
    assert made[0] == 0x30
    assert len(made) < 8192


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((*GCM, "--size", "17", "-o", "x"), "16 24 32"),
        ((*GCM, "--bits", "2048", "-o", "x"), "only RSA"),
        (("--type", "hash", "-n", "sha256", "-o", "x"), "takes no key"),
        (("--type", "aead", "-n", "nothing", "-o", "x"), "no engine offers it"),
        (GCM, "one place"),
        ((*GCM, "-o", "x", "--stdout"), "one place"),
        ((*GCM, "--stdout", "--credential", "x"), "with -o FILE"),
        ((*GCM, "--pkcs11", "pkcs11:token=x;object=y"), "module-path"),
        ((*GCM, "--pkcs11", "pkcs11:object=y?module-path=/m&pin-source=/p", "-o", "x"), "one place"),
        ((*GCM, "--pkcs11", "pkcs11:object=y?module-path=/m&pin-source=/p", "--hex"), "the token makes"),
        ((*GCM, "--pkcs11", "pkcs11:object=y;type=private?module-path=/m&pin-source=/p"), "type=private"),
        ((*GCM, "--size", "17", "--pkcs11", "pkcs11:object=y?module-path=/m&pin-source=/p"), "16 24 32"),
        (("-o", "x"), "--type and --name"),
        ((*GCM, "-o", "."), "Is a directory"),
        ((*GCM, "-o", "/"), "Is a directory"),
        ((*GCM, "--keyring", "x", "--hex"), "a keyring has the bytes"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str) -> None:
    """With the reason, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert why in run("new", *arguments, status=1)
    assert not list(tmp_path.iterdir())


def test_into_a_file(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask is; never over another file; digits on request; nothing is printed."""
    before = os.umask(0)
    try:
        assert run("new", *GCM, "-o", str(tmp_path / "key")) == ""
        assert run("new", *GCM, "--hex", "-o", str(tmp_path / "hex")) == ""
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    key = (tmp_path / "key").read_bytes()
    assert len(key) == 32
    assert re.fullmatch(r"[0-9a-f]{64}\n", (tmp_path / "hex").read_text())
    assert "not overwritten" in run("new", *GCM, "-o", str(tmp_path / "key"), status=1)
    assert (tmp_path / "key").read_bytes() == key
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hex", "key"]


def test_standard_output() -> None:
    """Only if it is asked for, and never on a terminal."""
    command = [sys.executable, "-m", "cryptofs", "key", "new", *GCM, "--stdout"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert (len(done.stdout), done.stderr) == (32, b"")
    mine, theirs = pty.openpty()
    try:
        refused = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=30, check=False)
        assert refused.returncode == 2
        assert b"is a terminal" in refused.stderr
        os.set_blocking(mine, False)
        with pytest.raises(BlockingIOError):
            os.read(mine, 100)
    finally:
        os.close(mine)
        os.close(theirs)


def test_credential(tmp_path: Path) -> None:
    """systemd's own program opens it; without that program the error names it."""
    file = tmp_path / "backup.cred"
    if shutil.which("systemd-creds") is None:
        assert "systemd-creds is not installed" in run("new", *GCM, "--credential", "backup", "-o", str(file), status=1)
        pytest.skip("NOT RUN: systemd-creds is not installed")
    run("new", *GCM, "--credential", "backup", "-o", str(file))
    opened = ["systemd-creds", "decrypt", "--name=backup", str(file), "-"]
    assert len(subprocess.run(opened, capture_output=True, timeout=30, check=True).stdout) == 32
    assert [each.name for each in tmp_path.iterdir()] == ["backup.cred"]


# Key sets


def declare(directory: Path) -> Path:
    """A configuration with a key set, a key pair and a key that two versions share."""
    (directory / "set").mkdir(0o700)
    (directory / "twice").mkdir(0o700)
    write_private(directory / "set" / "1", bytes(range(32)))
    for each in "12":
        write_private(directory / "twice" / each, bytes(32))
    write_new(directory / "signer", new_key(OPENSSL, Type.SIG, "ed25519"))
    text = (
        f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.directory = "{directory}/set"\nuser = {os.getuid()}\n'
        f'[devices.signer]\ntype = "sig"\nname = "ed25519"\nkey.file = "{directory}/signer"\n'
        f'[devices.twice]\ntype = "hash"\nname = "hmac(sha256)"\nkey.directory = "{directory}/twice"\n'
        '[devices.hidden]\ntype = "hash"\nname = "hmac(sha256)"\nkey.credential = "none"\n'
    )
    return write_private(directory / "cryptofs.toml", text.encode())


def test_list_and_check(tmp_path: Path) -> None:
    """Each version with a fingerprint that is the same each time, and no part of a key."""
    config = declare(tmp_path)
    (tmp_path / "set" / "3").write_bytes(b"short")
    (tmp_path / "set" / "3").chmod(0o600)
    listed = run("list", "--config", str(config)).splitlines()
    assert [line.split("  ")[:3] for line in listed] == [
        ["d", "3", "aead gcm(aes)"],
        ["d", "1", "aead gcm(aes)"],
        ["signer", "1", "sig ed25519"],
        ["twice", "2", "hash hmac(sha256)"],
        ["twice", "1", "hash hmac(sha256)"],
        ["hidden", "1", "hash hmac(sha256)"],
    ]
    assert "EINVAL" in listed[0]
    assert re.search(r"  0 days  [0-9a-f]{16}  file .*/set/1$", listed[1])
    assert re.search(r"  SHA256:[0-9a-f]{64}  ", listed[2])
    assert "not looked at here" in listed[5]
    for path in (tmp_path / "set" / "1", tmp_path / "signer", tmp_path / "twice" / "1"):
        digits = path.read_bytes()[-16:].hex()
        assert not any(digits[at : at + 8] in "".join(listed) for at in range(0, 24, 2))
    checked = run("check", "--config", str(config), status=1)
    assert "the same key as version 2" in checked
    assert run("check", "signer", "--config", str(config)) == listed[2] + "\n"
    assert "no device x" in run("check", "x", "--config", str(config), status=1)


def test_rotate(tmp_path: Path) -> None:
    """By the device, by its directory, and by a directory that no configuration names."""
    config = declare(tmp_path)
    assert "version 2; a reload takes it" in run("rotate", "d", "--config", str(config))
    assert "version 3" in run("rotate", f"{tmp_path}/set", "--config", str(config))
    assert "version 4" in run("rotate", f"{tmp_path}/set", *GCM)
    files = {each.name: each for each in (tmp_path / "set").iterdir()}
    assert sorted(files) == ["1", "2", "3", "4"]
    assert {(each.stat().st_size, stat.S_IMODE(each.stat().st_mode)) for each in files.values()} == {(32, 0o600)}
    assert len({each.read_bytes() for each in files.values()}) == 4
    assert "declare key.directory" in run("rotate", "signer", "--config", str(config), status=1)
    with config.open("a") as file:
        file.write('[devices.many]\ntype = "hash"\nname = "hmac(sha256)"\nkeys.1.credential = "none"\n')
    assert "add a version to its `keys`" in run("rotate", "many", "--config", str(config), status=1)
    assert "declare `keys`, with this key as version 1" in run("rotate", "hidden", "--config", str(config), status=1)
    assert "no device has x" in run("rotate", "x", "--config", str(config), status=1)
    (tmp_path / "set").chmod(0o755)
    assert "mode 0755" in run("rotate", "d", "--config", str(config), status=1)


def test_a_version_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rotations at once: one of them fails, and leaves nothing."""
    write_private(tmp_path / "1", bytes(32))
    tmp_path.chmod(0o700)
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(b"the other one's")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(CryptofsError, match="not overwritten"):
        add_version(tmp_path, bytearray(32))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1", "2"]
    assert (tmp_path / "2").read_bytes() == b"the other one's"


def reload(daemon: Daemon) -> None:
    """Have a daemon read its configuration again."""
    before = len(daemon.log)
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded: " in daemon.log[before:], 20, lambda: daemon.log[before:])


@pytest.mark.mount
def test_rewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the newest version, whole or untouched; what is damaged stays as it is, and the others are done."""
    config = declare(tmp_path)
    text = config.read_text().split("[devices.hidden]")[0].split("[devices.twice]")[0]
    write_private(config, text.encode())
    mount = tmp_path / "mount"
    mount.mkdir()
    files = {name: tmp_path / name for name in ("old", "damaged", "newest", "none")}
    plain = os.urandom(200_000)
    daemon = Daemon(mount, *SHARED, "--config", str(config), log=tmp_path / "log")
    try:
        with Context.of_device("d", mount=mount) as context, files["old"].open("wb") as sink:
            encrypt_file(context, [plain], sink)
        data = files["old"].read_bytes()
        files["damaged"].write_bytes(data[:150_000] + b"x" + data[150_001:])
        files["old"].chmod(0o640)
        files["none"].write_bytes(b"no sealed file")
        run("rotate", "d", "--config", str(config))
        reload(daemon)
        with closing(Context.of_device("d", mount=mount)) as context, files["newest"].open("wb") as sink:
            encrypt_file(context, [plain], sink)
        was = {name: path.read_bytes() for name, path in files.items()}
        names = [str(path) for path in files.values()]
        said = run("rewrap", "--device", "d", "--mount", str(mount), *names, status=1)
        assert f"{files['old']}: now under version 2" in said
        assert f"{files['newest']}: left alone" in said
        assert {name for name, path in files.items() if path.read_bytes() != was[name]} == {"old"}
        assert sealed.parse_head(files["old"].read_bytes()).version == 2
        assert stat.S_IMODE(files["old"].stat().st_mode) == 0o640
        assert not list(tmp_path.glob(".cryptofs-*"))
        decrypt = ["decrypt", "--device", "d", "--mount", str(mount), str(files["old"]), "-o", str(tmp_path / "plain")]
        assert CliRunner().invoke(commands, decrypt).exit_code == 0
        assert (tmp_path / "plain").read_bytes() == plain
        # A reload between the question and the answer: what is said is what the file has.
        files["old"].write_bytes(data)
        monkeypatch.setattr(key_rewrap, "newest_version", lambda context: 1)
        said = run("rewrap", "--device", "d", "--mount", str(mount), str(files["old"]))
        assert f"{files['old']}: now under version 2" in said
        monkeypatch.undo()
        # A version that went, from a device that names none any more.
        (tmp_path / "set" / "2").unlink()
        reload(daemon)
        was = files["newest"].read_bytes()
        said = run("rewrap", "--device", "d", "--mount", str(mount), str(files["newest"]), status=1)
        assert "key version 2 is not kept, only 1" in said
        assert files["newest"].read_bytes() == was
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
