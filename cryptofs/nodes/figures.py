"""The figures of `stats`, as prometheus_client takes them: a collector that reads plain integers.

Importing this imports prometheus_client, which takes 40 ms: only `stats` does, and not at the start.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from .. import __version__
from ..contexts import ContextTable
from ..devices import Device

_BITS = range(12, 34, 2)
"""The bounds of the histogram: powers of four, from 4 microseconds to 4 seconds."""
_COUNTERS = (
    ("requests", "Requests and messages of streams answered since the start.", "requests"),
    ("requests_failed", "Of these, the ones answered with an error.", "failed"),
    ("input_bytes", "Bytes of data of requests and streams.", "bytes_in"),
    ("output_bytes", "Bytes of data of their answers.", "bytes_out"),
)
"""The end of the name, the help, and what a `Tally` calls it: of all contexts, and of each device."""


@dataclass(frozen=True)
class Figures:
    """What prometheus_client calls a collector.

    devices: those whose figures are wanted; uptime: seconds; loaded_at: when the configuration was last loaded, by
    Unix time, and whether that went well.
    """

    table: ContextTable
    devices: Iterable[Device]
    uptime: float
    loaded_at: float
    loaded_well: bool

    def text(self) -> str:
        """All of them."""
        return generate_latest(self).decode()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._of_the_daemon()
        yield from self._of_contexts()
        yield self._durations()
        yield from self._of_devices()

    def _of_the_daemon(self) -> Iterator[Metric]:
        engines = ",".join(engine.name for engine in self.table.engines)
        facts = {"version": __version__, "kernel": os.uname().release, "engines": engines}
        yield InfoMetricFamily("cryptofs_build", "The daemon's version, its kernel, and its engines in order.", facts)
        for name, text, value in (
            ("uptime_seconds", "Seconds since the mount was made.", self.uptime),
            (
                "config_last_reload_successful",
                "Whether the last load of the configuration succeeded; the start counts.",
                self.loaded_well,
            ),
            ("config_last_reload_timestamp_seconds", "When that was, in Unix time.", self.loaded_at),
        ):
            yield GaugeMetricFamily(f"cryptofs_{name}", text, value)

    def _of_contexts(self) -> Iterator[Metric]:
        in_flight = queued = 0
        by_engine: dict[str, int] = {}
        for context in self.table:
            in_flight += context.exchange.in_flight
            queued += context.exchange.bytes
            if context.transform is not None:
                engine = context.transform.description.engine
                by_engine[engine] = by_engine.get(engine, 0) + 1
        yield CounterMetricFamily("cryptofs_contexts_opened", "Contexts opened since the start.", self.table.opened)
        total = self.table.tally()
        for name, text, field in _COUNTERS:
            yield CounterMetricFamily(f"cryptofs_{name}", text, getattr(total, field))
        for name, text, value in (
            ("contexts_open", "Contexts that are open now.", len(self.table)),
            ("requests_in_flight", "Requests accepted and not answered yet.", in_flight),
            ("queue_bytes", "Bytes of unread requests and answers, and what messages in parts keep.", queued),
        ):
            yield GaugeMetricFamily(f"cryptofs_{name}", text, value)
        serving = GaugeMetricFamily(
            "cryptofs_contexts_configured", "Contexts that an engine serves now.", labels=["engine"]
        )
        for engine, count in sorted(by_engine.items()):
            serving.add_metric([engine], count)
        yield serving

    def _durations(self) -> Metric:
        latencies = self.table.latencies
        buckets = [(str(2**bits / 1e9), float(latencies.below(bits))) for bits in _BITS]
        return HistogramMetricFamily(
            "cryptofs_request_duration_seconds",
            "Seconds from a request's acceptance to its answer; without streams, and of short requests a sample.",
            [*buckets, ("+Inf", float(sum(latencies.counts)))],
            latencies.nanoseconds / 1e9,
        )

    def _of_devices(self) -> Iterator[Metric]:
        tallies = [([device.settings.name], self.table.device_tally(device.settings.name)) for device in self.devices]
        for name, text, field in _COUNTERS:
            counter = CounterMetricFamily(f"cryptofs_device_{name}", text, labels=["device"])
            for label, tally in tallies:
                counter.add_metric(label, getattr(tally, field))
            yield counter
        messages = CounterMetricFamily(
            "cryptofs_device_messages",
            "Messages that the newest version of the key has encrypted with nonces of the daemon's.",
            labels=["device"],
        )
        limit = GaugeMetricFamily(
            "cryptofs_device_messages_limit", "The most messages that one version may encrypt so.", labels=["device"]
        )
        contexts = GaugeMetricFamily(
            "cryptofs_device_contexts_open", "Contexts of the device that are open now.", labels=["device"]
        )
        loaded = GaugeMetricFamily(
            "cryptofs_device_key_loaded_timestamp_seconds",
            "When the daemon took the newest version from its source, in Unix time.",
            labels=["device"],
        )
        written = GaugeMetricFamily(
            "cryptofs_device_key_written_timestamp_seconds",
            "When the file of the newest version was last written, in Unix time.",
            labels=["device"],
        )
        newest = GaugeMetricFamily(
            "cryptofs_device_key_version", "The number of the newest version of the key.", labels=["device"]
        )
        kept = GaugeMetricFamily(
            "cryptofs_device_key_versions_kept", "Versions of the key that decrypt.", labels=["device"]
        )
        for device in self.devices:
            label = [device.settings.name]
            newest.add_metric(label, device.versions.newest.number)
            kept.add_metric(label, len(device.versions.all))
            contexts.add_metric(label, device.users)
            loaded.add_metric(label, device.loaded_at)
            if device.versions.newest.written_at is not None:
                written.add_metric(label, device.versions.newest.written_at)
            if device.nonces is not None:
                messages.add_metric(label, device.messages)
            if device.messages_max:
                limit.add_metric(label, device.messages_max)
        yield from (messages, limit, contexts, newest, kept, loaded, written)
