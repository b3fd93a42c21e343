"""What is measured: mounts in processes of their own, round trips on them, and the floors."""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..client import Context
from ..records import Attr, Operation, Record, build

KEY = bytes(range(16))
IV = bytes(16)
BIG = 65_536


def _start(module: tuple[str, ...], mountpoint: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    deadline = time.monotonic() + 60
    while not (mountpoint / "crypto").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"no mount: {log.read_text()}")
        time.sleep(0.02)
    return process


@contextlib.contextmanager
def _mounted(*command: str) -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory(prefix="cryptofs-benchmark.") as directory:
        mountpoint = Path(directory) / "mount"
        mountpoint.mkdir()
        arguments = tuple(word.replace("MOUNT", str(mountpoint)) for word in command)
        process = _start(arguments, mountpoint, Path(directory) / "log")
        try:
            yield mountpoint, process.pid
        finally:
            process.terminate()
            process.wait(30)


def empty_mount() -> contextlib.AbstractContextManager[tuple[Path, int]]:
    """The empty pyfuse3 file system, and its process."""
    return _mounted("cryptofs.benchmark.empty", "MOUNT")


def cryptofs_mount(engine: str) -> contextlib.AbstractContextManager[tuple[Path, int]]:
    """A cryptofs with one engine, and its process."""
    return _mounted("cryptofs", "mount", "MOUNT", "--allow-root", "--engines", engine)


def has_af_alg() -> bool:
    """Whether this kernel has AF_ALG."""
    try:
        socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0).close()
    except OSError:
        return False
    return True


# One timed call


def median_seconds(call: Callable[[], object], seconds: float, least: int = 20) -> float:
    """The median time of a call that is repeated for so many seconds, at least `least` times."""
    clock = time.perf_counter
    times = []
    end = clock() + seconds
    while True:
        begin = clock()
        call()
        now = clock()
        times.append(now - begin)
        if now > end and len(times) >= least:
            return statistics.median(times)


def percentile(times: list[float], share: float) -> float:
    """The time that `share` of the calls keep."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def compare(
    first: Callable[[], object], second: Callable[[], object], seconds: float, rounds: int = 11
) -> tuple[float, float, float]:
    """Two calls, turn by turn so that a noisy neighbour hits both: their medians, and the median ratio."""
    ratios, ones, twos = [], [], []
    for _ in range(rounds):
        one = median_seconds(first, seconds / rounds / 2)
        two = median_seconds(second, seconds / rounds / 2)
        ones.append(one)
        twos.append(two)
        ratios.append(one / two)
    return statistics.median(ones), statistics.median(twos), statistics.median(ratios)


# Round trips through a mount


class RoundTrip:
    """Write prepared buffers, read their answers: as little of the client's own work as can be."""

    def __init__(self, descriptor: int, writes: list[bytes], answer: int) -> None:
        self._descriptor = descriptor
        self._writes = writes
        self._answer = answer
        # a large answer goes into a buffer that is used again, as a program that cares would do it
        self._buffer = [bytearray(answer + 64)] if answer >= BIG else None

    def __call__(self) -> None:
        for data in self._writes:
            os.pwrite(self._descriptor, data, 0)
        left = self._answer
        if self._buffer is not None:
            while left > 0:
                left -= os.preadv(self._descriptor, self._buffer, 0)
            return
        while left > 0:
            left -= len(os.pread(self._descriptor, self._answer + 64, 0))


def record(kind: str, size: int, identity: int = 1) -> tuple[bytes, int]:
    """A request of `size` payload bytes, and the size of its answer."""
    if kind == "sha256":
        return build(Record(Operation.DIGEST, 0, identity, 0, {}, bytes(size))), 24 + 32
    iv = {"cbc(aes)": 16, "gcm(aes)": 12}[kind]
    tag = 16 if kind == "gcm(aes)" else 0
    return build(Record(Operation.ENCRYPT, 0, identity, 0, {Attr.IV: bytes(iv)}, bytes(size))), 24 + size + tag


TYPES = {"sha256": "hash", "cbc(aes)": "skcipher", "gcm(aes)": "aead"}


def open_context(mount: Path, kind: str) -> Context:
    """A context for one of the measured algorithms."""
    return Context(TYPES[kind], kind, None if kind == "sha256" else KEY, mount=mount)


def round_trip(context: Context, kind: str, size: int, batch: int = 1, in_flight: int = 1) -> RoundTrip:
    """A call that makes `in_flight` writes of `batch` records each, and reads all answers."""
    records = [record(kind, size, identity) for identity in range(1, batch * in_flight + 1)]
    writes = [b"".join(data for data, _ in records[at : at + batch]) for at in range(0, len(records), batch)]
    return RoundTrip(context.fileno(), writes, sum(answer for _, answer in records))


@contextlib.contextmanager
def empty_round_trip(mount: Path, size: int) -> Iterator[RoundTrip]:
    """The same amount of bytes through the empty file system."""
    descriptor = os.open(mount / "crypto", os.O_RDWR)
    try:
        yield RoundTrip(descriptor, [bytes(size)], size)
    finally:
        os.close(descriptor)


# Floors without a mount


def direct_new_cipher(size: int) -> Callable[[], object]:
    """AES-CBC by pyca, a Cipher made each time."""
    data = bytes(size)

    def call() -> bytes:
        encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
        return encryptor.update(data) + encryptor.finalize()

    return call


def direct_into(size: int) -> Callable[[], object]:
    """AES-CBC by pyca into a buffer that is used again: the cipher at its fastest."""
    data = bytes(size)
    out = bytearray(size + 16)

    def call() -> int:
        return Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor().update_into(data, out)

    return call


@contextlib.contextmanager
def direct_af_alg(size: int) -> Iterator[Callable[[], object]]:
    """AES-CBC by AF_ALG on a kept operation socket."""
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


def openssl_process(size: int) -> Callable[[], object]:
    """`openssl enc` as a process."""
    data = bytes(size)
    command = ["openssl", "enc", "-aes-128-cbc", "-nopad", "-K", KEY.hex(), "-iv", IV.hex()]

    def call() -> bytes:
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    return call


class Clients:
    """Client processes, each making round trips of its own for so many seconds, all at the same time."""

    def __init__(self, mount: Path, count: int, kind: str, size: int, seconds: float) -> None:
        self._count = count
        self._children = []
        start_reader, self._start = os.pipe()
        self._results, result_writer = os.pipe()
        for _ in range(count):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.close(self._start)
                    os.write(result_writer, f"{_client(mount, kind, size, seconds, start_reader)}\n".encode())
                    status = 0
                finally:
                    os._exit(status)
            self._children.append(child)
        os.close(start_reader)
        os.close(result_writer)

    def go(self) -> None:
        """Let them begin, once each has opened its context."""
        if self._start >= 0:
            time.sleep(0.05 + 0.005 * self._count)
            os.close(self._start)
            self._start = -1

    def rates(self) -> list[float]:
        """Round trips a second of each, when all have ended; 0 for one that failed."""
        self.go()
        with open(self._results) as results:
            rates = [float(line) for line in results]
        for child in self._children:
            os.waitpid(child, 0)
        return rates + [0.0] * (self._count - len(rates))


def _client(mount: Path, kind: str, size: int, seconds: float, start: int) -> float:
    with open_context(mount, kind) as context:
        call = round_trip(context, kind, size)
        call()
        # an end of file is the sign to begin: it comes to all at once
        os.read(start, 1)
        begin = time.perf_counter()
        calls = 0
        while time.perf_counter() - begin < seconds:
            call()
            calls += 1
        return calls / (time.perf_counter() - begin)
