"""`cryptofs algorithms`: what a mount, or this machine without one, offers."""

import os
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ..algorithms import Type
from ..client import MountNotFound, find_mount
from ..engines import open_engines
from ..engines.base import resolve

_COLUMNS = ("type", "name", "engine", "driver", "block-size", "iv-size", "key-sizes", "digest-size", "max-authsize")


def _from_mount(mount: Path) -> list[dict[str, str]]:
    rows = []
    for type_ in Type:
        directory = mount / "algorithms" / type_
        for name in sorted(os.listdir(directory)):
            lines = (directory / name).read_text().splitlines()
            rows.append({**dict(line.split(": ", 1) for line in lines), "name": name})
    return rows


def _from_engines() -> list[dict[str, str]]:
    engines = open_engines()
    rows = []
    for type_ in Type:
        names = {name for engine in engines for each, name in engine.names() if each is type_}
        for name in sorted(names):
            found = resolve(engines, type_, name)
            if found is not None:
                rows.append({**dict(line.split(": ", 1) for line in found[1].tags().splitlines()), "name": name})
    return rows


@click.command()
@click.option(
    "--mount", "where", type=click.Path(path_type=Path), help="The mount to ask; the first found if not given."
)
@click.option("--local", is_flag=True, help="Ask this machine's engines, not a mount.")
@click.option("--plain", is_flag=True, help="Tab-separated, for scripts.")
def algorithms(where: Path | None, local: bool, plain: bool) -> None:
    """List the algorithms that can be used, and which engine and driver serve each."""
    rows = None
    if not local:
        try:
            rows = _from_mount(find_mount(where))
        except MountNotFound:
            if where is not None:
                raise
            click.echo("no cryptofs is mounted: this is what this machine's engines offer", err=True)
    if rows is None:
        rows = _from_engines()
    if plain:
        for row in rows:
            click.echo("\t".join(row[column] for column in _COLUMNS))
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(row[column] for column in _COLUMNS))
    Console(width=None if Console().is_terminal else 200).print(table)
