"""`cryptofs benchmark`: how fast it is here, as ratios."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..benchmark import report, rig, table
from ..benchmark.goals import Goals, Result


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


@click.command()
@click.option("--goals", is_flag=True, help="Measure the goals and say which hold; exit status 1 if one does not.")
@click.option("-n", "--name", "names", multiple=True, type=click.Choice(list(rig.TYPES)), help="What to measure.")
@click.option("--seconds", default=1.0, show_default=True, help="How long each figure is measured.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything to a file.")
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), help="Draw a plot into a file (needs matplotlib).")
def benchmark(
    goals: bool, names: tuple[str, ...], seconds: float, json_file: Path | None, svg_file: Path | None
) -> None:
    """Measure latency and throughput on mounts of its own, beside floors measured in the same run.

    The floors: an empty pyfuse3 file system, the cipher called directly in Python, AF_ALG called directly where there
    is one, and `openssl enc` as a process.
    """
    rows: list[table.Row] = []
    results: list[Result] = []
    if goals:
        with _progress() as progress, Goals(seconds * 4) as measurements:
            measures = measurements.measures()
            task = progress.add_task("goals", total=len(measures))
            for name, measure in measures:
                progress.update(task, description=name)
                results += measure()
                progress.advance(task)
        report.print_goals(results)
    else:
        kinds = names or tuple(rig.TYPES)
        with _progress() as progress:
            task = progress.add_task("measuring", total=table.steps(kinds))
            for row in table.measure(seconds, kinds):
                rows.append(row)
                progress.update(task, advance=1, description=f"{row.what} {row.kind} {row.size}")
        report.print_rows(rows)
    if json_file is not None:
        report.write_json(json_file, rows, results)
    if svg_file is not None:
        report.write_svg(svg_file, rows)
    if any(result.holds is False for result in results):
        sys.exit(1)
