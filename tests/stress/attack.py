"""A hostile client: it does what no client should, and checks that it is answered as the documents say."""

import contextlib
import errno
import os
import select
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from cryptofs.records import RECORD_MAX, Operation, Record, build

from . import hostile, oracle

_RESPONSE = 0x8000
_POOL = 400
_CONTEXTS = len(hostile.CONFIGURATIONS)
_SMALL_READ = 65_536
_SHOWN = 10
_ASK_EVERY = 16
_POLL_MS = 10_000
_COUNTS = (1, 1, 1, 1, 2, 2, 3, 5, 20)
"""Records of one write."""
_BROKEN = 0.45
"""How many of the writes have a record whose form is wrong; in the others only what they ask for may be."""
# what the tree answers to what nobody may do there
_TREE_ERRNOS = {errno.ENOENT, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_TREE_ERRNOS |= {errno.EEXIST, errno.ENOTEMPTY}
_STREAM_ERRNOS = {errno.EBADFD, errno.EAGAIN, errno.ECANCELED}

Key = tuple[int, int, int]
"""What an answer is told by: operation, id, MORE."""


@dataclass
class AttackResult:
    """What was sent and what came of it. verdicts: by `accepted` or the errno of the refusal."""

    records: int = 0
    writes: int = 0
    answers: int = 0
    compared: int = 0
    mutations: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "AttackResult") -> None:
        """Take another client's result into account."""
        for name in ("records", "writes", "answers", "compared"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("mutations", "verdicts", "statuses", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def symbol(number: int) -> str:
    """An errno's name, `ok` for 0."""
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number)) if number else "ok"


class Target:
    """One context of the hostile client's, and what it still has to answer."""

    def __init__(self, mount: Path, kind: str, nonblocking: bool) -> None:
        self.kind = kind
        self.fd = os.open(mount / "crypto", os.O_RDWR | (os.O_NONBLOCK if nonblocking else 0))
        self.number = int(os.pread(self.fd, 64, 0))
        self.expected: Counter[Key] = Counter()
        self.order: dict[int, list[int]] = {}

    def accept(self, data: bytes) -> int:
        """A write was accepted: all its records will be answered. Returns how many there are."""
        records = oracle.walk(data)
        for operation, flags, identity, _, _ in records:
            self.expected[operation, identity, flags & hostile.MORE] += 1
            if operation >= Operation.ENCRYPT:
                self.order.setdefault(identity, []).append(operation << 1 | (flags & hostile.MORE))
        return len(records)

    def answered(self, operation: int, flags: int, identity: int) -> str | None:
        """An answer has come; returns what is wrong with it."""
        more = flags & hostile.MORE
        key = (operation, identity, more)
        if not flags & _RESPONSE or flags & ~(_RESPONSE | hostile.MORE):
            return f"an answer with flags {flags:#x}"
        if not self.expected[key]:
            return f"an answer that nothing waits for: {key}"
        self.expected[key] -= 1
        if not self.expected[key]:
            del self.expected[key]
        if operation >= Operation.ENCRYPT and self.order[identity].pop(0) != operation << 1 | more:
            return f"an answer out of the order of its id: {key}"
        return None


class Attacker:
    """One hostile client. victims: numbers of other people's contexts; foreign: whether they are another user's."""

    def __init__(
        self, mount: Path, seed: str, victims: Callable[[], tuple[int, ...]], errnos: oracle.Errnos, foreign: bool
    ) -> None:
        self._mount = mount
        self._rng = Random(seed)
        self._seed = seed
        self._victims = victims
        self._errnos = errnos
        self._foreign = foreign
        self._targets: list[Target] = []
        self._pools: dict[str, list[bytes]] = {}
        self._buffer = bytearray(RECORD_MAX)
        self.result = AttackResult()
        self._acts: tuple[tuple[float, Callable[[Target], None]], ...] = (
            (0.05, self._reopen),
            (0.09, self._control),
            (0.12, self._stream),
            (0.15, self._read_small),
            (0.17, self._poll),
            (0.18, self._tree),
            (0.20, self._intrude),
            (0.201, self._never_end),
            (0.2012, self._fill),
            (1.0, self._write),
        )

    def run(self, records: int, progress: Callable[[int], None]) -> AttackResult:
        """Send about so many records and close everything; progress gets how many were sent since the last call."""
        self.result = AttackResult()
        told = 0
        with self._opened():
            while self.result.records < records:
                self.step()
                if self.result.records - told >= 200:
                    progress(self.result.records - told)
                    told = self.result.records
            for target in self._targets:
                self._drain(target)
        progress(self.result.records - told)
        return self.result

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        for kind in tuple(hostile.CONFIGURATIONS)[:_CONTEXTS]:
            self._pools[kind] = hostile.pool(self._rng, kind, _POOL)
            self._targets.append(self._new(kind))
        try:
            yield
        finally:
            for target in self._targets:
                os.close(target.fd)
            self._targets.clear()

    def _new(self, kind: str) -> Target:
        target = Target(self._mount, kind, self._rng.random() < 0.3)
        if self._rng.random() < 0.85:
            # most are configured well, or nothing behind that would ever be reached
            self._send(target, build(Record(Operation.CONFIGURE, 0, 0, 0, hostile.CONFIGURATIONS[kind])))
        return target

    def _fault(self, what: str) -> None:
        if len(self.result.wrong) < _SHOWN:
            self.result.wrong.append(f"{self._seed}: {what}")

    def step(self) -> None:
        """One hostile act."""
        target = self._targets[int(self._rng.random() * len(self._targets))]
        chance = self._rng.random()
        for bound, act in self._acts:
            if chance < bound:
                act(target)
                return

    # On crypto

    def _write(self, target: Target) -> None:
        rng = self._rng
        parts = []
        pool = self._pools[target.kind]
        victims = self._victims()
        count = rng.choice(_COUNTS)
        # a write is refused whole, so one record with a wrong form is enough
        broken = int(rng.random() * count) if rng.random() < _BROKEN else -1
        for index in range(count):
            if victims and rng.random() < 0.02:
                record = build(hostile.valid(rng, target.kind, victims))
            else:
                record = pool[int(rng.random() * len(pool))]
            name, data = hostile.hostile(rng, record, 1.0 if index == broken else 0.0)
            self.result.mutations[name] += 1
            parts.append(data)
        self.result.records += len(parts)
        data = b"".join(parts)
        if not data:
            # the kernel does not hand an empty write on
            return
        self._send(target, data, ask=self.result.writes % _ASK_EVERY == 0)
        if rng.random() < 0.9:
            self._drain(target)

    def _send(self, target: Target, data: bytes, ask: bool = False) -> None:
        result = self.result
        result.writes += 1
        try:
            written = os.pwrite(target.fd, data, 0)
        except OSError as error:
            number = error.errno or 0
            result.verdicts[symbol(number)] += 1
            if number not in self._errnos.refused:
                self._fault(f"a write refused with {symbol(number)}: {data[:200].hex()}")
            if number == errno.EAGAIN:
                self._drain(target)
            elif ask and number in (errno.EBADMSG, errno.EINVAL) and len(data) <= RECORD_MAX:
                result.compared += 1
                if oracle.acceptable(data):
                    self._fault(f"{symbol(number)} for what the definition accepts: {data[:200].hex()}")
            return
        result.verdicts["accepted"] += 1
        if written != len(data) and len(data) <= RECORD_MAX:
            self._fault(f"{written} of {len(data)} bytes taken")
        if ask and len(data) <= RECORD_MAX:
            result.compared += 1
            if not oracle.acceptable(data):
                self._fault(f"accepted what the definition refuses: {data[:200].hex()}")
        try:
            target.accept(data[:written])
        except ValueError as error:
            self._fault(f"accepted bytes that are no records ({error}): {data[:200].hex()}")

    def _read(self, target: Target, size: int) -> memoryview | None:
        """What one read gives, None where nothing is left in flight."""
        view = memoryview(self._buffer)
        while True:
            try:
                got = os.preadv(target.fd, [view[:size]], 0)
            except OSError as error:
                if error.errno == errno.EAGAIN and target.expected:
                    poll = select.poll()
                    poll.register(target.fd, select.POLLIN)
                    if not poll.poll(_POLL_MS):
                        self._fault(f"no answer within {_POLL_MS} ms: {list(target.expected)[:5]}")
                        return None
                elif error.errno == errno.EMSGSIZE and size < RECORD_MAX:
                    size = RECORD_MAX
                else:
                    self._fault(f"a read failed with {symbol(error.errno or 0)}")
                    return None
                continue
            if not got or bytes(view[:got]) == b"%d\n" % target.number:
                return None
            return view[:got]

    def _drain(self, target: Target) -> None:
        """Read all answers: each one that is due comes once, and no other."""
        while (data := self._read(target, _SMALL_READ)) is not None:
            self._check(target, data)
        if target.expected:
            self._fault(f"never answered: {list(target.expected.items())[:5]}")
            target.expected.clear()

    def _check(self, target: Target, data: memoryview) -> None:
        try:
            answers = oracle.walk(data)
        except ValueError as error:
            self._fault(f"answers that are no records: {error}")
            return
        if hostile.CANARY[:16] in bytes(data):
            self._fault("an answer shows the key")
        for operation, flags, identity, status, attributes_size in answers:
            self.result.answers += 1
            self.result.statuses[symbol(status)] += 1
            wrong = target.answered(operation, flags, identity)
            if wrong:
                self._fault(wrong)
            if status:
                if status not in self._errnos.by_operation[operation]:
                    self._fault(f"operation {operation} answered {symbol(status)}")
                if not attributes_size:
                    self._fault(f"{symbol(status)} without a message")

    def _read_small(self, target: Target) -> None:
        self._send(target, build(Record(Operation.INFO, 0, 9)))
        try:
            data = os.pread(target.fd, self._rng.choice((0, 1, 23, 24, 100)), 0)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.EAGAIN):
                self._fault(f"a small read failed with {symbol(error.errno or 0)}")
            data = b""
        if data:
            self._check(target, memoryview(data))

    def _poll(self, target: Target) -> None:
        poll = select.poll()
        poll.register(target.fd, select.POLLIN | select.POLLOUT)
        events = dict(poll.poll(0)).get(target.fd, 0)
        if events & (select.POLLERR | select.POLLNVAL):
            self._fault(f"poll says {events:#x}")

    def _reopen(self, target: Target) -> None:
        if self._rng.random() < 0.5:
            self._drain(target)
        # otherwise: closed with answers unread and messages open
        os.close(target.fd)
        self._targets.remove(target)
        self._targets.append(self._new(target.kind))

    def _never_end(self, target: Target) -> None:
        """Messages in parts, more and more of them, none of which ends."""
        for first in range(1000, 1900, 300):
            parts = [build(Record(Operation.DIGEST, hostile.MORE, first + each)) for each in range(300)]
            self.result.records += len(parts)
            self._send(target, b"".join(parts))
            if self._rng.random() < 0.8:
                self._drain(target)

    def _fill(self, target: Target) -> None:
        """More requests than a queue takes, and nothing is read."""
        request = build(Record(Operation.INFO, 0, 5))
        for count in (2100, 2100, 5000):
            self.result.records += count
            self._send(target, request * count)

    # Beside crypto

    def _attempt(self, what: str, allowed: set[int], call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            self.result.verdicts[symbol(error.errno or 0)] += 1
            if error.errno not in allowed:
                self._fault(f"{what}: {symbol(error.errno or 0)}")

    def _control(self, target: Target) -> None:
        rng = self._rng
        if rng.random() < 0.5:
            data = hostile.line(rng)
        else:
            pool = self._pools[target.kind]
            data = hostile.hostile(rng, pool[int(rng.random() * len(pool))], 0.5)[1]
        self.result.records += 1
        fd = os.open(self._mount / "contexts" / str(target.number) / "ctl", os.O_RDWR)
        try:
            self._attempt("ctl", self._errnos.control, lambda: os.write(fd, data))
            reply = os.read(fd, _SMALL_READ)
            if hostile.CANARY[:16] in reply or hostile.CANARY[:16].hex().encode() in reply:
                self._fault("a reply shows the key")
        finally:
            os.close(fd)
        # a reset or cancel by ctl only changes what the answers say, not how many there are

    def _stream(self, target: Target) -> None:
        rng = self._rng
        self.result.records += 1
        allowed = self._errnos.control | _STREAM_ERRNOS
        path = self._mount / "contexts" / str(target.number) / "stream"
        mode = rng.choice((os.O_RDWR, os.O_RDWR, os.O_WRONLY, os.O_RDONLY))
        try:
            fd = os.open(path, mode | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in allowed:
                self._fault(f"open of a stream: {symbol(error.errno or 0)}")
            return
        try:
            if mode != os.O_RDONLY:
                self._attempt("stream", allowed, lambda: os.write(fd, rng.randbytes(rng.choice((1, 16, 100, 5000)))))
            if mode != os.O_WRONLY:
                self._attempt("stream", allowed, lambda: os.read(fd, rng.choice((1, 4096))))
        finally:
            os.close(fd)

    def _tree(self, target: Target) -> None:
        rng = self._rng
        name = rng.choice(
            ("..", "x" * 300, "sha256", "((((", "gcm(aes)", "\udcff", "contexts", str(rng.getrandbits(70)))
        )
        path = str(self._mount / rng.choice(("", "contexts", "algorithms", "algorithms/hash"))) + "/" + name
        call = rng.choice((os.stat, os.mkdir, os.unlink, os.listdir, os.rmdir))
        self._attempt(f"{call.__name__} {name[:20]!r}", _TREE_ERRNOS, lambda: call(path))

    def _intrude(self, target: Target) -> None:
        """Another user's context must not open."""
        victims = self._victims()
        if not victims or not self._foreign:
            return
        rng = self._rng
        path = self._mount / "contexts" / str(rng.choice(victims)) / rng.choice(("ctl", "stream", "status"))
        try:
            fd = os.open(path, rng.choice((os.O_RDWR, os.O_RDONLY, os.O_WRONLY)))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES):
                self._fault(f"a foreign context: {symbol(error.errno or 0)}")
            return
        os.close(fd)
        self._fault(f"{path} opens for another user")
