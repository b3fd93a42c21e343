"""The descriptors that the program was given: found by inode, placed where the filter looks, dropped when closed."""

import contextlib
import errno
import logging
import os
import select
from functools import partial
from heapq import heappop, heappush

from ..errors import CryptofsError, SystemFault
from .endpoint import MSG_MORE, Endpoint, Splice
from .ends import End
from .libc import Data
from .notify import Call, Listener, PassOn
from .process import flags_of, is_free, is_in_call, is_nonblocking
from .rules import BASE

_ABOVE = 2048
"""Where they begin in a program that has so many open files that the kernel itself uses numbers from BASE on. The
kernel takes the smallest free number; ours must not be the one that another thread gets in the same moment."""

_NEAR = 64
"""Numbers that are tried one by one, before those that were closed."""
_LOOK_AGAIN = 0.002
log = logging.getLogger("cryptofs")


class Descriptors:
    """All endpoints of one run. poll: where they are watched; smallest: the number from which on the filter hands
    calls over."""

    def __init__(self, listener: Listener, poll: select.epoll, smallest: int) -> None:
        self._listener = listener
        self.smallest = smallest
        self._by_link: dict[bytes, Endpoint] = {}
        """By `End.link`."""
        self._by_peer: dict[int, tuple[Endpoint, End]] = {}
        self._splicing: set[Endpoint] = set()
        self._given: set[int] = set()
        """Numbers that descriptors have, in some process."""
        self._next: dict[int, int] = {}
        """By thread, the number behind its last one. Cleared whenever a descriptor is closed."""
        self._closed: list[int] = []
        """A heap of numbers that may be free, because some process has closed them."""
        self._known: set[int] = set()
        """Those in it."""
        self._top = 0
        """The number behind the largest one that was given out."""
        self._told = False
        self._poll = poll

    def close(self) -> None:
        """Close all, as at the end of the program."""
        for peer in list(self._by_peer):
            self._drop(peer)

    def find(self, call: Call, number: int) -> Endpoint:
        """What stands behind a descriptor of the caller.

        Errors: PassOn if it is not one of these; SystemFault if it may be one, in a process that nobody may look into.
        """
        number &= 0xFFFFFFFF
        try:
            link = _link_of(call, number)
        except FileNotFoundError:
            raise PassOn from None
        except OSError as error:
            if number in self._given:
                # The kernel would answer as for any pair of sockets.
                raise SystemFault.of(error, "the program's descriptors") from None
            raise PassOn from None
        endpoint = self._by_link.get(link)
        if endpoint is None:
            raise PassOn
        if endpoint.splice is not None or not self._listener.sees_writes:
            self._take(endpoint)
        return endpoint

    def hand_over(self, call: Call, endpoint: Endpoint, close_on_exec: bool, nonblocking: bool) -> int:
        """Give the caller a new descriptor; returns its number. Errors: SystemFault."""
        if nonblocking:
            endpoint.end.theirs.setblocking(False)
        try:
            number = self.place(call, endpoint.end.theirs.fileno(), close_on_exec)
        except BaseException:
            endpoint.close()
            raise
        endpoint.end.numbers.add(number)
        self._adopt(endpoint, endpoint.end)
        return number

    def _adopt(self, endpoint: Endpoint, end: End) -> None:
        """The program has this end now."""
        self._by_link[end.link] = endpoint
        peer = end.ours.fileno()
        self._by_peer[peer] = endpoint, end
        self._poll.register(peer, select.EPOLLIN)
        end.watch_room = partial(self._watch_room, peer)
        # Only the program's copies count: the last one's close is a hang-up.
        end.theirs.close()

    def _watch_room(self, peer: int, wanted: bool) -> None:
        self._poll.modify(peer, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def locate(self, call: Call, number: int, endpoint: Endpoint) -> "Located":
        """A descriptor of the caller's. Errors: SystemFault."""
        number &= 0xFFFFFFFF
        if len(endpoint.ends) == 1:
            return Located(self, call, number, endpoint, endpoint.end)
        try:
            link = _link_of(call, number)
        except OSError as error:
            raise SystemFault.of(error, "the program's descriptors") from None
        for end in endpoint.ends:
            if end.link == link:
                return Located(self, call, number, endpoint, end)
        raise SystemFault("another thread has closed the descriptor", errno.EBADF)

    def copy(self, call: Call, number: int, endpoint: Endpoint, close_on_exec: bool) -> int:
        """Give the caller one more descriptor of a file; returns its number. Errors: SystemFault."""
        try:
            source = call.memory.take_descriptor(number)
        except SystemFault as error:
            if error.errno != errno.EPERM:
                raise
            return self._add(call, number, endpoint, close_on_exec, None)[1]
        try:
            end = self.locate(call, number, endpoint).end
            placed = self.place(call, source, close_on_exec)
        finally:
            os.close(source)
        end.numbers.add(placed)
        return placed

    def replace(self, call: Call, number: int, endpoint: Endpoint) -> End:
        """Have a descriptor of the caller be another end, before which nothing lies. Errors: SystemFault."""
        close_on_exec = bool(flags_of(call.tid, number) & os.O_CLOEXEC)
        return self._add(call, number, endpoint, close_on_exec, number)[0]

    def _add(
        self, call: Call, like: int, endpoint: Endpoint, close_on_exec: bool, number: int | None
    ) -> tuple[End, int]:
        """One more end. like: the caller's descriptor of the file; number: the new one's, None for a free one."""
        end = endpoint.add_end(readable=number is None)
        try:
            end.theirs.setblocking(not is_nonblocking(call.tid, like))
            if number is None:
                number = self.place(call, end.theirs.fileno(), close_on_exec)
            else:
                self._inject(call, end.theirs.fileno(), number, close_on_exec)
        except BaseException:
            endpoint.remove_end(end)
            raise
        end.numbers.add(number)
        self._adopt(endpoint, end)
        return end, number

    def place(self, call: Call, source: int, close_on_exec: bool) -> int:
        """Put a copy of a descriptor into the caller, at a number that the filter looks for. Errors: SystemFault."""
        if not self.smallest:
            return self._inject(call, source, None, close_on_exec)
        number = self._next.get(call.tid, 0)
        if not number or not is_free(call.tid, number):
            number = self._find_free(call.tid)
        try:
            placed = self._inject(call, source, number, close_on_exec)
        except SystemFault as error:
            if error.errno != errno.EMFILE:
                raise
            # Beyond the limit. A number that was freed by something else than our pairs may be below it.
            number = _first_free(call.tid, _smallest(call.tid))
            self._tell_limit(number)
            placed = self._inject(call, source, number, close_on_exec)
        self._next[call.tid] = number + 1
        self._top = max(self._top, number + 1)
        return placed

    def _find_free(self, tid: int) -> int:
        """A number that is free in a thread's process: a small one, if that takes no long search."""
        smallest = _smallest(tid)
        for number in range(smallest, smallest + _NEAR):
            if is_free(tid, number):
                return number
        while self._closed:
            number = heappop(self._closed)
            self._known.remove(number)
            if number >= smallest and is_free(tid, number):
                return number
        return _first_free(tid, max(self._top, smallest))

    def _tell_limit(self, number: int) -> None:
        """Say once what a program cannot know, which has far fewer files."""
        if number == BASE and not self._told:
            self._told = True
            log.error("the program's limit of open files (ulimit -n) is below %d: raise it, or use --wide", BASE + 1)

    def _inject(self, call: Call, source: int, number: int | None, close_on_exec: bool) -> int:
        try:
            placed = self._listener.inject(call, source, number, close_on_exec)
        except OSError as error:
            # EBADF: the number is beyond the limit of open files.
            code = errno.EMFILE if error.errno == errno.EBADF else error.errno
            raise SystemFault(f"one more descriptor: {error.strerror}", code) from None
        self.expect(placed)
        return placed

    def expect(self, number: int) -> None:
        """A process may have one of these at this number."""
        if self.smallest:
            # Else it is a number that all files have.
            self._given.add(number)

    def catch_up(self) -> None:
        """Take notice of all that has been closed."""
        for peer, events in self._poll.poll(0):
            self.react(peer, events)

    def react(self, peer: int, events: int) -> None:
        """Something has happened at our end of a pair, or at what else is watched there."""
        if peer not in self._by_peer:
            return
        endpoint, end = self._by_peer[peer]
        if events & select.EPOLLOUT:
            end.flush()
        if events & select.EPOLLIN:
            self._take(endpoint)
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self._drop(peer)

    def _take(self, endpoint: Endpoint) -> None:
        """Take what the kernel has written there without the filter: by splice, or to a copy that the filter does not
        see. Its errors reach nobody; the next receive shows that nothing came."""
        splice = endpoint.splice
        if splice is None:
            packets = endpoint.take_packets()
            self._feed(endpoint, packets, 0)
        else:
            # All packets of one splice are one message, so it ends when the thread has left the call.
            ended = not is_in_call(splice.tid, splice.number)
            packets = endpoint.take_packets()
            splice.moved += sum(map(len, packets))
            self._feed(endpoint, packets, MSG_MORE)
            if ended:
                endpoint.splice = None
                self._splicing.discard(endpoint)
                if splice.moved and not splice.more and splice.moved >= splice.wanted:
                    self._feed(endpoint, [b""], 0)
        if packets:
            endpoint.settle()

    def _feed(self, endpoint: Endpoint, packets: list[bytes], flags: int) -> None:
        with contextlib.suppress(CryptofsError):
            for packet in packets:
                endpoint.send(packet, b"", flags, 0)

    def begin_splice(self, endpoint: Endpoint, splice: Splice) -> None:
        """The kernel is going to write there."""
        endpoint.splice = splice
        self._splicing.add(endpoint)

    @property
    def patience(self) -> float | None:
        """Seconds until `look_again` is due."""
        if not self._splicing:
            return None
        return _LOOK_AGAIN if any(each.splice and each.splice.moved for each in self._splicing) else None

    def look_again(self) -> None:
        """Find out which splices have ended."""
        for endpoint in list(self._splicing):
            self._take(endpoint)

    def _drop(self, peer: int) -> None:
        endpoint, end = self._by_peer.pop(peer)
        self._poll.unregister(peer)
        self._by_link.pop(end.link, None)
        self._next.clear()
        for number in end.numbers:
            if number not in self._known:
                self._known.add(number)
                heappush(self._closed, number)
        if len(endpoint.ends) > 1:
            endpoint.remove_end(end)
            return
        self._splicing.discard(endpoint)
        endpoint.close()


def _smallest(tid: int) -> int:
    """The smallest number for a descriptor in a thread's process."""
    return BASE if is_free(tid, BASE - 1) else _ABOVE


def _first_free(tid: int, number: int) -> int:
    """The smallest number from this one on that is free in a thread's process."""
    while not is_free(tid, number):
        number += 1
    return number


def _link_of(call: Call, number: int) -> bytes:
    """What /proc says of a descriptor of the caller's. Errors: OSError."""
    # As bytes: every call comes here, and text would take a microsecond longer.
    return os.readlink(b"/proc/%d/fd/%d" % (call.tid, number))


class Located:
    """A descriptor of the caller's: a `Place`."""

    __slots__ = ("_call", "_descriptors", "_endpoint", "_number", "end", "memory")

    def __init__(self, descriptors: Descriptors, call: Call, number: int, endpoint: Endpoint, end: End) -> None:
        self._descriptors = descriptors
        self._call = call
        self._number = number
        self._endpoint = endpoint
        self.memory = call.memory
        self.end = end

    def clear(self) -> tuple[End, list[Data]]:
        """Have nothing lie before the end; returns what the descriptor is then, and the answers that lay there.

        Errors: SystemFault (EPERM for answers that cannot be taken back).
        """
        try:
            return self.end, self.end.drain(self.memory, self._number)
        except SystemFault as error:
            # Where pidfd_getfd is refused, a fresh pair takes its place. The mark may stay before the old one.
            if error.errno != errno.EPERM or self.end.has_answers:
                raise
            self.end = self._descriptors.replace(self._call, self._number, self._endpoint)
            return self.end, []

    def copy(self, close_on_exec: bool) -> int:
        """Give the caller one more descriptor of the file; returns its number."""
        return self._descriptors.copy(self._call, self._number, self._endpoint, close_on_exec)
