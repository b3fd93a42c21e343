"""`cryptofs algorithms`: what a mount offers, or this machine without a mount."""

import fnmatch
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..algorithms import Type
from ..client import MountNotFound, find_mount
from ..client.mounts import MOUNT_VARIABLE
from ..engines.base import resolve
from ..engines.opening import open_engines
from ..errors import printable
from .completing import names
from .files import mount_option

_COLUMNS = ("type", "name", "engine", "driver", "block-size", "iv-size", "key-sizes", "digest-size", "max-authsize")
_NEEDED = ("type", "name")
_GAP = "  "


def _from_mount(mount: Path) -> Iterator[dict[str, str]]:
    for type_ in Type:
        directory = mount / "algorithms" / type_
        for name in sorted(os.listdir(directory)):
            yield _row(name, (directory / name).read_text("utf-8"))


def _from_engines() -> Iterator[dict[str, str]]:
    engines = open_engines()
    for type_ in Type:
        names = {name for engine in engines for each, name in engine.names() if each is type_}
        for name in sorted(names):
            found = resolve(engines, type_, name)
            if found is not None:
                yield _row(name, found[1].tags())


def _row(name: str, tags: str) -> dict[str, str]:
    found = dict(line.split(": ", 1) for line in tags.splitlines())
    return {column: found.get(column, "") for column in _COLUMNS} | {"name": name}


def _wanted(row: dict[str, str], patterns: tuple[str, ...]) -> bool:
    """Whether a pattern is the type, or matches the name: as a shell's pattern, or, without any of *?[, as a part of
    it."""
    return not patterns or any(
        pattern == row["type"]
        or (fnmatch.fnmatchcase(row["name"], pattern) if set(pattern) & set("*?[") else pattern in row["name"])
        for pattern in patterns
    )


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=names())
@mount_option
@click.option("--local", is_flag=True, help="Ask this machine's engines, not a mount.")
@click.option("--plain", is_flag=True, help="Tab-separated, for scripts.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of objects, for scripts.")
def algorithms(patterns: tuple[str, ...], where: Path | None, local: bool, plain: bool, as_json: bool) -> None:
    """List the available algorithms, and which engine and driver serve each.

    With PATTERN, list only those of this type, or whose name contains it, or matches it as a shell's pattern: aead,
    'cbc(*)'.
    """
    if plain and as_json:
        raise click.UsageError("--plain and --json: give only one")
    rows = [row for row in _rows(where, local) if _wanted(row, patterns)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif plain:
        for row in rows:
            click.echo("\t".join(row[column] for column in _COLUMNS))
    elif rows:
        _print_table(rows)
    if patterns and not rows:
        click.echo(f"cryptofs: no algorithm matches {' '.join(map(printable, patterns))}", err=True)
        sys.exit(1)


def _rows(where: Path | None, local: bool) -> list[dict[str, str]]:
    if not local:
        try:
            return list(_from_mount(find_mount(where)))
        except MountNotFound as error:
            if where is not None or os.environ.get(MOUNT_VARIABLE):
                raise
            click.echo(f"cryptofs: {error.message}. This is what this machine's engines offer:", err=True)
    return list(_from_engines())


def _print_table(rows: list[dict[str, str]]) -> None:
    """Whole columns, each as wide as its widest value: on a terminal only as many as fit, elsewhere all.

    Type and name are always shown. No value is truncated, because a truncated name is useless.
    """
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in _COLUMNS}
    shown = list(_COLUMNS)
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        while len(shown) > len(_NEEDED) and sum(widths[column] + len(_GAP) for column in shown) - len(_GAP) > room:
            shown.pop()
    for row in [dict(zip(_COLUMNS, _COLUMNS, strict=True)), *rows]:
        click.echo(_GAP.join(row[column].ljust(widths[column]) for column in shown).rstrip())
    if len(shown) < len(_COLUMNS):
        left_out = ", ".join(column for column in _COLUMNS if column not in shown)
        click.echo(f"cryptofs: the terminal is too narrow for {left_out}: --plain shows all", err=True)
