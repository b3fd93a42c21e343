"""A daemon that is taken over, in the sandbox of its unit: what it can still do; needs systemd."""

import os
import subprocess
from pathlib import Path

import pytest

UNIT = Path("/run/systemd/system/cryptofs.service.d/probe.conf")
PROBE = """
import ctypes, errno, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")
def connect():
    with socket.socket() as it:
        it.connect(("192.0.2.1", 80))
def netlink():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
def packet():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
def local():
    for pair in socket.socketpair():
        pair.close()
def af_alg():
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as it:
        it.bind(("hash", "sha256"))
def remap():
    page = libc.mmap
    page.restype = ctypes.c_void_p
    if page(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "")
def write(path):
    with open(path, "w") as file:
        file.write("x")
other = int(sys.argv[1])
tries = {
    "shadow": lambda: open("/etc/shadow"), "write /etc": lambda: write("/etc/cryptofs-probe"),
    "write /var": lambda: write("/var/lib/cryptofs-probe"), "write /usr": lambda: write("/usr/cryptofs-probe"),
    "home": lambda: os.listdir("/root"), "network": connect, "netlink": netlink, "packet": packet,
    "fuse": lambda: os.open("/dev/fuse", os.O_RDWR), "disk": lambda: os.open("/dev/mem", os.O_RDONLY),
    "mount": lambda: call(libc.mount, b"none", b"/run", b"tmpfs", 0, None),
    "namespace": lambda: call(libc.unshare, 0x10000000), "setuid": lambda: os.setuid(0),
    "setgroups": lambda: os.setgroups([0]), "kill": lambda: os.kill(other, 9),
    "ptrace": lambda: call(libc.ptrace, 16, other, 0, 0),
    "other's memory": lambda: open(f"/proc/{other}/mem", "rb").read(1),
    "other's environment": lambda: open(f"/proc/{other}/environ", "rb").read(1),
    "code": remap, "priority": lambda: os.nice(-5), "host name": lambda: socket.sethostname("probe"),
    "touch /etc": lambda: os.utime("/etc/passwd"), "sysctl": lambda: write("/proc/sys/kernel/core_pattern"),
    "modules": lambda: call(libc.syscall, 175, None, 0, b""), "kernel log": lambda: call(libc.klogctl, 3, None, 0),
    "reboot": lambda: call(libc.reboot, 0), "bpf": lambda: call(libc.syscall, 321, 5, None, 0),
    "af_alg": af_alg, "unix": local, "processes": lambda: os.listdir(f"/proc/{other}"),
    "program": lambda: os.spawnv(os.P_WAIT, "/bin/true", ["true"]),
}
for what, attempt in tries.items():
    try:
        attempt()
        print(what, "DONE", sep="\\t")
    except (OSError, AttributeError) as error:
        print(what, errno.errorcode.get(getattr(error, "errno", None), error), sep="\\t")
"""
LEFT = {"af_alg", "unix", "processes", "program"}
"""What docs/security.md says that a daemon that is taken over can still do; nothing else of the probe works."""


@pytest.mark.skipif(
    not os.environ.get("CRYPTOFS_SYSTEMD"),
    reason="NOT RUN: needs systemd as the first process; ./scripts/test-systemd runs it in the guest",
)
def test_the_sandbox_refuses() -> None:
    """A program in the daemon's place, in its unit's own sandbox and as its user, tries what the document rules out."""
    for command in (
        ("systemctl", "stop", "cryptofs.service"),
        ("systemd-sysusers", "/usr/local/lib/sysusers.d/cryptofs.conf"),
        ("systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/cryptofs.conf"),
    ):
        subprocess.run(command, check=True)
    probe, output = Path("/run/probe.py"), Path("/run/probe.out")
    probe.write_text(PROBE)
    probe.chmod(0o644)
    UNIT.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["sleep", "300"], user="nobody", group="nogroup", extra_groups=[]) as other:
        start = f"/opt/cryptofs/bin/python -I {probe} {other.pid}"
        lines = ("[Service]", "Type=oneshot", "ExecStartPre=", "ExecStart=", f"ExecStart={start}", "ExecStopPost=")
        UNIT.write_text("\n".join((*lines, "Restart=no", f"StandardOutput=truncate:{output}", "")))
        try:
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            subprocess.run(["systemctl", "start", "cryptofs.service"], check=True, timeout=60)
            text = output.read_text()
            assert other.poll() is None
        finally:
            other.kill()
            UNIT.unlink()
            subprocess.run(["systemctl", "daemon-reload"], check=True)
    found = dict(line.split("\t") for line in text.splitlines())
    assert len(found) - len(LEFT) == 27, "docs/security.md has this number"
    assert {what for what, result in found.items() if result == "DONE"} == LEFT, text
    allowed = {"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "ENETUNREACH"}
    assert {result for what, result in found.items() if what not in LEFT} <= allowed, text
