"""Who may open devices, and the rules and quotas of two users."""

import errno
import os
from pathlib import Path

import pytest
from helpers import device_mount
from helpers.daemons import serving_config
from helpers.device_mount import DIGEST
from helpers.other_user import GROUP, MEMBER, OWNER, STRANGER, as_user, let_in, needs_root

from cryptofs.records import Record, build

pytestmark = pytest.mark.mount
daemon = device_mount.daemon

AS_USER = """
import os, sys
for name in sys.argv[1:]:
    try:
        os.close(os.open(name, os.O_RDWR))
        print("OK")
    except OSError as error:
        print(error.errno)
"""


@needs_root
def test_who_may_open(mount: Path) -> None:
    """Owner, group, supplementary group, mode, root: as for any file."""
    let_in(mount)
    names = [
        mount / "devices" / device / file for device in ("owned", "shared", "public") for file in ("crypto", "digest")
    ]
    no = str(errno.EACCES)
    expected = {
        (OWNER, OWNER, ()): ["OK", no, "OK"],
        (MEMBER, GROUP, ()): [no, "OK", "OK"],
        (MEMBER, MEMBER, (GROUP,)): [no, "OK", "OK"],
        (STRANGER, STRANGER, ()): [no, no, "OK"],
        (0, 0, ()): ["OK", "OK", "OK"],
    }
    for (uid, gid, groups), answers in expected.items():
        assert as_user(uid, gid, list(groups), AS_USER, *names) == [each for each in answers for _ in range(2)]


RULES = """\
[policy]
profile = "standard"
contexts = 3
requests = 4
queue-bytes = 200000
[policy.users.70002]
rate = 20
requests = 0
queue-bytes = 0
[policy.groups.70100]
allow = ["md5"]
contexts = 5
"""

AS_CLIENT = """
import errno, os, sys
mount, requests = sys.argv[1], [bytes.fromhex(each) for each in sys.argv[2:]]
fds = []
try:
    for _ in range(100):
        fds.append(os.open(mount + "/crypto", os.O_RDWR))
except OSError as error:
    print(len(fds), errno.errorcode[error.errno])
number = os.pread(fds[0], 100, 0).decode().strip()
for name in ("md5", "sha256"):
    ctl = os.open(f"{mount}/contexts/{number}/ctl", os.O_RDWR)
    try:
        os.write(ctl, f"configure type=hash name={name}".encode())
        print(name, "OK")
    except OSError as error:
        print(name, errno.errorcode[error.errno], os.read(ctl, 1000).decode().replace("\\n", " "))
    if os.path.exists(mount + "/algorithms/hash/" + name):
        print(name, "listed")
taken = 0
for request in requests:
    try:
        os.write(fds[0], request)
        taken += 1
    except OSError as error:
        print("taken", taken, errno.errorcode[error.errno])
        break
else:
    print("taken", taken)
status = open(f"{mount}/contexts/{number}/status").read()
print([line for line in status.split("\\n") if line.startswith("last-error")])
"""


@needs_root
def test_rules_and_quotas_of_two_users(tmp_path: Path) -> None:
    """What one user holds is nobody else's matter; what is refused says why."""
    with serving_config(tmp_path, RULES) as daemon:
        mountpoint = daemon.mountpoint
        let_in(mountpoint)
        small = [build(Record(DIGEST, id=each)).hex() for each in range(30)]
        large = [build(Record(DIGEST, id=each, payload=bytes(40_000))).hex() for each in range(2)]
        held = os.open(mountpoint / "crypto", os.O_RDWR)
        lines = as_user(STRANGER, STRANGER, [], AS_CLIENT, mountpoint, *small)
        assert lines[0] == "3 EDQUOT"
        assert lines[1].startswith("md5 EACCES error: EACCES message: hash 'md5': the policy does not allow you")
        assert lines[2:4] == ["sha256 OK", "sha256 listed"]
        assert lines[4] == "taken 4 EDQUOT"
        assert f"EDQUOT: uid {STRANGER}: 4 requests wait to be read and 1 more are asked: at most 4" in lines[5]
        # everything was given back with the process; the bytes are counted, too
        assert "taken 2" in as_user(STRANGER, STRANGER, [], AS_CLIENT, mountpoint, *large)[4]
        too_large = [build(Record(DIGEST, id=1, payload=bytes(99_990))).hex()]
        assert "taken 0 EDQUOT" in as_user(STRANGER, STRANGER, [], AS_CLIENT, mountpoint, *too_large)
        rated = as_user(MEMBER, MEMBER, [], AS_CLIENT, mountpoint, *small)
        assert rated[4].startswith("taken 2")
        assert rated[4].endswith("EDQUOT")
        assert "at most 20 a second" in rated[5]
        grouped = as_user(OWNER, OWNER, [GROUP], AS_CLIENT, mountpoint, *small)
        assert grouped[:3] == ["5 EDQUOT", "md5 OK", "md5 listed"]
        os.close(held)
        log = daemon.log
        assert f"uid={STRANGER}" in log
        assert "refused=EDQUOT" in log
        assert "refused=EACCES" in log
