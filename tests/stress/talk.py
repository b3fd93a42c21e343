"""Hostile talk on contexts: what is written, and whether each answer that is due comes once and as documented."""

import errno
import os
import select
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

from cryptofs.records import HEADER_SIZE, OPERATION_NUMBERS, RECORD_MAX, Attr, Operation, Record, build, parse_responses

from . import hostile, oracle
from .declared import Secrets
from .result import SHOWN, AttackResult, symbol

SMALL_READ = 65_536
_RESPONSE = 0x8000
_ASK_EVERY = 16
_POLL_MS = 10_000
_COUNTS = (1, 1, 1, 1, 2, 2, 3, 5, 20)
"""Records of one write."""
_BROKEN = 0.45
"""How many of the writes have a record whose form is wrong; in the others only what they ask for may be."""

Key = tuple[int, int, int]
"""What an answer is told by: operation, id, MORE."""


_GIVEN_BACK = 5.0
"""Seconds within which a closed context is one fewer: the kernel tells the daemon after close(2) has returned."""

T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """Open something that the user may open, once what was closed before is counted no more. Errors: OSError."""
    deadline = time.monotonic() + _GIVEN_BACK
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.EDQUOT or time.monotonic() > deadline:
                raise
        time.sleep(0.001)


class Target:
    """One context of the hostile client's, and what it still has to answer.

    kind: its kind's or device's name; pool: valid records for it; nonce_size: bytes before each encrypted message,
    if all of these come whole. Errors: OSError.
    """

    def __init__(self, path: Path, kind: str, pool: list[bytes], nonblocking: bool, nonce_size: int = 0) -> None:
        self.path = path
        self.kind = kind
        self.pool = pool
        self.nonce_size = nonce_size
        self.is_device = path.parent.parent.name == "devices"
        self.forbidden = (Operation.DECRYPT,) if self.is_device and kind == "drop" else ()
        self.expected: Counter[Key] = Counter()
        self.order: dict[int, list[int]] = {}
        self.failed: dict[int, int] = {}
        """By id: the status of a part that failed, which all later parts of its message have, too."""
        self.fd = os.open(path, os.O_RDWR | (os.O_NONBLOCK if nonblocking else 0))
        try:
            self.number = self._number()
        except BaseException:
            os.close(self.fd)
            raise

    def _number(self) -> int:
        if not self.is_device:
            return int(os.pread(self.fd, 64, 0))
        os.pwrite(self.fd, build(Record(Operation.INFO, 0, 0)), 0)
        (info,) = parse_responses(os.pread(self.fd, SMALL_READ, 0))
        number = info.attributes[Attr.CONTEXT]
        assert isinstance(number, int)
        return number

    def accept(self, data: bytes) -> int:
        """A write was accepted: all its records will be answered. Returns how many there are."""
        records = oracle.walk(data)
        for operation, flags, identity, _, _ in records:
            self.expected[operation, identity, flags & hostile.MORE] += 1
            if operation >= Operation.ENCRYPT:
                self.order.setdefault(identity, []).append(operation << 1 | (flags & hostile.MORE))
        return len(records)

    def goes_on_failing(self, operation: int, more: int, identity: int, status: int) -> bool:
        """Take an answer's status into account; returns whether it is that of an earlier part of its message."""
        if operation < Operation.ENCRYPT:
            return False
        before = self.failed.get(identity)
        if not more:
            self.failed.pop(identity, None)
        elif status:
            self.failed.setdefault(identity, status)
        return before == status

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


class Talker:
    """Writes hostile records and judges the answers; everything that is received is searched for keys."""

    def __init__(self, seed: str, rng: Random, errnos: oracle.Errnos, secrets: Secrets) -> None:
        self.rng = rng
        self.errnos = errnos
        self.result = AttackResult()
        self._seed = seed
        self._secrets = secrets
        self._buffer = bytearray(RECORD_MAX)

    def fault(self, what: str) -> None:
        """Something must not be."""
        if len(self.result.wrong) < SHOWN:
            self.result.wrong.append(f"{self._seed}: {what}")

    def look(self, data: bytes, where: str) -> None:
        """Look for keys in what was received."""
        self.result.received += len(data)
        shown = self._secrets.shown(data)
        if shown:
            self.fault(f"{where} shows {shown} key")

    def attempt(self, what: str, allowed: set[int], call: Callable[[], object]) -> int:
        """Make a call that may fail, with the errnos that are allowed only. Returns its errno, 0 for none."""
        try:
            call()
        except OSError as error:
            number = error.errno or 0
            self.result.verdicts[symbol(number)] += 1
            if number not in allowed:
                self.fault(f"{what}: {symbol(number)}")
            return number
        return 0

    def count(self, number: int, device: bool) -> None:
        """So much hostile input was made."""
        self.result.records += number
        if device:
            self.result.device_records += number

    # Writing

    def write(self, target: Target, victims: tuple[int, ...]) -> None:
        """One write of a few records, most of them from the target's pool; mostly all answers are read then."""
        rng = self.rng
        parts = []
        count = rng.choice(_COUNTS)
        # a write is refused whole, so one record with a wrong form is enough
        broken = int(rng.random() * count) if rng.random() < _BROKEN else -1
        for index in range(count):
            if victims and rng.random() < 0.02:
                record = build(hostile.valid(rng, hostile.kind_named(target.kind, target.is_device), victims))
            else:
                record = target.pool[int(rng.random() * len(target.pool))]
            name, data = hostile.hostile(rng, record, 1.0 if index == broken else 0.0)
            self.result.mutations[name] += 1
            parts.append(data)
        self.count(len(parts), target.is_device)
        data = b"".join(parts)
        if not data:
            # the kernel does not hand an empty write on
            return
        self.send(target, data, ask=self.result.writes % _ASK_EVERY == 0)
        if rng.random() < 0.9:
            self.drain(target)

    def send(self, target: Target, data: bytes, ask: bool = False) -> int:
        """Write. ask: compare the verdict with the definition's, which takes long. Returns the errno, 0 for none."""
        result = self.result
        result.writes += 1
        try:
            written = os.pwrite(target.fd, data, 0)
        except OSError as error:
            number = error.errno or 0
            result.verdicts[symbol(number)] += 1
            if number not in self.errnos.refused:
                self.fault(f"a write refused with {symbol(number)}: {data[:200].hex()}")
            if number in (errno.EAGAIN, errno.EDQUOT):
                self.drain(target)
            elif ask and number in (errno.EBADMSG, errno.EINVAL) and len(data) <= RECORD_MAX:
                result.compared += 1
                if oracle.acceptable(data):
                    self.fault(f"{symbol(number)} for what the definition accepts: {data[:200].hex()}")
            return number
        result.verdicts["accepted"] += 1
        if written != len(data) and len(data) <= RECORD_MAX:
            self.fault(f"{written} of {len(data)} bytes taken")
        if ask and len(data) <= RECORD_MAX:
            result.compared += 1
            if not oracle.acceptable(data):
                self.fault(f"accepted what the definition refuses: {data[:200].hex()}")
        try:
            target.accept(data[:written])
        except ValueError as error:
            self.fault(f"accepted bytes that are no records ({error}): {data[:200].hex()}")
        return 0

    # Reading

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
                        self.fault(f"no answer within {_POLL_MS} ms: {list(target.expected)[:5]}")
                        return None
                elif error.errno == errno.EMSGSIZE and size < RECORD_MAX:
                    size = RECORD_MAX
                else:
                    self.fault(f"a read failed with {symbol(error.errno)}")
                    return None
                continue
            if not got or bytes(view[:got]) == b"%d\n" % target.number:
                return None
            return view[:got]

    def drain(self, target: Target) -> None:
        """Read all answers: each one that is due comes once, and no other."""
        while (data := self._read(target, SMALL_READ)) is not None:
            self.check(target, data)
        if target.expected:
            self.fault(f"never answered: {list(target.expected.items())[:5]}")
            target.expected.clear()

    def check(self, target: Target, data: memoryview) -> None:
        """Judge what one read gave."""
        try:
            answers = oracle.walk(data)
        except ValueError as error:
            self.fault(f"answers that are no records: {error}")
            return
        self.look(bytes(data), f"an answer of {target.kind}")
        at = 0
        for operation, flags, identity, status, attributes_size in answers:
            self.result.answers += 1
            self.result.statuses[symbol(status)] += 1
            wrong = target.answered(operation, flags, identity)
            if wrong:
                self.fault(wrong)
            continued = target.goes_on_failing(operation, flags & hostile.MORE, identity, status)
            if status:
                if not continued and status not in self.errnos.by_operation[operation]:
                    self.fault(f"operation {operation} answered {symbol(status)} ({target.kind})")
                if not attributes_size:
                    self.fault(f"{symbol(status)} without a message")
            if operation in target.forbidden and status in (0, errno.EBADMSG):
                self.fault(f"{target.kind} does {OPERATION_NUMBERS[operation].word}")
            if not status and target.nonce_size and operation == Operation.ENCRYPT and not flags & hostile.MORE:
                begins = at + HEADER_SIZE + attributes_size
                self.note_nonce(target.kind, bytes(data[begins : begins + target.nonce_size]))
            at += int.from_bytes(data[at : at + 4], "little")

    def note_nonce(self, device: str, nonce: bytes) -> None:
        """A device has made a nonce."""
        self.result.nonces.append(device.encode() + nonce)
