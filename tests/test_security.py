"""What docs/security.md claims and no other test holds: each was somebody's vulnerability, or could be ours."""

import ast
import contextlib
import ctypes
import errno
import grp
import logging
import os
import pwd
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import IN_GUEST, Daemon
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from test_devices import MEMBER, OWNER, STRANGER, AsUser, as_user, declare, let_in, needs_root, write_private
from test_privileges import reachable  # noqa: F401  (a fixture)

from cryptofs.algorithms import Description, Type
from cryptofs.audit import audit
from cryptofs.client import Context, MountNotFound, RequestError, mounts
from cryptofs.config import load, models
from cryptofs.contexts import ContextTable
from cryptofs.contexts.control import CONTROLS
from cryptofs.errors import NoSuchTarget, NotOffered, NotPermitted
from cryptofs.nodes import Tree
from cryptofs.nodes.base import Caller, Directory
from cryptofs.policy import EVERYTHING, Policy, Rule
from cryptofs.privileges import Account, mount_fuse, mounts_at, take_away
from cryptofs.records import ATTRIBUTES, PAYLOAD_MAX, Attr, Flag, Operation, Record, Value, build, parse_responses
from cryptofs.records.layout import Kind

NO = (errno.EINVAL, errno.EACCES, errno.ENOENT)
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon under the profile `standard`, with a device that is OWNER's alone."""
    directory = tmp_path_factory.mktemp("security")
    root = os.geteuid() == 0
    key = write_private(directory / "key", bytes(range(32)))
    owner = (f"user = {OWNER if root else os.getuid()}", f"group = {os.getgid()}", 'mode = "0600"')
    text = '[policy]\nprofile = "standard"\n' + declare("sealed", key, "aead", "gcm(aes)", *owner)
    config = write_private(directory / "cryptofs.toml", text.encode())
    mountpoint = directory / "mount"
    mountpoint.mkdir()
    options = ("-o", "allow_other") if root else ()
    daemon = Daemon(mountpoint, *options, "--config", str(config), log=directory / "log")
    try:
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log, daemon.log
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def refuses(file: Path, text: str | None, *numbers: int) -> None:
    """Check that writing a line to a file, or reading it, fails with one of these errnos."""
    with pytest.raises(OSError) as caught:
        file.read_text() if text is None else file.write_text(text)
    assert caught.value.errno in numbers, (text, caught.value)


def fresh(mount: Path) -> tuple[int, Path]:
    """A context that nobody has configured: its descriptor and its directory."""
    descriptor = os.open(mount / "crypto", os.O_RDWR | os.O_CLOEXEC)
    return descriptor, mount / "contexts" / os.pread(descriptor, 100, 0).decode().strip()


# Names that policy denies


class Everything(FakeEngine):
    """An engine that has every name, lists far more than it is allowed to give, and counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def names(self) -> list[tuple[Type, str]]:
        """The denied ones, too."""
        return [(Type.HASH, name) for name in ("toysum", "hmac(toysum)", "secret", "toysum-fake")]

    def describe(self, type_: Type, name: str) -> Description:
        """As a toy."""
        self.asked.append(name)
        known = super().describe(type_, name)
        return known or Description(type_, name, "fake", f"{name}-fake", 64, digest_size=32)

    def open(self, description: Description, authsize: int | None) -> object:  # type: ignore[override]
        """As a toy."""
        self.asked.append(description.driver)
        return super().open(description, authsize)


DENIED: list[dict[int, Value]] = [
    {Attr.TYPE: "hash", Attr.NAME: "secret"},
    {Attr.TYPE: "hash", Attr.NAME: "secret", Attr.ENGINE: "fake"},
    {Attr.TYPE: "hash", Attr.NAME: "secret", Attr.DRIVER: "toysum-fake"},
    {Attr.TYPE: "hash", Attr.NAME: "toysum", Attr.DRIVER: "secret"},
    {Attr.TYPE: "hash", Attr.NAME: "toysum", Attr.DRIVER: "secret", Attr.ENGINE: "fake"},
    {Attr.TYPE: "hash", Attr.NAME: "toysum-fake"},
    {Attr.TYPE: "hash", Attr.NAME: "hmac(toysum)", Attr.KEY: bytes(16)},
    {Attr.TYPE: "skcipher", Attr.NAME: "toysum"},
]


def walk(rule: Rule) -> list[str]:
    """Configure, look up and list all that is denied above, by every way; which names came to the engine."""
    engine = Everything()
    table = ContextTable((engine,), policy=Policy(rule))
    tree = Tree(table)
    caller = Caller(1000, 1000, 1)
    for attributes in DENIED:
        context = table.open(1000, 1000, 1, False)
        with contextlib.suppress(NotPermitted, NotOffered):
            context.control(Record(Operation.CONFIGURE, attributes=attributes))
        records = [Record(Operation.CONFIGURE, id=1, attributes=attributes)]
        with contextlib.suppress(NotPermitted, NotOffered):
            context.accept(records)
    algorithms = tree.node(1)
    assert isinstance(algorithms, Directory)
    algorithms = algorithms.lookup("algorithms", caller)
    assert isinstance(algorithms, Directory)
    for type_ in Type:
        directory = algorithms.lookup(str(type_), caller)
        assert isinstance(directory, Directory)
        for name in ("secret", "toysum-fake", "hmac(toysum)"):
            with contextlib.suppress(NoSuchTarget):
                directory.lookup(name, caller)
        directory.entries(caller)
    table.close_all()
    return engine.asked


def test_no_denied_name_reaches_an_engine() -> None:
    """Not by name, driver, lookup or listing, by record or by call; without a rule each of them does."""
    assert set(walk(EVERYTHING)) >= {"secret", "toysum-fake", "hmac(toysum)"}
    assert set(walk(Rule(frozenset({(Type.HASH, "toysum")})))) == {"toysum"}
    assert walk(Rule(frozenset())) == []


INTERNAL = [
    *(f"authencesn(hmac({digest}),cbc(aes))" for digest in ("sha1", "sha256", "sha512")),
    "authencesn(hmac(sha256-generic),cbc(aes-generic))",
    "authencesn(hmac(sha256),rfc3686(ctr(aes)))",
    "cryptd(gcm(aes))",
    "pcrypt(authencesn(hmac(sha256),cbc(aes)))",
    "krb5enc(cmac(camellia),cts(cbc(camellia)))",
]


@pytest.mark.mount
@pytest.mark.parametrize("name", INTERNAL)
def test_building_blocks_are_not_in_the_profile_standard(mount: Path, name: str) -> None:
    """authencesn and the kernel's other internals: EACCES by record and by line, as a name and as a driver; no file."""
    descriptor, directory = fresh(mount)
    try:
        ctl = directory / "ctl"
        with pytest.raises(RequestError) as caught:
            Context("aead", name, mount=mount)
        assert caught.value.errno == errno.EACCES
        for more in ("", " engine=af_alg", " engine=openssl", " driver=gcm"):
            refuses(ctl, f"configure type=aead name={name}{more}\n", errno.EACCES)
        refuses(ctl, f"configure type=aead name=gcm(aes) driver={name}\n", errno.EACCES)
        refuses(mount / "algorithms" / "aead" / name, None, errno.ENOENT)
        assert name not in os.listdir(mount / "algorithms" / "aead")
        # and the context is as good as before
        ctl.write_text("configure type=aead name=gcm(aes)\n")
    finally:
        os.close(descriptor)


MODULE_OF = {"md4": "md4", "crc32": "crc32_cryptoapi"}
"""Hashes beyond the profile `standard` that are modules of the guest's kernel, which loads what it is asked for."""


def loaded(module: str) -> bool:
    """Whether a module is in the kernel now."""
    return re.search(rf"^{module} ", Path("/proc/modules").read_text(), re.MULTILINE) is not None


@pytest.mark.mount
@pytest.mark.af_alg
@pytest.mark.skipif(not IN_GUEST, reason="NOT RUN: takes modules out of the kernel, in the guest only")
@pytest.mark.parametrize("name", MODULE_OF)
def test_a_denied_name_loads_no_module(mount: Path, own_daemon: Daemon, name: str) -> None:
    """The kernel itself is the witness: after all ways of asking for a denied name its module is not there."""
    module = MODULE_OF[name]
    subprocess.run(["rmmod", module], capture_output=True, check=False)
    if loaded(module):
        pytest.skip(f"NOT RUN: {module} is in use or no module")
    descriptor, directory = fresh(mount)
    try:
        for line in (f"type=hash name={name}", f"type=hash name=sha256 driver={name}", f"type=aead name={name}"):
            refuses(directory / "ctl", f"configure {line}\n", errno.EACCES)
            refuses(directory / "ctl", f"configure {line} engine=af_alg\n", errno.EACCES)
        refuses(mount / "algorithms" / "hash" / name, None, errno.ENOENT)
        for type_ in Type:
            assert name not in os.listdir(mount / "algorithms" / str(type_))
        assert not loaded(module)
        # where it is allowed, it does
        Context("hash", name, mount=own_daemon.mountpoint).close()
        assert loaded(module)
    finally:
        os.close(descriptor)


# Rules by group

AS_MEMBER = """
import os, sys
for name in ("sha512", "md5"):
    number = os.pread(descriptor := os.open(sys.argv[1] + "/crypto", os.O_RDWR), 100, 0).decode().strip()
    ctl = os.open(f"{sys.argv[1]}/contexts/{number}/ctl", os.O_RDWR)
    try:
        os.write(ctl, f"configure type=hash name={name}".encode())
        print(name, "OK")
    except OSError as error:
        print(name, error.errno)
"""


@needs_root
@pytest.mark.mount
def test_a_shed_group_is_still_known(reachable: Path, tmp_path: Path) -> None:  # noqa: F811
    """A narrow rule of a group holds for its member by the user database, whatever groups his process has left."""
    member = next((each for each in grp.getgrall() if each.gr_mem), None)
    if member is None:
        pytest.skip("NOT RUN: no group of this machine has a member")
    uid = pwd.getpwnam(member.gr_mem[0]).pw_uid
    rules = f'[policy]\n[policy.groups.{member.gr_gid}]\nprofile = "none"\nallow = ["sha512"]\n'
    config = write_private(tmp_path / "cryptofs.toml", rules.encode())
    daemon = Daemon(reachable, "--user", "nobody", "--config", str(config), log=tmp_path / "log")
    try:
        narrow, wide = ["sha512 OK", f"md5 {errno.EACCES}"], ["sha512 OK", "md5 OK"]
        for who, groups, expected in (
            (uid, [member.gr_gid], narrow),
            (uid, [], narrow),
            # who is in it by his process alone has its rule as well
            (STRANGER, [member.gr_gid], narrow),
            (STRANGER, [], wide),
        ):
            assert as_user(who, STRANGER, groups, AS_MEMBER, reachable) == expected, (who, groups)
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


def test_members_come_from_the_user_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names in the group, when the configuration is loaded; a name that has no user is passed over."""
    entry = grp.struct_group(("some", "x", 4711, ["daemon", "nobody-of-this-name"]))
    monkeypatch.setattr(models.grp, "getgrgid", lambda gid: entry)
    path = write_private(tmp_path / "cryptofs.toml", b'[policy.groups.4711]\nprofile = "none"\n')
    policy = load(path).policy.policy()
    uid = pwd.getpwnam("daemon").pw_uid
    assert policy.members == {4711: {uid}}
    assert policy.rule(uid, 1, os.getpid()).names == frozenset()
    assert policy.rule(uid + 1, 1, os.getpid()).names is None


# Files and modules


def test_no_attribute_names_a_file() -> None:
    """What a control call takes as text is a name of an algorithm, an engine or an operation, and nothing else."""
    taken = {attribute for call in CONTROLS.values() for attribute in call.required | call.optional}
    texts = {attribute for attribute in taken if ATTRIBUTES[attribute].kind is Kind.TEXT}
    assert texts == {Attr.TYPE, Attr.NAME, Attr.ENGINE, Attr.DRIVER, Attr.OPERATION}
    assert {each for each in taken if ATTRIBUTES[each].kind is Kind.BYTES} == {Attr.KEY, Attr.IV}


MODULE = """
#include <fcntl.h>
__attribute__((constructor)) static void loaded(void) { open(MARK, O_CREAT | O_WRONLY, 0600); }
"""


@pytest.mark.mount
def test_a_module_that_a_record_names_is_refused(mount: Path, daemon: Daemon) -> None:
    """A shared object that says when it is loaded, named in every attribute that takes text, and as a key's source."""
    with tempfile.TemporaryDirectory(prefix="m.") as place:
        module, mark = Path(place) / "m.so", Path(place) / "mark"
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-", f'-DMARK="{mark}"', "-o", str(module)]
        subprocess.run(command, input=MODULE, text=True, check=True)
        module.chmod(0o755)
        assert len(str(module)) < ATTRIBUTES[Attr.ENGINE].largest
        subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(module)!r})"], check=True)
        assert mark.exists(), "loading it leaves no mark: nothing is tested"
        mark.unlink()

        right: dict[int, Value] = {Attr.TYPE: "hash", Attr.NAME: "hmac(sha256)", Attr.KEY: bytes(32)}
        tried = 0
        for attribute in (Attr.TYPE, Attr.NAME, Attr.ENGINE, Attr.DRIVER, Attr.OPERATION):
            for path in (str(module), str(module)[1:], f"../../..{module}"[-31:], f"pkcs11:{module}"[:31]):
                descriptor, directory = fresh(mount)
                try:
                    attributes = right | {attribute: path}
                    os.write(descriptor, build(Record(Operation.CONFIGURE, id=1, attributes=attributes)))
                    (answer,) = parse_responses(os.pread(descriptor, 65_536, 0))
                    assert answer.status in NO, (attribute, path, answer)
                    words = {"type": "hash", "name": "hmac(sha256)", ATTRIBUTES[attribute].word: path}
                    line = " ".join(f"{word}={value}" for word, value in words.items())
                    refuses(directory / "ctl", f"configure {line}\n", *NO)
                    tried += 2
                finally:
                    os.close(descriptor)
        assert tried == 40
        with Context("hash", "hmac(sha256)", bytes(32), mount=mount) as context:
            ctl = context.directory / "ctl"
            for source in ("file:/etc/hostname", f"pkcs11:{module}", f"{module}", "credential:x", "keyring:x", "@u"):
                refuses(ctl, f"set-key key={source}\n", errno.EINVAL)
            for word in ("file", "module", "pkcs11", "path", "config", "key.file"):
                refuses(ctl, f"set-key {word}={module} key=hex:00\n", errno.EINVAL)
        assert not mark.exists()
        if os.geteuid() == 0:
            assert str(module) not in Path(f"/proc/{daemon.process.pid}/maps").read_text()


# The mount point


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """`cryptofs` with arguments."""
    full = [sys.executable, "-m", "cryptofs", *map(str, command)]
    return subprocess.run(full, capture_output=True, text=True, timeout=60, check=False)


def mount_lines(below: Path) -> list[str]:
    """What is mounted below a directory, without looking at it."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(below) in line]


@needs_root
@pytest.mark.mount
@pytest.mark.parametrize("command", [("hand-over", "--user", "nobody"), ("take-back",)])
@pytest.mark.parametrize("to", ["directory", "mount", "nothing", "file"])
def test_a_link_in_place_of_the_mount_point(reachable: Path, command: tuple[str, ...], to: str) -> None:  # noqa: F811
    """The service's privileged steps follow none: what it leads to keeps its owner, mode, contents and mount."""
    target = reachable.parent / "target"
    link = reachable.parent / "link"
    link.symlink_to(target)
    if to == "file":
        target.write_text("kept")
    elif to != "nothing":
        target.mkdir(mode=0o755)
    if to == "mount":
        subprocess.run(["mount", "-t", "tmpfs", "none", target], check=True)
        (target / "kept").write_text("kept")
    try:
        before = target.lstat() if to != "nothing" else None
        done = run(command[0], link, *command[1:])
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        assert str(link) in done.stderr
        assert link.is_symlink()
        if before is None:
            assert not target.exists()
        else:
            after = target.lstat()
            assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
            assert after.st_dev == before.st_dev
        assert len(mount_lines(reachable.parent)) == (to == "mount")
        if to == "mount":
            assert (target / "kept").read_text() == "kept"
    finally:
        if to == "mount":
            subprocess.run(["umount", target], check=True)


@needs_root
@pytest.mark.mount
def test_another_file_system_on_the_mount_point_stays(reachable: Path) -> None:  # noqa: F811
    """Neither mount, nor take-back, nor umount's step takes a tmpfs away; only cryptofs goes from on top of it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", reachable], check=True)
    try:
        (reachable / "kept").write_text("kept")
        done = run("mount", reachable, "--user", "nobody")
        assert done.returncode == 1
        assert "something is mounted here" in done.stderr
        assert stat.S_IMODE(reachable.stat().st_mode) == 0o755
        assert not take_away(reachable)
        # take-back closes whatever directory it finds there, and unmounts nothing that is not cryptofs
        assert run("take-back", reachable).returncode == 0
        assert [line.split()[2] for line in mount_lines(reachable)] == ["tmpfs"]
        descriptor = mount_fuse(reachable, Account("nobody", 65534, 65534))
        try:
            assert run("take-back", reachable).returncode == 0
        finally:
            os.close(descriptor)
        assert [line.split()[2] for line in mount_lines(reachable)] == ["tmpfs"]
        assert (reachable / "kept").read_text() == "kept"
    finally:
        subprocess.run(["umount", reachable], check=True)


@needs_root
@pytest.mark.mount
def test_a_false_mount_is_not_taken_unasked(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A mount of another user's that calls itself cryptofs: found by nobody but him; one of root's is found."""
    monkeypatch.delenv("CRYPTOFS_MOUNT", raising=False)
    others = reachable.parent / "user_id=0,\tx"
    others.mkdir()
    # what a client would find; nobody serves these mounts, so that looking at one would hang
    find = "import sys; from cryptofs.client.mounts import mounted; print(*mounted(), sep='\\n')"
    for path, uid in ((others, STRANGER), (reachable, 0)):
        descriptor = mount_fuse(path, Account("somebody", uid, uid))
        try:
            trusted = uid == 0
            assert (path in mounts.mounted()) is trusted
            assert mounts_at(path) == 1
            for asking, sees in ((MEMBER, trusted), (STRANGER, True)):
                assert (str(path) in as_user(asking, asking, [], find)) is sees, (path, asking)
            monkeypatch.setattr(mounts, "mounted", lambda: [])
            with pytest.raises(MountNotFound):
                mounts.find_mount()
            monkeypatch.undo()
        finally:
            take_away(path)
            os.close(descriptor)


# The descriptor of /dev/fuse

_KCMP = {"x86_64": 312, "aarch64": 272}


@pytest.fixture
def compared() -> None:
    """The kernel tells whether two descriptors are one open file."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_KCMP[os.uname().machine], os.getpid(), os.getpid(), 0, 0, 0):
        pytest.skip(f"NOT RUN: kcmp: {os.strerror(ctypes.get_errno())}")


def holders(pid: int, descriptor: int) -> set[tuple[int, int]]:
    """Every process and number under which the very file that a process has open is open, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = _KCMP[os.uname().machine]
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            for other in os.listdir(f"/proc/{name}/fd"):
                if os.readlink(f"/proc/{name}/fd/{other}") != "/dev/fuse":
                    continue
                same = libc.syscall(call, pid, int(name), 0, descriptor, int(other))
                if same == 0:
                    found.add((int(name), int(other)))
                assert same >= 0 or ctypes.get_errno() in (errno.ESRCH, errno.EBADF), ctypes.get_errno()
    return found


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@needs_root
@pytest.mark.mount
@pytest.mark.usefixtures("compared")
@pytest.mark.parametrize("who", [("--user", "nobody"), ()])
def test_nobody_else_has_the_descriptor(
    reachable: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    who: tuple[str, ...],
) -> None:
    """Of all processes the daemon alone has this /dev/fuse open, once and close-on-exec; its helpers live and have not.

    Both ways of mounting: by the daemon itself, and by fusermount3.
    """
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with told:
        notify = reachable.parent / "notify"
        told.bind(str(notify))
        notify.chmod(0o777)
        monkeypatch.setenv("NOTIFY_SOCKET", str(notify))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        daemon = Daemon(reachable, *who, log=tmp_path / "log")
        try:
            pid = daemon.process.pid
            open_ = {int(each): os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")}
            (fuse,) = (number for number, target in open_.items() if target == "/dev/fuse")
            flags = re.search(r"^flags:\s*([0-7]+)$", Path(f"/proc/{pid}/fdinfo/{fuse}").read_text(), re.MULTILINE)
            assert flags is not None
            assert int(flags[1], 8) & os.O_CLOEXEC
            names = {Path(f"/proc/{child}/comm").read_text().strip() for child in children(pid)}
            assert names == ({"cryptofs-pulse", "cryptofs-keeper"} if who else {"cryptofs-pulse"})
            assert holders(pid, fuse) == {(pid, fuse)}
            for child in children(pid):
                targets = [os.readlink(f"/proc/{child}/fd/{each}") for each in os.listdir(f"/proc/{child}/fd")]
                kept = {f"{reachable}/crypto", "/dev/null"}
                assert all(each in kept or each.startswith("socket:") for each in targets), targets
        finally:
            assert daemon.stop() == 0, daemon.log


@needs_root
@pytest.mark.mount
@pytest.mark.usefixtures("compared")
def test_the_search_for_holders_finds(reachable: Path) -> None:  # noqa: F811
    """It would see a child that has it."""
    descriptor = mount_fuse(reachable, Account("nobody", 65534, 65534))
    try:
        with subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,)) as other:
            assert holders(os.getpid(), descriptor) == {(os.getpid(), descriptor), (other.pid, descriptor)}
            other.kill()
    finally:
        take_away(reachable)
        os.close(descriptor)


# Writes of any shape

SHAPES: dict[str, list[int]] = {
    "an empty first": [0, 24, 3],
    "empty everywhere": [0, 0, 10, 0, 14, 0, 3, 0, 0],
    "the most segments": [0] * 1000 + [1] * 24,
    "each byte": [1] * 27,
}


@pytest.mark.mount
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seek", [True, False])
def test_writev_with_empty_segments(mount: Path, shape: str, seek: bool) -> None:
    """A record is the sum of its segments, wherever it is cut and however many of them are empty; nothing hangs."""
    with Context("hash", "sha256", mount=mount) as context:
        data = build(Record(Operation.DIGEST, id=7, payload=b"abc"))
        segments, at = [], 0
        for size in SHAPES[shape]:
            segments.append(data[at : at + size])
            at += size
        if at < len(data):
            segments[-1] += data[at:]
        fd = context.fileno()
        written = os.pwritev(fd, segments, 0) if seek else os.writev(fd, segments)
        assert written == len(data)
        (answer,) = parse_responses(os.pread(fd, 65_536, 0))
        assert (answer.id, answer.status, bytes(answer.payload).hex()) == (7, 0, ABC)


def writev(descriptor: int, segments: list[bytes]) -> int:
    """The number of bytes written, or the errno, negative."""
    try:
        return os.writev(descriptor, segments)
    except OSError as error:
        return -(error.errno or 1)


@pytest.mark.mount
def test_writes_of_nothing(mount: Path) -> None:
    """Of no bytes, in no, one or a thousand segments, on each file that takes writes: at once, and to no effect."""
    with Context("hash", "sha256", mount=mount) as context:
        for file in (None, "ctl", "stream"):
            fd = context.fileno() if file is None else os.open(context.directory / file, os.O_RDWR)
            try:
                for segments in ([], [b""], [b""] * 1000):
                    began = time.monotonic()
                    # a record or a line of no bytes is none
                    assert writev(fd, segments) in (0, -errno.EINVAL), file
                    assert time.monotonic() - began < 5
            finally:
                if file is not None:
                    os.close(fd)
        assert context.digest(b"").hex() == EMPTY


# Delegation

RECEIVER = """
import os, socket, sys
from cryptofs.records import Operation, Record, build, parse_responses
mount, directory, number = sys.argv[1:]
def attempt(what, call):
    try:
        call()
        print(what, "OK")
    except OSError as error:
        print(what, error.errno)
channel = socket.socket(fileno=int(number))
_, (device, ctl), _, _ = socket.recv_fds(channel, 1, 2)
attempt("device", lambda: os.open(mount + "/devices/sealed/crypto", os.O_RDWR))
attempt("context", lambda: os.listdir(directory))
for name in ("ctl", "status", "stream"):
    attempt(name, lambda: os.open(directory + "/" + name, os.O_RDONLY))
# a path that was opened by somebody who may is no way in, either
attempt("by path", lambda: os.open(f"/proc/self/fd/{ctl}", os.O_RDWR))
attempt("again", lambda: os.open(f"/proc/self/fd/{device}", os.O_RDWR))
os.pwrite(device, build(Record(Operation.ENCRYPT, id=1, payload=b"passed on")), 0)
(answer,) = parse_responses(os.pread(device, 65536, 0))
print("sealed", bytes(answer.payload).hex())
os.pwrite(device, build(Record(Operation.SET_KEY, id=2, attributes={3: bytes(32)})), 0)
(answer,) = parse_responses(os.pread(device, 65536, 0))
print("set-key", answer.status)
"""


@needs_root
@pytest.mark.mount
def test_a_device_descriptor_passed_to_another_user(mount: Path, daemon: Daemon) -> None:
    """By SCM_RIGHTS: it works as the opener's, under the opener's name; ctl, status, stream and the device refuse."""
    let_in(mount)
    ours, theirs = socket.socketpair()
    with ours, theirs, Context.of_device("sealed", mount=mount) as context:
        ctl = os.open(context.directory / "ctl", os.O_PATH | os.O_CLOEXEC)
        try:
            other = AsUser(STRANGER, STRANGER, [], RECEIVER, mount, context.directory, str(theirs.fileno()))
            socket.send_fds(ours, [b"x"], [context.fileno(), ctl])
            lines = dict(line.rsplit(" ", 1) for line in other.lines())
        finally:
            os.close(ctl)
        sealed = bytes.fromhex(lines.pop("sealed"))
        assert context.decrypt(sealed) == b"passed on"
        no = {str(errno.EACCES), str(errno.ENOENT)}
        assert lines.pop("set-key") == str(errno.EACCES)
        assert set(lines) == {"device", "context", "ctl", "status", "stream", "by path", "again"}, lines
        assert set(lines.values()) <= no, lines
        assert f"uid={STRANGER}" not in "".join(line for line in daemon.log.splitlines(True) if " open " in line)


@needs_root
@pytest.mark.mount
def test_associated_data_leave_room_for_the_nonce(mount: Path) -> None:
    """What a device has to keep until the nonce has come is bounded, whatever the client says that it will send."""
    size = PAYLOAD_MAX - 12
    with Context.of_device("sealed", mount=mount) as context:
        for number, (assoclen, status) in enumerate(
            ((size, 0), (size + 1, errno.EMSGSIZE), (PAYLOAD_MAX, errno.EMSGSIZE), ((1 << 32) - 1, errno.EMSGSIZE))
        ):
            attributes: dict[int, Value] = {Attr.ASSOCLEN: assoclen}
            record = Record(Operation.DECRYPT, Flag.MORE, number, attributes=attributes, payload=bytes(1000))
            os.pwrite(context.fileno(), build(record), 0)
            (answer,) = parse_responses(os.pread(context.fileno(), 65_536, 0))
            assert answer.status == status, (assoclen, answer)


# The audit trail

WORD = re.compile(r"(\w[\w-]*)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^ \"'=\\]+)(?: |$)")


def fields(line: str) -> dict[str, str]:
    """What a reader makes of a line: the event, then values, quoted where they are more than one plain word."""
    event, _, rest = line.partition(" ")
    found, at = {"event": event}, 0
    while at < len(rest):
        match = WORD.match(rest, at)
        assert match is not None, line
        assert match[1] not in found, line
        found[match[1]] = ast.literal_eval(match[2]) if match[2][0] in "'\"" else match[2]
        at = match.end()
    return found


HOSTILE = [
    "x\nopen uid=0 pid=1",
    "x\r\nopen uid=0",
    'a" uid="0',
    "a' uid='0",
    "'\"",
    "uid=0",
    "\\",
    "\\'",
    "x\x00y",
    "\x1b[2J",
    "\u2028open",
    "\u202e",
    "",
    " ",
    "n" * 199 + "'=",
    "n" * 300,
]


def one_line(name: str) -> None:
    """Check that a name comes back out of the trail as it went in, on one line, beside the right values."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("cryptofs.audit")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        audit("configure", 1000, 7, type="hash", name=name, engine="openssl")
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
    (line,) = lines
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    expected = {"event": "configure", "uid": "1000", "pid": "7", "type": "hash", "engine": "openssl"}
    assert fields(line) == expected | {"name": name[:200]}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_in_the_trail(name: str) -> None:
    """Newlines, quotes, `=`, backslashes, control characters, too long."""
    one_line(name)


@given(st.text(max_size=300))
def test_any_name_in_the_trail(name: str) -> None:
    """Whatever it is."""
    one_line(name)


@pytest.mark.mount
def test_a_hostile_name_over_the_mount(mount: Path, daemon: Daemon) -> None:
    """What a client names in records and lines: no line of the log begins with what it wrote or has its uid."""
    before = len(daemon.log)
    forged = "x\" uid=4294967294 pid=1 refused=NO'"
    for name in (forged, "x\ncryptofs: open uid=4294967294 pid=1", "x\rcryptofs: open uid=4294967294", "a'b=c", "\\'"):
        for attribute in (Attr.TYPE, Attr.NAME, Attr.ENGINE, Attr.DRIVER):
            descriptor, directory = fresh(mount)
            try:
                attributes: dict[int, Value] = {Attr.TYPE: "hash", Attr.NAME: "sha256", attribute: "q" * len(name[:31])}
                # the codec would not write such a name
                record = build(Record(Operation.CONFIGURE, id=1, attributes=attributes))
                assert record.count(b"q" * len(name[:31])) == 1
                with contextlib.suppress(OSError):
                    os.write(descriptor, record.replace(b"q" * len(name[:31]), name[:31].encode()))
                    assert parse_responses(os.pread(descriptor, 65_536, 0))[0].status
                refuses(directory / "ctl", f"configure type={name}\n", *NO)
                # refusals are recorded once a second, so each is told of by the next, too
            finally:
                os.close(descriptor)
    time.sleep(0.3)
    lines = daemon.log[before:].splitlines()
    assert len(lines) >= 20
    for line in lines:
        prefix, _, rest = line.partition("cryptofs: ")
        assert prefix == "", line
        if rest.split(" ", 1)[0] in ("open", "configure"):
            found = fields(rest)
            assert found["uid"] == str(os.getuid()), line
            assert found["pid"] == str(os.getpid()), line


# A daemon that is taken over: from within the running unit

UNIT = Path("/run/systemd/system/cryptofs.service.d/probe.conf")
PROBE = """
import ctypes, errno, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")
def connect():
    with socket.socket() as it:
        it.connect(("192.0.2.1", 80))
def netlink():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
def packet():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
def local():
    for pair in socket.socketpair():
        pair.close()
def af_alg():
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as it:
        it.bind(("hash", "sha256"))
def remap():
    page = libc.mmap
    page.restype = ctypes.c_void_p
    if page(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "")
def write(path):
    with open(path, "w") as file:
        file.write("x")
other = int(sys.argv[1])
tries = {
    "shadow": lambda: open("/etc/shadow"), "write /etc": lambda: write("/etc/cryptofs-probe"),
    "write /var": lambda: write("/var/lib/cryptofs-probe"), "write /usr": lambda: write("/usr/cryptofs-probe"),
    "home": lambda: os.listdir("/root"), "network": connect, "netlink": netlink, "packet": packet,
    "fuse": lambda: os.open("/dev/fuse", os.O_RDWR), "disk": lambda: os.open("/dev/mem", os.O_RDONLY),
    "mount": lambda: call(libc.mount, b"none", b"/run", b"tmpfs", 0, None),
    "namespace": lambda: call(libc.unshare, 0x10000000), "setuid": lambda: os.setuid(0),
    "setgroups": lambda: os.setgroups([0]), "kill": lambda: os.kill(other, 9),
    "ptrace": lambda: call(libc.ptrace, 16, other, 0, 0),
    "other's memory": lambda: open(f"/proc/{other}/mem", "rb").read(1),
    "other's environment": lambda: open(f"/proc/{other}/environ", "rb").read(1),
    "code": remap, "priority": lambda: os.nice(-5), "host name": lambda: socket.sethostname("probe"),
    "touch /etc": lambda: os.utime("/etc/passwd"), "sysctl": lambda: write("/proc/sys/kernel/core_pattern"),
    "modules": lambda: call(libc.syscall, 175, None, 0, b""), "kernel log": lambda: call(libc.klogctl, 3, None, 0),
    "reboot": lambda: call(libc.reboot, 0), "bpf": lambda: call(libc.syscall, 321, 5, None, 0),
    "af_alg": af_alg, "unix": local, "processes": lambda: os.listdir(f"/proc/{other}"),
    "program": lambda: os.spawnv(os.P_WAIT, "/bin/true", ["true"]),
}
for what, attempt in tries.items():
    try:
        attempt()
        print(what, "DONE", sep="\\t")
    except (OSError, AttributeError) as error:
        print(what, errno.errorcode.get(getattr(error, "errno", None), error), sep="\\t")
"""
LEFT = {"af_alg", "unix", "processes", "program"}
"""What docs/security.md says that a daemon that is taken over can still do; nothing else of the probe works."""


@pytest.mark.skipif(
    not os.environ.get("CRYPTOFS_SYSTEMD"),
    reason="NOT RUN: needs systemd as the first process; ./scripts/test-systemd runs it in the guest",
)
def test_the_sandbox_refuses() -> None:
    """A program in the daemon's place, in its unit's own sandbox and as its user, tries what the document rules out."""
    for command in (
        ("systemctl", "stop", "cryptofs.service"),
        ("systemd-sysusers", "/usr/local/lib/sysusers.d/cryptofs.conf"),
        ("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/cryptofs.conf"),
    ):
        subprocess.run(command, check=True)
    probe, output = Path("/run/probe.py"), Path("/run/probe.out")
    probe.write_text(PROBE)
    probe.chmod(0o644)
    UNIT.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["sleep", "300"], user="nobody", group="nogroup", extra_groups=[]) as other:
        start = f"/opt/cryptofs/bin/python -I {probe} {other.pid}"
        lines = ("[Service]", "Type=oneshot", "ExecStartPre=", "ExecStart=", f"ExecStart={start}", "ExecStopPost=")
        UNIT.write_text("\n".join((*lines, "Restart=no", f"StandardOutput=truncate:{output}", "")))
        try:
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            subprocess.run(["systemctl", "start", "cryptofs.service"], check=True, timeout=60)
            text = output.read_text()
            assert other.poll() is None
        finally:
            other.kill()
            UNIT.unlink()
            subprocess.run(["systemctl", "daemon-reload"], check=True)
    found = dict(line.split("\t") for line in text.splitlines())
    assert len(found) - len(LEFT) == 27, "docs/security.md has this number"
    assert {what for what, result in found.items() if result == "DONE"} == LEFT, text
    allowed = {"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "ENETUNREACH"}
    assert {result for what, result in found.items() if what not in LEFT} <= allowed, text
