"""Names that policy denies reach no engine and no kernel, and a client names no file and no module."""

import contextlib
import errno
import grp
import os
import pwd
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import security_mount
from helpers.configs import configured, write_private
from helpers.daemons import Daemon, serving
from helpers.fake_engine import FakeEngine
from helpers.machine import IN_GUEST
from helpers.other_user import STRANGER, as_user, needs_root
from helpers.raw import Raw
from helpers.security_mount import NO, refuses
from helpers.talking import perform

from cryptofs.algorithms import Description, Facts, Type
from cryptofs.client import Context, RequestError
from cryptofs.config import load, models
from cryptofs.contexts import ContextTable, requests
from cryptofs.errors import NoSuchTarget, NotOffered, NotPermitted
from cryptofs.nodes import Tree
from cryptofs.nodes.base import Caller, Directory
from cryptofs.policy import Policy, Rule
from cryptofs.records import ATTRIBUTES, CONTROL_OPERATIONS, Attr, Kind, Operation, Record, Value

daemon = security_mount.daemon

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
        return known or Description.of(type_, name, "fake", f"{name}-fake", Facts(64, digest_size=32))

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
            perform(context, Record(Operation.CONFIGURE, attributes=attributes))
        records = [Record(Operation.CONFIGURE, id=1, attributes=attributes)]
        with contextlib.suppress(NotPermitted, NotOffered):
            requests.accept(context, records)
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
        list(directory.entries(caller, 0))
    table.close_all()
    return engine.asked


def test_no_denied_name_reaches_an_engine() -> None:
    """Not by name, driver, lookup or listing, by record or by call; without a rule each of them does."""
    assert set(walk(Rule())) >= {"secret", "toysum-fake", "hmac(toysum)"}
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
    with Raw(mount) as raw:
        ctl = raw.directory / "ctl"
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
    with Raw(mount) as raw:
        for line in (f"type=hash name={name}", f"type=hash name=sha256 driver={name}", f"type=aead name={name}"):
            refuses(raw.directory / "ctl", f"configure {line}\n", errno.EACCES)
            refuses(raw.directory / "ctl", f"configure {line} engine=af_alg\n", errno.EACCES)
        refuses(mount / "algorithms" / "hash" / name, None, errno.ENOENT)
        for type_ in Type:
            assert name not in os.listdir(mount / "algorithms" / str(type_))
        assert not loaded(module)
        # where it is allowed, it does
        Context("hash", name, mount=own_daemon.mountpoint).close()
        assert loaded(module)


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
def test_a_shed_group_is_still_known(reachable: Path, tmp_path: Path) -> None:
    """A narrow rule of a group holds for its member by the user database, whatever groups his process has left."""
    member = next((each for each in grp.getgrall() if each.gr_mem), None)
    if member is None:
        pytest.skip("NOT RUN: no group of this machine has a member")
    uid = pwd.getpwnam(member.gr_mem[0]).pw_uid
    rules = f'[policy]\n[policy.groups.{member.gr_gid}]\nprofile = "none"\nallow = ["sha512"]\n'
    with serving(reachable, "--user", "nobody", *configured(tmp_path, rules)):
        narrow, wide = ["sha512 OK", f"md5 {errno.EACCES}"], ["sha512 OK", "md5 OK"]
        for who, groups, expected in (
            (uid, [member.gr_gid], narrow),
            (uid, [], narrow),
            # who is in it by his process alone has its rule as well
            (STRANGER, [member.gr_gid], narrow),
            (STRANGER, [], wide),
        ):
            assert as_user(who, STRANGER, groups, AS_MEMBER, reachable) == expected, (who, groups)
        # what makes it was loaded before the daemon became another user
        assert "cryptofs_build_info" in (reachable / "stats").read_text()


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
    rows = [operation.row for operation in CONTROL_OPERATIONS]
    taken = {attribute for row in rows for attribute in row.required | row.optional}
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
                with Raw(mount) as raw:
                    answer = raw.call(Operation.CONFIGURE, right | {attribute: path})
                    assert answer.status in NO, (attribute, path, answer)
                    words = {"type": "hash", "name": "hmac(sha256)", ATTRIBUTES[attribute].word: path}
                    line = " ".join(f"{word}={value}" for word, value in words.items())
                    refuses(raw.directory / "ctl", f"configure {line}\n", *NO)
                    tried += 2
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
