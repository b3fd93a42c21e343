"""The manual pages: man(1) shows each without a warning."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "docs" / "man"


def shown(page: Path) -> str:
    """What man prints of a page, which must be all that it says."""
    if shutil.which("man") is None:
        pytest.skip("NOT RUN: man-db is not installed")
    command = ["man", "--warnings", "--local-file", str(page)]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("page", sorted(MANUAL.glob("*.[178]")), ids=lambda page: page.name)
def test_man_shows_each_page(page: Path) -> None:
    """With its name, and no backquote or escape that was meant for roff."""
    text = shown(page)
    assert f"{page.stem} - " in " ".join(text.split())
    assert not {"`", "\\"} & set(text)


def test_a_page_is_found_wrong(tmp_path: Path) -> None:
    """A page with a mistake makes man warn, so that the test above can fail."""
    page = tmp_path / "wrong.1"
    page.write_text(".TH WRONG 1\n.SH NAME\nwrong \\- x\n.NOSUCH x\n")
    with pytest.raises(AssertionError):
        shown(page)
