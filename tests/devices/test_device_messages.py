"""Where the message of a device's stream file ends: one open is one message, and what comes behind its end of file is
an error, an empty file too, because the daemon cannot see that it was written.
"""

import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from helpers.configs import declare
from helpers.daemons import Daemon, serving_config
from helpers.stream_devices import context_of, device_of, newest, open_stream, read_all

from cryptofs.algorithms import Type
from cryptofs.contexts.stream import STREAM_BUFFER, Stream
from cryptofs.contexts.work import Task
from cryptofs.errors import BadTag, Cancelled, InvalidValue
from cryptofs.records import Operation

ENCRYPT, DECRYPT, DIGEST = Operation.ENCRYPT, Operation.DECRYPT, Operation.DIGEST
SIGNER = ed25519.Ed25519PrivateKey.generate()
KEYS = {
    "secret": bytes(range(32)),
    "private": SIGNER.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ),
}
DEVICES = (
    declare("gcm", "aead", "gcm(aes)", "{secret}")
    + declare("cbc", "skcipher", "cbc(aes)", "{secret}")
    + declare("ctr", "skcipher", "ctr(aes)", "{secret}")
    + declare("mac", "hash", "hmac(sha256)", "{secret}")
    + declare("ed", "sig", "ed25519", "{private}")
)
WAYS = [("gcm", "encrypt"), ("gcm", "decrypt"), ("cbc", "encrypt"), ("cbc", "decrypt"), ("ctr", "encrypt")]
WAYS += [("ctr", "decrypt"), ("mac", "digest"), ("ed", "sign")]
AGAIN = "open the file again"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a device of each kind that has streams."""
    with serving_config(tmp_path_factory.mktemp("messages"), DEVICES, **KEYS) as daemon:
        yield daemon


def mac(data: bytes) -> bytes:
    """By another library."""
    state = hmac.HMAC(KEYS["secret"], hashes.SHA256())
    state.update(data)
    return state.finalize()


def fails(number: int, call: Callable[[], object]) -> None:
    """Check that a call fails with this errno."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, caught.value


def through(mount: Path, device: str, word: str, data: bytes) -> bytes:
    """One message, by a descriptor of its own."""
    descriptor = open_stream(mount, device, word)
    try:
        if data:
            os.write(descriptor, data)
        return read_all(descriptor)
    finally:
        os.close(descriptor)


def a_message(mount: Path, device: str, word: str) -> bytes:
    """Something that this file takes."""
    text = bytes(range(256)) * 20
    return through(mount, device, "encrypt", text) if word == "decrypt" else text


@pytest.mark.mount
@pytest.mark.parametrize(("device", "word"), WAYS)
def test_an_empty_file_after_another(mount: Path, tmp_path: Path, device: str, word: str) -> None:
    """In the shell: cat says so, whether it writes or only reads; by a new descriptor the next file passes."""
    (tmp_path / "one").write_bytes(a_message(mount, device, word))
    (tmp_path / "empty").touch()
    script = """
        exec 3<>"$1"; cd "$2"
        cat one >&3 && cat <&3 >first || exit 10
        cat empty >&3 && cat <&3 >second && exit 11
        cat empty >&3 && dd status=none <&3 >second && exit 12
        cat one >&3 && exit 13
        exec 3<>"$1"
        cat one >&3 && dd status=none bs=100 <&3 >third || exit 14
    """
    path = mount / "devices" / device / word
    done = subprocess.run(["bash", "-c", script, "bash", path, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert done.stderr.count(os.strerror(errno.EINVAL)) == 2
    first, second, third = ((tmp_path / name).read_bytes() for name in ("first", "second", "third"))
    assert second == b""
    assert first
    if word == "encrypt":
        first, third = (through(mount, device, "decrypt", each) for each in (first, third))
        assert first == (tmp_path / "one").read_bytes()
    assert first == third


@pytest.mark.mount
def test_an_empty_first_file(mount: Path) -> None:
    """It is a message, as it always was; only the read behind its end of file fails."""
    for device, word, wanted in (("mac", "digest", mac(b"")), ("gcm", "encrypt", None), ("cbc", "encrypt", None)):
        descriptor = open_stream(mount, device, word)
        output = read_all(descriptor)
        assert wanted in (None, output)
        fails(errno.EINVAL, lambda file=descriptor: os.read(file, 100))  # type: ignore[misc]
        os.close(descriptor)
        if word == "encrypt":
            assert through(mount, device, "decrypt", output) == b""


@pytest.mark.mount
def test_a_file_cut_to_nothing(mount: Path) -> None:
    """It does not open, and what failed is not repeated as an end of file."""
    sealed = through(mount, "gcm", "encrypt", b"text")
    for cut in (b"", sealed[:-1]):
        descriptor = open_stream(mount, "gcm", "decrypt")
        if cut:
            os.write(descriptor, cut)
        fails(errno.EBADMSG, lambda file=descriptor: os.read(file, 100))  # type: ignore[misc]
        fails(errno.EINVAL, lambda file=descriptor: os.read(file, 100))  # type: ignore[misc]
        fails(errno.EBUSY, lambda file=descriptor: os.write(file, sealed))  # type: ignore[misc]
        assert "EBADMSG" in (newest(mount) / "status").read_text()
        os.close(descriptor)
    assert through(mount, "gcm", "decrypt", sealed) == b"text"


@pytest.mark.mount
def test_python_reads_a_message(mount: Path) -> None:
    """read() looks for the end of file once."""
    for size in (0, 1, 5000, 300_000):
        with os.fdopen(open_stream(mount, "mac", "digest"), "r+b", buffering=0) as file:
            data = bytes(size)
            while data:
                data = data[file.write(data) or 0 :]
            assert file.read() == mac(bytes(size))
            fails(errno.EINVAL, file.read)
    with os.fdopen(open_stream(mount, "mac", "digest"), "r+b", buffering=0) as file:
        file.write(b"text")
        assert file.read(32) == mac(b"text")
        # whoever has not read the end of file cannot know that this was the whole
        fails(errno.EBUSY, lambda: file.write(b"text"))
        fails(errno.EBUSY, file.read)


@pytest.mark.mount
@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_poll_behind_a_message(mount: Path, flags: int) -> None:
    """A call that fails does not wait either: such a descriptor is readable and writable, and there is no EAGAIN."""
    descriptor = open_stream(mount, "mac", "digest", flags)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLOUT)
    os.write(descriptor, b"text")
    assert poll.poll(1000) == [(descriptor, select.POLLIN | select.POLLOUT)]
    assert read_all(descriptor) == mac(b"text")
    for _ in range(2):
        assert poll.poll(1000) == [(descriptor, select.POLLIN | select.POLLOUT)]
        fails(errno.EINVAL, lambda: os.read(descriptor, 100))
        fails(errno.EBUSY, lambda: os.write(descriptor, b"text"))
    os.close(descriptor)


@pytest.mark.mount
def test_processes_that_share_a_descriptor(mount: Path) -> None:
    """The second reader finds nothing to read, and the second writer nobody who will."""
    descriptor = open_stream(mount, "mac", "digest")
    os.write(descriptor, b"text")
    script = "cat <&$1 >/dev/null && cat <&$1; echo $?; printf more >&$1; echo $?"
    command = ["bash", "-c", script, "bash", str(descriptor)]
    done = subprocess.run(command, pass_fds=(descriptor,), capture_output=True, text=True, check=True)
    assert done.stdout == "1\n1\n", done
    fails(errno.EINVAL, lambda: os.read(descriptor, 100))
    os.close(descriptor)


@pytest.mark.mount
def test_a_read_that_signals_interrupt(mount: Path) -> None:
    """It is made again, and finds the message and its one end of file."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: seen.append(number))
    descriptor = open_stream(mount, "mac", "digest")
    writer = os.open(newest(mount) / "stream", os.O_WRONLY | os.O_CLOEXEC)
    os.write(writer, b"text")
    ending = threading.Timer(1.0, os.close, (writer,))
    ending.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        began = time.monotonic()
        assert os.read(descriptor, 100) == mac(b"text")
        assert time.monotonic() - began > 0.8
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ending.join()
    assert seen
    assert os.read(descriptor, 100) == b""
    fails(errno.EINVAL, lambda: os.read(descriptor, 100))
    os.close(descriptor)


@pytest.mark.mount
def test_the_raw_stream_has_the_same_rule(mount: Path) -> None:
    """A handle of contexts/<id>/stream that is open for both carries one message; a reset lets it carry another."""
    crypto = os.open(mount / "devices/mac/crypto", os.O_RDWR)
    stream = os.open(newest(mount) / "stream", os.O_RDWR)
    for _ in range(2):
        os.write(stream, b"text")
        assert read_all(stream) == mac(b"text")
        fails(errno.EINVAL, lambda: os.read(stream, 100))
        fails(errno.EBUSY, lambda: os.write(stream, b"text"))
        (newest(mount) / "ctl").write_text("reset\n")
    os.close(stream)
    os.close(crypto)


# Without a mount


def test_one_end_of_file_for_each_message() -> None:
    """However the output is read, and no more behind it."""
    context = context_of(device_of(Type.AEAD, "gcm(aes)", bytes(32), {ENCRYPT, DECRYPT}))
    stream = context.stream
    for size in (1, 7, 1 << 20):
        user = stream.attach(True, True)
        stream.feed_nowait(user, b"text" * 50)
        while piece := stream.drain_nowait(user, size):
            assert piece
        for _ in range(2):
            with pytest.raises(InvalidValue, match=AGAIN):
                stream.drain_nowait(user, size)
        stream.detach(user)
    stream.set_parameters(DECRYPT, None, None)
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"too short")
    with pytest.raises(BadTag):
        stream.drain_nowait(user, 100)
    with pytest.raises(InvalidValue, match=AGAIN):
        stream.drain_nowait(user, 100)
    context.close()


def test_a_reader_waits_for_the_worker() -> None:
    """Nothing is ready before the end is computed: that is a wait, and neither an end of file nor an error."""
    device = device_of(Type.HASH, "hmac(sha256)", bytes(32), {DIGEST})
    context = context_of(device)
    transform = context.require_transform()
    transform.pace = 1e9
    given: list[tuple[Task, Callable[[Task], None]]] = []

    def offload(task: Task, done: Callable[[Task], None]) -> bool:
        given.append((task, done))
        return True

    stream = Stream(transform, context.queue, context.exchange.tally, offload, lambda: None, STREAM_BUFFER)
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"text")
    while given:
        assert stream.drain_nowait(user, 100) is None
        assert stream.drain_nowait(user, 100) is None
        task, done = given.pop()
        done(task.compute())
    assert stream.drain_nowait(user, 100) is not None
    assert stream.drain_nowait(user, 100) == b""
    with pytest.raises(InvalidValue, match=AGAIN):
        stream.drain_nowait(user, 100)
    transform.close()


def test_a_refused_write_is_told_where_another_message_came_before() -> None:
    """The reader gets why, although nothing of the message was taken."""
    stream = context_of(device_of(Type.HASH, "hmac(sha256)", bytes(32), {DIGEST})).stream
    user = stream.attach(True, True)
    stream.feed_nowait(user, b"text")
    while stream.drain_nowait(user, 100):
        pass
    stream.detach(user)
    user = stream.attach(True, True)
    stream.give_up()
    with pytest.raises(Cancelled):
        stream.drain_nowait(user, 100)
    stream.close()
