"""What client authors had to guess: each answer that docs/protocol.md gives is tried on a mount."""

import errno
import hashlib
import os
import re
import select
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.daemons import Daemon
from helpers.raw import Raw

from cryptofs.client import Context
from cryptofs.records import Attr, Flag, Operation, Record, Value, build, parse_responses

pytestmark = pytest.mark.mount

MORE = int(Flag.MORE)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def configured(mount: Path, type_: str, name: str, key: bytes | None = None) -> Raw:
    """A context."""
    return Raw(mount).configure(type_, name, key)


def ask(raw: Raw, *records: Record) -> list[Record]:
    """The answers to these, which are written at once."""
    raw.write(*records)
    return raw.answers(len(records))


def digest(payload: bytes, identity: int = 1, more: bool = False, attributes: dict[int, Value] | None = None) -> Record:
    """A request."""
    return Record(Operation.DIGEST, MORE * more, identity, 0, attributes or {}, payload)


def test_errnos_have_linux_numbers() -> None:
    """The list in the document is that of this machine."""
    (line,) = re.findall(r"Errnos are Linux's.*?\n\n", DOCUMENT.read_text(), re.DOTALL)
    listed = {name: int(number) for name, number in re.findall(r"(E[A-Z]+) (\d+)", line)}
    assert len(listed) > 20
    assert listed == {name: getattr(errno, name) for name in listed}


def test_iv_and_assoclen(mount: Path) -> None:
    """An iv where there is one to give; assoclen 0 is none."""
    cipher, gcm, sha = (
        configured(mount, "skcipher", "cbc(aes)", bytes(16)),
        configured(mount, "aead", "gcm(aes)", bytes(16)),
        configured(mount, "hash", "sha256"),
    )
    for attributes, status in (
        ({}, errno.EINVAL),
        ({Attr.IV: bytes(16)}, 0),
        ({Attr.IV: bytes(16), Attr.ASSOCLEN: 0}, 0),
    ):
        (answer,) = ask(cipher, Record(Operation.ENCRYPT, 0, 1, 0, dict(attributes), bytes(16)))
        assert answer.status == status
    (answer,) = ask(cipher, Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(16), Attr.ASSOCLEN: 1}, bytes(16)))
    assert answer.status == errno.EINVAL
    with_zero, without = (
        ask(gcm, Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(12)} | more, b"text"))[0].payload
        for more in ({Attr.ASSOCLEN: 0}, {})
    )
    assert bytes(with_zero) == bytes(without)
    for more in ({}, {Attr.ASSOCLEN: 0}, {Attr.IV: b""}):
        (answer,) = ask(sha, digest(b"abc", attributes=dict(more)))
        assert bytes(answer.payload) == hashlib.sha256(b"abc").digest()
    for raw in (cipher, gcm, sha):
        raw.close()


def test_parts_and_control_calls(mount: Path) -> None:
    """Each part is answered, with its MORE; a control call's id names nothing; cancel's answer does not wait."""
    raw = configured(mount, "hash", "sha256")
    cancel = Record(Operation.CANCEL, 0, 5, 0, {Attr.TARGET: 5})
    records = (digest(b"a", 5, True), Record(Operation.INFO, 0, 5), digest(b"", 5, True), digest(b"b", 5))
    answers = ask(raw, *records)
    assert [bool(answer.flags & MORE) for answer in answers] == [True, False, True, False]
    assert [len(answer.payload) for answer in answers] == [0, 0, 0, 32]
    assert bytes(answers[-1].payload) == hashlib.sha256(b"ab").digest()
    answers = ask(raw, digest(b"a", 5, True), cancel, digest(b"b", 5, True), digest(b"c", 5), digest(b"d", 5))
    assert [answer.status for answer in answers] == [0, 0, errno.ECANCELED, errno.ECANCELED, 0]
    # nothing is due: 0 bytes, as often as one asks, and the next request is answered as any
    assert os.pread(raw.fd, 100, 0) == os.pread(raw.fd, 100, 0) == b""
    assert bytes(ask(raw, digest(b"abc"))[0].payload) == hashlib.sha256(b"abc").digest()
    raw.close()


def test_numbers_are_not_used_again(mount: Path) -> None:
    """However many contexts come and go."""
    numbers = []
    for _ in range(20):
        descriptor = os.open(mount / "crypto", os.O_RDWR)
        numbers.append(int(os.pread(descriptor, 100, 0)))
        os.close(descriptor)
    assert numbers == sorted(set(numbers))


def test_buffered_writers(mount: Path, tmp_path: Path) -> None:
    """Perl's print cuts at 8 KiB, which is an error that it sees; its syswrite does not."""
    if shutil.which("perl") is None:
        pytest.skip("NOT RUN: no perl")
    record = build(digest(bytes(20_000)))
    (tmp_path / "record").write_bytes(record)
    for call, status in (("print C $d or die $!", "Bad message"), ("defined syswrite(C, $d) or die $!", "")):
        raw = configured(mount, "hash", "sha256")
        script = f'open F, "<", $ARGV[0]; binmode F; local $/; $d = <F>; open C, "+<&=", $ARGV[1]; {call}; close C'
        command = ["perl", "-e", script, tmp_path / "record", str(raw.fd)]
        done = subprocess.run(command, pass_fds=(raw.fd,), capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode != 0) == bool(status)
        assert status in done.stderr
        raw.close()


@pytest.mark.parametrize(("size", "fits"), [(60_000, True), (65_536 - 24, True), (65_536, False), (300_000, False)])
def test_sendfile_and_splice(mount: Path, tmp_path: Path, size: int, fits: bool) -> None:
    """A pipe cuts at 64 KiB: what is larger is refused, and none of it done."""
    (tmp_path / "record").write_bytes(build(digest(bytes(size))))
    source = os.open(tmp_path / "record", os.O_RDONLY)
    raw = configured(mount, "hash", "sha256")
    if fits:
        assert os.sendfile(raw.fd, source, 0, 24 + size) == 24 + size
        (answer,) = parse_responses(os.pread(raw.fd, 1 << 20, 0))
        assert bytes(answer.payload) == hashlib.sha256(bytes(size)).digest()
    else:
        fails(errno.EBADMSG, lambda: os.sendfile(raw.fd, source, 0, 24 + size))
        assert os.pread(raw.fd, 1 << 20, 0) == b""
    raw.close()
    os.close(source)


def fails(number: int, call: Callable[[], object]) -> None:
    """Check that a call fails with this errno."""
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, caught.value


def test_two_writers_make_one_message(mount: Path) -> None:
    """It ends with the last of them, and the bytes of one write stay together."""
    with Context("skcipher", "ctr(aes)", key=bytes(16), mount=mount) as context:
        (context.directory / "ctl").write_text(f"reset iv=hex:{'00' * 16}\n")
        one, two = (os.open(context.directory / "stream", os.O_WRONLY) for _ in range(2))

        def write(stream: int, data: bytes) -> None:
            assert os.write(stream, data) == len(data)
            os.close(stream)

        pieces = (b"a" * 900_000, b"b" * 900_000)
        writers = [threading.Thread(target=write, args=each) for each in zip((one, two), pieces, strict=True)]
        for writer in writers:
            writer.start()
        output = (context.directory / "stream").read_bytes()
        for writer in writers:
            writer.join(20)
        assert len(output) == 1_800_000
        text = context.decrypt(output[:1_000_000], iv=bytes(16))
        text += context.decrypt(output[1_000_000:], iv=(1_000_000 // 16).to_bytes(16, "big"))
        assert text in (pieces[0] + pieces[1], pieces[1] + pieces[0])


def test_only_streams_cannot_be_sought_in(mount: Path) -> None:
    """ESPIPE, which is what pipes say."""
    with Context("hash", "sha256", mount=mount) as context:
        for path, seeks in (
            (context.directory / "stream", False),
            (context.directory / "ctl", True),
            (mount / "crypto", True),
        ):
            descriptor = os.open(path, os.O_RDONLY)
            if seeks:
                assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
                os.pread(descriptor, 10, 0)
            else:
                fails(errno.ESPIPE, lambda file=descriptor: os.lseek(file, 0, os.SEEK_CUR))  # type: ignore[misc]
                fails(errno.ESPIPE, lambda file=descriptor: os.pread(file, 10, 0))  # type: ignore[misc]
            os.close(descriptor)


def test_the_daemon_has_died(own_daemon: Daemon) -> None:
    """poll says so at once; calls are ENOTCONN, but close."""
    raw = configured(own_daemon.mountpoint, "hash", "sha256")
    own_daemon.process.kill()
    own_daemon.process.wait(30)
    assert raw.wait(select.POLLIN) & select.POLLERR
    fails(errno.ENOTCONN, lambda: os.pread(raw.fd, 10, 0))
    fails(errno.ENOTCONN, lambda: os.pwrite(raw.fd, build(digest(b"")), 0))
    own_daemon.kill()
    fails(errno.ENOTCONN, lambda: os.pread(raw.fd, 10, 0))
    raw.close()
