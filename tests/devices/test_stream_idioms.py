"""No shell idiom loses data silently: all bytes are right, or something has an exit status that says otherwise.

Producers and consumers are fast or slow; shells are bash and dash; the file is a device's stream file or the raw stream
of a context.
"""

import errno
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.machine import IN_GUEST
from helpers.stream_devices import newest, open_stream, read_all
from helpers.waiting import PATIENCE

from cryptofs.client import Context

pytestmark = pytest.mark.mount

KEY = bytes(range(32))
CONFIG = declare("backup", "aead", "gcm(aes)", "{secret}") + declare("mac", "hash", "hmac(sha256)", "{secret}")
SIZE = 1_000_001 if IN_GUEST else 5_000_001
SEGMENT = 12 + 65_536 + 16


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device for files and one for digests."""
    with serving_config(tmp_path_factory.mktemp("idioms"), CONFIG, secret=KEY) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes many writes."""
    path = tmp_path_factory.mktemp("plain") / "plain"
    path.write_bytes(os.urandom(SIZE))
    return path


def unsealed(data: bytes) -> bytes | None:
    """What a sealed file holds, by another library; None for one that is not whole."""
    identity, rest, text = data[16:32], data[32:], b""
    for index in range(len(rest) // SEGMENT + 1):
        segment = rest[index * SEGMENT : (index + 1) * SEGMENT]
        last = len(segment) < SEGMENT
        if len(segment) < 28:
            return None
        associated = identity + index.to_bytes(8, "big") + bytes([last])
        text += AESGCM(KEY).decrypt(segment[:12], segment[12:], associated)
    return text


def run(shell: str, script: str, mount: Path, plain: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with $D the device, $IN a file, $OUT another, and `slow` a producer that needs its time."""
    functions = """
        slow() { head -c 100000 "$IN"; sleep 0.3; tail -c +100001 "$IN"; }
        lines() { for each in one two three; do sleep 0.1; echo $each; done; }
        slowly() { dd bs=1000 count=1 2>/dev/null; sleep 0.3; cat; }
        all() { bad=0; for each; do wait $each || bad=1; done; return $bad; }
    """
    environment = {**os.environ, "D": str(mount / "devices/backup"), "IN": str(plain), "OUT": str(out)}
    command = [shell, "-uc", functions + script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)


# what people write: the first list must work, the second may fail, but never silently
WORKS = {
    "one after the other": 'exec 3<>"$D/encrypt"; cat "$IN" >&3 && cat <&3 >"$OUT"',
    "a slow producer first": 'exec 3<>"$D/encrypt"; slow >&3 && cat <&3 >"$OUT"',
    "a slow producer by cat": 'exec 3<>"$D/encrypt"; slow | cat >&3 && cat <&3 >"$OUT"',
    "a slow consumer": 'exec 3<>"$D/encrypt"; cat "$IN" >&3 && slowly <&3 >"$OUT"',
    "by dd": 'exec 3<>"$D/encrypt"; dd if="$IN" bs=100k 2>/dev/null >&3 && dd bs=64k <&3 2>/dev/null >"$OUT"',
    "a group": '{ cat "$IN" >&3 && cat <&3 >"$OUT"; } 3<>"$D/encrypt"',
    "standard input": 'exec 3<>"$D/encrypt"; cat <"$IN" >&3; cat <&3 >"$OUT"',
    "in pieces": 'exec 3<>"$D/encrypt"; head -c 70000 "$IN" >&3; tail -c +70001 "$IN" >&3; cat <&3 >"$OUT"',
    "read in pieces": 'exec 3<>"$D/encrypt"; cat "$IN" >&3; { dd bs=1000 count=3 2>/dev/null; cat; } <&3 >"$OUT"',
    "a background writer": 'exec 3<>"$D/encrypt"; slow >&3 & wait $!; cat <&3 >"$OUT"',
}
CONCURRENT = {
    "reader first": 'cat <&3 >"$OUT" & r=$!; cat "$IN" >&3 & all $r $!',
    "reader first, slow producer": 'cat <&3 >"$OUT" & r=$!; slow >&3 & all $r $!',
    "reader first, producer by cat": 'cat <&3 >"$OUT" & r=$!; slow | cat >&3 & all $r $!',
    "reader first, writer in front": 'cat <&3 >"$OUT" & r=$!; cat "$IN" >&3 && all $r',
    "writer first": 'cat "$IN" >&3 & w=$!; cat <&3 >"$OUT" && all $w',
    "writer first, slow producer": 'slow >&3 & w=$!; sleep 0.1; cat <&3 >"$OUT" & all $w $!',
    "writer first, slow consumer": 'cat "$IN" >&3 & w=$!; slowly <&3 >"$OUT" & all $w $!',
    "both slow": 'slow >&3 & w=$!; sleep 0.1; slowly <&3 >"$OUT" & all $w $!',
    "by dd": 'dd bs=4k status=none <&3 >"$OUT" & r=$!; dd if="$IN" bs=10k status=none >&3 & all $r $!',
    "both standard": '(cat <&3 >"$OUT") & r=$!; (slow >&3) & all $r $!',
    "dd opens the descriptor's file": 'dd if="$IN" of=/dev/fd/3 bs=64k && cat <&3 >"$OUT"',
    "tee opens it": 'slow | tee /dev/fd/3 >/dev/null && cat <&3 >"$OUT"',
    "one way only": 'cat "$IN" >"$D/encrypt" && cat "$D/encrypt" >"$OUT"',
    "a second file": 'echo one >&3 && cat <&3 >/dev/null && cat "$IN" >&3 && cat <&3 >"$OUT"',
}
SHELLS = ["bash", "dash"] * 10
LINES = {
    "reader first": 'cat <&3 >"$OUT" & r=$!; lines >&3 & all $r $!',
    "writer first": 'lines >&3 & w=$!; sleep 0.15; cat <&3 >"$OUT" & all $w $!',
    "the shell itself writes": 'cat <&3 >"$OUT" & r=$!; lines >&3 && all $r',
}


@pytest.mark.parametrize(("idiom", "shell"), list(zip(WORKS, SHELLS, strict=False)))
def test_what_works(mount: Path, plain: Path, tmp_path: Path, shell: str, idiom: str) -> None:
    """A producer to its end, then a consumer: all bytes are right."""
    done = run(shell, WORKS[idiom], mount, plain, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert unsealed((tmp_path / "out").read_bytes()) == plain.read_bytes()


@pytest.mark.parametrize(("idiom", "shell"), list(zip(CONCURRENT, SHELLS, strict=False)))
def test_what_cannot_work_fails(mount: Path, plain: Path, tmp_path: Path, shell: str, idiom: str) -> None:
    """Reader and writer on one descriptor at the same time, and other mistakes: the whole, or a status and words."""
    out = tmp_path / "out"
    done = run(shell, 'exec 3<>"$D/encrypt"; ' + CONCURRENT[idiom], mount, plain, out)
    if done.returncode == 0:
        assert unsealed(out.read_bytes()) == plain.read_bytes()
    else:
        assert done.stderr


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("idiom", LINES)
def test_lines_of_a_shell(mount: Path, plain: Path, tmp_path: Path, shell: str, idiom: str) -> None:
    """Each echo is a write of its own, and only the last one's status is the loop's."""
    out = tmp_path / "out"
    done = run(shell, 'exec 3<>"$D/encrypt"; ' + LINES[idiom], mount, plain, out)
    assert done.returncode != 0
    assert "esource busy" in done.stderr or "I/O error" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "idiom",
    [
        'cat "$IN" >stream & w=$!; cat stream >"$OUT" & all $w $!',
        'cat stream >"$OUT" & r=$!; slow >stream & all $r $!',
        'slow >stream & w=$!; slowly <stream >"$OUT" & all $w $!',
        'slow >stream & w=$!; sleep 0.1; cat <>stream >"$OUT" & all $w $!',
    ],
)
def test_the_raw_stream_is_a_pipe(mount: Path, plain: Path, tmp_path: Path, idiom: str) -> None:
    """By an open for writing and one for reading, at the same time: all bytes are right."""
    out = tmp_path / "out"
    with Context("skcipher", "ctr(aes)", key=bytes(16), mount=mount) as context:
        (context.directory / "ctl").write_text(f"reset iv=hex:{'00' * 16}\n")
        done = run("dash", f'cd "{context.directory}"; {idiom}', mount, plain, out)
        assert done.returncode == 0, done.stderr
        (context.directory / "ctl").write_text(f"reset operation=decrypt iv=hex:{'00' * 16}\n")
        again = tmp_path / "again"
        done = run("dash", f'cd "{context.directory}"; cat "{out}" >stream & cat stream >"$OUT"', mount, plain, again)
        assert again.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("idiom", ["reader first", "writer first", "writer first, slow producer", "both slow"])
def test_the_raw_stream_by_one_descriptor(mount: Path, plain: Path, tmp_path: Path, idiom: str) -> None:
    """The same rule as a device's: the whole digest, or a status."""
    out = tmp_path / "out"
    with Context("hash", "sha256", mount=mount) as context:
        script = f'exec 3<>"{context.directory}/stream"; {CONCURRENT[idiom]}'
        done = run("bash", script, mount, plain, out)
        if done.returncode == 0:
            assert out.read_bytes() == hashlib.sha256(plain.read_bytes()).digest()
        else:
            assert "busy" in done.stderr


def fails(number: int, call: Callable[[], object]) -> None:
    """Check that a call fails with this errno."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, caught.value


def write(descriptor: int, data: bytes) -> int:
    """Bytes written, or the errno below zero."""
    try:
        return os.write(descriptor, data)
    except OSError as error:
        return -(error.errno or 0)


@pytest.mark.parametrize("part", [0, 10])
def test_a_write_behind_a_read(mount: Path, part: int) -> None:
    """Before the end of file was read: EBUSY for the writer, and for the reader in place of the end of file."""
    descriptor = open_stream(mount, "mac", "digest")
    os.write(descriptor, b"text")
    given = os.read(descriptor, 32 - part)
    fails(errno.EBUSY, lambda: os.write(descriptor, b"more"))
    if part:
        given += os.read(descriptor, 100)
    assert len(given) == 32
    fails(errno.EBUSY, lambda: os.read(descriptor, 100))
    fails(errno.EINVAL, lambda: os.read(descriptor, 100))
    os.close(descriptor)


def test_what_nobody_read_is_recorded(mount: Path, daemon: Daemon, plain: Path, tmp_path: Path) -> None:
    """In the audit trail, with the device, whatever the program was: cat has no way to know."""
    done = run("bash", 'cat "$IN" 1<>"$D/encrypt"', mount, plain, tmp_path / "out")
    assert done.returncode == 0
    daemon.wait_for_line(": close ", "device=backup", "refused=ECANCELED", "bytes of the stream's output")
    with Context("hash", "sha256", mount=mount) as context:
        (context.directory / "stream").write_bytes(b"text")
    daemon.wait_for_line(": close ", "name=sha256", "nobody has read 32 bytes")


def test_what_was_read_is_not_recorded(mount: Path, daemon: Daemon) -> None:
    """A digest that was read by its length, and a descriptor that was opened for nothing."""
    before = daemon.log.count(": close ")
    for word in ("digest", "status"):
        if word == "digest":
            descriptor = open_stream(mount, "mac", word)
            os.write(descriptor, b"text")
            assert len(os.read(descriptor, 32)) == 32
            os.close(descriptor)
        os.close(open_stream(mount, "mac", "digest"))
    time.sleep(0.2)
    assert daemon.log.count(": close ") == before


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_reset_fails_the_write_that_it_cuts(mount: Path, flags: int) -> None:
    """ECANCELED, for the rest of the message too: what came behind the reset is never a message of its own."""
    data = os.urandom(1_000_000)
    with Context("hash", "sha256", mount=mount) as context:
        cut_within = 0
        for attempt in range(20):
            stream = os.open(context.directory / "stream", flags)
            done = threading.Event()
            os.write(stream, b"the beginning")

            def reset(seconds: float, done: threading.Event) -> None:
                time.sleep(seconds)
                (context.directory / "ctl").write_text("reset\n")
                done.set()

            resetter = threading.Thread(target=reset, args=(attempt / 2000, done))
            resetter.start()
            for _ in range(500):
                was_done = done.is_set()
                written = write(stream, data)
                if written == -errno.ECANCELED:
                    cut_within += not was_done
                    break
                assert not was_done
                assert written == len(data)
            resetter.join()
            fails(errno.ECANCELED, lambda file=stream: os.write(file, b"the rest"))  # type: ignore[misc]
            os.close(stream)
            # nothing is left of it: the next message is only what it is
            (context.directory / "stream").write_bytes(b"text")
            assert (context.directory / "stream").read_bytes() == hashlib.sha256(b"text").digest()
        assert cut_within


def test_reset_tells_a_waiting_reader(mount: Path) -> None:
    """It waits for the rest of a message that will never come."""
    with Context("skcipher", "ctr(aes)", key=bytes(16), mount=mount) as context:
        (context.directory / "ctl").write_text(f"reset iv=hex:{'00' * 16}\n")
        writer = os.open(context.directory / "stream", os.O_WRONLY)
        os.write(writer, bytes(100))
        reader = subprocess.Popen(["cat", context.directory / "stream"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert reader.stdout is not None
        assert reader.stdout.read(96)
        (context.directory / "ctl").write_text(f"reset iv=hex:{'00' * 16}\n")
        _, error = reader.communicate(timeout=10 * PATIENCE)
        assert (reader.returncode, b"cancel" in error.lower()) == (1, True)
        os.close(writer)


def test_messages_of_one_loop(mount: Path, tmp_path: Path) -> None:
    """Files one by one, an empty one among them, each by an open of its own."""
    names = ("one", "empty", "two")
    for name in names:
        (tmp_path / name).write_bytes(b"" if name == "empty" else name.encode() * 1000)
    script = """
        cd "$1"
        for each in one empty two; do
            exec 3<>"$D/encrypt"; cat $each >&3 && cat <&3 >$each.sealed || exit 1
        done"""
    environment = {**os.environ, "D": str(mount / "devices/backup")}
    subprocess.run(["dash", "-c", script, "dash", tmp_path], env=environment, timeout=30 * PATIENCE, check=True)
    for name in names:
        assert unsealed((tmp_path / f"{name}.sealed").read_bytes()) == (tmp_path / name).read_bytes()


def test_the_state_is_the_newest_contexts(mount: Path) -> None:
    """A program that closes in the middle of its output leaves no context behind."""
    descriptor = open_stream(mount, "backup", "encrypt")
    directory = newest(mount)
    os.write(descriptor, bytes(100_000))
    assert os.read(descriptor, 1000)
    os.close(descriptor)
    deadline = time.monotonic() + 5 * PATIENCE
    while directory.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    descriptor = open_stream(mount, "mac", "digest")
    assert len(read_all(descriptor)) == 32
    os.close(descriptor)
