"""The service's side of `cryptofs reload`: a caller passes key files and waits for the answer."""

import logging
import socket
from collections.abc import Awaitable, Callable

import trio

from .service import Handed, ReloadCall, ServiceError

log = logging.getLogger("cryptofs")

_CALL_TIMEOUT = 3.0

Reload = Callable[[dict[str, Handed] | None], Awaitable[tuple[bool, str]]]
"""Reloads with passed files, or without any; returns whether it succeeded, and a line about it."""


async def heed_calls(descriptor: int, reload: Reload) -> None:
    """Serve the listening socket with this descriptor, one caller after another, until cancelled."""
    with socket.socket(fileno=descriptor) as listener:
        listener.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                caller, _ = listener.accept()
            except OSError as error:
                # A caller that has gone, or no free descriptor for a caller.
                log.warning("reload: %s", error.strerror)
                await trio.sleep(1)
                continue
            call = ReloadCall(caller)
            try:
                await _heed(call, reload)
            finally:
                call.close()


async def _heed(call: ReloadCall, reload: Reload) -> None:
    call.socket.setblocking(False)
    # A caller that connects and sends nothing must not block others.
    with trio.move_on_after(_CALL_TIMEOUT) as timeout:
        while True:
            await trio.lowlevel.wait_readable(call.socket)
            try:
                if call.take():
                    break
            except BlockingIOError:
                continue
            except (ServiceError, OSError) as error:
                call.answer(False, str(error))
                return
    if not timeout.cancelled_caught:
        call.answer(*await reload(call.give_files()))
