"""The figures of a mount's `stats`, as Prometheus' own parser reads them."""

from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def families(mount: Path) -> dict[str, Metric]:
    """All families by name; no name comes twice."""
    found = list(text_string_to_metric_families((mount / "stats").read_text()))
    named = {family.name: family for family in found}
    assert len(named) == len(found)
    return named


def figure(mount: Path, name: str, **labels: str) -> float:
    """The one sample of this name and these labels. Errors: KeyError."""
    for family in families(mount).values():
        for sample in family.samples:
            if (sample.name, sample.labels) == (name, labels):
                return float(sample.value)
    raise KeyError(name, labels)
