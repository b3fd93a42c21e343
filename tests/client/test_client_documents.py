"""The Python blocks of the documents run as they are printed, each alone, on a real mount."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config

import cryptofs.client

pytestmark = pytest.mark.mount

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = ("README.md", "docs/python.md", "docs/devices.md")
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, block in enumerate(_BLOCK.findall((ROOT / name).read_text()))
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the device that the documents speak of."""
    directory = tmp_path_factory.mktemp("documents")
    config = declare("backup", "aead", "gcm(aes)", "{secret}")
    with serving_config(directory, config, secret=bytes(range(32))) as daemon:
        yield daemon


QUIET = "import logging; logging.getLogger('asyncio').setLevel(logging.ERROR)\n"
"""Development mode tells of each step of a loop that takes 0.1 s, as any does on a busy machine."""


def run(block: str, mount: Path, directory: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run a block as a program that knows of the mount as the documents say."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", QUIET + block],
        cwd=directory,
        env={**os.environ, "CRYPTOFS_MOUNT": str(mount), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks(block: str, mount: Path, tmp_path: Path) -> None:
    """Each ends well, and says nothing on standard error."""
    done = run(block, mount, tmp_path)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()


def test_the_readme_shows_what_comes() -> None:
    """There are blocks, in each of the documents."""
    assert len(BLOCKS) >= 8
    for name in DOCUMENTS:
        assert any(name in str(each.id) for each in BLOCKS), name


def test_a_wrong_block_is_noticed(mount: Path, tmp_path: Path) -> None:
    """A name that is not defined, and a context that is not closed."""
    assert b"NameError" in run("from cryptofs.client import Context\nContext('hash', name)", mount, tmp_path).stderr
    assert run("from cryptofs.client import Context\nContext('hash', 'sha256')", mount, tmp_path).stderr


def test_everything_public_is_documented() -> None:
    """Each name that the client exports stands in its reference, and so does each public call of its classes."""
    text = (ROOT / "docs/python.md").read_text()
    for name in cryptofs.client.__all__:
        assert re.search(rf"\b{name}\b", text), name
        public = getattr(cryptofs.client, name)
        if name in ("Context", "Hash", "Pending", "PartedMessage"):
            for call in vars(public):
                if not call.startswith("_") and callable(getattr(public, call)) and call not in _FOR_THE_CLIENT:
                    assert re.search(rf"\b{call}\b", text), f"{name}.{call}"


_FOR_THE_CLIENT = {"take", "attach", "check", "wait_result", "finish_in_parts"}
