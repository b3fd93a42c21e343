"""A model of a stream's handles against the stream: who is given what, who is refused, and what a close would lose.

The model knows the rule of docs/devices.md and hashlib, and nothing of how a stream is made.
"""

import errno
import hashlib
from collections import deque
from dataclasses import dataclass, field

from helpers.stream_devices import OPENSSL
from helpers.talking import perform
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cryptofs.contexts import ContextTable, Stream, StreamUser
from cryptofs.errors import CryptofsError
from cryptofs.records import Attr, Operation, Record

HANDLES = 5


@dataclass(eq=False)
class Handle:
    """An open handle as a program knows it. wrote, turned: what it did with its message; over: it read the end or an
    error in place of it; late: a write was refused that came behind the read; cut: a reset has hit it.
    """

    user: StreamUser
    reads: bool
    writes: bool
    wrote: bool = False
    turned: bool = False
    over: bool = False
    late: bool = False
    cut: bool = False
    at_end: bool = False
    begun: bool = False

    @property
    def feeds(self) -> bool:
        """Whether a message has to wait for it."""
        return self.writes and not (self.turned or self.cut) and (self.wrote or not self.reads)

    def forget(self) -> None:
        """Be as when it was opened."""
        self.wrote = self.turned = self.over = self.late = self.cut = self.at_end = self.begun = False


@dataclass
class Model:
    """What is on the stream: the message under way, and the digests that wait to be read."""

    handles: list[Handle] = field(default_factory=list)
    message: bytes | None = None
    waiting: deque[bytes] = field(default_factory=deque)

    def fed(self) -> bool:
        """Whether somebody may still write more of the message."""
        return any(handle.feeds for handle in self.handles)

    def finish(self) -> None:
        """The message is over."""
        self.waiting.append(hashlib.sha256(self.message or b"").digest())
        self.message = None

    def write(self, handle: Handle, data: bytes) -> int:
        """The errno that it gives."""
        if handle.cut:
            return errno.ECANCELED
        if handle.turned:
            handle.late = handle.late or not handle.over
            return errno.EBUSY
        handle.wrote = True
        self.message = (self.message or b"") + data
        return 0

    def read(self, handle: Handle, size: int) -> tuple[int, bytes | None]:
        """The errno, and what is given; None for a wait."""
        if handle.cut:
            handle.forget()
            return errno.ECANCELED, None
        if handle.over:
            return errno.EINVAL, None
        if handle.at_end:
            return self.end(handle)
        if handle.writes:
            alone = not (handle.wrote or handle.turned or self.waiting) and self.message is None
            ends = alone or (handle.wrote and not handle.turned) or self.message is not None
            handle.turned = True
            if ends and not self.fed():
                self.finish()
        if not self.waiting:
            return self.end(handle) if handle.writes and not self.fed() else (0, None)
        first = self.waiting[0]
        handle.begun = True
        if len(first) > size:
            self.waiting[0] = first[size:]
        else:
            self.waiting.popleft()
            handle.at_end = True
        return 0, first[:size]

    def end(self, handle: Handle) -> tuple[int, bytes | None]:
        """The end of file."""
        handle.at_end = handle.begun = False
        handle.over = handle.writes
        return (errno.EBUSY, None) if handle.late else (0, b"")

    def close(self, handle: Handle) -> None:
        """The last one that feeds ends the message."""
        self.handles.remove(handle)
        if handle.feeds and not self.fed():
            self.finish()

    def reset(self) -> None:
        """Whoever has a part in a message is told."""
        dropped = self.message is not None or bool(self.waiting)
        self.message = None
        self.waiting.clear()
        for handle in self.handles:
            part = (handle.wrote or handle.turned) if handle.writes else (dropped or handle.begun)
            over, cut = handle.over, handle.cut or (part and not handle.over)
            handle.forget()
            handle.cut = cut and not over


class Machine(RuleBasedStateMachine):
    """Programs at one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ContextTable(OPENSSL)
        self.context = self.table.open(1000, 1000, 1, False)
        perform(self.context, Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"}))
        self.stream: Stream = self.context.stream
        self.model = Model()

    def handle(self, index: int, kind: str) -> Handle | None:
        """One of those that may do it."""
        able = [handle for handle in self.model.handles if getattr(handle, kind)]
        return able[index % len(able)] if able else None

    @precondition(lambda self: len(self.model.handles) < HANDLES)
    @rule(mode=st.sampled_from([(True, False), (False, True), (True, True), (True, True)]))
    def open(self, mode: tuple[bool, bool]) -> None:
        """For reading, for writing, for both."""
        self.model.handles.append(Handle(self.stream.attach(*mode), *mode))

    @rule(index=st.integers(0, HANDLES), data=st.binary(min_size=1, max_size=20))
    def write(self, index: int, data: bytes) -> None:
        """One write(2)."""
        handle = self.handle(index, "writes")
        if handle is None:
            return
        number = 0
        try:
            self.stream.feed_nowait(handle.user, data)
        except CryptofsError as error:
            number = error.errno
        assert number == self.model.write(handle, data)

    @rule(index=st.integers(0, HANDLES), size=st.sampled_from([1, 16, 32, 100]))
    def read(self, index: int, size: int) -> None:
        """One read(2)."""
        handle = self.handle(index, "reads")
        if handle is None:
            return
        number, data = 0, None
        waits_not = self.stream.readable_by(handle.user)
        try:
            given = self.stream.drain_nowait(handle.user, size)
            data = None if given is None else bytes(given)
        except CryptofsError as error:
            number = error.errno
        assert waits_not == (bool(number) or data is not None), "poll(2) says otherwise"
        assert (number, data) == self.model.read(handle, size)

    @precondition(lambda self: self.model.handles)
    @rule(index=st.integers(0, HANDLES))
    def close(self, index: int) -> None:
        """The last descriptor of one."""
        handle = self.model.handles[index % len(self.model.handles)]
        self.stream.detach(handle.user)
        self.model.close(handle)

    @rule()
    def reset(self) -> None:
        """By anybody."""
        perform(self.context, Record(Operation.RESET))
        self.model.reset()

    @invariant()
    def what_is_there_is_known(self) -> None:
        """What a close now would lose is told, and nothing else is."""
        there = self.model.message is not None or bool(self.model.waiting)
        assert (self.stream.lost() is not None) == there
        waiting = dict(self.stream.status())["stream-waiting"]
        assert waiting == sum(len(each) for each in self.model.waiting)

    def teardown(self) -> None:
        """Everything goes."""
        self.table.close_all()


def test_streams_against_a_model() -> None:
    """Random programs: each call gives what the rule says, poll agrees, and what is left is known."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            deadline=None,
            max_examples=150,
            stateful_step_count=30,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
