"""A dockerd for one test file, with containerd under it: Debian's packages, unpacked and not installed.

No service of the machine is used or started. Its mounts are in a namespace of its own, what it writes is in one
directory, and everything ends with the test. It has no network.
"""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.sources import Packages
from helpers.waiting import PATIENCE, wait_until

Done = subprocess.CompletedProcess[str]
IMAGE = "cryptofs-test"
_BEGIN = """
set -eu
cd -- "$1"
# Both have directories here, and an old one writes a key to /etc/docker.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir private
mount -t tmpfs tmpfs private
mkdir private/upper private/work private/shared
mount -t overlay -o "lowerdir=/etc,upperdir=$PWD/private/upper,workdir=$PWD/private/work" overlay /etc
# As systemd makes all mounts: what is mounted here later reaches the containers that ask for it.
mount --bind private/shared private/shared
mount --make-shared private/shared
mount -t cgroup2 cgroup2 /sys/fs/cgroup
if grep -q '^[1-9]' /proc/self/cgroup; then
  # The controllers are in hierarchies of version 1. crun does not take both versions.
  umount /sys/fs/cgroup
  mount -t tmpfs tmpfs /sys/fs/cgroup
  for each in $(cut -d: -f2 /proc/self/cgroup); do
    mkdir "/sys/fs/cgroup/${each#name=}"
    mount -t cgroup -o "${each/#name=/none,name=}" cgroup "/sys/fs/cgroup/${each#name=}"
  done
fi
shift
"$@" & daemon=$!
trap 'kill -TERM $daemon' TERM INT
while kill -0 $daemon 2>/dev/null; do wait $daemon || :; done
# They outlive the namespace.
find /sys/fs/cgroup -depth -type d -path "*/$GROUP*" -exec rmdir -- {} + 2>/dev/null || :
"""


class Docker:
    """A dockerd that is ready. directory: short, because sockets are below it; root: of the image's files.

    Skips the test where it does not start.
    """

    def __init__(self, directory: Path, packages: Packages, root: Path) -> None:
        packages.need("docker.io", "containerd", "runc", "crun")
        if not (packages.root / "usr/bin/docker").exists():
            # Debian 13 has a package for it.
            packages.need("docker-cli")
        self.root = root
        self.directory = directory
        self.group = f"cryptofs-{os.getpid()}"
        self._socket = f"unix://{directory}/socket"
        self._crun = packages.program("crun")
        self._docker = packages.program("docker")
        self._ctr = packages.program("ctr")
        path = os.pathsep.join([str(packages.root / "usr/bin"), str(packages.root / "usr/sbin")])
        self._environment = {
            **packages.environment(), "PATH": f"{path}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "DOCKER_CONFIG": str(directory / "client"), "GROUP": self.group,
        }  # fmt: skip
        (directory / "daemon.json").write_text("{}")
        options = {
            "data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": "daemon.json",
        }  # fmt: skip
        line = [
            packages.program("dockerd"), *(f"--{name}={directory / place}" for name, place in options.items()),
            "-H", self._socket, "--storage-driver=vfs", "--iptables=false", "--ip-masq=false", "--bridge=none",
            "--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{self.group}",
            f"--add-runtime=crun={self._crun}",
        ]  # fmt: skip
        namespace = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"]
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*namespace, "bash", "-c", _BEGIN, "dockerd", str(directory), *map(str, line)],
                env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            wait_until(lambda: self._process.poll() is not None or self._is_ready(), 60)
            if not self._is_ready():
                pytest.skip(f"NOT RUN: dockerd does not start here: {self._log.read_text()[-500:]}")
            self.version = self("version", "--format", "{{.Server.Version}}").stdout.strip()
            archive = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout
            subprocess.run(self._line("import", "-", IMAGE), env=self._environment, input=archive, check=True,
                           capture_output=True, timeout=60 * PATIENCE)  # fmt: skip
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, with containerd and every container."""
        with suppress(subprocess.SubprocessError, AssertionError):
            for name in self("ps", "--all", "--quiet").stdout.split():
                self("rm", "--force", name)
        self._process.terminate()
        try:
            self._process.wait(60 * PATIENCE)
        except subprocess.TimeoutExpired:
            for file in (self.directory / "pid", self.directory / "exec" / "containerd" / "containerd.pid"):
                with suppress(OSError, ValueError):
                    os.kill(int(file.read_text()), signal.SIGKILL)
            self._process.wait(60 * PATIENCE)

    @property
    def major(self) -> int:
        """The first number of its version."""
        found = re.match(r"\d+", self.version)
        assert found, self.version
        return int(found[0])

    def __call__(self, *words: object) -> Done:
        """Run docker's command to its end."""
        return self._run(self._line(*words))

    def run(self, *options: object, program: Sequence[object]) -> Done:
        """Run a container of the image to its end."""
        return self("run", "--rm", "--network", "none", *options, IMAGE, *program)

    def run_by_containerd(self, name: str, *options: object, program: Sequence[object]) -> Done:
        """Run a container with the image's files by containerd's own command. options: of `ctr run`."""
        client = [self._ctr, "--address", self.directory / "exec" / "containerd" / "containerd.sock"]
        begin = ("run", "--rm", "--rootfs", f"--cgroup=/{self.group}/{name}")
        return self._run(self.inside(*client, *begin, *options, self.root, name, *program))

    def inside(self, *line: object) -> list[str]:
        """The command line that runs another one where its mounts are."""
        return ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", *map(str, line)]

    @property
    def shared(self) -> Path:
        """A directory that is a shared mount where its mounts are."""
        return self.directory / "private" / "shared"

    @property
    def crun(self) -> Path:
        """The program."""
        return self._crun

    def _line(self, *words: object) -> list[str]:
        return list(map(str, (self._docker, "-H", self._socket, *words)))

    def _run(self, line: Sequence[str]) -> Done:
        return subprocess.run(
            line, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=60 * PATIENCE,
        )  # fmt: skip

    def _is_ready(self) -> bool:
        return (self.directory / "socket").exists() and not self("version").returncode
