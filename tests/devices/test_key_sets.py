"""Key sets: where versions come from, what is refused, and what a reload does with open contexts and files."""

import io
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import write_private
from helpers.daemons import SHARED, Daemon
from helpers.waiting import wait_until

from cryptofs.cli import status
from cryptofs.cli.steps import key_files
from cryptofs.client import Context, decrypt_file, encrypt_file
from cryptofs.config import ConfigError
from cryptofs.daemon.assembly import Assembly
from cryptofs.daemon.declared import check_devices
from cryptofs.daemon.service import Handed, ServiceError
from cryptofs.devices import Device
from cryptofs.errors import CryptofsError, KeyUnavailable
from cryptofs.formats import sealed
from cryptofs.keys import FileKey, KeyringKey

SET = '[devices.d]\ntype = "aead"\nname = "gcm(aes)"\nkey.directory = "{}"\n'


class Declared:
    """A configuration with a device of a key set."""

    def __init__(self, directory: Path) -> None:
        self.set = directory / "set"
        self.set.mkdir(0o700)
        self.config = directory / "cryptofs.toml"
        self.write(SET.format(self.set))

    def write(self, text: str) -> None:
        """Declare."""
        write_private(self.config, text.encode())

    def add(self, *versions: int) -> None:
        """Files of versions."""
        for each in versions:
            write_private(self.set / str(each), bytes([each]) * 32)


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    """Version 1, to begin with."""
    made = Declared(tmp_path)
    made.add(1)
    return made


@pytest.fixture
def assembly(declared: Declared) -> Iterator[Assembly]:
    """Without a mount."""
    with closing(Assembly(("openssl",), declared.config)) as made:
        yield made


def kept(assembly: Assembly) -> str:
    """The versions of the device."""
    return str(assembly.table.devices["d"].versions)


def spend(device: Device, messages: int, index: int = 0) -> None:
    """Use a version, the newest or another one, for so many messages."""
    for _ in range(messages):
        device.make_nonce(device.versions.all[index])


def test_the_age_of_a_key_is_that_of_its_file(declared: Declared) -> None:
    """Of the newest version, not since the daemon's start; a source without a file has none."""
    declared.add(2)
    for version, days in ((1, 400), (2, 10)):
        then = time.time() - days * 86_400
        os.utime(declared.set / str(version), (then, then))
    with closing(Assembly(("openssl",), declared.config)) as assembly:
        device = assembly.table.devices["d"]
        tags = dict(line.split(": ", 1) for line in device.status().splitlines())
        row = status._device_row({**tags, "input-bytes": "0", "output-bytes": "0"}, time.time())
        assert (row["key age"][:3], row["loaded"][-1]) == ("10d", "s")
        device.versions.newest.written_at = None
        tags = dict(line.split(": ", 1) for line in device.status().splitlines())
        assert "key-written" not in tags
        assert status._device_row({**tags, "input-bytes": "0", "output-bytes": "0"}, time.time())["key age"] == ""
    assert FileKey(declared.set / "gone").written_at() is None
    assert KeyringKey("x").written_at() is None


def test_versions_come_and_go(declared: Declared, assembly: Assembly) -> None:
    """The device stays, and so do the counts of the versions that stay."""
    device = assembly.table.devices["d"]
    spend(device, 5)
    declared.add(2, 10)
    assert assembly.reload().endswith("; key versions: d (10, 2, 1)")
    assert assembly.reload() == "configuration: 1 devices, 0 rules of users and groups"
    assert assembly.table.devices["d"] is device
    assert [each.count.used for each in device.versions.all] == [0, 0, 5]
    (declared.set / "1").unlink()
    assembly.reload()
    assert kept(assembly) == "10, 2"
    for each in (2, 10):
        (declared.set / str(each)).unlink()
    declared.add(11)
    assembly.reload()
    assert (assembly.table.devices["d"], kept(assembly)) == (device, "11")


def test_a_version_with_another_key_is_a_new_device(declared: Declared, assembly: Assembly) -> None:
    """Open contexts go on with what they have; counts stay with the keys that are the same."""
    declared.add(2)
    assembly.reload()
    device = assembly.table.devices["d"]
    spend(device, 7, 1)
    write_private(declared.set / "2", bytes(32))
    assert assembly.reload().endswith("; new keys: d")
    assert assembly.table.devices["d"] is not device
    assert [each.count.used for each in assembly.table.devices["d"].versions.all] == [0, 7]


def test_a_list_of_sources(declared: Declared, assembly: Assembly) -> None:
    """Numbered in the configuration: another one is a rotation; from one form to the other the counts go along."""
    spend(assembly.table.devices["d"], 3)
    declared.add(2, 3)
    head = '[devices.d]\ntype = "aead"\nname = "gcm(aes)"\n'
    lines = [f'keys.{each}.file = "{declared.set}/{each}"\n' for each in (1, 2, 3)]
    declared.write(head + "".join(lines[:2]))
    assert "declared again: d" in assembly.reload()
    device = assembly.table.devices["d"]
    assert [each.count.used for each in device.versions.all] == [0, 3]
    declared.write(head + "".join(lines))
    assert assembly.reload().endswith("; key versions: d (3, 2, 1)")
    declared.write(head + lines[2] + 'mode = "0640"\n')
    assert "declared again: d" in assembly.reload()
    assert (kept(assembly), str(device.versions)) == ("3", "3, 2, 1")


def test_a_reload_that_fails_changes_nothing(declared: Declared, assembly: Assembly) -> None:
    """Also if another device is the reason."""
    declared.add(2)
    declared.write(SET.format(declared.set) + SET.format(declared.set / "none").replace("devices.d", "devices.e"))
    with pytest.raises(KeyUnavailable, match=r"cryptofs.toml:8: devices.e.key.directory: key source gone"):
        assembly.reload()
    assert kept(assembly) == "1"
    (declared.set / "3").write_bytes(b"short")
    (declared.set / "3").chmod(0o600)
    declared.write(SET.format(declared.set))
    with pytest.raises(CryptofsError, match=f"{declared.set}/3: key of 5 bytes"):
        assembly.reload()
    assert kept(assembly) == "1"


def spoil(declared: Declared, how: str) -> None:
    """Make a key set that must be refused."""
    if how == "mode":
        declared.set.chmod(0o750)
    elif how == "link":
        declared.set.rename(declared.set.with_name("moved"))
        declared.set.symlink_to(declared.set.with_name("moved"))
    elif how == "empty":
        (declared.set / "1").unlink()
    elif how == "many":
        declared.add(*range(1, 66))
    elif how == "file mode":
        (declared.set / "1").chmod(0o640)
    else:
        (declared.set / how).write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("mode", "mode 0750"),
        ("link", "key source gone"),
        ("empty", "has no key"),
        ("many", "65 files: at most 64"),
        ("file mode", "mode 0640"),
        ("02", "'02': a key version is a number from 1"),
        ("0", "'0': a key version"),
        ("4294967296", "a key version"),
        ("1~", "'1~': a key version"),
        ("²", "a key version"),
    ],
)
def test_what_is_refused(declared: Declared, how: str, why: str) -> None:
    """By a start and by check-config, which name the place."""
    spoil(declared, how)
    for make in (lambda: Assembly(("openssl",), declared.config), lambda: check_devices(declared.config)):
        with pytest.raises(CryptofsError) as caught:
            make()
        assert why in str(caught.value)
        assert "devices.d.key.directory" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('keys.1.directory = "/k"', "give it as key.directory"),
        ('key.file = "/k"\nkeys.1.file = "/k"', "one of key and keys"),
        ("", "one of key and keys"),
        ('keys.0.file = "/k"', "a key version is a number"),
        ('keys.01.file = "/k"', "a key version is a number"),
        ("".join(f'keys.{each}.file = "/k"\n' for each in range(1, 66)), "65 versions: at most 64"),
    ],
)
def test_refused_declarations(declared: Declared, text: str, why: str) -> None:
    """Errors of the file."""
    declared.write(f'[devices.d]\ntype = "aead"\nname = "gcm(aes)"\n{text}\n')
    with pytest.raises(ConfigError, match=why):
        check_devices(declared.config)


def test_files_of_a_set_are_handed_over(declared: Declared) -> None:
    """The step with more rights opens each, and the daemon uses these and no other, without reading the directory."""
    declared.add(2)
    (declared.set / ".3-half-written").write_bytes(b"")
    files = key_files(declared.config, os.geteuid())
    assert files == {f"key-d@{each}": declared.set / str(each) for each in (1, 2)}
    given = {name: os.open(path, os.O_RDONLY) for name, path in files.items()}
    declared.set.rename(declared.set.with_name("moved"))
    with closing(Assembly(("openssl",), declared.config, given)) as assembly:
        assert kept(assembly) == "2, 1"
        moved = declared.set.with_name("moved")
        moved.rename(declared.set)
        declared.add(5)
        # A signal passes no files: the daemon looks by itself, and may.
        assembly.reload()
        assert kept(assembly) == "5, 2, 1"
        files = key_files(declared.config, os.geteuid())
        assembly.reload({name: Handed(os.open(path, os.O_RDONLY), path) for name, path in files.items()})
        assert kept(assembly) == "5, 2, 1"
    declared.set.chmod(0o755)
    with pytest.raises(ServiceError, match=r"key of device 'd': .*mode 0755"):
        key_files(declared.config, os.geteuid())


@pytest.mark.mount
def test_rotation_under_a_mount(declared: Declared, tmp_path: Path) -> None:
    """Open descriptors go on; a file that is being sealed ends with the version that it began with."""
    declared.write(SET.format(declared.set) + f"user = {os.getuid()}\n")
    (tmp_path / "mount").mkdir()
    daemon = Daemon(tmp_path / "mount", *SHARED, "--config", str(declared.config), log=tmp_path / "log")

    def rotate() -> None:
        before = len(daemon.log)
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: re.search("reloaded: .*\n", daemon.log[before:]), 20, lambda: daemon.log[before:])

    def pieces(*versions: int) -> Iterator[bytes]:
        yield bytes(3_000_000)
        declared.add(*versions)
        rotate()
        yield bytes(3_000_000)

    try:
        with Context.of_device("d", mount=tmp_path / "mount") as context:
            old, newer = io.BytesIO(), io.BytesIO()
            encrypt_file(context, pieces(2), old)
            encrypt_file(context, pieces(3), newer)
            assert sealed.parse_head(old.getvalue()).version is None
            assert sealed.parse_head(newer.getvalue()).version == 2
            for file in (old, newer):
                plain = io.BytesIO()
                decrypt_file(context, io.BytesIO(file.getvalue()), plain)
                assert plain.getvalue() == bytes(6_000_000)
            small = context.encrypt(b"text")
            assert AESGCM(bytes([3]) * 32).decrypt(small[:12], small[12:], b"") == b"text"
            (declared.set / "2").unlink()
            rotate()
            with pytest.raises(OSError, match="key version 2 is not kept, only 3, 1"):
                decrypt_file(context, io.BytesIO(newer.getvalue()), io.BytesIO())
            assert context.status()["key-version"] == "3"
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
    assert "Traceback" not in daemon.log


def test_status_names_versions_and_no_key(declared: Declared, assembly: Assembly) -> None:
    """The newest, and those that are kept."""
    declared.add(2)
    assembly.reload()
    device: Device = assembly.table.devices["d"]
    assert "key-version: 2\nkey-versions: 2, 1\n" in device.status()
