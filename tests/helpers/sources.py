"""Programs of others, from Debian's packages and source packages. Nothing is installed on the machine."""

import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
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
quietly "${apt[@]}" --download-only --tar-only source "$3"
"""


def extract(archive: Path, directory: Path) -> Path:
    """Unpack a tar archive into a new directory; returns what it has at its top, which is one directory."""
    # The argument came with Python 3.11.4.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as opened:
        opened.extractall(directory, **safely)  # type: ignore[arg-type]
    (top,) = directory.iterdir()
    return top


@cache
def unpacked(package: str, directory: Path) -> Path:
    """The unchanged upstream files of a source package; skips the test if it cannot be had."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["bash", "-c", _FETCH, "fetch", LIBRARY, directory, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * PATIENCE, check=False)
    archives = sorted(directory.glob("*.orig.tar.*[!c]"))
    if done.returncode or not archives:
        pytest.skip(f"NOT RUN: {package}: its source package cannot be had: {done.stderr[-300:]}")
    return extract(archives[0], directory / "source")


_PACKAGES = """
. "$1"
cd -- "$2"
if [[ ! -e updated ]]; then
  private_apt "$2"
  quietly apt-get -c apt.conf update
  touch updated
fi
# what the machine has already is not among them; without locks, as those of the machine are not touched
quietly apt-get -c apt.conf -o Debug::NoLocking=1 -y --no-install-recommends --download-only install "${@:3}"
for file in apt/archives/*.deb; do
  [[ -e $file ]] || continue
  dpkg -x "$file" root
  rm -- "$file"
done
"""


@dataclass(frozen=True)
class Packages:
    """Debian packages, unpacked below `root` with all that they depend on and the machine lacks."""

    directory: Path

    @property
    def root(self) -> Path:
        """Stands for /, with what the packages add to it."""
        return self.directory / "root"

    def need(self, *packages: str) -> None:
        """Unpack packages; skips the test if they cannot be had."""
        command = ["bash", "-c", _PACKAGES, "fetch", LIBRARY, self.directory, *packages]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300 * PATIENCE, check=False)
        if done.returncode:
            pytest.skip(f"NOT RUN: {' '.join(packages)}: cannot be had: {done.stderr[-300:]}")

    def program(self, name: str) -> Path:
        """A program of one of them, or of the machine."""
        places = [str(self.root / place) for place in ("usr/bin", "usr/sbin", "bin", "sbin")]
        found = shutil.which(name, path=os.pathsep.join([*places, os.environ["PATH"], "/usr/sbin", "/sbin"]))
        if found is None:
            pytest.skip(f"NOT RUN: {name}: not in the packages")
        return Path(found)

    def environment(self) -> dict[str, str]:
        """For their programs: where their libraries are."""
        # the triplet's directory and those of single packages, such as systemd's
        libraries = {str(file.parent) for file in self.root.glob("**/lib/**/*.so*")}
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))}
