"""The scripts: each can be parsed, and says what it is for."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file()]
BASH = [path for path in SCRIPTS if path.read_text().startswith("#!/usr/bin/env bash") or path.suffix == ".sh"]


@pytest.mark.parametrize("path", BASH, ids=lambda path: path.name)
def test_bash_can_parse_it(path: Path) -> None:
    """A quote too many would only be noticed by those who run it."""
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_are_scripts() -> None:
    """The list above is not empty by mistake."""
    assert {"demo", "test", "fresh"} <= {path.name for path in BASH}


@pytest.mark.parametrize("name", ["test", "fresh", "guest", "generate"])
def test_help(name: str) -> None:
    """It tells how it is used, and does nothing else."""
    command = [ROOT / "scripts" / name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"usage: {name}")
