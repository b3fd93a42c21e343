"""The goals: each a ratio of two figures taken turn by turn in one run.

A goal that this machine cannot measure (AF_ALG where the kernel has none) is reported as not measured, never as held.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..client import Context
from ..records import Attr, Operation, Record, build
from . import rig

MIB = 1_040_384
"""The largest payload of one record, what the goals call 1 MiB."""


@dataclass(frozen=True)
class Result:
    """One goal's figure. figure None: not measured here, and why is said in `detail`."""

    name: str
    figure: float | None
    bound: float
    at_most: bool
    detail: str

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None where it was not measured."""
        if self.figure is None:
            return None
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound

    @property
    def wanted(self) -> str:
        """The bound, as people write it."""
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


class Goals:
    """The measurements, on mounts of their own that live as long as the object's `with`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stack = ExitStack()

    def __enter__(self) -> "Goals":
        self._empty, _ = self._stack.enter_context(rig.empty_mount())
        self._mount, self._pid = self._stack.enter_context(rig.cryptofs_mount("openssl"))
        self._kernel: Path | None = None
        if rig.has_af_alg():
            self._kernel, _ = self._stack.enter_context(rig.cryptofs_mount("af_alg"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def measures(self) -> list[tuple[str, Callable[[], Iterator[Result]]]]:
        """What there is to measure, by name, in order."""
        return [
            ("one record", self.one_record),
            ("one record on AF_ALG", self.one_record_on_af_alg),
            ("batches", self.batches),
            ("batches on AF_ALG", self.batches_on_af_alg),
            ("large records", self.large_records),
            ("two clients", self.two_clients),
            ("GCM", self.gcm),
            ("a probe beside streams", self.probe),
            ("many contexts", self.many_contexts),
        ]

    def _against_empty(self, mount: Path, kind: str, size: int, name: str, bound: float) -> Result:
        with Context(rig.TYPES[kind], kind, None if kind == "sha256" else rig.KEY, mount=mount) as context:
            call = rig.round_trip(context, kind, size)
            with rig.empty_round_trip(self._empty, size + 24) as empty:
                ours, floor, ratio = rig.compare(call, empty, self._seconds)
        return Result(name, ratio, bound, True, f"{_us(ours)} to {_us(floor)}")

    def one_record(self) -> Iterator[Result]:
        """A write and a read of one record, to the empty round trip."""
        for kind in ("cbc(aes)", "sha256"):
            for size in (16, 1024):
                yield self._against_empty(self._mount, kind, size, f"{kind}, {size} B, to empty", 1.15)
            yield self._against_empty(self._mount, kind, 16384, f"{kind}, 16384 B, to empty", 1.40)

    def one_record_on_af_alg(self) -> Iterator[Result]:
        """The same on the kernel's crypto."""
        for kind in ("cbc(aes)", "sha256"):
            for size in (16, 1024):
                name = f"{kind} on AF_ALG, {size} B, to empty"
                if self._kernel is None:
                    yield Result(name, None, 1.15, True, "this kernel has no AF_ALG")
                else:
                    yield self._against_empty(self._kernel, kind, size, name, 1.15)

    def batches(self) -> Iterator[Result]:
        """64 records of 1 KiB in one write, to a Python loop that makes a Cipher each time."""
        with rig.open_context(self._mount, "cbc(aes)") as context:
            call = rig.round_trip(context, "cbc(aes)", 1024, 64)
            direct = rig.direct_new_cipher(1024)

            def loop() -> None:
                for _ in range(64):
                    direct()

            ours, floor, ratio = rig.compare(call, loop, self._seconds)
        detail = f"{64 / ours:,.0f} to {64 / floor:,.0f} records/s"
        yield Result("64 x 1 KiB cbc(aes), to a Cipher each time", 1 / ratio, 1.3, False, detail)

    def batches_on_af_alg(self) -> Iterator[Result]:
        """32 records of 1 KiB in one write, to AF_ALG called directly."""
        name = "32 x 1 KiB cbc(aes) on AF_ALG, to AF_ALG called directly"
        if self._kernel is None:
            yield Result(name, None, 0.6, False, "this kernel has no AF_ALG")
            return
        with rig.open_context(self._kernel, "cbc(aes)") as context, rig.direct_af_alg(1024) as direct:
            call = rig.round_trip(context, "cbc(aes)", 1024, 32)

            def loop() -> None:
                for _ in range(32):
                    direct()

            ours, floor, ratio = rig.compare(call, loop, self._seconds)
        yield Result(name, 1 / ratio, 0.6, False, f"{32 / ours:,.0f} to {32 / floor:,.0f} records/s")

    def large_records(self) -> Iterator[Result]:
        """One client, one megabyte a record, to the cipher called directly."""
        with rig.open_context(self._mount, "cbc(aes)") as context:
            call = rig.round_trip(context, "cbc(aes)", MIB)
            ours, floor, ratio = rig.compare(call, rig.direct_into(MIB), self._seconds)
        yield Result("1 MiB cbc(aes), to direct", 1 / ratio, 0.6, False, _throughputs(ours, floor))

    def two_clients(self) -> Iterator[Result]:
        """Two client processes at once, their sum, to one thread that calls the cipher directly."""
        direct = rig.direct_into(MIB)
        ratios = []
        detail = ""
        for _ in range(5):
            floor = rig.median_seconds(direct, self._seconds / 10)
            total = sum(rig.Clients(self._mount, 2, "cbc(aes)", MIB, self._seconds / 5).rates())
            ratios.append(total * floor)
            detail = f"{total * MIB / 1e9:.2f} to {MIB / floor / 1e9:.2f} GB/s"
        yield Result("1 MiB cbc(aes), two clients, to direct", statistics.median(ratios), 1.1, False, detail)

    def gcm(self) -> Iterator[Result]:
        """One megabyte of AES-GCM to the empty round trip's throughput."""
        with (
            rig.open_context(self._mount, "gcm(aes)") as context,
            rig.empty_round_trip(self._empty, MIB) as empty,
        ):
            call = rig.round_trip(context, "gcm(aes)", MIB)
            ours, floor, ratio = rig.compare(call, empty, self._seconds)
        yield Result("1 MiB gcm(aes), to empty", 1 / ratio, 0.85, False, _throughputs(ours, floor))

    def probe(self) -> Iterator[Result]:
        """The 99th percentile of a small round trip while four others stream megabytes, to it alone."""
        with rig.open_context(self._mount, "sha256") as context:
            call = rig.round_trip(context, "sha256", 64)
            ratios = []
            detail = ""
            for _ in range(3):
                alone = rig.percentile(_times(call, self._seconds / 6), 0.99)
                others = rig.Clients(self._mount, 4, "cbc(aes)", MIB, self._seconds / 6 + 0.5)
                others.go()
                time.sleep(0.25)
                beside = rig.percentile(_times(call, self._seconds / 6), 0.99)
                others.rates()
                ratios.append(beside / alone)
                detail = f"{_us(beside)} to {_us(alone)}"
        yield Result("p99 of a probe beside 4 streams, to alone", statistics.median(ratios), 5, True, detail)

    def many_contexts(self) -> Iterator[Result]:
        """10,000 contexts open: memory of each, latency of one, 1,000 requests in flight, 200 clients at once."""
        with (
            rig.cryptofs_mount("openssl") as (other, _),
            rig.open_context(other, "sha256") as single,
            rig.open_context(self._mount, "sha256") as context,
        ):
            call = rig.round_trip(context, "sha256", 64)
            before = _resident(self._pid)
            descriptors = []
            configure = build(Record(Operation.CONFIGURE, attributes={Attr.TYPE: "hash", Attr.NAME: "sha256"}))
            try:
                for _ in range(10_000):
                    descriptor = os.open(self._mount / "crypto", os.O_RDWR)
                    descriptors.append(descriptor)
                    os.pwrite(descriptor, configure, 0)
                    os.pread(descriptor, 4096, 0)
                memory = (_resident(self._pid) - before) / 10_000
                # the one context is on a mount of its own, so that the two can be measured turn by turn
                floor = rig.round_trip(single, "sha256", 64)
                beside, alone, ratio = rig.compare(call, floor, self._seconds)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            detail = f"{_us(beside)} to {_us(alone)}"
            yield Result("latency with 10,000 contexts, to one", ratio, 1.1, True, detail)
            yield Result("memory a context, KiB", memory / 1024, 8, True, "10,000 configured sha256 contexts")
            yield self._in_flight(context)
        rates = rig.Clients(self._mount, 200, "sha256", 64, self._seconds / 2).rates()
        served = sum(rate > 0 for rate in rates)
        yield Result("client processes served at once", served, 200, False, f"{sum(rates):,.0f} requests/s in all")

    def _in_flight(self, context: Context) -> Result:
        batch = b"".join(rig.record("sha256", 512, identity)[0] for identity in range(1000))
        os.pwrite(context.fileno(), batch, 0)
        seen = 0
        while data := os.pread(context.fileno(), 65536, 0):
            seen += len(data) // 56
        return Result("requests in flight on one context", seen, 1000, False, "answered, each once")


def _throughputs(ours: float, floor: float) -> str:
    return f"{MIB / ours / 1e9:.2f} to {MIB / floor / 1e9:.2f} GB/s"


def _times(call: Callable[[], object], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def _resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")
