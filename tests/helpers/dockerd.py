"""A dockerd for one test file, with containerd under it: Debian's packages, unpacked and not installed.

No service of the machine is used or started. It has no network.
"""

import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from helpers.hidden_daemon import Done, HiddenDaemon
from helpers.sources import Packages
from helpers.waiting import PATIENCE

IMAGE = "cryptofs-test"


class Docker(HiddenDaemon):
    """A dockerd that is ready. root: of the image's files."""

    def __init__(self, directory: Path, packages: Packages, root: Path) -> None:
        packages.need("docker.io", "containerd", "runc", "crun")
        if not (packages.root / "usr/bin/docker").exists():
            # Debian 13 has a package for it.
            packages.need("docker-cli")
        super().__init__(directory, packages)
        self.root = root
        self.crun = packages.program("crun")
        self._client = (
            packages.program("docker"),
            "--config",
            directory / "client",
            "-H",
            f"unix://{directory}/socket",
        )
        self._ctr = packages.program("ctr")
        (directory / "daemon.json").write_text("{}")
        files = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "daemon.json"}
        try:
            self.start(
                packages.program("dockerd"), *(f"--{name}={directory / place}" for name, place in files.items()),
                f"--host=unix://{directory}/socket", "--storage-driver=vfs", "--iptables=false", "--ip-masq=false",
                "--bridge=none", "--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self.group}",
                f"--add-runtime=crun={self.crun}",
            )  # fmt: skip
            self.version = self("version", "--format", "{{.Server.Version}}").stdout.strip()
            archive = directory / "image.tar"
            subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True, timeout=60 * PATIENCE)
            done = self("import", archive, IMAGE)
            assert not done.returncode, done.stderr
        except BaseException:
            self.close()
            raise

    def close(self, *files: str) -> None:
        """End it, with containerd and every container."""
        with suppress(subprocess.SubprocessError):
            for name in self("ps", "--all", "--quiet").stdout.split():
                self("rm", "--force", name)
        super().close("pid", "exec/containerd/containerd.pid", *files)

    @property
    def major(self) -> int:
        """The first number of its version."""
        found = re.match(r"\d+", self.version)
        assert found, self.version
        return int(found[0])

    def __call__(self, *words: object) -> Done:
        """Run docker's command to its end."""
        return self.call(*self._client, *words)

    def run(self, *options: object, program: Sequence[object]) -> Done:
        """Run a container of the image to its end."""
        return self("run", "--rm", "--network", "none", *options, IMAGE, *program)

    def run_by_containerd(self, name: str, *options: object, program: Sequence[object]) -> Done:
        """Run a container with the image's files by containerd's own command. options: of `ctr run`."""
        client = [self._ctr, "--address", self.directory / "exec" / "containerd" / "containerd.sock"]
        begin = ("run", "--rm", "--rootfs", f"--cgroup=/{self.group}/{name}")
        return self.call(*self.inside(*client, *begin, *options, self.root, name, *program))

    def is_ready(self) -> bool:
        return (self.directory / "socket").exists() and not self("version").returncode
