"""CRYPTOFS_CALL on a live mount: from C with the generated header, from Python, from threads and forked children."""

import ctypes
import errno
import fcntl
import hashlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.compiling import compiled
from helpers.machine import TESTS
from helpers.waiting import PATIENCE, wait_until

from cryptofs.client import Context
from cryptofs.records import (
    ATTRIBUTE_HEADER_SIZE,
    CALL_MAX,
    HEADER_SIZE,
    Attr,
    Flag,
    Operation,
    Record,
    build,
    call_command,
    parse_responses,
)
from cryptofs.records.header import c_header

pytestmark = pytest.mark.mount

ABC = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def call(descriptor: int, record: Record, room: int = 4096) -> Record:
    """One record by ioctl. Errors: OSError."""
    buffer = bytearray(build(record).ljust(room, b"\0"))
    fcntl.ioctl(descriptor, call_command(room), buffer)
    size = int.from_bytes(buffer[:4], "little")
    (response,) = parse_responses(buffer[:size])
    return response


@pytest.fixture
def header(tmp_path: Path) -> Path:
    """The directory of the header that `cryptofs header` prints."""
    command = [sys.executable, "-m", "cryptofs", "header"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60 * PATIENCE).stdout
    assert text == c_header()
    (tmp_path / "cryptofs.h").write_text(text)
    return tmp_path


def test_the_header_says_what_the_definition_says(header: Path) -> None:
    """Compiled, it has the definition's sizes, numbers and command, in C and in C++ alike."""
    names = [f"CRYPTOFS_{each.name}" for each in Operation] + [f"CRYPTOFS_ATTR_{each.name}" for each in Attr]
    names += [f"CRYPTOFS_FLAG_{each.name}" for each in Flag]
    names += ["sizeof(struct cryptofs_header)", "sizeof(struct cryptofs_attribute)", "CRYPTOFS_CALL(1000)"]
    names += ["offsetof(struct cryptofs_header, id)", "offsetof(struct cryptofs_header, attributes_size)"]
    lines = "".join(f'printf("%lu\\n", (unsigned long){name});\n' for name in names)
    source = header / "show.c"
    source.write_text(f'#include <stddef.h>\n#include <stdio.h>\n#include "cryptofs.h"\nint main(void) {{\n{lines}}}\n')
    for compiler in (["cc", "-std=c11"], ["cc", "-x", "c++"]):
        subprocess.run(
            [*compiler, "-Wall", "-Werror", "-o", header / "show", source], check=True, timeout=60 * PATIENCE
        )
        shown = subprocess.run(
            [header / "show"], capture_output=True, text=True, check=True, timeout=10 * PATIENCE
        ).stdout
        expected = [*map(int, Operation), *map(int, Attr), *map(int, Flag), HEADER_SIZE, ATTRIBUTE_HEADER_SIZE]
        assert [int(line) for line in shown.split()] == [*expected, call_command(1000), 8, 20]


def test_a_client_in_c(mount: Path, header: Path, tmp_path: Path) -> None:
    """call.c: 25 lines, one ioctl for each request; an error shows the daemon's message."""
    program = compiled("call", tmp_path, header)
    done = subprocess.run([program, mount, "abc"], capture_output=True, timeout=20 * PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, ABC.hex().encode() + b"\n", b"")
    done = subprocess.run([program, "/", "abc"], capture_output=True, timeout=20 * PATIENCE, check=False)
    assert done.returncode == 1
    source = TESTS / "clients" / "call.c"
    assert len(source.read_text().splitlines()) <= 32


def test_every_size_up_to_the_largest(mount: Path) -> None:
    """The answer is the request's own, and as large as the buffer may be."""
    key, iv = os.urandom(32), os.urandom(16)
    with Context("skcipher", "cbc(aes)", key, mount=mount) as context:
        for size in (16, 1024, 4096, 8192, 16_320 // 16 * 16):
            data = os.urandom(size)
            record = Record(Operation.ENCRYPT, id=size, attributes={Attr.IV: iv}, payload=data)
            if len(build(record)) > CALL_MAX:
                continue
            answer = call(context.fileno(), record, CALL_MAX)
            assert bytes(answer.payload) == context.encrypt(data, iv)


def test_threads_and_children_share_a_descriptor(mount: Path) -> None:
    """Each call has its own answer, whatever the others' ids are; nothing is left to be read."""
    with Context("hash", "sha256", mount=mount) as context:
        descriptor = context.fileno()

        def work(seed: int) -> None:
            for number in range(200):
                data = struct.pack("<QQ", seed, number) * (1 + number % 50)
                answer = call(descriptor, Record(Operation.DIGEST, id=1, payload=data))
                assert bytes(answer.payload) == hashlib.sha256(data).digest()

        failures: list[BaseException] = []

        def guarded(seed: int) -> None:
            try:
                work(seed)
            except BaseException as error:
                failures.append(error)

        children = []
        for seed in range(3):
            child = os.fork()
            if not child:
                try:
                    work(100 + seed)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        assert os.pread(descriptor, 4096, 0) == b""


def test_refusals(mount: Path) -> None:
    """Other ioctls are ENOTTY, on every file; what does not fit is EMSGSIZE; a pointer in the buffer goes nowhere."""
    with Context("hash", "sha256", mount=mount) as context:
        descriptor = context.fileno()
        for command in (0x5401, call_command(64) ^ 1, call_command(64) & ~(1 << 30)):
            with pytest.raises(OSError) as caught:
                fcntl.ioctl(descriptor, command, bytearray(64))
            assert caught.value.errno == errno.ENOTTY
        assert not os.isatty(descriptor)
        with pytest.raises(OSError) as caught:
            call(descriptor, Record(Operation.DIGEST, id=1, payload=b"abc"), HEADER_SIZE + 31)
        assert caught.value.errno == errno.EMSGSIZE
        assert context.status()["completed"] == "1", "nothing was done but configure"
        with (mount / "version").open("rb") as file, pytest.raises(OSError) as caught:
            fcntl.ioctl(file.fileno(), call_command(64), bytearray(64))
        assert caught.value.errno == errno.ENOTTY


def test_a_directory_takes_no_call(mount: Path) -> None:
    """Its handles are numbered apart from those of files: a call on one must never come to anybody's context."""
    with Context("hash", "hmac(sha256)", os.urandom(32), mount=mount) as context:
        buffer = bytearray(build(Record(Operation.DIGEST, id=1, payload=b"abc")).ljust(256, b"\0"))
        # handles have small numbers in their order: one of these is the context's
        for directory in ("", "contexts", "devices", f"contexts/{context.number}") * 20:
            descriptor = os.open(mount / directory, os.O_RDONLY)
            try:
                with pytest.raises(OSError) as caught:
                    fcntl.ioctl(descriptor, call_command(256), buffer)
            finally:
                os.close(descriptor)
            assert caught.value.errno == errno.ENOTTY
        assert context.status()["completed"] == "1", "configure, and nothing else"


def test_a_null_buffer_is_the_kernels_error(mount: Path) -> None:
    """EFAULT, before anything comes to the daemon."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Context("hash", "sha256", mount=mount) as context:
        assert libc.ioctl(context.fileno(), call_command(64), ctypes.c_void_p(0)) == -1
        assert ctypes.get_errno() == errno.EFAULT


def test_configure_by_ioctl(mount: Path) -> None:
    """The single call of the original proposal; a second one is EBUSY in its answer."""
    descriptor = os.open(mount / "crypto", os.O_RDWR)
    try:
        attributes = {Attr.TYPE: "hash", Attr.NAME: "hmac(sha256)", Attr.KEY: b"key"}
        configure = Record(Operation.CONFIGURE, id=1, attributes=attributes)
        assert call(descriptor, configure).status == 0
        again = call(descriptor, configure)
        assert (again.status, again.id) == (errno.EBUSY, 1)
        assert len(call(descriptor, Record(Operation.DIGEST, id=2, payload=b"x")).payload) == 32
    finally:
        os.close(descriptor)


def waits_for_data(pid: int) -> bool:
    """Whether cat has opened its file and sleeps. Not every kernel tells in what: cat has nothing else to wait for."""
    opened = Path(f"/proc/{pid}/fd/3").exists()
    return opened and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"


def test_a_signal_ends_a_read_at_once(mount: Path) -> None:
    """A reader of a stream that is fed by somebody else: it ends by the signal, not some time later."""
    with Context("hash", "sha256", mount=mount) as context:
        path = context.directory / "stream"
        writer = os.open(path, os.O_WRONLY)
        os.write(writer, b"abc")
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until(lambda pid=reader.pid: waits_for_data(pid))  # type: ignore[misc]
            # between the open and the read it may sleep for a moment
            time.sleep(0.2)
            assert waits_for_data(reader.pid)
            reader.send_signal(number)
            assert reader.wait(5 * PATIENCE) == -number
        os.close(writer)
        assert path.read_bytes() == ABC
