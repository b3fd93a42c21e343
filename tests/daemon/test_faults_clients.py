"""Clients that go away, fork and pass descriptors on, and what the hostile ones of the stress program have found."""

import array
import contextlib
import errno
import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from helpers.daemons import Daemon
from helpers.faults import ABC, ROOT
from helpers.machine import TESTS
from helpers.other_user import become
from helpers.raw import Raw, digest, hasher
from helpers.waiting import wait_until
from stress import declared, server
from stress.oracle import Errnos, walk

from cryptofs.client import Context, RequestError
from cryptofs.records import RECORD_MAX, Attr, Flag, Operation, Record, build, parse_responses

# Clients that go away


def program(mount: Path, body: str) -> subprocess.Popen[str]:
    """A Python program on the mount M that says a line when it has come where the test wants it."""
    head = (
        "import os, sys, time\nfrom pathlib import Path\nfrom cryptofs.client import Context\n"
        "from cryptofs.records import *\nM = Path(sys.argv[1])\n"
        "def say(what):\n    print(what, flush=True)\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        [sys.executable, "-c", head + body, str(mount)], stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_line(process: subprocess.Popen[str]) -> str:
    """The next line that a program says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


DYING = {
    "in mid-request": """
context = Context("skcipher", "cbc(des3_ede)", bytes(range(24)), mount=M)
request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(8)}, bytes(800_000)))
for _ in range(8):
    os.pwrite(context.fileno(), request, 0)
say("there")
while True:
    os.pread(context.fileno(), len(request), 0)
    os.pwrite(context.fileno(), request, 0)
""",
    "in mid-message": """
context = Context("aead", "gcm(aes)", bytes(16), mount=M)
for number in range(200):
    message = context.message(Operation.ENCRYPT, bytes(12))
    message.update(bytes(5000))
say("there")
time.sleep(100)
""",
    "with a full queue": """
context = Context("skcipher", "ctr(aes)", bytes(16), mount=M)
request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(16)}, bytes(1_000_000)))
try:
    while True:
        os.pwrite(context.fileno(), request, 0)
except BlockingIOError:
    say("there")
time.sleep(100)
""",
    "in mid-stream": """
context = Context("skcipher", "ctr(aes)", bytes(16), mount=M)
(context.directory / "ctl").write_text("reset iv=hex:" + "00" * 16)
stream = os.open(context.directory / "stream", os.O_WRONLY)
say("there")
while True:
    os.write(stream, bytes(300_000))
""",
    "in poll": """
import select
context = Context("hash", "sha256", mount=M)
poll = select.poll()
poll.register(context.fileno(), select.POLLIN)
say("there")
poll.poll()
""",
}


@pytest.mark.mount
@pytest.mark.parametrize("where", DYING)
def test_a_client_killed(daemon: Daemon, where: str) -> None:
    """SIGKILL: it is gone within a second, its context too, and a good context never notices."""
    before = server.gauge(daemon.mountpoint, "cryptofs_contexts_open")
    with Context("hash", "sha256", mount=daemon.mountpoint) as good:
        victims = [program(daemon.mountpoint, DYING[where]) for _ in range(2)]
        with victims[0], victims[1]:
            for victim in victims:
                assert wait_line(victim) == "there"
            assert server.gauge(daemon.mountpoint, "cryptofs_contexts_open") == before + 3
            time.sleep(0.05)
            began = time.monotonic()
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.wait(10)
            assert time.monotonic() - began < 5
            assert good.digest(b"abc") == ABC
        wait_until(lambda: server.gauge(daemon.mountpoint, "cryptofs_contexts_open") == before + 1, 15)
        assert good.digest(b"abc") == ABC
    wait_until(lambda: server.gauge(daemon.mountpoint, "cryptofs_queue_bytes") == 0, 15)


@pytest.mark.mount
def test_a_client_forks_and_both_read(mount: Path) -> None:
    """They share one context: every answer comes to exactly one of them."""
    count = 400
    with program(
        mount,
        f"""
from helpers.raw import Raw, digest
raw = Raw(M).configure("hash", "sha256")
raw.write(*[digest(number, b"%d" % number) for number in range({count})])
parent = os.getpid()
child = os.fork()
while data := os.pread(raw.fd, 1000, 0):
    for answer in parse_responses(data):
        sys.stdout.write(f"{{int(os.getpid() == parent)}} {{answer.id}} {{bytes(answer.payload).hex()}}\\n")
        sys.stdout.flush()
if child:
    os.waitpid(child, 0)
""",
    ) as process:
        lines = process.stdout.read().split("\n")[:-1] if process.stdout else []
        assert process.wait(20) == 0
    seen = [line.split() for line in lines]
    assert sorted(int(number) for _, number, _ in seen) == list(range(count))
    assert all(digest == hashlib.sha256(number.encode()).hexdigest() for _, number, digest in seen)


@pytest.mark.mount
def test_a_descriptor_passed_to_another_process(daemon: Daemon) -> None:
    """By SCM_RIGHTS: the context lives on in the receiver, another user if we are root, after its opener has closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = os.fork()
        if not receiver:
            status = 1
            with contextlib.suppress(BaseException):
                if ROOT:
                    become()
                data, ancillary, _, _ = theirs.recvmsg(1, socket.CMSG_SPACE(4))
                fd = array.array("i", ancillary[0][2])[0]
                theirs.recv(1)
                # the opener has closed it: a whole request, one in parts, a wait
                os.pwrite(fd, build(digest(5)), 0)
                (answer,) = parse_responses(os.pread(fd, RECORD_MAX, 0))
                os.pwrite(fd, build(digest(6, b"a", Flag.MORE)) + build(digest(6, b"bc")), 0)
                last = parse_responses(os.pread(fd, RECORD_MAX, 0))[-1]
                status = 0 if data and bytes(answer.payload) == ABC == bytes(last.payload) else 2
            os._exit(status)
        raw = hasher(daemon.mountpoint)
        number = raw.number
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [raw.fd]))])
        raw.close()
        ours.send(b"x")
        assert os.waitpid(receiver, 0)[1] == 0
    wait_until(lambda: str(number) not in os.listdir(daemon.mountpoint / "contexts"))


# What the hostile clients of the stress program have found


@pytest.mark.mount
def test_a_clone_over_the_quota_is_documented(mount: Path) -> None:
    """A clone opens a message in the other context, which may have as many as it may."""
    with hasher(mount) as raw:
        raw.write(*[digest(number, b"a", Flag.MORE) for number in range(256)])
        raw.answers(256)
        raw.write(Record(Operation.CLONE, 0, 1000, 0, {Attr.TARGET: 1}))
        (answer,) = raw.answers(1)
        assert answer.status == errno.EDQUOT
    assert errno.EDQUOT in Errnos().by_operation[Operation.CLONE]


@pytest.mark.mount
def test_what_a_signature_in_parts_is_refused_is_documented(mount: Path) -> None:
    """It is a message as others are: there are as many as there may be, and it is gathered as far as any is."""
    with Raw(mount) as raw:
        raw.write(Record(Operation.CONFIGURE, 0, 0, 0, {Attr.TYPE: "sig", Attr.NAME: "ed25519"}))
        raw.write(Record(Operation.GENERATE_KEY, 0, 1))
        assert [answer.status for answer in raw.answers(2)] == [0, 0]
        raw.write(*[Record(Operation.SIGN, Flag.MORE, number) for number in range(257)])
        answers = raw.answers(257)
        assert sorted(answer.status for answer in answers) == [0] * 256 + [errno.EDQUOT]
        opened = next(answer.id for answer in answers if not answer.status)
        part = Record(Operation.SIGN, Flag.MORE, opened, 0, {}, bytes(600_000))
        raw.write(part)
        raw.write(part)
        assert [answer.status for answer in raw.answers(2)] == [0, errno.EMSGSIZE]
    assert {errno.EDQUOT, errno.EMSGSIZE} <= Errnos().by_operation[Operation.SIGN]


@pytest.mark.mount
def test_what_a_signing_device_refuses_is_documented(tmp_path: Path) -> None:
    """A device never makes a key, and does what its section allows."""
    keys = declared.Keys.drawn(Random("keys"))
    (tmp_path / "mount").mkdir()
    config = declared.write(tmp_path, keys, False)
    with (
        server.serving(tmp_path, "--config", str(config)) as daemon,
        Context.of_device("signer", mount=daemon.mountpoint) as context,
        pytest.raises(RequestError) as refused,
    ):
        context.generate_key()
    assert refused.value.errno == errno.EACCES
    assert errno.EACCES in Errnos().by_operation[Operation.GENERATE_KEY]


# What the helpers of these tests say is true


def test_walking_finds_what_is_no_record() -> None:
    """The stress program's own reader of records is strict."""
    whole = build(Record(Operation.DIGEST, 0, 7, 0, {}, b"abc"))
    assert [(operation, identity) for operation, _, identity, _, _ in walk(whole + whole)] == [(18, 7), (18, 7)]
    with pytest.raises(ValueError):
        walk(whole + bytes([1, 0, 0, 0]) + bytes(20))
