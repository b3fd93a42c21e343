"""Serving a private Unix socket: one task for each client, so that no client waits for another one."""

import functools
import logging
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from ..listening import listening

log = logging.getLogger("cryptofs")

CLIENTS_MAX = 256
"""Connections at one time. One more is closed at once."""
_CREDENTIALS = struct.Struct("=iII")
"""Process, user and group of the other end."""

Serve = Callable[[trio.SocketStream], Awaitable[None]]
"""Serves one client, until it returns or its stream breaks."""


class Closed(Exception):
    """The client has gone, between two messages or within one."""


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    """Exactly `size` bytes of a client. Memory grows with what has come. Errors: Closed."""
    data = bytearray()
    while len(data) < size:
        piece = await stream.receive_some(min(size - len(data), 65_536))
        if not piece:
            raise Closed
        data += piece
    return bytes(data)


def serve(path: Path, serve_client: Serve, started: Callable[[], None]) -> None:
    """Serve at `path` until SIGTERM, SIGINT or SIGHUP, for this user and root. started: called when programs may
    connect.

    Errors: SystemFault for the socket.
    """

    async def until_a_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            started()
            async for _ in signals:
                return

    with listening(path) as server:
        trio.run(_beside, server, serve_client, until_a_signal)


def serve_command(path: Path, serve_client: Serve, command: Sequence[str], variables: dict[str, str]) -> int:
    """Serve at `path` while a command runs, with these variables in its environment; returns its exit status as a shell
    shows it.

    Signals go to the command; a terminal's SIGINT reaches it by itself. Errors: SystemFault for the socket, OSError if
    the command cannot be started.
    """
    status = 0

    async def pass_on(process: trio.Process) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGINT:
                    process.send_signal(number)

    async def while_it_runs() -> None:
        nonlocal status
        process = await trio.lowlevel.open_process(list(command), env={**os.environ, **variables})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, process)
            returned = await process.wait()
            status = returned if returned >= 0 else 128 - returned
            nursery.cancel_scope.cancel()

    with listening(path) as server:
        trio.run(_beside, server, serve_client, while_it_runs)
    return status


async def _beside(server: socket.socket, serve_client: Serve, until: Callable[[], Awaitable[None]]) -> None:
    server.setblocking(False)
    # A copy: trio closes it, and `listening` its own.
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server.dup()))
    failed: OSError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(trio.serve_listeners, _Clients(serve_client), [listener]))
        try:
            await until()
        except OSError as error:
            # Not out of the nursery, which would wrap it.
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


class _Clients:
    """The connections: who may have one, and how many there are."""

    def __init__(self, serve_client: Serve) -> None:
        self._serve = serve_client
        self._count = 0

    async def __call__(self, stream: trio.SocketStream) -> None:
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        async with stream:
            if uid not in (0, os.geteuid()):
                log.warning("process %d of uid %d is refused: this socket serves uid %d", pid, uid, os.geteuid())
                return
            if self._count >= CLIENTS_MAX:
                log.warning("process %d is refused: %d connections are open", pid, CLIENTS_MAX)
                return
            self._count += 1
            try:
                await self._serve(stream)
            except (Closed, trio.BrokenResourceError):
                log.debug("process %d has closed its connection", pid)
            except Exception:
                # One client's fault, or one in serving it, ends neither the others nor what runs beside them.
                log.exception("process %d: its connection is closed", pid)
            finally:
                self._count -= 1
