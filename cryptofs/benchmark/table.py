"""The table: latency and throughput against record size, batch and clients, for each engine, beside the floors."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from . import rig

SIZES = (16, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_040_384)
BATCHES = (1, 8, 64)
IN_FLIGHT = (1, 8, 64)
CLIENTS = (1, 2, 4)


@dataclass(frozen=True)
class Row:
    """One measurement. seconds: of one call, the median; a call makes `in_flight` writes of `batch` records and reads
    all answers, `rate` calls a second by all clients together; ratio: of the time to the empty round trip's with as
    many bytes a write (0: there is none to compare with).
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

    @property
    def throughput(self) -> float:
        """Bytes a second."""
        return self.rate * self.size * self.batch * self.in_flight


def engines() -> list[str]:
    """The engines that can be measured here."""
    return (["af_alg"] if rig.has_af_alg() else []) + ["openssl"]


def steps(kinds: tuple[str, ...]) -> int:
    """How many rows `measure` gives."""
    each = len(SIZES) + len(BATCHES) + len(IN_FLIGHT) + len(CLIENTS) - 3
    return len(SIZES) * (3 if rig.has_af_alg() else 2) + 1 + len(engines()) * len(kinds) * each


def measure(seconds: float, kinds: tuple[str, ...]) -> Iterator[Row]:
    """All rows, each measured for so many seconds."""
    with ExitStack() as stack:
        empty, _ = stack.enter_context(rig.empty_mount())
        floors: dict[int, float] = {}
        for size in SIZES:
            with rig.empty_round_trip(empty, size) as call:
                floors[size] = rig.median_seconds(call, seconds)
            yield _row("empty file system", "", size, floors[size], 0)
            direct = rig.median_seconds(rig.direct_into(size), seconds)
            yield _row("pyca directly", "cbc(aes)", size, direct, direct / floors[size])
            if rig.has_af_alg():
                with rig.direct_af_alg(min(size, 65_536)) as kernel:
                    pieces = max(1, size // 65_536)
                    took = rig.median_seconds(kernel, seconds) * pieces
                yield _row("AF_ALG directly", "cbc(aes)", size, took, took / floors[size])
        process = rig.median_seconds(rig.openssl_process(1024), seconds, least=5)
        yield _row("openssl enc, a process", "cbc(aes)", 1024, process, process / floors[1024])
        for engine in engines():
            mount, _ = stack.enter_context(rig.cryptofs_mount(engine))
            for kind in kinds:
                yield from _engine_rows(engine, kind, mount, empty, seconds)


def _row(what: str, kind: str, size: int, took: float, ratio: float) -> Row:
    return Row(what, kind, size, 1, 1, 1, took, 1 / took, ratio)


def _engine_rows(engine: str, kind: str, mount: Path, empty: Path, seconds: float) -> Iterator[Row]:
    with rig.open_context(mount, kind) as context:
        for size in SIZES:
            with rig.empty_round_trip(empty, size) as floor:
                took, _, ratio = rig.compare(rig.round_trip(context, kind, size), floor, seconds, rounds=3)
            yield _row(engine, kind, size, took, ratio)
        for batch in BATCHES[1:]:
            with rig.empty_round_trip(empty, 1024 * batch) as floor:
                call = rig.round_trip(context, kind, 1024, batch)
                took, _, ratio = rig.compare(call, floor, seconds, rounds=3)
            yield Row(engine, kind, 1024, batch, 1, 1, took, 1 / took, ratio)
        for in_flight in IN_FLIGHT[1:]:
            took = rig.median_seconds(rig.round_trip(context, kind, 1024, 1, in_flight), seconds)
            yield Row(engine, kind, 1024, 1, in_flight, 1, took, 1 / took, 0)
    for clients in CLIENTS[1:]:
        rate = sum(rig.Clients(mount, clients, kind, SIZES[-1], seconds).rates())
        yield Row(engine, kind, SIZES[-1], 1, 1, clients, clients / rate if rate else 0.0, rate, 0)
