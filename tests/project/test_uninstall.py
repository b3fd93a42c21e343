"""scripts/uninstall on an image: what goes, and that it says what stays."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("used", [True, False])
def test_what_stays(tmp_path: Path, used: bool) -> None:
    """Keys and the counts of messages under them. It names only what exists."""
    prefix = tmp_path / "opt" / "cryptofs"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "pyvenv.cfg").touch()
    (prefix / "bin" / "cryptofs").touch(0o755)
    kept = [tmp_path / "etc" / "cryptofs" / "key", tmp_path / "var" / "lib" / "cryptofs" / "messages-1"]
    for each in kept if used else []:
        each.parent.mkdir(parents=True)
        each.touch()
    command = [ROOT / "scripts" / "uninstall", "--root", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert not prefix.exists()
    said = done.stdout + done.stderr
    for each in kept:
        assert each.exists() == used
        assert (f"{each.parent} stays" in said) == used
