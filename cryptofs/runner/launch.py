"""Starting a program under a supervisor.

Three processes: the front, which the caller sees; the supervisor; and the program, its child. The supervisor has a
session of its own, so that the terminal's signals do not reach it, and it is the parent of every descendant that
outlives its own parent. It ends with the last of them. The front waits for the program alone: it passes signals on,
stops when the program stops, and ends as the program ends.
"""

import contextlib
import errno
import fcntl
import gc
import logging
import os
import resource
import select
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import NoReturn

from ..errors import CryptofsError, SystemFault, printable
from . import libc
from .filter import assemble
from .front import SIGNALS, Message, wait
from .notify import GuardedListener, Listener
from .numbers import Machine, machine
from .rules import AF_ALG, PROBE, rules
from .shim import ALIAS, preload
from .supervisor import PROBED, Answers, Supervisor

NOT_STARTED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
"""Exit statuses, as `env` has them."""
_SHELL = "/bin/sh"
_OPEN_FILES = 4096
"""Descriptors that the program may have at least, where its hard limit allows it: ours have high numbers."""
_OPEN_FILES_HERE = 65536
"""Descriptors of the supervisor: one for each of the program's sockets, in all of its processes."""
_WHY = {
    errno.EINVAL: "the kernel has no user notification for seccomp with WAIT_KILLABLE_RECV: you need Linux 5.19",
    errno.ENOSYS: "the kernel has no seccomp: you need Linux 5.19",
    errno.EBUSY: "another supervisor already has the system calls of this process: run it outside of that one",
}


@dataclass(frozen=True)
class Settings:
    """How to run a program. engines: those in the supervisor; mount: the mount whose daemon computes in their place;
    wide: serve descriptors below 512, too; devcrypto: serve /dev/crypto; shim: the library that asks for the alias of
    AF_ALG."""

    program: Sequence[str]
    engines: Sequence[str]
    mount: Path | None = None
    wide: bool = False
    devcrypto: bool = False
    shim: Path | None = None


def run(settings: Settings) -> int:
    """Run a program to its end; returns its exit status, or ends by its signal. Errors: CryptofsError."""
    here = machine()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    front, back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = os.fork()
    if not supervisor:
        front.close()
        _supervise(here, settings, back, before)
    back.close()
    with front:
        return wait(front, supervisor)


# The supervisor


def _supervise(here: Machine, settings: Settings, back: socket.socket, before: set[int]) -> NoReturn:
    status = 0
    try:
        libc.become_subreaper()
        taken, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        go, start = os.pipe()
        child = os.fork()
        if not child:
            os.close(start)
            back.close()
            taken.close()
            _become(here, settings, before, told, go)
        told.close()
        os.close(go)
        # Only now: the program is to be one that this process may look into.
        libc.forbid_looking_in()
        libc.allow_open_files(_OPEN_FILES_HERE)
        _detach(back)
        back.send(Message.STARTED.pack(child))
        _, descriptors, _, _ = socket.recv_fds(taken, 1, 1)
        taken.close()
        # Without one the program could not be filtered, and has said so.
        if descriptors:
            _check_access(child)
            listener = (GuardedListener if libc.has_capabilities() else Listener)(descriptors[0])
            supervisor = Supervisor(here, listener, partial(_load, here, settings))
            os.close(start)
            _Family(supervisor, child, back).serve()
            supervisor.close()
        back.send(Message.ENDED.pack(_reap(child)))
    except BaseException as error:
        # Nobody sees a traceback of this process. Calls that wait get ENOSYS when it ends.
        status = 1
        with contextlib.suppress(OSError):
            said = error.message if isinstance(error, CryptofsError) else f"{type(error).__name__}: {error}"
            back.send(Message.FAILED.text(said))
    finally:
        os._exit(status)


def _load(here: Machine, settings: Settings, listener: Listener, poll: select.epoll) -> Answers:
    """What answers the program's calls, with its first one. Errors: those of the engines, and of finding the mount."""
    # Modules stay, so scanning them for garbage while they come would only take time.
    gc.disable()
    try:
        from .answers import HandledCalls, devcrypto, open_backend

        backend = open_backend(settings.mount, settings.engines)
        devices = devcrypto() if settings.devcrypto else {}
        return HandledCalls(here, listener, poll, backend, settings.wide, devices)
    finally:
        gc.enable()


def _detach(back: socket.socket) -> None:
    """Keep nothing of the caller's: its pipes must end with the program, and its terminal's signals pass by."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard, inheritable=False)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                os.close(int(name))
    with contextlib.suppress(FileNotFoundError):
        # `python -m` looks for modules here first. The program may write some here before they are loaded.
        if sys.path and sys.path[0] in ("", os.getcwd()):
            del sys.path[0]
    logging.getLogger("cryptofs").addHandler(_ToFront(back))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _ToFront(logging.Handler):
    """Has the front write log lines, as long as there is one."""

    def __init__(self, back: socket.socket) -> None:
        super().__init__()
        self._back = back

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
            self._back.send(Message.SAYS.text(f"{record.getMessage()} {kind}".rstrip()), socket.MSG_DONTWAIT)


def _check_access(child: int) -> None:
    """Errors: SystemFault if this process may not look into the program. It has ended then."""
    try:
        os.listdir(f"/proc/{child}/fd")
        libc.check_memory(child)
    except OSError:
        os.kill(child, signal.SIGKILL)
        raise SystemFault("the system does not let it look into its own child (ptrace)", errno.EPERM) from None


def _reap(child: int) -> int:
    """Wait for the program, which has ended or is about to."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(child, 0)[1]
    return 0


class _Family:
    """The program and its descendants, as the supervisor's children."""

    def __init__(self, supervisor: Supervisor, child: int, back: socket.socket) -> None:
        self._supervisor = supervisor
        self._child = child
        self._back = back
        self._signals = libc.open_signals([signal.SIGCHLD])

    def serve(self) -> None:
        """Answer calls and tell the front what becomes of the program, until the last process has ended."""
        self._supervisor.watch(self._signals, self._look)
        self._supervisor.watch(self._back.fileno(), self._front_has_gone)
        self._look()
        self._supervisor.serve()

    def _look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(self._signals, False)
            while os.read(self._signals, 4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if not pid:
                    return
                if pid == self._child:
                    message = Message.STOPPED if os.WIFSTOPPED(status) else Message.ENDED
                    with contextlib.suppress(OSError):
                        self._back.send(message.pack(status))

    def _front_has_gone(self) -> None:
        """The front has been killed, or has ended after the program."""
        self._supervisor.forget(self._back.fileno())
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(self._child, signal.SIGKILL)


# The program


def _become(here: Machine, settings: Settings, before: set[int], told: socket.socket, go: int) -> NoReturn:
    """Become the program. told: takes the filter's listener; go: at its end when the supervisor serves."""
    name = settings.program[0]
    status = NOT_STARTED
    try:
        code = assemble(here, rules(settings.wide, settings.devcrypto, settings.shim is not None), AF_ALG)
        path = shutil.which(name)
        libc.allow_open_files(_OPEN_FILES)
        # Python ignores these two. Handlers that it has set go with exec.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with _handing_over(told) as hand_over:
            hand_over(_install(code, path))
        # Not by a read: that may be a call that waits for the supervisor.
        waiting = select.poll()
        waiting.register(go, select.POLLIN)
        waiting.poll()
        os.close(go)
        if settings.shim is None:
            _try_family(AF_ALG, "AF_ALG", "allow it there, or use --shim")
        else:
            _try_family(ALIAS, "what --shim has in place of AF_ALG", "allow AF_ALG there")
            preload(settings.shim)
        status = NOT_EXECUTABLE
        _execute(settings.program, path)
    except CryptofsError as error:
        _complain(error.message)
    except OSError as error:
        if error.errno == errno.ENOENT and status == NOT_EXECUTABLE:
            status = NOT_FOUND
        _complain(f"{printable(name)}: {error.strerror}")
    except BaseException as error:
        _complain(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _execute(program: Sequence[str], path: str | None) -> NoReturn:
    """Execute a program, as `env` does. path: where it was found. Errors: OSError."""
    name = program[0]
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    try:
        os.execvp(name, list(program))
    except OSError as error:
        if error.errno != errno.ENOEXEC or path is None:
            raise
        # A script without a first line that names its interpreter.
        os.execv(_SHELL, [_SHELL, path, *program[1:]])


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"cryptofs run: {text}\n".encode())


@contextlib.contextmanager
def _handing_over(told: socket.socket) -> Iterator[Callable[[int], None]]:
    """What sends the listener to the supervisor and closes it here.

    A thread without the filter does it: with --wide, the filter hands over sendmsg(2) of this very descriptor.
    """
    listeners: SimpleQueue[int | None] = SimpleQueue()

    def send() -> None:
        listener = listeners.get()
        if listener is not None:
            socket.send_fds(told, [b"x"], [listener])
            os.close(listener)

    thread = Thread(target=send)
    thread.start()
    try:
        yield listeners.put
    finally:
        listeners.put(None)
        thread.join()
        told.close()


def _install(code: bytes, path: str | None) -> int:
    """Put the filter on this thread; returns its listener. Errors: SystemFault, which says what to do."""
    try:
        try:
            return libc.install_filter(code)
        except PermissionError:
            # Only root may filter a program that gains privileges.
            _refuse_privileged(path)
            libc.set_no_new_privileges()
            return libc.install_filter(code)
    except OSError as error:
        why = _WHY.get(error.errno or 0, f"seccomp: {error.strerror}")
        raise SystemFault(why, error.errno) from None


def _refuse_privileged(path: str | None) -> None:
    """Errors: SystemFault for a program that would gain privileges, or whose memory nobody may read."""
    if path is None:
        return
    status = os.stat(path)
    gains = status.st_mode & stat.S_ISUID or (status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP)
    with contextlib.suppress(OSError):
        gains = gains or bool(os.getxattr(path, "security.capability"))
    if gains:
        raise SystemFault(
            f"{printable(path)} gains privileges when it is executed (set-uid, set-gid or capabilities), and would run "
            "without them: run it as root, or without `cryptofs run`",
            errno.EPERM,
        )
    if not os.access(path, os.R_OK):
        raise SystemFault(
            f"{printable(path)} cannot be read, so its memory cannot be either: make it readable, or run it as root",
            errno.EACCES,
        )


def _try_family(family: int, name: str, advice: str) -> None:
    """Errors: SystemFault if another filter refuses the family: its errno outranks our notification."""
    try:
        socket.socket(family, socket.SOCK_SEQPACKET, PROBE).close()
    except OSError as error:
        if error.errno == PROBED:
            return
        raise SystemFault(
            f"{name} is refused before it gets here ({error.strerror}), by the filter of a container: "
            f"{advice} (docs/legacy.md)",
            error.errno,
        ) from None
