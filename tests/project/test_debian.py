"""The Debian package's maintainer scripts, called as dpkg does at odd times, with its directories elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "debian"


class Machine:
    """The directories that the scripts know, below another root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.library = root / "usr/lib/cryptofs"
        self.settings = root / "etc/cryptofs"
        self.state = root / "var/lib/cryptofs"

    def install(self) -> None:
        """What the package and the service put there."""
        modules = self.library / "lib/python3/site-packages/cryptofs"
        for directory in (modules, self.library / "bin", self.settings / "keys", self.state):
            directory.mkdir(parents=True)
        (modules / "part.py").write_text("X = 1\n")
        (self.library / "bin/python").symlink_to(sys.executable)
        (self.state / "counts").write_bytes(b"7")

    @property
    def compiled(self) -> bool:
        """Whether there is byte code."""
        return bool(list(self.library.rglob("*.pyc")))

    def run(self, script: str, *arguments: str) -> str:
        """Run one as dpkg does; returns what it says."""
        text = (SCRIPTS / f"cryptofs.{script}").read_text()
        for place in (self.library, self.settings, self.state):
            text = text.replace(f"/{place.relative_to(self.root)}", str(place))
        file = self.root / script
        file.write_text(text)
        # The mask that a shell of root may have.
        done = subprocess.run(
            ["sh", str(file), *arguments], capture_output=True, text=True, timeout=60, check=False, umask=0o077
        )
        assert done.returncode == 0, done.stderr
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With the package."""
    machine = Machine(tmp_path)
    machine.install()
    return machine


@pytest.mark.parametrize("why", ["configure", "abort-upgrade", "abort-remove", "abort-deconfigure"])
def test_compiled_after_each_way_back(machine: Machine, why: str) -> None:
    """Byte code is there after an installation, and again after an upgrade or a removal that failed in the middle."""
    for _ in range(2):
        machine.run("postinst", "configure", "1.0")
        machine.run("prerm", "upgrade", "2.0")
        assert not machine.compiled
        machine.run("postinst", why, "1.0")
        assert machine.compiled


def test_a_library_that_has_gone(machine: Machine) -> None:
    """A package whose files somebody has removed can be removed, and one without its interpreter be configured."""
    (machine.library / "bin/python").unlink()
    assert "starts more slowly" in machine.run("postinst", "configure")
    machine.library.rename(machine.root / "elsewhere")
    assert machine.run("prerm", "remove") == ""


def test_what_a_purge_leaves(machine: Machine) -> None:
    """A removal takes no state; a purge takes it with the keys, and leaves both if there is a file that may be one."""
    key = machine.settings / "keys/backup"
    key.write_bytes(os.urandom(32))
    for _ in range(2):
        assert machine.run("postrm", "remove") == ""
        assert str(key) in machine.run("postrm", "purge")
        assert key.exists()
        assert (machine.state / "counts").exists()
    key.unlink()
    for _ in range(2):
        assert machine.run("postrm", "purge") == ""
        assert not machine.settings.exists()
        assert not machine.state.exists()
