"""`cryptofs cuse` where it cannot serve: one line that says why."""

import subprocess
import sys

import pytest
from helpers.cuse import has_cuse
from helpers.other_user import ROOT
from helpers.waiting import PATIENCE


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--mode", "0999"), 1, "octal"),
        (("--owner", "nobody-there"), 2, "no such user"),
        (("--group", "nobody-there"), 2, "no such group"),
        (("--name", "a/b"), 1, "letters"),
        (("--name", "null"), 1, "EEXIST"),
        (("--mount", "/nowhere", "--engines", "openssl"), 2, "--engines"),
        pytest.param(
            ("--name", "crypto-test"),
            1,
            "modprobe cuse",
            marks=pytest.mark.skipif(not ROOT or has_cuse(), reason="NOT RUN: for root without CUSE"),
        ),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...], status: int, said: str) -> None:
    """The status of a wrong command line, or of an error; the value is named."""
    allowed = ("--allow-root",) if ROOT else ()
    command = [sys.executable, "-m", "cryptofs", "cuse", *allowed, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
