"""`cryptofs benchmark`: the speed on this machine, as ratios."""

import contextlib
import sys
from collections.abc import Sequence

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..benchmark import calls, machine, report
from ..benchmark.goals import Goals
from ..benchmark.legacy import Legacy
from ..benchmark.mounts import CannotMeasure
from ..benchmark.passes import Measured, Stage, in_passes
from ..benchmark.placement import Placement, placements
from ..benchmark.results import Result
from ..benchmark.table import Measurements, Row
from .bars import error_console
from .completing import files
from .output import open_output
from .streams import Stream
from .terminal import shows_bars

_PLACES = {"apart": Placement.APART, "together": Placement.TOGETHER, "free": Placement.FREE}


@click.command()
@click.option(
    "--goals", is_flag=True, help="Measure the goals and report which ones hold; exit status 1 if one does not."
)
@click.option(
    "--peers", is_flag=True, help="With --goals: also measure p11-kit server, ssh-agent and openssl as a process."
)
@click.option("--commit", metavar="COMMIT", help="With --goals: also compare with the daemon of another commit.")
@click.option("--legacy", is_flag=True, help="Measure what `cryptofs run` costs, in the same way.")
@click.option("--busy", is_flag=True, help="Keep every processor busy during the run.")
@click.option(
    "--placement",
    "places",
    multiple=True,
    type=click.Choice(list(_PLACES)),
    help="Run client and daemon on two cores, on one, or where the scheduler puts them; by default apart and together.",
)
@click.option(
    "-n",
    "--name",
    "names",
    multiple=True,
    type=click.Choice(list(calls.TYPES)),
    help="Without --goals: what to measure.",
)
@click.option("--only", "parts", multiple=True, metavar="TEXT", help="Only the parts whose name contains this text.")
@click.option(
    "--seconds",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.001, 600),
    help="Time for each figure; a noisy one takes up to four times as long.",
)
@click.option("--json", "json_file", metavar="FILE", shell_complete=files, help="Write everything to a file.")
@click.option(
    "--svg", "svg_file", metavar="FILE", shell_complete=files, help="Draw a plot into a file (needs matplotlib)."
)
def benchmark(
    goals: bool, peers: bool, commit: str | None, legacy: bool, busy: bool, places: tuple[str, ...],
    names: tuple[str, ...], parts: tuple[str, ...], seconds: float, json_file: str | None, svg_file: str | None,
) -> None:  # fmt: skip
    """Measure latency and throughput on separate mounts, beside floors measured in the same run.

    The floors: an empty pyfuse3 file system, an empty file system in a bare Python loop, the cipher called directly in
    Python, AF_ALG called directly if the kernel has it, and `openssl enc` as a process. Compared operations alternate
    in turns of some milliseconds.
    """
    if not goals and (peers or commit is not None):
        raise click.UsageError("--peers and --commit need --goals")
    if goals and legacy:
        raise click.UsageError("--goals and --legacy: give only one")
    if (goals or legacy) and (names or svg_file is not None):
        raise click.UsageError("--name and --svg are not for --goals and --legacy")
    where = [_PLACES[place] for place in places] or placements()
    if Placement.APART in where and Placement.APART not in placements():
        raise click.UsageError("--placement apart: this machine has only one processor")
    if not goals and len(places) > 1:
        raise click.UsageError("--placement: the table takes only one")
    rows: list[Row] = []
    results: list[Result] = []
    measured = Legacy(seconds * 4) if legacy else Goals(seconds * 4, where, commit, peers)
    goals = goals or legacy
    table = Measurements(seconds, where[0], names or tuple(calls.TYPES))
    goal_parts = _chosen(measured.stages(), parts) if goals else []
    row_parts = [] if goals else _chosen(table.stages(), parts)
    state: dict[str, object] = {**machine.description(), "kept busy": busy, "before": machine.condition()}
    business = machine.Business()
    try:
        with machine.busy() if busy else contextlib.nullcontext():
            state["two wake-ups at the beginning, us"] = machine.wake_ups()
            if goals:
                with measured:
                    results = _measured(goal_parts)
            else:
                with table:
                    rows = _measured(row_parts)
            state["two wake-ups at the end, us"] = machine.wake_ups()
    except CannotMeasure as error:
        raise click.ClickException(str(error)) from None
    state |= {"during": business.report(), "after": machine.condition()}
    if goals:
        report.print_goals(results)
    else:
        report.print_rows(rows)
    report.print_machine(state)
    if json_file is not None:
        with open_output(Stream.named(json_file, 1)) as file:
            report.write_json(file, state, rows, results)
    if svg_file is not None:
        with open_output(Stream.named(svg_file, 1)) as file:
            report.write_svg(file, rows)
    if any(result.holds is False for result in results):
        sys.exit(1)


def _chosen(stages: Sequence[Stage[Measured]], parts: Sequence[str]) -> list[Stage[Measured]]:
    chosen = [(name, measure) for name, measure in stages if not parts or any(part in name for part in parts)]
    if not chosen:
        names = "; ".join(name for name, _ in stages)
        raise click.UsageError(f"--only {' '.join(parts)!r}: no part's name contains this. The parts:  {names}")
    return chosen


def _measured(stages: Sequence[Stage[Measured]]) -> list[Measured]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # No thread that redraws: it would take processor time from the measurement, and clients are forks.
    progress = Progress(*columns, console=error_console(), transient=True, disable=not shows_bars(), auto_refresh=False)
    results: dict[str, list[Measured]] = {}
    with progress:
        task = progress.add_task("", total=0)
        for done, (name, left) in enumerate(in_passes(stages, results)):
            # The noise decides how many passes are needed.
            progress.update(task, description=name, completed=done, total=done + left, refresh=True)
    return [result for name, _ in stages for result in results[name]]
