"""Another process: its memory, its descriptors, and what its threads wait for."""

import contextlib
import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Sequence

from ..errors import InvalidValue, SystemFault, TooLarge
from ..wiping import wipe
from . import libc
from .libc import Data, Pieces

_IOVEC = struct.Struct("=QQ")
MOVED_MAX = 0x7FFFF000
"""Bytes that one system call moves at most."""
_MEMORY_END = 1 << 56
"""No program has memory from here on, on any machine."""
_LOOKS, _LOOK_SECONDS = 20, 0.0002


class Memory:
    """The memory of a thread's process, and its descriptors.

    Errors: SystemFault (EFAULT for memory that is not there).
    """

    __slots__ = ("tid",)

    def __init__(self, tid: int) -> None:
        self.tid = tid

    def read(self, address: int, size: int) -> Data:
        """Bytes at an address."""
        return self.gather([(address, size)], size)

    def write(self, address: int, data: Data) -> None:
        """Put bytes at an address."""
        self.scatter([(address, len(data))], data)

    def read_key(self, address: int, size: int) -> bytearray:
        """Bytes at an address, of which no other copy is made."""
        key = bytearray(size)
        try:
            libc.read_into(self.tid, [(address, size)], key)
        except OSError as error:
            raise _fault(error) from None
        return key

    def gather(self, pieces: Pieces, total: int) -> Data:
        """The first `total` bytes of these pieces."""
        if not total:
            return b""
        try:
            return libc.read_memory(self.tid, pieces, total)
        except OSError as error:
            raise _fault(error) from None

    def scatter(self, pieces: Pieces, data: Data) -> None:
        """Put bytes into these pieces, which have room for them."""
        if not data:
            return
        try:
            libc.write_memory(self.tid, pieces, data)
        except OSError as error:
            raise _fault(error) from None

    def take_descriptor(self, number: int) -> int:
        """A duplicate of a descriptor."""
        return self._checked(take_descriptor(self.tid, number))

    def take_pipe(self, number: int) -> int:
        """A descriptor to read from a pipe, or to ask about it: the pipe opened again, so that no read waits.

        Where its owner does not allow that, it is a duplicate. Errors: SystemFault; InvalidValue for another file.
        """
        path = f"/proc/{self.tid}/fd/{number}"
        try:
            if not stat.S_ISFIFO(os.stat(path).st_mode):
                raise InvalidValue(f"descriptor {number} is no pipe")
            return self._checked(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except PermissionError:
            return self.take_descriptor(number)
        except FileNotFoundError:
            raise SystemFault(f"descriptor {number}: not open", errno.EBADF) from None
        except OSError as error:
            raise SystemFault.of(error, f"descriptor {number}") from None

    def check(self) -> None:
        """Errors: SystemFault if the thread does not wait for its answer any longer, as far as that matters."""

    def _checked(self, descriptor: int) -> int:
        """A descriptor that was taken, if the thread still waits."""
        try:
            self.check()
        except SystemFault:
            os.close(descriptor)
            raise
        return descriptor

    def pieces(self, address: int, count: int) -> list[tuple[int, int]]:
        """An array of struct iovec. Errors: TooLarge for more than a call takes; InvalidValue for a negative size."""
        if count > libc.PIECES_MAX:
            raise TooLarge(f"{count} pieces of memory: at most {libc.PIECES_MAX}")
        if count == 1:
            pieces = [_IOVEC.unpack(self.read(address, _IOVEC.size))]
        else:
            pieces = list(_IOVEC.iter_unpack(self.read(address, _IOVEC.size * count)))
        return checked(pieces)


class GuardedMemory(Memory):
    """That of somebody else's process, and never that of another one which has got the thread's number meanwhile.

    check: raises SystemFault if the thread does not wait for its answer any longer; another one cannot have its number
    as long as it does.
    """

    __slots__ = ("_check",)

    def __init__(self, tid: int, check: Callable[[], None]) -> None:
        super().__init__(tid)
        self._check = check

    def check(self) -> None:
        self._check()

    def read_key(self, address: int, size: int) -> bytearray:
        key = super().read_key(address, size)
        try:
            self._check()
        except SystemFault:
            wipe(key)
            raise
        return key

    def gather(self, pieces: Pieces, total: int) -> Data:
        data = super().gather(pieces, total)
        self._check()
        return data

    def scatter(self, pieces: Pieces, data: Data) -> None:
        if not data:
            return
        try:
            memory = libc.open_memory(self.tid, writes=True)
        except OSError as error:
            raise _fault(error) from None
        try:
            self._check()
            libc.move_by_open_file(memory, True, pieces, memoryview(data))
        except OSError as error:
            raise _fault(error) from None
        finally:
            os.close(memory)


class ContainersMemory(GuardedMemory):
    """That of a process in a container, which does not have the keyrings of this one."""

    __slots__ = ()


def checked(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pieces as given. Errors: InvalidValue for a negative size; SystemFault (EFAULT) for what no program can have."""
    for address, size in pieces:
        if size >> 63:
            raise InvalidValue("a piece of memory with a negative size")
        check_address(address, size)
    return list(pieces)


def check_address(address: int, size: int) -> None:
    """What the kernel checks first, whether it is going to use the memory or not. Errors: SystemFault (EFAULT)."""
    if address + size > _MEMORY_END:
        raise SystemFault(f"{size} bytes of memory at {address:#x}", errno.EFAULT)


def size_of(pieces: Pieces) -> int:
    """The bytes of pieces that one call moves."""
    total = 0
    for _, size in pieces:
        total += size
    return total if total < MOVED_MAX else MOVED_MAX


def _fault(error: OSError) -> SystemFault:
    # ESRCH: the thread has been killed. EPERM: the program has become one that nobody may look into.
    return SystemFault.of(error, "the program's memory")


def take_descriptor(tid: int, number: int) -> int:
    """A duplicate of a descriptor of a thread's process. Errors: SystemFault."""
    try:
        pidfd = os.pidfd_open(leader(tid))
        try:
            return libc.take_descriptor(pidfd, number)
        finally:
            os.close(pidfd)
    except OSError as error:
        what = f"descriptor {number} of the program"
        if error.errno == errno.EPERM:
            what += ": pidfd_getfd is refused; a container needs the capability SYS_PTRACE (docs/legacy.md)"
        raise SystemFault.of(error, what) from None


def leader(tid: int) -> int:
    """The thread that gives a thread's process its number."""
    with open(f"/proc/{tid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))


def is_free(tid: int, number: int) -> bool:
    """Whether a descriptor's number is not in use."""
    try:
        os.readlink(f"/proc/{tid}/fd/{number}")
    except FileNotFoundError:
        return True
    except OSError as error:
        raise SystemFault.of(error, "the program's descriptors") from None
    return False


def is_nonblocking(tid: int, number: int) -> bool:
    """Whether an open file has O_NONBLOCK."""
    return bool(flags_of(tid, number) & os.O_NONBLOCK)


def flags_of(tid: int, number: int) -> int:
    """The flags of an open file, with O_CLOEXEC as the descriptor's."""
    try:
        with open(f"/proc/{tid}/fdinfo/{number}") as information:
            return next(int(line.split()[1], 8) for line in information if line.startswith("flags:"))
    except OSError as error:
        raise SystemFault.of(error, "the program's descriptors") from None


def is_in_call(tid: int, number: int) -> bool:
    """Whether a thread waits in this system call. It may have been interrupted by a signal.

    A thread that stays on its way, because the machine is busy, counts as in the call: an answer that it does not take
    stays where the next receive finds it, but one that it is not given would be missing for ever.
    """
    for _ in range(_LOOKS):
        word = ""
        with contextlib.suppress(OSError), open(f"/proc/{tid}/syscall") as state:
            word = state.read().split(" ", 1)[0].strip()
        if word != "running":
            return word == str(number)
        time.sleep(_LOOK_SECONDS)
    return True
