"""When the loop looks for the next request without sleeping in trio.

A program that has its answer often sends its next request within microseconds, and a pass of trio's scheduler costs
tens of them. So the loop looks again in two steps before it sleeps in trio:

1. For WINDOW seconds after each request it only gives way to whoever else wants its processor: a client on this very
   processor has to run before it can ask.
2. Then it sleeps in poll() for a millisecond, in which a request wakes it without trio. That takes no processor time,
   and trio's other tasks wait no longer than for a turn of requests.

A program that does something else for longer than the window between its requests would have the loop use a processor
for nothing. So after a request that came later than that, the loop leaves the first step out. Whether a request that
ended a sleep has come within the window is a guess, because waking takes time, too: what the loop takes off for that
becomes smaller with each window that ends shortly before the next request.

On a busy machine the first step goes wrong, too. Giving way then hands the processor to a program that computes, for
the milliseconds of its turn, and each request would wait for that. A process that sleeps is woken at once, ahead of
such a program. So where giving way is costly again and again the loop leaves the first step out for a while: that is
dearer than the window on an idle machine, and far cheaper on a busy one. A client on the loop's own processor is no
such program, although each of the two meets one now and then.
"""

import os
import select
import time

WINDOW = 250e-6
"""Seconds after a request in which the loop looks for the next one without sleeping at all. A program under `cryptofs
run` asks again within 60 to 170 us, and to be woken takes as long on a virtual machine."""
_WAKING = 200e-6
"""Seconds that waking takes at most."""
_IN_VAIN = -1.0
"""In place of the end of a window in which no request has come."""
_COSTLY = 100e-6
"""Seconds for which another program has the processor, when the loop gives way, on a busy machine."""
_MANY, _CHEAP = 4.0, 1 / 32
"""Costly turns that close the window, and what each cheap one takes off their count."""
_PAUSE, _LONGEST_PAUSE = 1.0, 16.0
"""Seconds without the window: the first time, and at most; each try that goes wrong doubles them."""
_NAP = 1
"""Milliseconds that the loop waits in poll(): trio's other tasks wait as long."""


class Window:
    """One loop's window."""

    __slots__ = ("_costly", "_ends", "_late", "_pause", "_poll", "_trying", "_waking", "until")

    def __init__(self, descriptor: int) -> None:
        self.until = 0.0
        """When it ends, by `time.perf_counter`; the loop sets it after each request."""
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        self._poll = poller.poll
        self._late = False
        """Whether the last request came after its window."""
        self._waking = _WAKING
        """Seconds after the window in which a request that ended a sleep is taken for one of before its end."""
        self._trying = _IN_VAIN
        """The window in which the loop waited last, by its end."""
        self._costly = 0.0
        self._pause = _PAUSE
        self._ends = 0.0

    def look_again(self) -> bool:
        """Wait a little for the next request. Returns false where the loop should sleep in trio."""
        now = time.perf_counter()
        if self._late or now < self._ends or now >= self.until:
            has_come = bool(self._poll(_NAP))
            self._late = not has_come or time.perf_counter() >= self.until + self._waking
            if self._trying == self.until:
                self._trying = _IN_VAIN
                if has_come:
                    self._waking /= 2
            return has_come
        if self._trying != self.until:
            if self._trying != _IN_VAIN:
                self._waking = _WAKING
            self._trying = self.until
        os.sched_yield()
        ended = time.perf_counter()
        if ended - now < _COSTLY:
            if self._costly:
                self._costly = max(0.0, self._costly - _CHEAP)
            return True
        self._costly += 1
        if self._costly >= _MANY:
            self._costly = 0.0
            # one that was over long ago says nothing about now
            self._pause = min(2 * self._pause, _LONGEST_PAUSE) if now - self._ends < self._pause else _PAUSE
            self._ends = ended + self._pause
        return True
