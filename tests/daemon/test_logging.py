"""Where a daemon logs that has neither journal nor terminal: a file, or syslog."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.administration import DETACHED, as_root, daemon_of, ends_with_one_line, in_shell, kinds_on, run
from helpers.waiting import wait_until

from cryptofs.client import Context
from cryptofs.daemon.logs import Syslog

pytestmark = pytest.mark.mount

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} cryptofs\[\d+\] (debug|info|warning|error|critical): .+")


@contextlib.contextmanager
def detached(point: Path, *arguments: str) -> Iterator[int]:
    """A daemon that has detached; its process id."""
    point.mkdir()
    done = run("mount", str(point), *DETACHED, "-o", f"fsname={point}", *arguments)
    assert done.returncode == 0, done.stderr
    pid = daemon_of(f"fsname={point}")
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not kinds_on(point) and not Path(f"/proc/{pid}").exists())


def test_a_log_file(tmp_path: Path) -> None:
    """Mode 0640 whatever the umask, a time on each line, opened again at SIGHUP; no key in it."""
    log, old = tmp_path / "cryptofs.log", tmp_path / "cryptofs.log.1"
    config, key = tmp_path / "cryptofs.toml", tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    config.write_text(f'[devices.mac]\ntype = "hash"\nname = "hmac(sha256)"\nkey.file = "{key}"\n')
    with detached(tmp_path / "mount", "--log-file", str(log), "--config", str(config), "--verbose") as pid:
        wait_until(lambda: ": mounted" in log.read_text())
        assert stat.S_IMODE(log.stat().st_mode) == 0o640
        with Context("hash", "sha256", mount=tmp_path / "mount") as context:
            wait_until(lambda: "configure" in log.read_text())
            log.rename(old)
            os.kill(pid, signal.SIGHUP)
            wait_until(log.exists)
            wait_until(lambda: "reloaded" in log.read_text())
            assert stat.S_IMODE(log.stat().st_mode) == 0o640
            assert len(context.digest(b"")) == 32
    text = old.read_text() + log.read_text()
    assert "unmounted" in log.read_text()
    assert all(LINE.fullmatch(line) for line in text.splitlines()), text
    assert bytes(range(32)).hex() not in text


@as_root
def test_a_log_file_of_an_unprivileged_daemon(tmp_path: Path) -> None:
    """It belongs to the daemon's user. Where it cannot be opened again, the old one goes on and says so."""
    script = """
    mount -t tmpfs none /mnt; chmod 755 /mnt; mkdir /mnt/m
    umask 077
    $C mount /mnt/m --daemon --user nobody --engines openssl --verbose --log-file /mnt/log
    stat -c '%a %U' /mnt/log
    mv /mnt/log /mnt/old
    pkill -HUP -u nobody -o -f -- 'mount /mnt/m --daemon'
    for i in {1..100}; do grep -q 'not opened again' /mnt/old && break; sleep 0.1; done
    cat /mnt/old
    """
    done = in_shell(script, private=True)
    mode, *lines = done.stdout.splitlines()
    assert mode == "640 nobody", done.stderr
    assert any("error: /mnt/log: cannot open the log file again: Permission denied" in line for line in lines), lines


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/log", "ENOENT: log file"),
        (".", "EISDIR: log file"),
        ("mount/log", "EINVAL: log file"),
        ("fifo", "ENXIO: log"),
    ],
)
def test_a_log_file_that_cannot_be(tmp_path: Path, name: str, says: str) -> None:
    """Refused before anything is mounted, with the right errno; a pipe that nobody reads does not hang the start."""
    (tmp_path / "mount").mkdir()
    os.mkfifo(tmp_path / "fifo")
    log = str(tmp_path / name)
    ends_with_one_line(run("mount", str(tmp_path / "mount"), *DETACHED, "--log-file", log), says, log)
    assert kinds_on(tmp_path / "mount") == []


SYSLOG = """
# a syslog daemon of this namespace
mkdir /tmp/dev.$$; mount --rbind /dev /tmp/dev.$$
mount -t tmpfs none /dev
for each in null urandom fuse; do touch /dev/$each; mount --bind /tmp/dev.$$/$each /dev/$each; done
umount -l /tmp/dev.$$; rmdir /tmp/dev.$$
ln -s /proc/self/fd /dev/fd
cat >/dev/listen <<'END'
import socket
listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listening.bind("/dev/log")
print("listening", flush=True)
while True:
    print(ascii(listening.recv(65536)), flush=True)
END
chmod 755 /dev
/opt/python/bin/python /dev/listen >/dev/said & listening=$!
until grep -q listening /dev/said; do sleep 0.05; done
chmod 666 /dev/log
mount -t tmpfs none /mnt; chmod 755 /mnt; mkdir /mnt/m
"""


@as_root
@pytest.mark.parametrize(
    "how",
    ["--daemon --user nobody", "--allow-root 2>&- &", "--allow-root 2>/dev/null &"],
    ids=["daemon", "closed", "null"],
)
def test_syslog(how: str) -> None:
    """A daemon that has no standard error: facility daemon, its name and process, one datagram a line."""
    script = f"""{SYSLOG}
    $C mount /mnt/m --engines openssl --verbose {how}
    until grep -q mounted /dev/said; do sleep 0.05; done
    umount /mnt/m
    until grep -q unmounted /dev/said; do sleep 0.05; done
    cat /dev/said
    """
    done = in_shell(script, private=True)
    lines = done.stdout.splitlines()[1:]
    # 30: daemon (3 * 8) and info (6)
    assert all(re.fullmatch(r"b'<(30|28|27)>cryptofs\[\d+\]: [^\\]+'", line) for line in lines), (
        done.stdout + done.stderr
    )
    assert any(line.endswith("/mnt/m: mounted'") and line.startswith("b'<30>") for line in lines)


@pytest.mark.skipif(os.path.exists("/dev/log"), reason="NOT RUN: a syslog daemon listens here")
def test_no_syslog_is_no_hindrance() -> None:
    """Nobody listens: each line is lost with an OSError, which is counted, and the next one tries again."""
    sink = Syslog()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            sink.write(6, ["line \udce9"])
    sink.close()


def test_a_file_is_not_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$JOURNAL_STREAM that was inherited from a service's shell makes no priorities before the lines of a file."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    script = "from cryptofs.daemon.logs import Standard; Standard().write(4, ['line'])"
    log = tmp_path / "log"
    with log.open("wb") as output:
        subprocess.run([sys.executable, "-c", script], stderr=output, check=True, timeout=20)
    assert log.read_text() == "cryptofs: line\n"
