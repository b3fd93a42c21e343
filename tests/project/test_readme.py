"""The README's commands, typed as they are printed."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest
from helpers.other_user import ROOT as AS_ROOT

pytestmark = pytest.mark.mount

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv/bin/cryptofs").exists(), reason="NOT RUN: .venv is made by ./scripts/demo or ./scripts/test"
)


def block(language: str, number: int) -> str:
    """One of the README's blocks of a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return found[number]


def typed(script: str, directory: Path = ROOT, *before: str) -> str:
    """What a shell prints that is given these lines, where each of them succeeds."""
    # as a user's own shell: it stops at nothing, so the test asks for each line's status itself
    lines = "trap 'echo \"FAILED: $BASH_COMMAND\"' ERR\n" + script
    done = subprocess.run(
        [*before, "bash"], input=lines, cwd=directory, capture_output=True, text=True, check=False, timeout=100
    )
    assert "FAILED" not in done.stdout, done.stdout + done.stderr
    assert done.stderr == "", done.stderr
    assert done.returncode == 0
    return done.stdout


def test_there_are_two_blocks_for_the_shell() -> None:
    """So none is left out here."""
    assert len(re.findall(r"^```sh$", TEXT, re.MULTILINE)) == 2


@needs_environment
def test_the_newcomers_path() -> None:
    """The first mount works as printed, as root and as a user; the digest is right; nothing is left."""
    before = set(os.listdir("/tmp"))
    said = typed(block("sh", 0))
    digest = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    assert digest in re.sub(r"\s", "", said)
    assert "engine: " in said
    assert not {name for name in set(os.listdir("/tmp")) - before if name.startswith("tmp.") and _is_ours(name)}


def _is_ours(name: str) -> bool:
    try:
        return (Path("/tmp") / name / "crypto").exists()
    except OSError:
        return True


@needs_environment
@pytest.mark.skipif(not AS_ROOT, reason="NOT RUN: needs root to mount at /run/cryptofs in a namespace of its own")
def test_a_device(tmp_path: Path) -> None:
    """The configuration and the lines as printed, where the service would mount; a message that was not all written is
    not read."""
    (tmp_path / "backup.key").write_bytes(bytes(range(32)))
    (tmp_path / "backup.key").chmod(0o600)
    config = tmp_path / "cryptofs.toml"
    config.write_text(block("toml", 0).replace("/etc/cryptofs/backup.key", str(tmp_path / "backup.key")))
    (tmp_path / "plain").write_text("a secret of some length\n" * 1000)
    cryptofs = ROOT / ".venv/bin/cryptofs"
    said = typed(
        # other tests may have mounts of their own at this moment
        f"mount -t tmpfs none /run && mkdir /run/cryptofs && export CRYPTOFS_MOUNT=/run/cryptofs\n"
        f"{cryptofs} mount /run/cryptofs --daemon --allow-root --config {config}\n"
        f"PATH={cryptofs.parent}:$PATH\n" + block("sh", 1) + f"{cryptofs} umount /run/cryptofs\n",
        tmp_path,
        "unshare",
        "--mount",
    )
    assert said == (tmp_path / "plain").read_text()
    assert (tmp_path / "sealed").stat().st_size > len(said)
    assert ";" not in block("sh", 1), "docs/devices.md insists on &&"
