"""What a run says: tables for people, JSON for programs, and a plot."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .goals import Result
from .table import Row


def machine() -> dict[str, object]:
    """What the figures were taken on; load: how busy it was at the end."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "kernel": platform.release(),
        "processor": model,
        "processors": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def print_goals(results: Sequence[Result]) -> None:
    """The goals as a table."""
    table = Table("goal", "ratio", "wanted", "holds", "figures", box=None, pad_edge=False)
    verdicts = {True: "yes", False: "NO", None: "not measured"}
    for result in results:
        figure = "" if result.figure is None else f"{result.figure:.2f}"
        table.add_row(result.name, figure, result.wanted, verdicts[result.holds], result.detail)
    _console().print(table)


def print_rows(rows: Sequence[Row]) -> None:
    """The measurements as a table, the ratios first."""
    table = Table(
        "what", "algorithm", "record", "batch", "in flight", "clients", "to empty", "latency us", "MB/s", box=None
    )
    for row in rows:
        table.add_row(
            row.what,
            row.kind,
            f"{row.size:,}",
            str(row.batch),
            str(row.in_flight),
            str(row.clients),
            f"{row.ratio:.2f}" if row.ratio else "",
            f"{row.seconds * 1e6:,.1f}",
            f"{row.throughput / 1e6:,.1f}",
        )
    _console().print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)


def write_json(path: Path, rows: Sequence[Row], results: Sequence[Result]) -> None:
    """Everything, for programs; times in seconds, sizes in bytes."""
    goals = [{**asdict(result), "holds": result.holds} for result in results]
    measurements = [{**asdict(row), "throughput": row.throughput} for row in rows]
    path.write_text(json.dumps({"machine": machine(), "goals": goals, "rows": measurements}, indent=1) + "\n")


def write_svg(path: Path, rows: Sequence[Row]) -> None:
    """Latency and throughput against record size, every engine beside the floors."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "cryptofs"
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    single = [row for row in rows if row.batch == row.in_flight == row.clients == 1]
    for what, kind in dict.fromkeys((row.what, row.kind) for row in single):
        points = sorted((row for row in single if (row.what, row.kind) == (what, kind)), key=lambda row: row.size)
        floor = what not in ("af_alg", "openssl")
        style = {"linestyle": "--" if floor else "-", "marker": "o", "markersize": 3, "label": f"{what} {kind}"}
        sizes = [row.size for row in points]
        left.plot(sizes, [row.seconds * 1e6 for row in points], **style)
        right.plot(sizes, [row.throughput / 1e6 for row in points], **style)
    left.set(xscale="log", yscale="log", xlabel="record, bytes", ylabel="round trip, us", title="Latency")
    right.set(xscale="log", yscale="log", xlabel="record, bytes", ylabel="MB/s", title="Throughput, one client")
    left.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
