"""Writes of any shape, and descriptors that are passed on to another user."""

import errno
import os
import socket
import time
from pathlib import Path

import pytest
from helpers import security_mount
from helpers.daemons import Daemon
from helpers.other_user import STRANGER, AsUser, let_in, needs_root

from cryptofs.client import Context
from cryptofs.records import PAYLOAD_MAX, Attr, Flag, Operation, Record, Value, build, parse_responses

daemon = security_mount.daemon

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Writes of any shape

SHAPES: dict[str, list[int]] = {
    "an empty first": [0, 24, 3],
    "empty everywhere": [0, 0, 10, 0, 14, 0, 3, 0, 0],
    "the most segments": [0] * 1000 + [1] * 24,
    "each byte": [1] * 27,
}


@pytest.mark.mount
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seek", [True, False])
def test_writev_with_empty_segments(mount: Path, shape: str, seek: bool) -> None:
    """A record is the sum of its segments, wherever it is cut and however many of them are empty; nothing hangs."""
    with Context("hash", "sha256", mount=mount) as context:
        data = build(Record(Operation.DIGEST, id=7, payload=b"abc"))
        segments, at = [], 0
        for size in SHAPES[shape]:
            segments.append(data[at : at + size])
            at += size
        if at < len(data):
            segments[-1] += data[at:]
        fd = context.fileno()
        written = os.pwritev(fd, segments, 0) if seek else os.writev(fd, segments)
        assert written == len(data)
        (answer,) = parse_responses(os.pread(fd, 65_536, 0))
        assert (answer.id, answer.status, bytes(answer.payload).hex()) == (7, 0, ABC)


def writev(descriptor: int, segments: list[bytes]) -> int:
    """The number of bytes written, or the errno, negative."""
    try:
        return os.writev(descriptor, segments)
    except OSError as error:
        return -(error.errno or 1)


@pytest.mark.mount
def test_writes_of_nothing(mount: Path) -> None:
    """Of no bytes, in no, one or a thousand segments, on each file that takes writes: at once, and to no effect."""
    with Context("hash", "sha256", mount=mount) as context:
        for file in (None, "ctl", "stream"):
            fd = context.fileno() if file is None else os.open(context.directory / file, os.O_RDWR)
            try:
                for segments in ([], [b""], [b""] * 1000):
                    began = time.monotonic()
                    # a record or a line of no bytes is none
                    assert writev(fd, segments) in (0, -errno.EINVAL), file
                    assert time.monotonic() - began < 5
            finally:
                if file is not None:
                    os.close(fd)
        assert context.digest(b"").hex() == EMPTY


# Delegation

RECEIVER = """
import os, socket, sys
from cryptofs.records import Operation, Record, build, parse_responses
mount, directory, number = sys.argv[1:]
def attempt(what, call):
    try:
        call()
        print(what, "OK")
    except OSError as error:
        print(what, error.errno)
channel = socket.socket(fileno=int(number))
_, (device, ctl), _, _ = socket.recv_fds(channel, 1, 2)
attempt("device", lambda: os.open(mount + "/devices/sealed/crypto", os.O_RDWR))
attempt("context", lambda: os.listdir(directory))
for name in ("ctl", "status", "stream"):
    attempt(name, lambda: os.open(directory + "/" + name, os.O_RDONLY))
# a path that was opened by somebody who may is no way in, either
attempt("by path", lambda: os.open(f"/proc/self/fd/{ctl}", os.O_RDWR))
attempt("again", lambda: os.open(f"/proc/self/fd/{device}", os.O_RDWR))
os.pwrite(device, build(Record(Operation.ENCRYPT, id=1, payload=b"passed on")), 0)
(answer,) = parse_responses(os.pread(device, 65536, 0))
print("sealed", bytes(answer.payload).hex())
os.pwrite(device, build(Record(Operation.SET_KEY, id=2, attributes={3: bytes(32)})), 0)
(answer,) = parse_responses(os.pread(device, 65536, 0))
print("set-key", answer.status)
"""


@needs_root
@pytest.mark.mount
def test_a_device_descriptor_passed_to_another_user(mount: Path, daemon: Daemon) -> None:
    """By SCM_RIGHTS: it works as the opener's, under the opener's name; ctl, status, stream and the device refuse."""
    let_in(mount)
    ours, theirs = socket.socketpair()
    with ours, theirs, Context.of_device("sealed", mount=mount) as context:
        ctl = os.open(context.directory / "ctl", os.O_PATH | os.O_CLOEXEC)
        try:
            other = AsUser(STRANGER, STRANGER, [], RECEIVER, mount, context.directory, str(theirs.fileno()))
            socket.send_fds(ours, [b"x"], [context.fileno(), ctl])
            lines = dict(line.rsplit(" ", 1) for line in other.lines())
        finally:
            os.close(ctl)
        sealed = bytes.fromhex(lines.pop("sealed"))
        assert context.decrypt(sealed) == b"passed on"
        no = {str(errno.EACCES), str(errno.ENOENT)}
        assert lines.pop("set-key") == str(errno.EACCES)
        assert set(lines) == {"device", "context", "ctl", "status", "stream", "by path", "again"}, lines
        assert set(lines.values()) <= no, lines
        assert f"uid={STRANGER}" not in "".join(line for line in daemon.log.splitlines(True) if " open " in line)


@needs_root
@pytest.mark.mount
def test_associated_data_leave_room_for_the_nonce(mount: Path) -> None:
    """What a device has to keep until the nonce has come is bounded, whatever the client says that it will send."""
    size = PAYLOAD_MAX - 12
    with Context.of_device("sealed", mount=mount) as context:
        for number, (assoclen, status) in enumerate(
            ((size, 0), (size + 1, errno.EMSGSIZE), (PAYLOAD_MAX, errno.EMSGSIZE), ((1 << 32) - 1, errno.EMSGSIZE))
        ):
            attributes: dict[int, Value] = {Attr.ASSOCLEN: assoclen}
            record = Record(Operation.DECRYPT, Flag.MORE, number, attributes=attributes, payload=bytes(1000))
            os.pwrite(context.fileno(), build(record), 0)
            (answer,) = parse_responses(os.pread(context.fileno(), 65_536, 0))
            assert answer.status == status, (assoclen, answer)
