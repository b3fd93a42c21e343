"""The command: parts, progress, a table, JSON, and a status that tells."""

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from . import attackers, attacks, beside, kills, parser, server

_FORK = multiprocessing.get_context("fork")
_FUZZ = Path(__file__).parent.parent / "fuzz" / "fuzz_records.py"
MIB = 1024 * 1024
SHORT = {"records": 32_000, "parser": 150_000, "kills": 5, "rounds": 8}
FULL = {"records": 1_000_000, "parser": 5_000_000, "kills": 200, "rounds": 20}

Rows = list[tuple[str, str]]


class Report:
    """What the parts found: rows for people, values for programs, what was wrong."""

    def __init__(self, seed: int) -> None:
        self.rows: Rows = []
        self.values: dict[str, Any] = {"seed": seed}
        self.wrong: list[str] = []
        self.tables: list[Table] = []

    def add(self, part: str, rows: Rows, values: dict[str, Any], wrong: list[str]) -> None:
        """One part's findings."""
        self.rows += [(f"{part}: {what}", value) for what, value in rows]
        self.values[part] = {**values, "wrong": wrong}
        self.wrong += [f"{part}: {each}" for each in wrong]

    def show(self, console: Console) -> None:
        """The table, and everything that was wrong."""
        table = Table(title=f"stress, seed {self.values['seed']}")
        table.add_column("what")
        table.add_column("result", justify="right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for further in self.tables:
            console.print(further)
        for each in self.wrong[:40]:
            console.print(f"WRONG: {each}", markup=False, style="bold red")
        console.print("nothing is wrong" if not self.wrong else f"{len(self.wrong)} things are wrong")


@contextmanager
def _bar(progress: Progress, name: str, total: int, value: Callable[[], int]) -> Any:
    """A progress bar that follows a shared counter."""
    task = progress.add_task(name, total=total)
    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.5):
            progress.update(task, completed=min(total, value()))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        progress.update(task, completed=min(total, value()))


def _run_beside(report: Report, progress: Progress, records: int, seed: int, rounds: int) -> None:
    done = _FORK.Value("Q")
    with _bar(progress, "hostile records through a mount", records, lambda: done.value):
        found = beside.run(records, seed, rounds, done)
    attack, good, samples = found.attack, found.good, found.samples
    rows = [
        ("hostile records", f"{attack.records:,}"),
        ("records a second", f"{attack.records / max(found.seconds, 0.001):,.0f}"),
        ("answers, each expected and only once", f"{attack.answers:,}"),
        ("writes accepted", f"{attack.verdicts['accepted']:,} of {attack.writes:,}"),
        ("writes compared with the definition", f"{attack.compared:,}"),
        ("records and writes to devices", f"{attack.device_records:,}"),
        ("messages through device files, sealed files tampered with", f"{attack.files:,}, {attack.tampered:,}"),
        ("refused by the policy", ", ".join(f"{name} {count:,}" for name, count in sorted(attack.limits.items()))),
        ("bytes searched for keys", f"{attack.received:,}"),
        ("nonces of devices, none twice", f"{len(found.nonces):,}"),
        ("versions of a key, the newest that the good client saw", f"{good.newest}"),
        ("good client's requests", f"{good.requests:,}"),
        ("good client's bytes compared", f"{good.bytes:,}"),
        ("good client's longest request", f"{good.longest:.2f} s"),
    ]
    if samples:
        counted = [samples[0].descriptors, samples[-1].descriptors]
        descriptors = "NOT COUNTED: only root may" if None in counted else f"{counted[0]}, {counted[1]}"
        rows += [
            (
                "memory after the first and last round",
                f"{samples[0].memory / MIB:.1f}, {samples[-1].memory / MIB:.1f} MiB",
            ),
            ("memory growth after warm-up", f"{found.growth / MIB:+.2f} MiB, at most {found.growth_max // MIB}"),
            ("descriptors after the first and last round", descriptors),
        ]
    values = {
        "records": attack.records,
        "seconds": found.seconds,
        "answers": attack.answers,
        "writes": attack.writes,
        "compared": attack.compared,
        "device_records": attack.device_records,
        "files": attack.files,
        "tampered": attack.tampered,
        "received": attack.received,
        "nonces": len(found.nonces),
        "limits": dict(attack.limits),
        "verdicts": dict(attack.verdicts),
        "statuses": dict(attack.statuses),
        "mutations": dict(attack.mutations),
        "newest_version": good.newest,
        "good_requests": good.requests,
        "good_bytes": good.bytes,
        "good_longest": good.longest,
        "memory": [each.memory for each in samples],
        "descriptors": [each.descriptors for each in samples],
        "growth": found.growth,
    }
    wrong = list(found.wrong)
    if attack.records < records * 0.9:
        wrong.append(f"sent {attack.records} records instead of {records}")
    if not good.requests:
        wrong.append("the good client did nothing")
    report.add("mount", rows, values, wrong)


def _parse(connection: Any, seed: str, inputs: int, done: Any) -> None:
    connection.send(parser.attack_parser(seed, inputs, done))


def _run_parser(report: Report, progress: Progress, inputs: int, seed: int) -> None:
    done = _FORK.Value("Q")
    count = parser.processes()
    began = time.monotonic()
    ends = []
    total = parser.ParserResult()
    wrong = []
    for index in range(count):
        ours, theirs = _FORK.Pipe()
        share = inputs // count + (index < inputs % count)
        process = _FORK.Process(target=_parse, args=(theirs, f"{seed}/parser/{index}", share, done), daemon=True)
        process.start()
        theirs.close()
        ends.append((process, ours))
    with _bar(progress, "inputs through the parsers", inputs, lambda: done.value):
        for process, connection in ends:
            try:
                total.add(connection.recv())
            except EOFError:
                wrong.append("a parser's process died")
            process.join()
            connection.close()
    seconds = time.monotonic() - began
    rows = [
        ("inputs", f"{total.inputs:,}"),
        ("inputs a second", f"{total.inputs / seconds:,.0f}"),
        ("compared with the definition", f"{total.compared:,}"),
        *((verdict, f"{number:,}") for verdict, number in total.verdicts.most_common()),
    ]
    values = {
        "inputs": total.inputs,
        "seconds": seconds,
        "compared": total.compared,
        "verdicts": dict(total.verdicts),
    }
    if total.inputs != inputs:
        wrong.append(f"parsed {total.inputs} inputs instead of {inputs}")
    report.add("parser", rows, values, wrong + total.wrong)


def _run_kills(report: Report, progress: Progress, rounds: int, seed: int) -> None:
    done = [0]

    def one() -> None:
        done[0] += 1

    with _bar(progress, "daemon killed under load", rounds, lambda: done[0]), server.directory() as path:
        found = kills.run(rounds, seed, path, one)
    wrong = list(found.wrong)
    if found.rounds != rounds:
        wrong.append(f"made {found.rounds} rounds instead of {rounds}")
    rows = [("rounds", f"{found.rounds}")]
    if found.back:
        rows += [
            ("clients noticed after, at most", f"{max(found.noticed):.3f} s of {kills.NOTICED_MAX:.0f}"),
            ("mounted again after, at most", f"{max(found.back):.2f} s of {kills.BACK_MAX:.0f}"),
            ("errors of the clients", ", ".join(f"{name} {number}" for name, number in found.errors.items())),
        ]
    values = {"rounds": found.rounds, "noticed": found.noticed, "back": found.back, "errors": dict(found.errors)}
    report.add("kills", rows, values, wrong)


def _run_fuzz(report: Report, progress: Progress, seconds: int, seed: int) -> None:
    task = progress.add_task("coverage-guided fuzzing", total=seconds)
    began = time.monotonic()
    command = [sys.executable, str(_FUZZ), f"-max_total_time={seconds}", f"-seed={seed % (1 << 31)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            del lines[:-60]
            progress.update(task, completed=min(seconds, int(time.monotonic() - began)))
    last = next((line.strip() for line in reversed(lines) if " cov: " in line), "")
    wrong = [] if process.returncode == 0 else [f"the target ended with {process.returncode}: {''.join(lines)[-3000:]}"]
    report.add("fuzz", [("seconds", f"{seconds}"), ("last line", last[:60])], {"seconds": seconds, "last": last}, wrong)


_WAITS = ("alone, ms", "beside it, ms", "echo, ms")
_ATTACK_COLUMNS = ("attack", *_WAITS, "silence", "growth", "done", "verdict")


def _run_attacks(report: Report, progress: Progress, chosen: Sequence[str]) -> None:
    task = progress.add_task("attacks beside a good client", total=len(chosen))

    def say(name: str) -> None:
        progress.update(task, advance=1, description=f"attack: {name}")

    found = attacks.run(chosen, say)
    table = Table(title="attacks: what a good client's small requests took, and what the daemon did")
    for heading in _ATTACK_COLUMNS:
        table.add_column(heading, justify="left" if heading in ("attack", "verdict") else "right", overflow="fold")
    for each in found:
        waits = [f"{1e3 * w.median:.1f} / {1e3 * w.worst:.0f}" for w in (each.alone, each.beside, each.echo)]
        style = "bold red" if each.wrong else "yellow" if each.unjudged else ""
        rest = (f"{each.silence:.1f} s", f"{each.growth / MIB:+.0f} MiB", f"{each.done:,}", each.verdict)
        table.add_row(each.name, *waits, *rest, style=style)
    report.tables.append(table)
    wrong = [f"{each.name}: {each.verdict}" for each in found if each.wrong]
    unjudged = [each.name for each in found if each.unjudged and not each.wrong]
    rows = [("withstood", f"{len(found) - len(wrong) - len(unjudged)} of {len(found)}")]
    if unjudged:
        rows.append(("NOT JUDGED", ", ".join(unjudged)))
    values = {
        each.name: {
            "median": each.beside.median,
            "worst": each.beside.worst,
            "alone_median": each.alone.median,
            "echo_median": each.echo.median,
            "echo_worst": each.echo.worst,
            "silence": each.silence,
            "growth": each.growth,
            "done": each.done,
            "verdict": each.verdict,
        }
        for each in found
    }
    report.add("attacks", rows, values, wrong)


def _attacks_to_try(short: bool, alone: bool, attacking: bool | None, named: Sequence[str]) -> Sequence[str]:
    if named:
        return named
    if attacking is False or (attacking is None and alone):
        return ()
    return attacks.SHORT if short and not attacking else tuple(attackers.ATTACKS)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--short", is_flag=True, help="A minute instead of some twenty.")
@click.option("--seed", type=int, help="The same seed makes the same bytes; by default a new one, which is shown.")
@click.option("--records", type=click.IntRange(0), help="Hostile records through the mount.")
@click.option("--parser", "inputs", type=click.IntRange(0), help="Mutated records and lines through the parsers.")
@click.option("--kills", "rounds", type=click.IntRange(0), help="Rounds of SIGKILL under load.")
@click.option("--fuzz", type=click.IntRange(0), default=0, metavar="SECONDS", help="Coverage-guided fuzzing.")
@click.option("--attacks/--no-attacks", "attacking", default=None, help="Every attack on others' time, and no more.")
@click.option("--attack", "named", multiple=True, metavar="NAME", help="One of them; may be given several times.")
@click.option("--json", "output", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there, too.")
def main(
    short: bool,
    seed: int | None,
    records: int | None,
    inputs: int | None,
    rounds: int | None,
    fuzz: int,
    attacking: bool | None,
    named: tuple[str, ...],
    output: Path | None,
) -> None:
    """Hostile records through a real mount beside a good client, millions through the parsers, a daemon that is killed.

    A number of 0 leaves a part out; --fuzz, --attacks or --attack alone run that alone. Exit status 1 if anything is
    wrong.
    """
    sizes = SHORT if short else FULL
    unknown = set(named) - set(attackers.ATTACKS)
    if unknown:
        raise click.UsageError(f"--attack {', '.join(sorted(unknown))}: one of {', '.join(attackers.ATTACKS)}")
    alone = bool(fuzz or attacking or named) and not short and records is inputs is rounds is None
    given = {"records": records, "parser": inputs, "kills": rounds}
    chosen = {name: 0 if alone else sizes[name] if value is None else value for name, value in given.items()}
    seed = SystemRandom().getrandbits(32) if seed is None else seed
    console = Console()
    console.print(f"seed {seed}: repeat the same bytes with --seed {seed}", highlight=False)
    report = Report(seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        if chosen["records"]:
            _run_beside(report, progress, chosen["records"], seed, sizes["rounds"])
        if chosen["parser"]:
            _run_parser(report, progress, chosen["parser"], seed)
        if chosen["kills"]:
            _run_kills(report, progress, chosen["kills"], seed)
        tried = _attacks_to_try(short, alone, attacking, named)
        if tried and beside.ROOT:
            _run_attacks(report, progress, tried)
        elif tried:
            report.add("attacks", [("NOT RUN", "only root can be several users")], {}, [])
        if fuzz:
            _run_fuzz(report, progress, fuzz, seed)
    report.show(console)
    if output is not None:
        output.write_text(json.dumps(report.values, indent=1) + "\n")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
