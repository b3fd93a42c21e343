"""The output of a run: tables for people, JSON for programs, and a plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import IO

from rich.console import Console
from rich.table import Table

from .results import Result
from .table import Row


def print_goals(results: Sequence[Result]) -> None:
    """The goals as a table, and then what was not measured, with the reasons."""
    table = Table("goal", "figure", "halves", "wanted", "holds", "figures", box=None, pad_edge=False)
    for result in results:
        if result.figure is None:
            continue
        halves = "" if result.halves is None else "{:.2f}, {:.2f}".format(*result.halves)
        table.add_row(result.name, f"{result.figure:.2f}", halves, result.wanted, result.verdict, result.detail)
    console = _console()
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.figure is None:
            reasons.setdefault(result.detail, []).append(result.name)
    for reason, names in reasons.items():
        title = f"\nNOT MEASURED ({len(names)} of {len(results)}): {reason}"
        console.print(title, style="bold yellow", highlight=False, markup=False)
        for name in names:
            console.print(f"  {name}", highlight=False, markup=False)


def print_rows(rows: Sequence[Row]) -> None:
    """The measurements as a table, the ratios first."""
    table = Table(
        "what", "algorithm", "record", "batch", "in flight", "clients", "to pyfuse3", "", "us", "MB/s",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.what,
            row.kind,
            f"{row.size:,}",
            str(row.batch),
            str(row.in_flight),
            str(row.clients),
            f"{row.ratio:.2f}" if row.ratio else "",
            "noisy" if row.noisy else "",
            f"{row.seconds * 1e6:,.1f}",
            f"{row.throughput / 1e6:,.1f}",
        )
    _console().print(table)


def print_machine(machine: Mapping[str, object]) -> None:
    """The machine of the figures."""
    console = _console()
    console.print()
    for line in _lines(machine, ""):
        console.print(line, highlight=False, markup=False)


def _lines(values: Mapping[str, object], indent: str) -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=180)


def write_json(file: IO[bytes], machine: Mapping[str, object], rows: Sequence[Row], results: Sequence[Result]) -> None:
    """All results, for programs; times in seconds, sizes in bytes."""
    goals = [{**asdict(result), "holds": result.holds, "verdict": result.verdict} for result in results]
    measurements = [{**asdict(row), "throughput": row.throughput} for row in rows]
    text = json.dumps({"machine": machine, "goals": goals, "rows": measurements}, indent=1) + "\n"
    file.write(text.encode())


def write_svg(file: IO[bytes], rows: Sequence[Row]) -> None:
    """Latency and throughput against record size, every engine beside the floors."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "cryptofs"
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    single = [row for row in rows if row.batch == row.in_flight == row.clients == 1]
    for what, kind in dict.fromkeys((row.what, row.kind) for row in single):
        points = sorted((row for row in single if (row.what, row.kind) == (what, kind)), key=lambda row: row.size)
        style = {"linestyle": "--" if points[0].floor else "-", "marker": "o", "markersize": 3}
        sizes, label = [row.size for row in points], f"{what} {kind}"
        left.plot(sizes, [row.seconds * 1e6 for row in points], label=label, **style)
        right.plot(sizes, [row.throughput / 1e6 for row in points], label=label, **style)
    left.set(xscale="log", yscale="log", xlabel="record, bytes", ylabel="round trip, us", title="Latency")
    right.set(xscale="log", yscale="log", xlabel="record, bytes", ylabel="MB/s", title="Throughput, one client")
    left.legend(fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
