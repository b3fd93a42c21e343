"""One context's protocol state, without I/O: what was accepted, in which order it runs, what is ready.

    write -> parse -> admit -> enqueue -> (a job runs) -> finish -> ready -> take -> read

The id of a request names its message. Records with the same id run in their order, on one lane; lanes are
independent of each other. A message is a run of records with one id, all but the last flagged MORE, and it ends
with its record without MORE whatever happened before: after a failed or cancelled part every later part
answers the same error, so that the tail of a message is never taken for a message of its own.

    lane state      part with MORE                 part without MORE
    (none)          opens a message -> OPEN        a whole message -> (none)
    OPEN            goes on -> OPEN                ends it -> (none)
    FAILED          the same error -> FAILED       the same error -> (none)
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from ..algorithms import Rows
from ..errors import Cancelled, CryptofsError, NoSuchTarget, OverQuota, TooLarge, WouldBlock
from ..policy import Queue
from ..records import RECORD_MAX, Buffer, Flag, Operation, Record, holds_more
from .lanes import CALLED, Call, Job, Lane, cost_of, detach, lane_number
from .tally import Tally

QUEUE_REQUESTS = 4096
"""Requests of one context that are accepted and whose answers are not read yet."""
QUEUE_BYTES = 16 * 1024 * 1024
"""Bytes that these and their answers may take, and what messages in parts keep."""
KEPT_BYTES = QUEUE_BYTES // 2
"""Bytes that messages in parts may keep together: reading answers frees none of them, so that there has to be room for
the parts that end them, and for what polls for room."""
STATE_BYTES = 32 * 1024 * 1024
"""Bytes of state that they may hold besides their data: six compressions by zstd of level 19, 30 of level 3."""
OPEN_MESSAGES = 256
"""Messages in parts that one context may have open."""
UNFINISHED_MESSAGES = 2 * OPEN_MESSAGES
"""Messages in parts that one context may have begun, open or failed, without having sent their last part."""

MORE = int(Flag.MORE)
_LARGEST = 2 * RECORD_MAX
_SMALL = 4096


class Exchange:
    """The state of one context's `crypto` file."""

    __slots__ = (
        "_ready",
        "bytes",
        "called",
        "in_flight",
        "kept",
        "lanes",
        "outstanding",
        "queue",
        "state",
        "tally",
    )

    def __init__(self, queue: Queue) -> None:
        self._ready: deque[tuple[Buffer, int]] = deque()
        self.queue = queue
        """Where the user's requests are counted."""
        self.lanes: dict[int, Lane] = {}
        self.in_flight = 0
        """Requests that are accepted and not answered yet."""
        self.called = 0
        """Those of them that came by ioctl: no reader waits for their answers."""
        self.outstanding = 0
        """Requests that are accepted and whose answers are not read yet."""
        self.bytes = 0
        """What waits to run or to be read, and what messages in parts keep; it changes only when a request is accepted,
        when an answer is read and when something is dropped."""
        self.kept = 0
        """What messages in parts keep of their data."""
        self.state = 0
        """What they hold besides, bytes: it is no part of `bytes`, because no answer that is read makes room."""
        self.tally = Tally()  # of the context's stream as well

    def status(self) -> Rows:
        """Rows for the context's status: what waits, and what was done."""
        return [
            ("in-flight", self.in_flight),
            ("unread", self.outstanding - self.in_flight),
            ("queue-bytes", self.bytes),
            ("open-messages", sum(lane.is_open for lane in self.lanes.values())),
            ("completed", self.tally.requests),
            ("failed", self.tally.failed),
        ]

    # What comes in

    def admit(self, records: Sequence[Record], call: Call | None = None) -> None:
        """Accept all of these, or none. call: the ioctl that brought the only one.

        Errors: TooLarge for what would never fit, WouldBlock for what does not fit before answers are read, OverQuota
        for what messages in parts leave no room for, for such messages where too many have not ended, and for what the
        user's rule bounds.
        """
        cost = size = 0
        begun = set()
        for record in records:
            cost += cost_of(record)
            size += len(record.payload)
            number = lane_number(record, call)
            if record.flags & MORE and number not in self.lanes:
                begun.add(number)
        if len(records) > QUEUE_REQUESTS:
            raise TooLarge(f"{len(records)} requests in one write: the queue takes {QUEUE_REQUESTS}")
        if cost > QUEUE_BYTES:
            raise TooLarge(f"{cost} bytes of requests and answers in one write: the queue takes {QUEUE_BYTES}")
        if self.outstanding + len(records) > QUEUE_REQUESTS or self.bytes + cost > QUEUE_BYTES:
            if not self.outstanding:
                # nothing that could be read, waited or polled for would make room
                raise OverQuota(
                    f"{cost} bytes of requests and answers: messages in parts keep {self.kept}, and the queue takes "
                    f"{QUEUE_BYTES}"
                )
            raise WouldBlock(f"queue full: {self.outstanding} requests and {self.bytes} bytes wait to be read")
        if begun:
            # a message that failed takes memory, too, until its end is seen
            unfinished = sum(lane.is_open for lane in self.lanes.values())
            if unfinished + len(begun) > UNFINISHED_MESSAGES:
                raise OverQuota(
                    f"{unfinished} messages in parts have not ended: at most {UNFINISHED_MESSAGES}, reset forgets them"
                )
        self.queue.check(len(records), cost)
        self._admit(len(records), cost, size)
        if call is not None:
            self.called += 1

    def admit_one(self, record: Record) -> None:
        """Accept one request after `has_room` has found room for it."""
        self._admit(1, cost_of(record), len(record.payload))

    def _admit(self, count: int, cost: int, size: int) -> None:
        self.queue.charge(count, cost)
        self.tally.received += size
        self.outstanding += count
        self.in_flight += count
        self.bytes += cost

    def enqueue(self, record: Record, call: Call | None = None) -> Job:
        """Put an admitted request on its lane. It may run at once if it is the first one there."""
        number = lane_number(record, call)
        lane = self.lanes.get(number)
        if lane is None:
            lane = self.lanes[number] = Lane(number)
        if holds_more(record.payload):
            detach(record)
        job = Job(record, cost_of(record), lane, call)
        if call is not None:
            call.job = job
        lane.jobs.append(job)
        return job

    def open_lane(self) -> None:
        """Check that one more message may open. Errors: OverQuota."""
        if sum(lane.message is not None for lane in self.lanes.values()) >= OPEN_MESSAGES:
            raise OverQuota(f"{OPEN_MESSAGES} messages in parts are open: no more on one context")

    def over_kept(self, lane: Lane) -> OverQuota | None:
        """The error for a lane's message that keeps more than it may, which must end then; or None."""
        kept = self.kept - lane.kept + lane.message.kept
        return self._too_much(kept) if kept > KEPT_BYTES else None

    @staticmethod
    def _too_much(kept: int) -> OverQuota:
        return OverQuota(f"messages in parts would keep {kept} bytes: at most {KEPT_BYTES} on one context")

    def adopt(self, identity: int, operation: Operation | None, message: Any) -> None:
        """Open a lane with a message that has begun elsewhere. Errors: OverQuota; the message is closed then."""
        lane = Lane(identity, operation)
        self.hold(lane, message)
        self.lanes[identity] = lane

    def hold(self, lane: Lane, message: Any) -> None:
        """Let a message that has begun run on a lane. Errors: OverQuota; the message is closed then."""
        kept, state = message.kept, message.state
        try:
            if self.kept + kept > KEPT_BYTES:
                raise self._too_much(self.kept + kept)
            if self.state + state > STATE_BYTES:
                raise OverQuota(
                    f"open messages hold {self.state} bytes of state and {state} more are asked: at most "
                    f"{STATE_BYTES} on one context"
                )
            self.queue.check(0, kept + state)
            self.queue.charge_state(state)
        except OverQuota:
            message.close()
            raise
        lane.message, lane.state = message, state
        self.state += state
        self._keep(lane, kept)

    def let_go(self, lane: Lane) -> None:
        """A lane's message has closed, and its state with it."""
        self.state -= lane.state
        self.queue.release_state(lane.state)
        lane.state = 0

    def _keep(self, lane: Lane, size: int) -> None:
        """Count what a lane's message keeps, or drops."""
        more = size - lane.kept
        lane.kept = size
        self.kept += more
        self.bytes += more
        self.queue.charge(0, more)

    # What goes out

    def answer(self, response: Buffer, cost: int, failed: bool = False, call: Call | None = None) -> None:
        """Make the one answer of an admitted request ready, or give it to the call that brought the request."""
        if len(response) > cost + _SMALL:
            # a message may give more than a part took: what its library kept to itself
            self.bytes += len(response) - cost
            self.queue.charge(0, len(response) - cost)
            cost = len(response)
        if call is None:
            self._ready.append((response, cost))
        else:
            call.response = response
            self.called -= 1
            self._took(1, cost)
        self.in_flight -= 1
        self.tally.answered(failed)

    def answer_at_once(self, response: Buffer, cost: int) -> None:
        """`admit` and `answer` in one, for a request that is answered at once. cost: twice its header and data."""
        self._ready.append((response, cost))
        self.outstanding += 1
        self.bytes += cost
        self.tally.short += 1
        self.tally.short_cost += cost
        self.tally.short_sent += len(response)
        self.queue.charge(1, cost)

    def answer_call(self, response: Buffer, cost: int) -> None:
        """`answer_at_once` for a request that came by ioctl: the caller already has its answer."""
        self.tally.short += 1
        self.tally.short_cost += cost
        self.tally.short_sent += len(response)
        self.queue.charge(1, cost)
        self.queue.release(1, cost)

    def answer_many(self, answers: Sequence[tuple[Buffer, int]]) -> None:
        """`answer_at_once` for several, each with its cost."""
        self._ready += answers
        self.outstanding += len(answers)
        size = sum(cost for _, cost in answers)
        self.tally.short += len(answers)
        self.tally.short_cost += size
        self.tally.short_sent += sum(len(response) for response, _ in answers)
        self.bytes += size
        self.queue.charge(len(answers), size)

    def finish(self, job: Job, response: Buffer, failed: bool = False) -> Job | None:
        """Answer a lane's first job; returns the one that runs next on that lane."""
        lane = job.lane
        assert lane.jobs[0] is job
        lane.jobs.popleft()
        message = lane.message
        if message is not None or lane.kept:
            # the bytes that a message keeps were counted as its parts', and leave the count with the last part
            kept = 0 if message is None else message.kept
            job.cost += lane.kept - kept
            self.kept += kept - lane.kept
            lane.kept = kept
        if message is None and lane.state:
            self.let_go(lane)
        self.answer(response, job.cost, failed, job.call)
        if job.forgets:
            self.fail(lane, Cancelled("reset"), last=True)
        if lane.jobs:
            return lane.jobs[0]
        if not lane.is_open and self.lanes.get(lane.number) is lane:
            del self.lanes[lane.number]
        return None

    def has_room(self, count: int, cost: int) -> bool:
        """Whether `count` more requests of this cost fit now."""
        if self.outstanding + count > QUEUE_REQUESTS or self.bytes + cost > QUEUE_BYTES:
            return False
        return self.queue.has_room(count, cost)

    @property
    def readable(self) -> bool:
        """Whether an answer is ready."""
        return bool(self._ready)

    @property
    def writable(self) -> bool:
        """Whether the queue takes any one request, even the largest: a poll for writing promises that."""
        return self.outstanding < QUEUE_REQUESTS and self.bytes + min(_LARGEST, QUEUE_BYTES // 4) <= QUEUE_BYTES

    def take(self, size: int) -> Buffer | None:
        """As many whole answers as fit into `size` bytes and into RECORD_MAX, or None if none is ready.

        Errors: TooLarge if the first does not fit; it stays.
        """
        ready = self._ready
        if not ready:
            return None
        first, cost = ready[0]
        left = size - len(first)
        if left < 0:
            raise TooLarge(f"buffer of {size} bytes: the next answer has {len(first)}")
        ready.popleft()
        self._took(1, cost)
        if not ready or len(ready[0][0]) > left:
            return first
        batch = [first]
        # one read carries no more than one write may, however large its buffer is
        left = min(left, RECORD_MAX - len(first))
        count = size = 0
        while ready and len(ready[0][0]) <= left:
            response, cost = ready.popleft()
            batch.append(response)
            left -= len(response)
            count += 1
            size += cost
        self._took(count, size)
        return b"".join(batch)

    def _took(self, count: int, cost: int) -> None:
        self.outstanding -= count
        self.bytes -= cost
        self.queue.release(count, cost)

    # What ends early

    def fail(self, lane: Lane, failure: CryptofsError, last: bool) -> None:
        """End a lane's message: later parts answer `failure` until the one without MORE has come."""
        if lane.message is not None:
            lane.message.close()
            lane.message = None
        if lane.kept:
            self._keep(lane, 0)
        if lane.state:
            self.let_go(lane)
        # its frames hold the request, and with it the data
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        lane.operation = None
        lane.failure = None if last else failure

    def cancel(self, identity: int) -> None:
        """Cancel what is not finished under an id, written or called: its jobs answer ECANCELED when their turn comes.

        Errors: NoSuchTarget if nothing is unfinished there.
        """
        lanes = [lane for lane in map(self.lanes.get, (identity, identity + CALLED)) if lane is not None]
        if not lanes:
            raise NoSuchTarget(f"request {identity}: nothing unfinished has this id")
        for lane in lanes:
            for job in lane.jobs:
                job.cancel()
            if not lane.jobs and lane.failure is None:
                self.fail(lane, Cancelled(f"message {identity} was cancelled"), last=False)

    def message_lane(self, identity: int) -> Lane | None:
        """The lane on which a message of this id is open: one that is written, else one that comes by ioctl."""
        for number in (identity, identity + CALLED):
            lane = self.lanes.get(number)
            if lane is not None and lane.message is not None:
                return lane
        return None

    def reset(self) -> None:
        """Drop unfinished messages. Accepted requests are still answered, in their order: ECANCELED."""
        for identity, lane in list(self.lanes.items()):
            for job in lane.jobs:
                job.cancel()
            if lane.jobs:
                lane.jobs[-1].forgets = True
            else:
                self.fail(lane, Cancelled("reset"), last=True)
                del self.lanes[identity]

    def close(self) -> None:
        """Drop everything, now: the context's last handle has gone, and what is kept here may be megabytes."""
        for lane in self.lanes.values():
            for job in lane.jobs:
                job.cancelled = True
                if job.task is not None:
                    # it may wait for its turn long
                    job.task.drop()
                    job.task = None
                if job.call is not None:
                    job.call.gone = True
            if not lane.jobs:
                self.fail(lane, Cancelled("closed"), last=True)
            # otherwise a worker has its message: that closes, and its state with it, when the worker is done
            lane.jobs.clear()
        self.lanes.clear()
        self._ready.clear()
        self.queue.release(self.outstanding, self.bytes)
        self.outstanding = self.bytes = self.kept = 0
