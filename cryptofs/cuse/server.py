"""Serving the device: requests of the kernel, which come one by one, go to the threads of their users."""

import errno
import os
import select
import signal
from collections.abc import Callable, Sequence
from functools import partial

from ..errors import InvalidValue, TooLarge
from ..fuse.device import Device
from ..fuse.protocol import (
    HEADER,
    HEADER_SIZE,
    INTERRUPT,
    IOCTL,
    IOCTL_DATA,
    IOCTL_TRANSFER_MAX,
    POLL,
    RELEASE,
    SCHEDULE_NOTIFY,
    Opcode,
)
from ..runner.backend import Backend
from ..runner.devcrypto import Command, Piece, Sessions
from ..wiping import wipe
from .users import OpenFile, Users

_REQUEST_MAX = IOCTL_TRANSFER_MAX + 4096
_READABLE, _WRITABLE = select.POLLIN | select.POLLRDNORM, select.POLLOUT | select.POLLWRNORM
_AT_ONCE = 16384
"""Bytes of a request up to which it is done without a thread: a millisecond for the slowest cipher."""
_ENDING = 5.0
"""Seconds for what is being computed when the server ends."""


class Server:
    """Serves one device until a signal asks it to end."""

    def __init__(self, descriptor: int, backend: Backend, waits: bool) -> None:
        """descriptor: as `open_device` gives it, which this object owns from now on. waits: whether a call may have to
        wait for another process behind the backend.
        """
        self._device = Device(descriptor)
        self._backend = backend
        self._at_once = 0 if waits else _AT_ONCE
        self._users = Users()
        self._files: dict[int, OpenFile] = {}
        self._last = 0
        self._buffer = bytearray(_REQUEST_MAX)

    def serve(self, signals: Sequence[int]) -> bool:
        """Serve until one of these signals comes, or the kernel ends the device; returns whether it was a signal.

        Call it in the main thread.
        """
        waker, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        former = signal.set_wakeup_fd(woken)
        handlers = {number: signal.signal(number, lambda *_: None) for number in signals}
        poll = select.poll()
        poll.register(self._device.descriptor, select.POLLIN)
        poll.register(waker, select.POLLIN)
        try:
            while True:
                ready = {each for each, _ in poll.poll()}
                if waker in ready:
                    return True
                if not self._take():
                    return False
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former)
            os.close(waker)
            os.close(woken)

    def close(self) -> None:
        """End the device, and wipe all keys."""
        self._users.close(_ENDING)
        self._device.close()
        for file in self._files.values():
            file.sessions.close()
        self._files.clear()

    def _take(self) -> bool:
        """Take one request; returns whether the device is still there."""
        try:
            size = os.readv(self._device.descriptor, [self._buffer])
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT):
                return True
            if error.errno == errno.ENODEV:
                return False
            raise
        if not size:
            return False
        view = memoryview(self._buffer)[:size]
        # It may hold keys: only the copy stays, which is wiped when it has been answered.
        request = bytearray(view)
        wipe(view)
        _, opcode, unique, _, uid, *_ = HEADER.unpack_from(request)
        try:
            self._handle(opcode, unique, uid, request)
        except Exception as error:
            self._device.fail(unique, error, f"request {opcode}")
        return True

    def _handle(self, opcode: int, unique: int, uid: int, request: bytearray) -> None:
        device = self._device
        match opcode:
            case Opcode.OPEN:
                self._open(unique, uid)
            case Opcode.RELEASE:
                (handle, *_) = RELEASE.unpack_from(request, HEADER_SIZE)
                self._release(handle)
                device.refuse(unique, 0)
            case Opcode.IOCTL:
                handle, _, command, *_ = IOCTL.unpack_from(request, HEADER_SIZE)
                file = self._file(handle)
                # A key pair takes up to a second, however small its numbers are.
                size = _REQUEST_MAX if command == Command.CIOCKEY else len(request)
                self._do(file, unique, size, partial(self._control, file, unique, request))
            case Opcode.POLL:
                handle, poll_handle, flags, _ = POLL.unpack_from(request, HEADER_SIZE)
                file = self._file(handle)
                file.user.give(
                    unique, partial(self._poll, file, unique, poll_handle if flags & SCHEDULE_NOTIFY else None)
                )
            case Opcode.INTERRUPT:
                (interrupted,) = INTERRUPT.unpack_from(request, HEADER_SIZE)
                # What has begun takes milliseconds, and ends by itself.
                if self._users.interrupt(interrupted):
                    device.refuse(interrupted, errno.EINTR)
            case Opcode.READ | Opcode.WRITE:
                # As of a driver without read(2) and write(2).
                device.refuse(unique, errno.EINVAL)
            case _:
                device.refuse(unique, errno.ENOSYS)

    def _file(self, handle: int) -> OpenFile:
        file = self._files.get(handle)
        if file is None:
            raise InvalidValue(f"handle {handle}: no such file is open")
        return file

    def _open(self, unique: int, uid: int) -> None:
        user = self._users.enter(uid)
        self._last += 1
        self._files[self._last] = OpenFile(user, self._backend)
        if not self._device.give_opened(unique, self._last, seekable=False):
            self._release(self._last)

    def _release(self, handle: int) -> None:
        file = self._files.pop(handle, None)
        if file is not None:
            if self._at_once and file.user.is_idle:
                file.sessions.close()
            else:
                file.user.give_last(file.sessions.close)
            self._users.leave(file.user)

    def _do(self, file: OpenFile, unique: int, size: int, job: Callable[[], None]) -> None:
        """Do it here, or in the thread of its user. The calls of one user never run at the same time."""
        if size <= self._at_once and file.user.is_idle:
            job()
        else:
            file.user.give(unique, job)

    # In the thread of a user, or here

    def _control(self, file: OpenFile, unique: int, request: bytearray) -> None:
        try:
            self._answer(file.sessions, unique, memoryview(request))
        except Exception as error:
            self._device.fail(unique, error, "ioctl")
        finally:
            wipe(request)
        if file.poll_handle is not None:
            self._device.wake(file.poll_handle)
            file.poll_handle = None

    def _answer(self, sessions: Sessions, unique: int, request: memoryview) -> None:
        """Answer an ioctl, or ask for more of the caller's memory.

        The kernel keeps nothing for this server between its attempts, and neither does this server: what the attempt
        has brought says by itself whether it is all. Another thread of the program may change the structure between two
        attempts. Then the plan is another one, and so are its sizes, or the program gets what it asked for.
        """
        _, _, number, argument, in_size, out_size = IOCTL.unpack_from(request, HEADER_SIZE)
        data = request[IOCTL_DATA : IOCTL_DATA + in_size]
        command = sessions.command(number)
        head = [(argument, command.input_size)] if command.input_size else []
        if len(data) < command.input_size:
            self._device.ask_for_memory(unique, head, [])
            return
        plan = sessions.plan(command, argument, data[: command.input_size])
        reads, writes = [*head, *plan.reads], plan.writes
        if (in_size, out_size) != (_total(reads), _total(writes)):
            self._device.ask_for_memory(unique, reads, writes)
            return
        self._device.give_controlled(unique, b"".join(plan.run(plan.split(data[command.input_size :]))))

    def _poll(self, file: OpenFile, unique: int, poll_handle: int | None) -> None:
        sessions = file.sessions
        events = (_READABLE if sessions.has_results else 0) | (_WRITABLE if sessions.has_room else 0)
        file.poll_handle = poll_handle
        self._device.give_polled(unique, events)


def _total(pieces: Sequence[Piece]) -> int:
    """The bytes of pieces. Errors: TooLarge for more than the kernel moves."""
    size = sum(size for _, size in pieces)
    if size > IOCTL_TRANSFER_MAX:
        raise TooLarge(f"{size} bytes for one call: a CUSE device takes {IOCTL_TRANSFER_MAX} in each direction")
    return size
