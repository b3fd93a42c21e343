"""Programs of others, from Debian source packages."""

import subprocess
import tarfile
from functools import cache
from pathlib import Path

import pytest
from helpers.waiting import PATIENCE

LIBRARY = Path(__file__).parents[2] / "scripts" / "lib.sh"
_FETCH = """
. "$1"
cd -- "$2"
private_apt "$2"
mirror=$(debian_mirror "$2")
. /etc/os-release
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $VERSION_CODENAME main" >sources.list
apt=(apt-get -c "$2/apt.conf" -o "Dir::Etc::sourcelist=$2/sources.list" -o Dir::Etc::sourceparts=/dev/null)
quietly "${apt[@]}" update
quietly "${apt[@]}" --download-only source "$3"
"""


@cache
def unpacked(package: str, directory: Path) -> Path:
    """The unchanged upstream files of a source package; skips the test if it cannot be had."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["bash", "-c", _FETCH, "fetch", LIBRARY, directory, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * PATIENCE, check=False)
    archives = sorted(directory.glob("*.orig.tar.*[!c]"))
    if done.returncode or not archives:
        pytest.skip(f"NOT RUN: the source package {package} cannot be had: {done.stderr[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(directory / "source", filter="data")
    (top,) = (directory / "source").iterdir()
    return top
