"""The compared operations: round trips through a mount, and the floors that need none.

The client's own work is minimal: requests are built in advance, and answers are checked once before the measurement, so
that an error is never mistaken for a quick success.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..errors import symbol
from ..records import CALL_MAX, Attr, Operation, Record, build, call_command, parse_responses
from .mounts import CannotMeasure
from .turns import Call

KEY = bytes(range(16))
MAC_KEY = bytes(range(32))
IV = bytes(16)
MIB = 1_040_384
"""The largest payload of one record, which the goals call 1 MiB."""
_BIG = 65_536
_IOCTL_LEAST = 256
_EXTRA = 64

TYPES = {"sha256": "hash", "cbc(aes)": "skcipher", "gcm(aes)": "aead"}
_IV_SIZES = {"cbc(aes)": 16, "gcm(aes)": 12}


def request(kind: str, size: int, identity: int = 1) -> bytes:
    """A record that asks for one operation on `size` bytes of payload. kind: one of TYPES."""
    if kind == "sha256":
        return build(Record(Operation.DIGEST, 0, identity, 0, {}, bytes(size)))
    return build(Record(Operation.ENCRYPT, 0, identity, 0, {Attr.IV: bytes(_IV_SIZES[kind])}, bytes(size)))


def configuration(kind: str) -> bytes:
    """The record that configures a context for one of TYPES."""
    attributes: dict[int, int | str | bytes] = {Attr.TYPE: TYPES[kind], Attr.NAME: kind}
    if kind != "sha256":
        attributes[Attr.KEY] = KEY
    return build(Record(Operation.CONFIGURE, 0, 0, 0, attributes))


@contextlib.contextmanager
def opened(file: Path, kind: str | None = None) -> Iterator[int]:
    """A descriptor of a `crypto` file, configured for one of TYPES unless it is a device's."""
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        if kind is not None:
            os.pwrite(descriptor, configuration(kind), 0)
            checked(os.pread(descriptor, 4096, 0))
        yield descriptor
    finally:
        os.close(descriptor)


def checked(answers: bytes | bytearray | memoryview) -> int:
    """The number of whole answers in some bytes. Errors: CannotMeasure if one of them reports a failure."""
    for answer in parse_responses(answers):
        if answer.status:
            message = answer.attributes.get(Attr.MESSAGE, "")
            raise CannotMeasure(f"{answer.operation.word}: {symbol(answer.status)}: {message!s}")
    return len(answers)


def round_trip(descriptor: int, *writes: bytes) -> Call:
    """A call that makes these writes and reads all answers. The answers are checked once, now."""
    for data in writes:
        os.pwrite(descriptor, data, 0)
    expected = pieces = 0
    while data := os.pread(descriptor, 2 * MIB, 0):
        expected += checked(data)
        pieces += 1
    if not expected:
        raise CannotMeasure("the daemon did not answer the records")
    return _exchange(descriptor, list(writes), expected, expected + _EXTRA if pieces == 1 else 2 * MIB)


def empty_round_trip(descriptor: int, size: int) -> Call:
    """A write of this many bytes to an empty file system, and a read that returns them."""
    return _exchange(descriptor, [bytes(size)], size, size + _EXTRA)


def _exchange(descriptor: int, writes: list[bytes], expected: int, room: int) -> Call:
    pread, pwrite, preadv = os.pread, os.pwrite, os.preadv
    # A large answer is read into a reused buffer, as in a program that cares about speed.
    buffers = [bytearray(room)]
    big = expected >= _BIG

    def once() -> None:
        pwrite(descriptor, writes[0], 0)
        size = preadv(descriptor, buffers, 0) if big else len(pread(descriptor, room, 0))
        if size != expected:
            raise RuntimeError(f"an answer of {size} bytes where {expected} were expected")

    def several() -> None:
        for data in writes:
            pwrite(descriptor, data, 0)
        left = expected
        while left > 0:
            size = preadv(descriptor, buffers, 0) if big else len(pread(descriptor, room, 0))
            if not size:
                raise RuntimeError(f"{left} bytes of the answers are missing")
            left -= size

    return once if len(writes) == 1 and room == expected + _EXTRA else several


# ioctl


def _ioctl_buffer(data: bytes) -> bytes:
    if len(data) > CALL_MAX:
        raise CannotMeasure(f"{len(data)} bytes: an ioctl carries at most {CALL_MAX}")
    # Room for the answer, too: the measured operations have answers no larger than their request, or small ones.
    return data.ljust(_IOCTL_LEAST, b"\0")


def ioctl_call(descriptor: int, data: bytes) -> Call:
    """One record by CRYPTOFS_CALL. Errors: CannotMeasure if the daemon has no such ioctl, or the answer is an error."""
    fresh = _ioctl_buffer(data)
    number = call_command(len(fresh))
    buffer = bytearray(fresh)
    try:
        fcntl.ioctl(descriptor, number, buffer)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        raise CannotMeasure("the daemon has no ioctl CRYPTOFS_CALL: ENOTTY") from None
    checked(buffer[: int.from_bytes(buffer[:4], "little")])
    ioctl = fcntl.ioctl

    def call() -> None:
        # The answer has replaced the request.
        buffer[:] = fresh
        ioctl(descriptor, number, buffer)

    return call


# One use from open to close


def one_shot(file: Path, kind: str, size: int) -> Call:
    """Open, configure, one request, close, by write and read."""
    configure, data = configuration(kind), request(kind, size)
    with opened(file, kind) as descriptor:
        round_trip(descriptor, data)
    open_file, close, pwrite, pread = os.open, os.close, os.pwrite, os.pread

    def call() -> None:
        descriptor = open_file(file, os.O_RDWR)
        pwrite(descriptor, configure, 0)
        pread(descriptor, 4096, 0)
        pwrite(descriptor, data, 0)
        pread(descriptor, size + 4096, 0)
        close(descriptor)

    return call


def one_shot_by_ioctl(file: Path, kind: str, size: int) -> Call:
    """The same by two ioctl calls. Errors: CannotMeasure if the daemon has none."""
    records = [configuration(kind), request(kind, size)]
    with opened(file) as descriptor:
        for record in records:
            # This checks the answer.
            ioctl_call(descriptor, record)
    buffers = [_ioctl_buffer(record) for record in records]
    (configure, first), (data, second) = ((buffer, call_command(len(buffer))) for buffer in buffers)
    open_file, close, ioctl = os.open, os.close, fcntl.ioctl

    def call() -> None:
        descriptor = open_file(file, os.O_RDWR)
        ioctl(descriptor, first, bytearray(configure))
        ioctl(descriptor, second, bytearray(data))
        close(descriptor)

    return call


# Floors without a mount


def repeated(call: Call, count: int) -> Call:
    """A call that makes `count` calls."""

    def calls() -> None:
        for _ in range(count):
            call()

    return calls


def new_cipher(size: int) -> Call:
    """AES-CBC by pyca, with a new Cipher each time."""
    data = bytes(size)

    def call() -> bytes:
        encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
        return encryptor.update(data) + encryptor.finalize()

    return call


def cipher_into(size: int) -> Call:
    """AES-CBC by pyca into a reused buffer: the cipher at its fastest."""
    data = bytes(size)
    out = bytearray(size + 16)

    def call() -> int:
        return Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update_into(data, out)

    return call


@contextlib.contextmanager
def direct_af_alg(size: int) -> Iterator[Call]:
    """AES-CBC by AF_ALG on one operation socket."""
    data = bytes(size)
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0) as bound:
        bound.bind(("skcipher", "cbc(aes)"))
        bound.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, KEY)
        operation, _ = bound.accept()
        with operation:

            def call() -> bytes:
                operation.sendmsg_afalg([data], op=socket.ALG_OP_ENCRYPT, iv=IV)
                return operation.recv(size)

            yield call


def openssl_process(size: int) -> Callable[[], bytes]:
    """`openssl enc` as a process. Errors: CannotMeasure if it is not installed."""
    program = shutil.which("openssl")
    if program is None:
        raise CannotMeasure("no openssl")
    data = bytes(size)
    command = [program, "enc", "-aes-128-cbc", "-nopad", "-K", KEY.hex(), "-iv", IV.hex()]

    def call() -> bytes:
        return subprocess.run(command, input=data, capture_output=True, check=True, timeout=30).stdout

    return call
