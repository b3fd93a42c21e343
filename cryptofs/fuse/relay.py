"""pyfuse3's requests: they go to it through a socket pair, a few at a time, and its answers come back.

pyfuse3 serves all that the socket has before anything else runs in the event loop, at 100 us each. So the socket gets
no more than a turn's work, and what comes beyond that waits here, where users have turns.
"""

import errno
import logging
import socket

import trio

from ..contexts import Turns
from .device import Device
from .protocol import ANSWER

log = logging.getLogger("cryptofs")

_AT_ONCE = 8
"""Requests that pyfuse3 has at a time."""
_WAITING_MAX = 4096
"""Requests that wait here before nothing is read from the kernel any more."""
_ANSWER_MAX = 1 << 20


class Relay:
    """One mount's socket pair."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._ours, self._pyfuse3 = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._turns: Turns[tuple[int, int, bytes]] = Turns()
        self._waiting = 0
        self.in_flight = 0
        """Requests that pyfuse3 has."""

    @property
    def mountpoint(self) -> str:
        """What pyfuse3 is told to serve."""
        return f"/dev/fd/{self._pyfuse3.fileno()}"

    def hand_over(self) -> None:
        """pyfuse3 has its end of the socket pair, and will close it."""
        self._pyfuse3.detach()

    @property
    def is_full(self) -> bool:
        """Whether as many requests wait as may."""
        return self._waiting >= _WAITING_MAX

    def pass_on(self, user: int, unique: int, message: memoryview) -> None:
        """Have pyfuse3 serve a request, when it is this user's turn."""
        if self.in_flight < _AT_ONCE and not self._waiting and self._send(unique, message):
            return
        self._turns.put((user, unique), (user, unique, bytes(message)))
        self._waiting += 1

    def _send(self, unique: int, message: bytes | memoryview) -> bool:
        """Returns whether the socket has room."""
        try:
            self._ours.send(message)
        except BlockingIOError:
            # each answer that is awaited says that there is more room
            return False
        except OSError as error:
            # nothing that the kernel asks of pyfuse3 is as large as a datagram may be
            log.error("a request of %d bytes cannot be passed on: %s", len(message), error.strerror)
            self._device.refuse(unique, errno.EIO)
            return True
        self.in_flight += 1
        return True

    def _send_more(self) -> None:
        while self.in_flight < _AT_ONCE and (waiting := self._turns.take()) is not None:
            user, unique, message = waiting
            if not self._send(unique, message):
                self._turns.put((user, unique), waiting)
                return
            self._waiting -= 1

    async def return_answers(self) -> None:
        """Give pyfuse3's answers to the kernel, until it closes its end."""
        answer = memoryview(bytearray(_ANSWER_MAX))
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            try:
                while size := self._ours.recv_into(answer):
                    # a notification by pyfuse3 answers no request
                    if ANSWER.unpack_from(answer)[2]:
                        self.in_flight -= 1
                    self._device.put(answer[:size])
                return
            except BlockingIOError:
                self._send_more()

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self._pyfuse3.close()
