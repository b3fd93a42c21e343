"""What the tests of faults share: a daemon of one's own, with toys that fail where a test wants it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.machine import TESTS

ROOT = os.geteuid() == 0

ABC = hashlib.sha256(b"abc").digest()


def number_of(call: Callable[[], object]) -> int | None:
    """The errno that a call fails with."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def at_start(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Have every interpreter that is started from here call a function of fake_engine at its start."""
    site = path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom helpers import fake_engine\nfake_engine.{call}\n"
    )
    # with it nothing that could not be written waits for the end of the process
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
