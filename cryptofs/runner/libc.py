"""System calls that Python does not have: every call by ctypes is here. All raise OSError."""

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Callable, Sequence

from .numbers import machine

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_SET_MODE_FILTER = 1
_NEW_LISTENER, _SPEC_ALLOW, _WAIT_KILLABLE_RECV = 8, 4, 32
_NO_NEW_PRIVS, _CHILD_SUBREAPER, _DUMPABLE = 38, 36, 4
_SIGNALFD_CLOEXEC = 0o2000000
_PROGRAM = struct.Struct("=HxxxxxxQ")
PIECES_MAX = 1024
"""Pieces of memory that one call takes."""

Data = bytes | bytearray
Pieces = Sequence[tuple[int, int]]
"""Pieces of another process's memory: address, size."""


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _checked(value: int) -> int:
    if value < 0:
        raise _failed()
    return value


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def set_no_new_privileges() -> None:
    """No program that this process executes gains privileges by it."""
    _prctl(_NO_NEW_PRIVS, 1)


def become_subreaper() -> None:
    """Be the parent of all descendants whose parents end."""
    _prctl(_CHILD_SUBREAPER, 1)


def forbid_looking_in() -> None:
    """No process of the same user may read this one's memory, and it leaves no core: it has the program's keys."""
    _prctl(_DUMPABLE, 0)


def has_capabilities() -> bool:
    """Whether this process may do what processes of its user may not do in general."""
    with open("/proc/self/status") as status:
        return any(line.startswith("CapEff:") and int(line.split()[1], 16) for line in status)


def allow_open_files(wanted: int) -> None:
    """Have this process open so many files, as far as its hard limit allows it, or more if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def install_filter(program: bytes) -> int:
    """Put a seccomp filter on this thread; returns the descriptor of its listener.

    A call that the listener has taken is interrupted by fatal signals only: otherwise the kernel would repeat it.
    """
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(_PROGRAM.pack(len(program) // 8, ctypes.addressof(code)))
    flags = _NEW_LISTENER | _WAIT_KILLABLE_RECV | _SPEC_ALLOW
    return _checked(
        _syscall(machine().numbers["seccomp"], ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(flags), head)
    )


def take_descriptor(pidfd: int, number: int) -> int:
    """A duplicate of another process's descriptor."""
    return _checked(_syscall(machine().numbers["pidfd_getfd"], pidfd, number, 0))


def open_signals(numbers: Sequence[int]) -> int:
    """A descriptor that is readable when a blocked signal is pending; it gives struct signalfd_siginfo."""
    mask = ctypes.create_string_buffer(128)
    struct.pack_into("=Q", mask, 0, sum(1 << number - 1 for number in numbers))
    return _checked(_libc.signalfd(-1, mask, _SIGNALFD_CLOEXEC))


_read, _write = _libc.process_vm_readv, _libc.process_vm_writev
_read.restype = _write.restype = ctypes.c_ssize_t
_PIECE = struct.Struct("=QQ")
"""struct iovec."""


def _address_of(data: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(data)).from_buffer(data))


# They are kept, packed and given as objects, because all else that ctypes offers costs as much as the call. Only one
# thread uses them.
_pack_piece = _PIECE.pack_into
_remote = bytearray(PIECES_MAX * _PIECE.size)
_remote_at, _remote_count = ctypes.c_void_p(_address_of(_remote)), ctypes.c_ulong()
_local = bytearray(_PIECE.size)
_local_at, _local_count = ctypes.c_void_p(_address_of(_local)), ctypes.c_ulong(1)
_no_flags = ctypes.c_ulong(0)
_SCRATCH = 65536
_scratch = bytearray(_SCRATCH)
_scratch_at = _address_of(_scratch)


def _move(call: Callable[..., int], pid: int, pieces: Pieces, address: int, total: int) -> None:
    """Copy `total` bytes between this process's memory at an address, and pieces of another one's."""
    _pack_piece(_local, 0, address, total)
    at, left = 0, total
    for piece, size in pieces:
        if left <= 0:
            break
        if size:
            _pack_piece(_remote, at, piece, size if size < left else left)
            at += _PIECE.size
            left -= size
    _remote_count.value = at // _PIECE.size
    moved = call(pid, _local_at, _local_count, _remote_at, _remote_count, _no_flags)
    if moved == total:
        return
    if moved < 0:
        error = _failed()
        if error.errno != errno.EPERM:
            raise error
        _move_by_file(error, call is _write, pid, pieces, address, total)
    else:
        raise _missing()


def _missing() -> OSError:
    """The memory is not there, or not all of it."""
    return OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def _move_by_file(refused: OSError, writes: bool, pid: int, pieces: Pieces, address: int, total: int) -> None:
    """What _move does, by /proc: filters of containers may refuse its calls, as that of docker 20.10 does.

    The kernel checks the same rights at the open. refused: what the call has raised, for memory that nobody may see.
    """
    data = memoryview((ctypes.c_char * total).from_address(address)).cast("B")
    try:
        memory = open_memory(pid, writes)
    except OSError:
        raise refused from None
    try:
        move_by_open_file(memory, writes, pieces, data)
    finally:
        os.close(memory)


def open_memory(pid: int, writes: bool) -> int:
    """A descriptor that stands for a process's memory, whoever gets its number later."""
    return os.open(b"/proc/%d/mem" % pid, (os.O_WRONLY if writes else os.O_RDONLY) | os.O_CLOEXEC)


def move_by_open_file(memory: int, writes: bool, pieces: Pieces, data: memoryview) -> None:
    """Copy bytes between a buffer and pieces of such a memory."""
    done = 0
    try:
        for piece, size in pieces:
            part = data[done : done + size]
            if part and (os.pwrite(memory, part, piece) if writes else os.preadv(memory, [part], piece)) != len(part):
                raise _missing()
            done += len(part)
    except (OSError, OverflowError):
        # EIO, or an address that no file has.
        raise _missing() from None


def read_memory(pid: int, pieces: Pieces, total: int) -> Data:
    """The first `total` bytes of pieces of a process's memory."""
    if total > _SCRATCH:
        data = bytearray(total)
        read_into(pid, pieces, data)
        return data
    _move(_read, pid, pieces, _scratch_at, total)
    return bytes(_scratch[:total])


def check_memory(pid: int) -> None:
    """Raise what keeps this process from reading the memory of its child, which has executed nothing yet."""
    read_memory(pid, [(_scratch_at, 1)], 1)


def read_into(pid: int, pieces: Pieces, data: bytearray) -> None:
    """The same, into the caller's buffer and nowhere else: for keys."""
    if data:
        _move(_read, pid, pieces, _address_of(data), len(data))


def write_memory(pid: int, pieces: Pieces, data: Data) -> None:
    """Copy bytes into a process's memory, which has room for them."""
    total = len(data)
    if total <= _SCRATCH:
        _scratch[:total] = data
        _move(_write, pid, pieces, _scratch_at, total)
    else:
        whole = data if isinstance(data, bytearray) else bytearray(data)
        _move(_write, pid, pieces, _address_of(whole), total)
