"""docs/examples: the same program in ten languages, compiled and run, against the same values by Python's libraries."""

import hashlib
import hmac
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.waiting import PATIENCE

from cryptofs.client import Context, RequestError

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"
KEY = b"the key of a device"
NEEDED: dict[str, tuple[tuple[str, ...], str | None]] = {
    "client.c": (("gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-o"), "ioctl"),
    "client.go": (("go", "build", "-o"), "ioctl"),
    "client.rs": (("rustc", "--edition=2021", "-Dwarnings", "-o"), "ioctl"),
    "client.mjs": (("node",), None),
    "Client.java": (("java",), None),
    "client.pl": (("perl",), "ioctl"),
    "client.rb": (("ruby", "-w"), "ioctl"),
    "client.php": (("php", "-d", "error_reporting=-1"), "poll"),
    "client.lua": (("lua5.4",), None),
    "client.sh": (("dash",), None),
}
"""By file: the command that runs it, or that makes a program if it ends with -o, and the last line that it prints."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the device `mac`."""
    text = declare("mac", "hash", "hmac(sha256)", "{mac}")
    with serving_config(tmp_path_factory.mktemp("languages"), text, mac=KEY) as daemon:
        yield daemon


def expected(mount: Path, last: str | None) -> list[str]:
    """The lines of each program."""
    with (
        Context("aead", "gcm(aes)", bytes(range(16)), mount=mount) as context,
        pytest.raises(RequestError) as refused,
    ):
        context.decrypt(bytes(20), iv=b"123456789012")
    digest = hashlib.sha256(b"abc").hexdigest()
    sealed = AESGCM(bytes(range(16))).encrypt(b"123456789012", b"text", b"header")
    lines = [f"hash {digest}", f"aead {sealed.hex()}", "opened text"]
    lines += [f"device {hmac.digest(KEY, b'abc', 'sha256').hex()}", f"error 74 {refused.value.message}"]
    return lines + {"ioctl": [f"ioctl {digest}"], "poll": ["poll readable"], None: []}[last]


@pytest.mark.mount
@pytest.mark.languages
@pytest.mark.parametrize("name", NEEDED)
def test_example(mount: Path, tmp_path: Path, name: str) -> None:
    """It compiles without a warning, and prints the known values and nothing else."""
    command, last = NEEDED[name]
    if shutil.which(command[0]) is None:
        pytest.skip(f"NOT RUN: this machine has no {command[0]}")
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    line = [*command, str(EXAMPLES / name)]
    if command[-1] == "-o":
        line = [str(tmp_path / "client")]
        made = [*command, *line, str(EXAMPLES / name)]
        done = subprocess.run(
            made, env=environment, cwd=tmp_path, capture_output=True, timeout=300 * PATIENCE, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(
        [*line, str(mount)], env=environment, cwd=tmp_path, capture_output=True, timeout=100 * PATIENCE, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert done.stdout.decode().splitlines() == expected(mount, last)


def test_examples_are_short_and_listed() -> None:
    """At most 60 lines of at most 120 characters each, and each is in the document."""
    assert {path.name for path in EXAMPLES.iterdir()} == set(NEEDED)
    for name in NEEDED:
        lines = (EXAMPLES / name).read_text().splitlines()
        assert len(lines) <= 60, name
        assert max(map(len, lines)) <= 120, name
    document = (ROOT / "docs/languages.md").read_text()
    assert set(re.findall(r"\(examples/(.*?)\)", document)) == set(NEEDED)
