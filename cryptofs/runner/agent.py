"""The agent of container runtimes (OCI's `listenerPath`): answers the calls of containers by their filters' listeners.

A runtime connects and sends a container's state with the listener's descriptor. Each connection gets a process of its
own, which ends with the container's last process: containers share no state, no memory and no limit.
"""

import errno
import json
import logging
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CryptofsError, InvalidValue, SystemFault, printable
from ..listening import listening
from . import libc
from .answers import HandledCalls
from .backend import Backend
from .notify import RuntimesListener
from .numbers import machine
from .profile import KILLABLE
from .supervisor import Supervisor

log = logging.getLogger("cryptofs")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_STATE_MAX = 1 << 20
"""Bytes of a container's state."""
_PATIENCE = 10
"""Seconds in which a runtime sends it."""
_DESCRIPTORS_MAX = 16
_LISTENER = "anon_inode:seccomp notify"
"""What the kernel calls one."""
_OPEN_FILES = 8192
"""Open sockets of one container, about."""


@dataclass(frozen=True)
class Settings:
    """path: of the socket; interruptible: serve also containers whose filter does not have KILLABLE."""

    path: Path
    backend: Backend
    interruptible: bool


@dataclass(frozen=True)
class Container:
    """What a runtime has sent. listener: the descriptor."""

    name: str
    pid: int
    bundle: str
    listener: int


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. Containers that are served then get errors. ready: called when it serves.

    Errors: SystemFault (EADDRINUSE if another agent has the socket).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signals = libc.open_signals(_SIGNALS)
    children: set[int] = set()
    try:
        with listening(settings.path) as server:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            libc.forbid_looking_in()
            ready()
            log.info("%s: ready", printable(settings.path))
            poll = select.poll()
            poll.register(server, select.POLLIN)
            poll.register(signals, select.POLLIN)
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == signals:
                        if int.from_bytes(os.read(signals, 128)[:4], sys.byteorder) != signal.SIGCHLD:
                            return
                        _reap(children)
                    else:
                        try:
                            with server.accept()[0] as connection:
                                children.add(_start(settings, connection, server, signals, before))
                        except OSError as error:
                            # The runtime has gone again, or there is no memory for one more process.
                            log.error("a container is not served: %s", error.strerror)
    finally:
        os.close(signals)
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reap(children: set[int]) -> None:
    for child in list(children):
        if os.waitpid(child, os.WNOHANG)[0]:
            children.discard(child)


# The process of one container


def _start(settings: Settings, connection: socket.socket, server: socket.socket, signals: int, before: set[int]) -> int:
    child = os.fork()
    if not child:
        try:
            server.close()
            os.close(signals)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _serve_container(settings, connection)
        finally:
            os._exit(0)
    return child


def _serve_container(settings: Settings, connection: socket.socket) -> None:
    try:
        container = _receive(connection)
        if container is None:
            return
        connection.close()
        listener = RuntimesListener(container.listener)
        if not settings.interruptible:
            _check_flags(container)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        log.info("container %s: its calls are answered (process %d)", container.name, container.pid)
        here = machine()
        supervisor = Supervisor(
            here, listener, lambda listener, poll: HandledCalls(here, listener, poll, settings.backend, False, {})
        )
        supervisor.serve()
        supervisor.close()
        log.info("container %s: has ended", container.name)
    except CryptofsError as error:
        # Its calls get ENOSYS from now on.
        log.error("%s", error.message)
    except Exception as error:
        log.error("a container is not served any longer", exc_info=error)


def _receive(connection: socket.socket) -> Container | None:
    """What a runtime sends; None if it sends nothing. Errors: InvalidValue."""
    connection.settimeout(_PATIENCE)
    data, descriptors = b"", []
    try:
        while len(data) <= _STATE_MAX:
            piece, more, _, _ = socket.recv_fds(connection, 65536, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
            descriptors += more
            data += piece
            if not piece or (data.endswith((b"}", b"}\n")) and _is_whole(data)):
                break
    except OSError as error:
        raise InvalidValue(f"a runtime has sent no state of a container within {_PATIENCE} s: {error}") from None
    if not data and not descriptors:
        # An agent that has looked whether this one is there.
        return None
    return _understand(data, descriptors)


def _is_whole(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _understand(data: bytes, descriptors: list[int]) -> Container:
    """The state as OCI's ContainerProcessState has it. Errors: InvalidValue."""
    try:
        state = json.loads(data)
        position = state["fds"].index("seccompFd")
        listener = descriptors.pop(position)
        container = Container(
            printable(str(state["state"]["id"]))[:200], int(state["pid"]), str(state["state"]["bundle"]), listener
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidValue(
            f"what a runtime has sent is no state of a container with its listener ({type(error).__name__}): "
            f"{len(data)} bytes, {len(descriptors)} descriptors"
        ) from None
    for other in descriptors:
        os.close(other)
    if os.readlink(f"/proc/self/fd/{listener}") != _LISTENER:
        raise InvalidValue(f"container {container.name}: the descriptor is no listener of seccomp")
    return container


def _check_flags(container: Container) -> None:
    """Errors: SystemFault for a filter without KILLABLE. Only the bundle's configuration says it."""
    path = Path(container.bundle) / "config.json"
    try:
        flags: Any = json.loads(path.read_bytes())["linux"]["seccomp"].get("flags")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemFault(
            f"container {container.name}: {printable(path)} does not tell the flags of its filter: {error}", errno.EPERM
        ) from None
    if KILLABLE not in (flags or ()):
        raise SystemFault(
            f"container {container.name} is not served: its profile lacks the flag {KILLABLE}. A signal would make the "
            "kernel repeat calls, which gives wrong results. Add it (`cryptofs agent --profile`), or use "
            "--interruptible",
            errno.EPERM,
        )
