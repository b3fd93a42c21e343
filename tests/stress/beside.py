"""Hostile clients on a real mount beside a good one, in rounds; memory and descriptors of the daemon between them."""

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from helpers.daemons import Daemon
from helpers.other_user import become

from cryptofs.client import Context
from cryptofs.records import RECORD_MAX, Attr, Operation, Record, build

from . import declared, rotation, server
from .attack import Attacker, AttackResult
from .declared import FIRST_UID, Keys, Secrets
from .good import GoodClient, GoodResult
from .oracle import Errnos

HOSTILE_CLIENTS = 3
ROOT = os.geteuid() == 0
"""Whether each hostile client can be a user of its own."""
_FORK = multiprocessing.get_context("fork")
_VICTIMS = 16
"""The most contexts of the good client's that the hostile ones are told of."""

GROWTH_MAX = 8 * 1024 * 1024
"""Bytes that the daemon's memory may grow by between the second quarter of the rounds and the last one.

Each sample is taken with every context closed, after the kept buffers (which are bounded, at about 16 MiB) were filled
on purpose, so nothing that grows by design is left. What chance does (the allocator's arenas, the collector's timing)
goes both ways and is taken out by the medians: 1 to 2 MiB were seen. In the full form a leak of 20 bytes a
record passes the bound.
"""
SMALL_GROWTH_MAX = 40 * 1024 * 1024
"""The same for a run of less than LEVEL records. What it holds at its end swings by 20 MiB either way, and twice as
many records end no higher: a bound below that would depend on luck. A leak of 2.5 KB a record passes this bound in the
short form.
"""
LEVEL = 200_000


MUST_BE_SEEN = ("accepted", "EINVAL", "EBADMSG", "EMSGSIZE", "EDQUOT", "EAGAIN", "ENOENT")
"""Verdicts on hostile calls without which the run has not tried what it is to try."""
MUST_BE_ANSWERED = (
    *("ok", "EINVAL", "ENOENT", "EBUSY", "EBADFD", "ENOKEY", "EBADMSG", "EOPNOTSUPP", "ECANCELED"),
    *("EACCES", "EKEYREJECTED", "EMSGSIZE"),
)
MUST_BE_LIMITED = ("contexts", "requests", "queue-bytes", "rate", "stream queue-bytes", "device stream", "clone")
"""What the policy must have said no to, where the hostile clients have uids, and so rules, of their own: they ask for
more of each at their beginning."""
ENOUGH = 30_000
"""Records from which all of these must have been seen: the rarest came a dozen times in so many."""


@dataclass
class Sample:
    """The daemon between two rounds: bytes resident, descriptors open (None where we may not count them)."""

    memory: int
    descriptors: int | None


def _sample(daemon: Daemon) -> Sample:
    try:
        descriptors: int | None = len(daemon.descriptors)
    except PermissionError:
        # it is undumpable, so only root may look
        descriptors = None
    return Sample(daemon.memory, descriptors)


@dataclass
class BesideResult:
    """What came of it. seconds: of the rounds; samples: one after each round; wrong: what must not be."""

    attack: AttackResult = field(default_factory=AttackResult)
    good: GoodResult = field(default_factory=GoodResult)
    seconds: float = 0.0
    nonces: set[bytes] = field(default_factory=set)
    samples: list[Sample] = field(default_factory=list)
    growth: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def growth_max(self) -> int:
        """Bytes that the daemon may have grown by in a run of this length."""
        return GROWTH_MAX if self.attack.records >= LEVEL else SMALL_GROWTH_MAX

    def take(self, found: AttackResult | GoodResult) -> None:
        """Take a round of one client's into account. No two messages of a device have one nonce, whoever's they are."""
        for nonce in found.nonces:
            if nonce in self.nonces:
                self.wrong.append(f"a nonce came twice: {nonce!r}")
            self.nonces.add(nonce)
        found.nonces = []
        if isinstance(found, GoodResult):
            self.good.add(found)
        else:
            self.attack.add(found)


@dataclass
class Worker:
    """A process that does rounds when told: (`size`) in, its result out; None ends it."""

    process: Any
    connection: Connection

    def ask(self) -> Any:
        """The result of the round that was asked for. Errors: RuntimeError if the process has died."""
        try:
            return self.connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.process.name} died") from None


def _serve(connection: Connection, work: Callable[[int], Any], uid: int | None) -> None:
    if uid is not None:
        become(uid)
    while (size := connection.recv()) is not None:
        connection.send(work(size))


def _start(name: str, work: Callable[[int], Any], uid: int | None = None) -> Worker:
    ours, theirs = _FORK.Pipe()
    process = _FORK.Process(target=_serve, args=(theirs, work, uid), name=name, daemon=True)
    process.start()
    theirs.close()
    return Worker(process, ours)


@contextlib.contextmanager
def _workers(
    mount: Path, seed: int, clients: int, keys: Keys, done: Any, stop: Any
) -> Iterator[tuple[Worker, list[Worker]]]:
    """The good client and the hostile ones; where we are root, each hostile one is a user of its own."""
    errnos = Errnos()
    secrets = Secrets(keys)
    shared = _FORK.Array("Q", _VICTIMS)

    def tell(numbers: tuple[int, ...]) -> None:
        shared[:] = [*numbers, *[0] * (_VICTIMS - len(numbers))]

    def victims() -> tuple[int, ...]:
        # of the same user they would be its own contexts, and it may do what it likes with these
        return tuple(number for number in shared[:] if number) if ROOT else ()

    def progress(count: int) -> None:
        with done.get_lock():
            done.value += count

    good_client = GoodClient(mount, f"{seed}/good", keys, tell)
    good = _start("good", lambda _: good_client.run(stop.is_set))
    attackers = []
    for index in range(clients):
        attacker = Attacker(mount, f"{seed}/hostile/{index}", victims, errnos, secrets, ROOT)
        work = _hostile_round(attacker, progress)
        attackers.append(_start(f"hostile {index}", work, FIRST_UID + index if ROOT else None))
    everybody = [good, *attackers]
    try:
        yield good, attackers
        for worker in everybody:
            worker.connection.send(None)
            worker.process.join(20)
    finally:
        for worker in everybody:
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(5)
            worker.connection.close()


def _hostile_round(attacker: Attacker, progress: Callable[[int], None]) -> Callable[[int], AttackResult]:
    return lambda size: attacker.run(size, progress)


def fill_kept_buffers(mount: Path) -> None:
    """Make the daemon keep all the buffers that it ever will: nine answers of each size, all unread at once."""
    sizes = [8192 << power for power in range(8)]
    for size in sizes:
        payload = bytes(min(size - 1024, 1_000_000))
        with contextlib.ExitStack() as stack:
            contexts = [stack.enter_context(Context("skcipher", "ctr(aes)", bytes(16), mount=mount)) for _ in range(3)]
            request = build(Record(Operation.ENCRYPT, 0, 1, 0, {Attr.IV: bytes(16)}, payload))
            for _ in range(3):
                for context in contexts:
                    os.pwrite(context.fileno(), request, 0)
            for _ in range(3):
                for context in contexts:
                    # one answer a read: several are joined into another buffer
                    os.pread(context.fileno(), min(len(request) + 1024, RECORD_MAX), 0)


def run(records: int, seed: int, rounds: int, done: Any, clients: int = HOSTILE_CLIENTS) -> BesideResult:
    """Send so many hostile records in so many rounds. done: a shared counter of records sent."""
    result = BesideResult()
    stop = _FORK.Event()
    keys = Keys.drawn(Random(f"{seed}/keys"))
    with (
        server.directory() as path,
        server.serving(path, "--config", str(declared.write(path, keys, ROOT))) as daemon,
    ):
        mount = daemon.mountpoint
        with _workers(mount, seed, clients, keys, done, stop) as (good, attackers):
            try:
                rotate = partial(rotation.rotate, daemon, declared.key_set(path), keys.rotated)
                _rounds(daemon, result, records // rounds // clients, rounds, good, attackers, stop, rotate)
            except RuntimeError as error:
                result.wrong.append(str(error))
        result.wrong += result.attack.wrong + result.good.wrong
        status = daemon.stop()
        _check_daemon(result, daemon, status, Secrets(keys))
    limits = MUST_BE_LIMITED if ROOT else ()
    result.wrong += [f"the policy never bounded {name}" for name in limits if not result.attack.limits[name]]
    if result.attack.records >= ENOUGH:
        result.wrong += [f"{name} was never the verdict" for name in MUST_BE_SEEN if not result.attack.verdicts[name]]
        result.wrong += [f"{name} was never an answer" for name in MUST_BE_ANSWERED if not result.attack.statuses[name]]
        if not result.attack.limits["device"]:
            result.wrong.append("no device was ever refused")
    return result


def _rounds(
    daemon: Daemon,
    result: BesideResult,
    size: int,
    rounds: int,
    good: Worker,
    attackers: list[Worker],
    stop: Any,
    rotate: Callable[[int], None],
) -> None:
    mount = daemon.mountpoint
    for index in range(rounds):
        began = time.monotonic()
        if index == 0:
            fill_kept_buffers(mount)
        stop.clear()
        good.connection.send(0)
        for worker in attackers:
            worker.connection.send(size)
        rotate(index + 2)
        for worker in attackers:
            result.take(worker.ask())
        stop.set()
        result.take(good.ask())
        result.seconds += time.monotonic() - began
        left = server.wait_until_idle(mount)
        if left:
            result.wrong.append(f"round {index}: {left:.0f} contexts are left open though all were closed")
        result.samples.append(_sample(daemon))
    _check_flat(result)


def _check_flat(result: BesideResult) -> None:
    samples = result.samples
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples[:1], samples[-quarter:]
    result.growth = int(
        statistics.median(each.memory for each in late) - statistics.median(each.memory for each in early)
    )
    if result.growth > result.growth_max:
        result.wrong.append(f"memory grew by {result.growth} bytes: at most {result.growth_max}")
    before, after = early[0].descriptors, samples[-1].descriptors
    grown = after - before if before is not None and after is not None else 0
    # with every context closed there is nothing that could hold one
    if grown > 0:
        result.wrong.append(f"descriptors grew by {grown}")


def _check_daemon(result: BesideResult, daemon: Daemon, status: int, secrets: Secrets) -> None:
    log = daemon.log
    if status:
        result.wrong.append(f"the daemon ended with status {status}")
    if "reload failed" in log:
        result.wrong.append(f"a reload failed: {log[log.index('reload failed') :][:500]}")
    # In the last round, the good client may have been done before the reload.
    if result.good.newest < len(result.samples):
        result.wrong.append(f"the good client saw version {result.good.newest} of {len(result.samples) + 1}")
    if "Traceback" in log:
        result.wrong.append(f"the daemon's log has a traceback: {log[log.index('Traceback') :][:2000]}")
    shown = secrets.shown(log.encode()) or ("a hostile client's own" if "s3cret-key" in log else None)
    if shown:
        result.wrong.append(f"the log shows {shown} key")
