"""A daemon of containers in mounts of its own: it writes to one directory, and everything ends with the test."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.sources import Packages
from helpers.waiting import PATIENCE, wait_until

Done = subprocess.CompletedProcess[str]
_BEGIN = r"""
set -eu
cd -- "$1"
# Both have directories here, and an old one writes a key to /etc/docker.
mount -t tmpfs -o mode=755 tmpfs /run
mkdir private
mount -t tmpfs tmpfs private
mkdir private/upper private/work private/shared
mount -t overlay -o "lowerdir=/etc,upperdir=$PWD/private/upper,workdir=$PWD/private/work" overlay /etc
# docker 20.10 calls itself without LD_LIBRARY_PATH.
tr : '\n' <<<"$LD_LIBRARY_PATH" >/etc/ld.so.conf.d/zz-test.conf
[[ ! -d /var/cache/ldconfig ]] || mount -t tmpfs tmpfs /var/cache/ldconfig
ldconfig -X
# As systemd makes all mounts: what is mounted here later reaches the containers that ask for it.
mount --bind private/shared private/shared
mount --make-shared private/shared
# Above a tmpfs, because a file system is not mounted twice at one place.
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
if grep -q '^[1-9]' /proc/self/cgroup; then
  # The controllers are in hierarchies of version 1. crun does not take both versions.
  umount /sys/fs/cgroup
  for each in $(cut -d: -f2 /proc/self/cgroup); do
    mkdir "/sys/fs/cgroup/${each#name=}"
    mount -t cgroup -o "${each/#name=/none,name=}" cgroup "/sys/fs/cgroup/${each#name=}"
  done
fi
shift
"$@" & daemon=$!
trap 'kill -TERM $daemon' TERM INT
while kill -0 $daemon 2>/dev/null; do wait $daemon || :; done
# What it leaves when the test has been killed: containers, what serves them, and what the test has started here.
ours=$(readlink /proc/self/ns/mnt)
groups() { find /sys/fs/cgroup -depth -path "*/$GROUP*" "$@" 2>/dev/null || :; }
left=$(
  groups -name cgroup.procs -exec cat -- {} +
  for each in /proc/[0-9]*; do
    [[ $(readlink "$each/ns/mnt" || :) != "$ours" || ${each#/proc/} == $$ ]] || echo "${each#/proc/}"
  done
)
for each in $left; do kill -KILL "$each" 2>/dev/null || :; done
for _ in {1..20}; do
  [[ -n $(groups -type d) ]] || break
  groups -type d -exec rmdir -- {} +
  sleep 0.1
done
"""


class HiddenDaemon:
    """A daemon from Debian's packages, which are unpacked and not installed, and its mounts.

    directory: short, because sockets are below it.
    """

    def __init__(self, directory: Path, packages: Packages) -> None:
        self.directory = directory
        self.group = f"cryptofs-{os.getpid()}"
        """The control group that its containers belong in: it is removed in the end."""
        path = os.pathsep.join([str(packages.root / "usr/bin"), str(packages.root / "usr/sbin")])
        self.environment: Mapping[str, str] = {
            **packages.environment(), "PATH": f"{path}:{os.environ['PATH']}:/usr/sbin:/sbin", "GROUP": self.group,
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *line: object) -> None:
        """Start it, and wait until it is ready. Skips the test where it does not start."""
        namespace = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"]
        log = self.directory / "log"
        with log.open("wb") as output:
            self._process = process = subprocess.Popen(
                [*namespace, "bash", "-c", _BEGIN, "daemon", str(self.directory), *map(str, line)],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        wait_until(lambda: process.poll() is not None or self.is_ready(), 60 * PATIENCE, log.read_text)
        if not self.is_ready():
            pytest.skip(f"NOT RUN: {Path(str(line[0])).name} does not start here: {log.read_text()[-500:]}")

    def is_ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def close(self, *files: str) -> None:
        """End it. files: with the numbers of processes, for one that does not end by itself."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(60 * PATIENCE)
        except subprocess.TimeoutExpired:
            for file in files:
                with suppress(OSError, ValueError):
                    os.kill(int((self.directory / file).read_text()), signal.SIGKILL)
            self._process.wait(60 * PATIENCE)

    def inside(self, *line: object) -> list[str]:
        """The command line that runs another one where its mounts are."""
        assert self._process is not None
        return ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", *map(str, line)]

    @property
    def shared(self) -> Path:
        """A directory that is a shared mount where its mounts are."""
        return self.directory / "private" / "shared"

    def make_mountpoint(self, name: str) -> Path:
        """A directory `fs`, whose parent is on the shared mount."""
        made = self.shared / name / "fs"
        subprocess.run(self.inside("mkdir", "-p", made), check=True, timeout=60 * PATIENCE)
        return made

    def serve(self, mountpoint: Path) -> "subprocess.Popen[bytes]":
        """A daemon of cryptofs beside this one, which serves."""
        line = (sys.executable, "-m", "cryptofs", "mount", mountpoint, "--allow-root", "--engines", "openssl")
        process = subprocess.Popen(self.inside(*line), stderr=subprocess.DEVNULL)
        head = self.inside("head", "-c", "8", mountpoint / "version")
        wait_until(lambda: self.call(*head).stdout == "cryptofs" or process.poll() is not None, 60 * PATIENCE)
        return process

    def call(self, *line: object, **more: str) -> Done:
        """Run one of its programs to its end. more: `input`."""
        given = more or {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            list(map(str, line)), env=self.environment, capture_output=True, text=True, check=False,
            timeout=60 * PATIENCE, **given,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip
