"""A hostile client: it does what no client should, and checks that it is answered as the documents say."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from helpers.raw import build_many

from cryptofs.records import RECORD_MAX, Attr, Operation, Record, build

from . import hostile, oracle
from .declared import CONTEXTS_MAX, QUEUE_BYTES_MAX, RATE_MAX, REQUESTS_MAX, Secrets
from .device_files import DeviceFiles
from .kinds import ALL_KINDS, CONTEXT_KINDS, DEVICE_KINDS, KINDS, NAMED
from .result import AttackResult, symbol
from .sidefiles import SideFiles
from .talk import Talker, Target, patiently

_POOL = 250
_RENEWED = 50
_OPEN, _OPEN_NAMED, _OPEN_DEVICES = 8, 4, 5
"""How many contexts are open in a round: other kinds and devices in the next."""
_NONCES = {"gcm": 12, "drop": 12, "authenc": 16}
"""Bytes of the nonce before each encrypted message, of devices whose messages come whole."""

Act = Callable[[Target], None]


class Attacker:
    """One hostile client. victims: numbers of other people's contexts; foreign: whether they are another user's."""

    def __init__(
        self,
        mount: Path,
        seed: str,
        victims: Callable[[], tuple[int, ...]],
        errnos: oracle.Errnos,
        secrets: Secrets,
        foreign: bool,
    ) -> None:
        self._mount = mount
        self._rng = Random(seed)
        self._talk = Talker(seed, self._rng, errnos, secrets)
        self._side = SideFiles(mount, self._talk)
        self._files = DeviceFiles(mount, self._talk, self._side, foreign)
        self._victims = victims
        self._foreign = foreign
        self._rounds = 0
        self._pools: dict[str, list[bytes]] = {}
        self._targets: list[Target] = []
        self._devices: list[Target] = []
        side = self._side
        beside: tuple[tuple[float, Act], ...] = (
            (0.05, self._reopen),
            (0.09, side.control),
            (0.12, side.stream),
            (0.15, side.read_small),
            (0.17, side.poll),
            (0.18, side.tree),
            (0.20, self._intrude),
            (0.205, self._misuse),
            (0.208, side.status),
        )
        self._acts: tuple[tuple[float, Act], ...] = (
            *beside,
            (0.209, self._never_end),
            (0.2092, self._fill),
            (1.0, self._write),
        )
        self._device_acts: tuple[tuple[float, Act], ...] = (
            *beside,
            (0.25, self._misuse),
            (0.38, lambda _: self._files.act()),
            (1.0, self._write),
        )

    def run(self, records: int, progress: Callable[[int], None]) -> AttackResult:
        """Send about so many records and close everything; progress gets how many were sent since the last call."""
        result = self._talk.result = AttackResult()
        told = 0
        with self._opened():
            if not self._rounds and self._foreign:
                self._exhaust()
            self._rounds += 1
            while result.records < records:
                self.step()
                if result.records - told >= 200:
                    progress(result.records - told)
                    told = result.records
            for target in (*self._targets, *self._devices):
                self._talk.drain(target)
        progress(result.records - told)
        return result

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        try:
            opened = self._rng.sample(sorted(KINDS), _OPEN) + self._rng.sample(sorted(NAMED), _OPEN_NAMED)
            for name in opened:
                self._targets.append(self._new("crypto", name, self._pool(name)))
            for name in self._rng.sample(sorted(DEVICE_KINDS), _OPEN_DEVICES):
                self._devices.append(self._new(f"devices/{name}/crypto", name, self._pool(f"device {name}")))
            yield
        finally:
            for target in (*self._targets, *self._devices):
                os.close(target.fd)
            self._targets.clear()
            self._devices.clear()

    def _pool(self, name: str) -> list[bytes]:
        """Valid records of a kind, a part of which are new ones in each round."""
        pool = self._pools.setdefault(name, [])
        pool[:_RENEWED] = hostile.pool(self._rng, ALL_KINDS[name], _RENEWED if pool else _POOL)
        return pool

    def _new(self, path: str, kind: str, pool: list[bytes]) -> Target:
        nonblocking = self._rng.random() < 0.3
        configured = self._rng.random() < 0.85
        nonce_size = _NONCES.get(kind, 0) if path != "crypto" else 0
        target = patiently(lambda: Target(self._mount / path, kind, pool, nonblocking, nonce_size))
        if configured and not target.is_device:
            # most are configured well, or nothing behind that would ever be reached
            self._talk.send(target, build(Record(Operation.CONFIGURE, 0, 0, 0, CONTEXT_KINDS[kind].configuration)))
        return target

    def step(self) -> None:
        """One hostile act."""
        rng = self._rng
        on_device = rng.random() < 0.3
        targets = self._devices if on_device else self._targets
        target = targets[int(rng.random() * len(targets))]
        chance = rng.random()
        for bound, act in self._device_acts if on_device else self._acts:
            if chance < bound:
                act(target)
                return

    # On contexts

    def _write(self, target: Target) -> None:
        self._talk.write(target, self._victims())

    def _reopen(self, target: Target) -> None:
        if self._rng.random() < 0.5:
            self._talk.drain(target)
        # otherwise: closed with answers unread and messages open
        targets = self._devices if target.is_device else self._targets
        targets.remove(target)
        os.close(target.fd)
        targets.append(self._new(str(target.path.relative_to(self._mount)), target.kind, target.pool))

    def _misuse(self, target: Target) -> None:
        self._talk.count(1, target.is_device)
        if self._rng.random() < 0.5:
            self._side.ioctl(target.fd)
        else:
            self._side.wrong_calls(target.fd, seekable=True)

    def _intrude(self, target: Target) -> None:
        victims = self._victims()
        if victims and self._foreign:
            self._side.intrude(victims)
            self._clone(victims)

    def _clone(self, victims: tuple[int, ...]) -> None:
        """A hash's state into other users' contexts: whatever these are, there is no such context for us."""
        numbers = dict(enumerate(victims, 2))
        clones = [Record(Operation.CLONE, 0, id_, 0, {Attr.CONTEXT: n, Attr.TARGET: 1}) for id_, n in numbers.items()]
        with contextlib.suppress(InterruptedError):
            own = os.open(self._mount / "crypto", os.O_RDWR)
            try:
                attributes = {Attr.TYPE: "hash", Attr.NAME: "sha256"}
                begun = Record(Operation.DIGEST, hostile.MORE, 1, 0, {}, b"x")
                os.pwrite(own, build_many([Record(Operation.CONFIGURE, 0, 0, 0, attributes), begun, *clones]), 0)
                for operation, _, identity, status, _ in oracle.walk(os.pread(own, RECORD_MAX, 0)):
                    if operation == Operation.CLONE and status != errno.ENOENT:
                        self._talk.fault(f"a clone into context {numbers[identity]} of another user: {symbol(status)}")
                    elif operation == Operation.DIGEST and status == 0:
                        self._talk.result.limits["clone"] += 1
            except OSError as error:
                # over a quota of this user's rule
                if error.errno not in (errno.EDQUOT, errno.EAGAIN):
                    raise
            finally:
                os.close(own)

    def _never_end(self, target: Target) -> None:
        """Messages in parts, more and more of them, none of which ends."""
        for first in range(1000, 1900, 300):
            parts = [hostile.request(Operation.DIGEST, first + each, hostile.MORE) for each in range(300)]
            self._talk.count(len(parts), target.is_device)
            self._talk.send(target, b"".join(parts))
            if self._rng.random() < 0.8:
                self._talk.drain(target)

    def _fill(self, target: Target) -> None:
        """More requests than a queue takes, and nothing is read."""
        request = hostile.request(Operation.INFO, 5)
        for count in (2100, 2100, 5000):
            self._talk.count(count, target.is_device)
            self._talk.send(target, request * count)

    # What the policy bounds: all of it is asked for once, whatever the rule of this client's user is

    def _exhaust(self) -> None:
        limits = self._talk.result.limits
        opened: list[int] = []
        try:
            while len(opened) <= CONTEXTS_MAX and not limits["contexts"]:
                path = f"devices/{self._rng.choice(tuple(DEVICE_KINDS))}/crypto" if len(opened) % 2 else "crypto"
                opened.append(os.open(self._mount / path, os.O_RDWR))
        except OSError as error:
            limits["contexts"] += error.errno == errno.EDQUOT
        finally:
            for fd in opened:
                os.close(fd)
        target = self._new("crypto", "sha256", [])
        try:
            request = hostile.request(Operation.DIGEST, 5)
            # in all more than the rate allows in one second, and at last more at once than may wait
            for _ in range(1 + 2 * RATE_MAX // REQUESTS_MAX):
                self._ask(target, request * (REQUESTS_MAX - 100))
                self._talk.drain(target)
            self._ask(target, request * (REQUESTS_MAX - 100))
            self._ask(target, request * 200)
            self._talk.drain(target)
            large = build(Record(Operation.DIGEST, 0, 6, 0, {}, bytes(1_000_000)))
            for _ in range(1 + QUEUE_BYTES_MAX // 2_000_000):
                self._ask(target, large)
            self._talk.drain(target)
            self._files.flood()
        finally:
            self._talk.drain(target)
            os.close(target.fd)

    def _ask(self, target: Target, data: bytes) -> None:
        """Write, and learn from the status which bound said no."""
        if self._talk.send(target, data) != errno.EDQUOT:
            return
        status = (self._mount / "contexts" / str(target.number) / "status").read_text()
        words = {"requests": "requests wait to be read", "queue-bytes": "bytes are queued", "rate": "a second"}
        for limit, says in words.items():
            self._talk.result.limits[limit] += says in status.partition("last-error:")[2]
