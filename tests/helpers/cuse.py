"""The kernel's end of a CUSE device, and devices in processes of their own."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from helpers.devcrypto import Memory, Program
from helpers.serving import Serving
from helpers.waiting import PATIENCE

from cryptofs.fuse import protocol

CUSE = Path("/dev/cuse")
_devices = itertools.count()


def has_cuse() -> bool:
    """Whether a CUSE device can be made here."""
    if os.geteuid():
        return False
    with contextlib.suppress(OSError):
        subprocess.run(["modprobe", "-q", "cuse"], check=False, timeout=20 * PATIENCE)
    try:
        os.close(os.open(CUSE, os.O_RDWR))
    except OSError:
        return False
    return True


class Kernel:
    """Sends requests to a server and takes its answers, as the kernel would."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._numbers = itertools.count(2, 2)
        self._answers: dict[int, bytes] = {}
        self._came = threading.Condition()
        self.woken: list[int] = []
        self.rounds = 0
        """Attempts of all ioctls so far."""
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the device."""
        self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join(10 * PATIENCE)
        self._end.close()

    def _take(self) -> None:
        while data := self._end.recv(1 << 20):
            header = protocol.OUT_HEADER.parse(data)
            assert header.length == len(data)
            with self._came:
                if header.unique:
                    assert header.unique not in self._answers, "a request was answered twice"
                    self._answers[header.unique] = data
                else:
                    self.woken.append(protocol.POLL_WAKEUP.parse(data[16:]).poll_handle)
                self._came.notify_all()

    def send(self, opcode: int, body: bytes, uid: int = 1000) -> int:
        """Send a request; returns its number."""
        unique = next(self._numbers)
        header = {
            "length": 40 + len(body), "opcode": opcode, "unique": unique, "inode": 0, "uid": uid, "gid": uid,
            "pid": 0, "extensions": 0, "padding": 0,
        }  # fmt: skip
        self._end.send(protocol.IN_HEADER.build(header) + body)
        return unique

    def has(self, unique: int) -> bool:
        """Whether a request has been answered."""
        return unique in self._answers

    def answer(self, unique: int, seconds: float = 20) -> bytes:
        """What a request is answered with. Errors: OSError."""
        with self._came:
            assert self._came.wait_for(lambda: unique in self._answers, seconds * PATIENCE), "no answer"
            data = self._answers[unique]
        error = protocol.OUT_HEADER.parse(data).error
        if error:
            raise OSError(-error, os.strerror(-error))
        return data[16:]

    def open(self, uid: int = 1000) -> int:
        """Open the device; returns the handle."""
        answer = self.answer(self.send(protocol.Opcode.OPEN, bytes(8), uid))
        handle: int = protocol.OPEN_OUT.parse(answer).handle
        return handle

    def release(self, handle: int) -> None:
        """Close a handle."""
        body = protocol.RELEASE_IN.build({"handle": handle, "flags": 0, "release_flags": 0, "lock_owner": 0})
        self.answer(self.send(protocol.Opcode.RELEASE, body))

    def poll(self, handle: int, poll_handle: int = 0) -> int:
        """Poll a handle; returns what it is ready for. poll_handle: of a poller that waits."""
        flags = protocol.SCHEDULE_NOTIFY if poll_handle else 0
        body = {"handle": handle, "poll_handle": poll_handle, "flags": flags, "events": 0}
        answer = self.answer(self.send(protocol.Opcode.POLL, protocol.POLL_IN.build(body)))
        events: int = protocol.POLL_OUT.parse(answer).events
        return events

    def attempt(self, handle: int, command: int, argument: int, data: bytes = b"", room: int = 0) -> int:
        """Send one attempt of an ioctl."""
        body = {
            "handle": handle, "flags": 2, "command": command, "argument": argument, "in_size": len(data),
            "out_size": room,
        }  # fmt: skip
        return self.send(protocol.Opcode.IOCTL, protocol.IOCTL_IN.build(body) + data)

    def ioctl(self, handle: int, command: int, argument: int, memory: Memory) -> None:
        """An ioctl with all its attempts, between which the memory is read again. Errors: OSError, SystemFault."""
        reads: list[tuple[int, int]] = []
        writes: list[tuple[int, int]] = []
        while True:
            self.rounds += 1
            data = b"".join(memory.read(*piece) for piece in reads)
            answer = self.answer(self.attempt(handle, command, argument, data, sum(size for _, size in writes)))
            head = protocol.IOCTL_OUT.parse(answer)
            rest = answer[16:]
            if not head.flags & protocol.IOCTL_RETRY:
                assert len(rest) <= sum(size for _, size in writes)
                for address, size in writes:
                    memory.write(address, rest[:size])
                    rest = rest[size:]
                return
            vectors = [(address, length) for address, length in protocol.VECTOR.iter_unpack(rest)]
            reads, writes = vectors[: head.in_vectors], vectors[head.in_vectors :]
            assert len(writes) == head.out_vectors
            for pieces in (reads, writes):
                assert sum(size for _, size in pieces) <= protocol.IOCTL_TRANSFER_MAX

    def program(self, handle: int) -> Program:
        """A program that has this handle."""
        memory = Memory()
        return Program(memory, lambda command, argument: self.ioctl(handle, command, argument, memory))


class Device(Serving):
    """`cryptofs cuse` in a process of its own."""

    def __init__(self, name: str, *arguments: str, log: Path) -> None:
        self.path = Path("/dev") / name
        super().__init__("cuse", "--name", name, *arguments, ready=": ready", log=log)


@contextlib.contextmanager
def device(directory: Path, *arguments: str) -> Iterator[Device]:
    """A device with a name of its own, which must end well."""
    directory.mkdir(exist_ok=True)
    made = Device(f"crypto-test-{os.getpid()}-{next(_devices)}", *arguments, log=directory / "log")
    try:
        yield made
        assert made.stop() in (0, -signal.SIGKILL), made.log
        assert "Traceback" not in made.log, made.log
        assert not made.path.exists()
    finally:
        if made.process.poll() is None:
            made.kill()
