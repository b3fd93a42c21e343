"""The table: latency and throughput against record size, batch and clients, for each engine, with the floors."""

import functools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from . import calls
from .bench import Bench
from .clients import Clients
from .mounts import CannotMeasure, Mount
from .passes import Stage
from .placement import Placement, placed
from .turns import Call, timed

SIZES = (16, 256, 1024, 4096, 16_384, 65_536, 262_144, calls.MIB)
BATCHES = (8, 64)
IN_FLIGHT = (8, 64)
CLIENTS = (2, 4)
_AF_ALG_MAX = 65_536
_IOCTL_PAYLOAD_MAX = 8192
_CLIENT_SECONDS = 0.2


@dataclass(frozen=True)
class Row:
    """One measurement. seconds: of one call, the median; a call makes `in_flight` writes of `batch` records and reads
    all answers, `rate` calls a second by all clients together; ratio: of the time to the empty pyfuse3 file system's
    with as many bytes and writes, turn by turn (0: nothing to compare with); noisy: whether its halves differ.
    """

    what: str
    kind: str
    size: int
    batch: int
    in_flight: int
    clients: int
    seconds: float
    rate: float
    ratio: float
    noisy: bool

    @property
    def floor(self) -> bool:
        """Whether this is a floor to compare with, and not cryptofs."""
        return not self.what.startswith(("af_alg", "openssl engine"))

    @property
    def throughput(self) -> float:
        """Bytes a second."""
        return self.rate * self.size * self.batch * self.in_flight


class Measurements(Bench):
    """All rows; the table has none for a missing floor, of which the goals give the reason.

    seconds: for each figure of a comparison. where: the placement of client and daemon for all rows with one client.
    """

    def __init__(self, seconds: float, where: Placement, kinds: Sequence[str]) -> None:
        super().__init__(seconds)
        self._where = where
        self._kinds = kinds

    @property
    def _engines(self) -> dict[str, Mount]:
        return {**({"af_alg": self.kernel} if self.kernel is not None else {}), "openssl engine": self.ours}

    def stages(self) -> list[Stage[Row]]:
        """The measurements in order. Each call of a stage is one pass of it."""
        found: list[Stage[Row]] = []
        for size in SIZES:
            found.append((f"{size} B", functools.partial(self.one_record, size)))
        for batch in BATCHES:
            found.append((f"batches of {batch}", functools.partial(self.several, batch, 1)))
        for in_flight in IN_FLIGHT:
            found.append((f"{in_flight} in flight", functools.partial(self.several, 1, in_flight)))
        for clients in CLIENTS:
            found.append((f"{clients} clients", functools.partial(self.clients, clients)))
        return found

    def one_record(self, size: int) -> Iterator[Row]:
        """One record of this size: every floor, engine and algorithm in turns."""
        with ExitStack() as stack:
            floor = stack.enter_context(calls.opened(self.empty.crypto))
            data = calls.request("cbc(aes)", size)
            measured: list[tuple[str, str, Call]] = [
                ("empty file system, pyfuse3", "", calls.empty_round_trip(floor, len(data))),
                ("cipher called directly", "cbc(aes)", calls.cipher_into(size)),
            ]
            pids = [self.empty.pid]
            if self.bare is not None:
                bare = stack.enter_context(calls.opened(self.bare.crypto))
                call = calls.empty_round_trip(bare, len(data))
                measured.append(("empty file system, bare loop", "", call))
                pids.append(self.bare.pid)
            if self.kernel is not None:
                direct = stack.enter_context(calls.direct_af_alg(min(size, _AF_ALG_MAX)))
                pieces = max(1, size // _AF_ALG_MAX)
                measured.append(("AF_ALG called directly", "cbc(aes)", calls.repeated(direct, pieces)))
            if size == 1024 and shutil.which("openssl"):
                measured.append(("openssl enc, a process", "cbc(aes)", calls.openssl_process(size)))
            for engine, mount in self._engines.items():
                pids.append(mount.pid)
                for kind in self._kinds:
                    descriptor = stack.enter_context(calls.opened(mount.crypto, kind))
                    data = calls.request(kind, size)
                    measured.append((engine, kind, calls.round_trip(descriptor, data)))
                    if size <= _IOCTL_PAYLOAD_MAX:
                        try:
                            measured.append((f"{engine}, ioctl", kind, calls.ioctl_call(descriptor, data)))
                        except CannotMeasure:
                            # A daemon without ioctl; the goals report that.
                            continue
            yield from self._rows(measured, size, 1, 1, pids)

    def several(self, batch: int, in_flight: int) -> Iterator[Row]:
        """Records of 1 KiB, `batch` in each of `in_flight` writes before the answers are read."""
        for engine, mount in self._engines.items():
            for kind in self._kinds:
                with calls.opened(mount.crypto, kind) as descriptor, calls.opened(self.empty.crypto) as floor:
                    numbers = range(1, batch * in_flight + 1)
                    records = [calls.request(kind, 1024, number) for number in numbers]
                    writes = [b"".join(records[at : at + batch]) for at in range(0, len(records), batch)]
                    empty = calls.repeated(calls.empty_round_trip(floor, len(writes[0])), in_flight)
                    ours = calls.round_trip(descriptor, *writes)
                    measured: list[tuple[str, str, Call]] = [("", "", empty), (engine, kind, ours)]
                    _, row = self._rows(measured, 1024, batch, in_flight, [mount.pid, self.empty.pid])
                yield row

    def _rows(
        self, measured: list[tuple[str, str, Call]], size: int, batch: int, in_flight: int, pids: list[int]
    ) -> Iterator[Row]:
        key = (measured[-1][:2], size, batch, in_flight)
        with placed(self._where, pids):
            comparison = self.alternate(key, [timed(call) for *_, call in measured], times=len(measured))
        for operation, (what, kind, _) in enumerate(measured):
            took = comparison.seconds(operation)
            ratio = comparison.ratio(operation, 0)
            yield Row(what, kind, size, batch, in_flight, 1, took, 1 / took, ratio.all, ratio.noisy)

    def clients(self, count: int) -> Iterator[Row]:
        """Client processes that stream records of 1 MiB, placed by the scheduler."""
        for engine, mount in self._engines.items():
            for kind in self._kinds:
                with Clients(mount.crypto, count, kind, calls.MIB) as clients:
                    rate = 1 / clients.turn(max(self._seconds, _CLIENT_SECONDS))
                yield Row(engine, kind, calls.MIB, 1, 1, count, count / rate, rate, 0, False)
