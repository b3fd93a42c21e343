"""`cryptofs status`: what it shows, to whom, again and again."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import device_mount
from helpers.cli_process import forked
from helpers.other_user import OWNER, STRANGER, as_user, let_in, needs_root
from helpers.waiting import PATIENCE

from cryptofs import __version__
from cryptofs.cli import status
from cryptofs.client import Context

pytestmark = pytest.mark.mount
daemon = device_mount.daemon

COMMAND = [sys.executable, "-m", "cryptofs", "status"]


def shown(mount: Path, *arguments: str) -> bytes:
    """What it prints."""
    done = forked(["status", *arguments], mount.parent, CRYPTOFS_MOUNT=str(mount))
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_json(mount: Path) -> None:
    """Everything that the mount shows to its owner."""
    with Context("hash", "sha256", mount=mount) as one, Context.of_device("gcm", mount=mount) as other:
        one.digest(b"x")
        other.encrypt(b"x" * 100)
        found: dict[str, Any] = json.loads(shown(mount, "--json"))
    assert (found["version"], found["mount"]) == (__version__, str(mount))
    assert "openssl" in found["engines"]
    assert found["reload"]["successful"] is True
    assert found["reload"]["at"] <= found["at"]
    assert found["totals"]["contexts_open"] == 2
    assert found["totals"]["requests_total"] >= 4
    assert [(each["context"], each.get("device")) for each in found["contexts"]] == [
        (str(one.number), None),
        (str(other.number), "gcm"),
    ]
    (user,) = found["users"]
    assert (user["uid"], user["contexts"], user["completed"]) == (os.getuid(), 2, 4)
    devices = {each["device"]: each for each in found["devices"]}
    assert set(devices) == set(os.listdir(mount / "devices"))
    assert devices["gcm"]["contexts"] == "1"
    assert int(devices["gcm"]["input-bytes"]) >= 100


def test_table(mount: Path) -> None:
    """The same for people: a table each for users, devices and contexts; of many contexts the first ones."""
    opened = [Context("hash", "sha256", mount=mount) for _ in range(22)]
    text = shown(mount).decode()
    for context in opened:
        context.close()
    assert text.startswith(f"cryptofs {__version__} on {mount}, up ")
    titles = [line for line in text.splitlines() if line.isupper()]
    assert titles == ["USERS", "DEVICES", "CONTEXTS"]
    assert "and 2 more: --json has all" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("gcm ")]
    assert row[1] == "gcm(aes)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (0, "0s"), (61, "1min 1s"), (3600, "1h"), (90_061, "1d 1h"), (86_401, "1d 1s")]
)
def test_lengths(seconds: float, text: str) -> None:
    """Two units at most."""
    assert status._length(seconds) == text


@needs_root
def test_who_sees_what(mount: Path) -> None:
    """A user sees the own contexts, and the devices whose status that user may read; root all."""
    let_in(mount)
    code = (
        "import json, subprocess, sys\nfrom cryptofs.client import Context\n"
        "from cryptofs.cli.status import survey\nfrom pathlib import Path\n"
        "with Context('hash', 'sha256', mount=sys.argv[1]) as context:\n"
        "    found = survey(Path(sys.argv[1]))\n"
        "print([each['uid'] for each in found['users']], [each['device'] for each in found['devices']])\n"
    )
    with Context("hash", "sha256", mount=mount):
        for uid, devices in ((OWNER, ["owned", "public"]), (STRANGER, ["public"])):
            assert as_user(uid, uid, [], code, mount) == [f"[{uid}] {devices}"]


def test_watch(mount: Path) -> None:
    """Again and again, a line of JSON each; SIGINT ends it with status 0, and a reader that has gone with 141."""
    environment = {**os.environ, "CRYPTOFS_MOUNT": str(mount)}
    for ending in (signal.SIGINT, None):
        process = subprocess.Popen(
            [*COMMAND, "--watch", "0.1", "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            first, second = (json.loads(process.stdout.readline()) for _ in range(2))
            assert second["at"] > first["at"]
            if ending is None:
                process.stdout.close()
            else:
                process.send_signal(ending)
            assert process.wait(30 * PATIENCE) == (141 if ending is None else 0)
            assert process.stderr.read() == b""


def test_watch_on_a_terminal(mount: Path) -> None:
    """It draws over what it drew, and no line is wider than the terminal."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "CRYPTOFS_MOUNT": str(mount), "TERM": "xterm"}
    process = subprocess.Popen(
        [*COMMAND, "--watch=0.1"], env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    text = b""
    while text.count(b"\x1b[H\x1b[J") < 3:
        text += os.read(controller, 65536)
    process.send_signal(signal.SIGINT)
    os.close(terminal)
    assert process.wait(30 * PATIENCE) == 0
    os.close(controller)
    frame = text.split(b"\x1b[H\x1b[J")[1].decode()
    assert frame.startswith("cryptofs ")
    assert max(map(len, frame.splitlines())) <= 80
    assert "Traceback" not in text.decode()
