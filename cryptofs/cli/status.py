"""`cryptofs status`: what a mount does now, as far as it shows that to the caller."""

import datetime
import errno
import json
import os
import pwd
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ..client import find_mount
from ..errors import printable
from .files import mount_option

Tags = dict[str, str]
_CLEAR = "\x1b[H\x1b[J"
"""To the upper left corner, and clear from there: the terminal's scrolled lines stay."""
_CONTEXTS_SHOWN = 20
_INTERVAL = 2.0
_COUNTED = ("in-flight", "unread", "queue-bytes", "completed", "failed")
_NOT_SHOWN = {errno.ENOENT, errno.ENODEV, errno.EACCES}
"""A context was closed while it was looked at, a device removed, or it is not for the caller."""
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@click.command()
@mount_option
@click.option(
    "--watch",
    "interval",
    is_flag=False,
    flag_value=_INTERVAL,
    type=click.FloatRange(min=0.1),
    metavar="[SECONDS]",
    help="Show it again every so many seconds (2), until you press Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; with --watch one line each time.")
def status(where: Path | None, interval: float | None, as_json: bool) -> None:
    """Show what a mount does: its engines, users, devices and contexts.

    You see your own contexts and the devices whose status you may read; root sees all.
    """
    mount = find_mount(where)
    if interval is None:
        click.echo(json.dumps(survey(mount), indent=1) if as_json else "\n".join(lines(survey(mount))))
        return
    on_terminal = sys.stdout.isatty()
    with suppress(KeyboardInterrupt):
        while True:
            found = survey(mount)
            if as_json:
                click.echo(json.dumps(found))
            elif on_terminal:
                room = shutil.get_terminal_size()
                shown = [line[: room.columns] for line in lines(found)[: room.lines - 1]]
                click.echo("\n".join([_CLEAR + shown[0], *shown[1:]]))
            else:
                click.echo("\n".join([*lines(found), ""]))
            sys.stdout.flush()
            time.sleep(interval)


# What the mount shows


def survey(mount: Path) -> dict[str, Any]:
    """What the caller may see. Times are Unix times and seconds; a device and a context have the tags of their status.
    Errors: OSError if the mount has gone."""
    figures = _figures((mount / "stats").read_text())
    contexts = list(_contexts(mount))
    return {
        "mount": os.fspath(mount),
        "at": time.time(),
        "version": (mount / "version").read_text().split()[1],
        "engines": figures["cryptofs_build_info"][1]["engines"].split(","),
        "uptime": figures["cryptofs_uptime_seconds"][0],
        "reload": {
            "successful": bool(figures["cryptofs_config_last_reload_successful"][0]),
            "at": figures["cryptofs_config_last_reload_timestamp_seconds"][0],
        },
        "totals": {
            name: int(figures[f"cryptofs_{name}"][0])
            for name in ("contexts_open", "requests_total", "requests_failed_total", "requests_in_flight")
        },
        "users": _users(contexts),
        "devices": list(_devices(mount)),
        "contexts": contexts,
    }


def _figures(text: str) -> dict[str, tuple[float, Tags]]:
    """The samples that are the only ones of their name, with their labels. A parser of Prometheus' would take longer to
    load than all of this."""
    found: dict[str, tuple[float, Tags]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            metric, _, labels = sample.partition("{")
            pairs = (pair.split('="') for pair in labels.rstrip("}").split('",') if pair)
            found[metric] = float(value), {key: label.rstrip('"') for key, label in pairs}
    return found


def _tags(path: Path) -> Tags | None:
    """The tags of a status; None if it is gone by now, or not for the caller."""
    try:
        return dict(line.split(": ", 1) for line in path.read_text().splitlines())
    except OSError as error:
        if error.errno in _NOT_SHOWN:
            return None
        raise


def _devices(mount: Path) -> Iterator[Tags]:
    for name in sorted(os.listdir(mount / "devices")):
        found = _tags(mount / "devices" / name / "status")
        if found is not None:
            yield found


def _contexts(mount: Path) -> Iterator[Tags]:
    for number in sorted(os.listdir(mount / "contexts"), key=int):
        found = _tags(mount / "contexts" / number / "status")
        if found is not None:
            yield found


def _users(contexts: Iterable[Tags]) -> list[dict[str, Any]]:
    """What the contexts of each user do together."""
    users: dict[int, dict[str, Any]] = {}
    for context in contexts:
        uid = int(context["uid"])
        user = users.setdefault(uid, {"uid": uid, "user": _user(uid), "contexts": 0, **dict.fromkeys(_COUNTED, 0)})
        user["contexts"] += 1
        for name in _COUNTED:
            user[name] += int(context[name])
    return [users[uid] for uid in sorted(users)]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# How people see it


def lines(found: dict[str, Any]) -> list[str]:
    """The tables."""
    totals, reload, at = found["totals"], found["reload"], found["at"]
    outcome = "loaded" if reload["successful"] else "REFUSED"
    return [
        f"cryptofs {found['version']} on {printable(found['mount'])}, up {_length(found['uptime'])}",
        f"engines {' '.join(found['engines'])}; configuration {outcome} {_length(at - reload['at'])} ago",
        f"{totals['contexts_open']} contexts open, {totals['requests_in_flight']} requests in flight, "
        f"{totals['requests_total']} done, {totals['requests_failed_total']} of them failed",
        *_table("users", ("user", "contexts", *_COUNTED), found["users"]),
        *_table(
            "devices",
            (
                "device",
                "name",
                "engine",
                "contexts",
                "requests",
                "failed",
                "input",
                "output",
                "messages",
                "version",
                "key age",
                "loaded",
            ),
            [_device_row(device, at) for device in found["devices"]],
        ),
        *_table(
            "contexts",
            ("context", "user", "pid", "device", "name", "driver", *_COUNTED),
            [{"user": _user(int(each["uid"])), **each} for each in found["contexts"][:_CONTEXTS_SHOWN]],
            len(found["contexts"]) - _CONTEXTS_SHOWN,
        ),
    ]


def _device_row(device: Tags, at: float) -> Tags:
    return {
        **device,
        "version": device.get("key-version", "1"),
        "input": _amount(int(device["input-bytes"])),
        "output": _amount(int(device["output-bytes"])),
        "key age": _age(device.get("key-written"), at),
        "loaded": _age(device["key-loaded"], at),
    }


def _age(since: str | None, at: float) -> str:
    """Empty for a key whose source does not tell."""
    return "" if since is None else _length(at - datetime.datetime.fromisoformat(since).timestamp())


def _table(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]], left_out: int = 0) -> list[str]:
    """A table in whole columns; nothing for no rows. Numbers and ages are right-aligned."""
    if not rows:
        return []
    cells = [list(columns), *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(not row[index] or row[index][0].isdigit() for row in cells[1:]) for index in range(len(columns))]
    shown = [
        "  ".join(
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    more = [f"and {left_out} more: --json has all"] if left_out > 0 else []
    return ["", f"{title.upper()}", *shown, *more]


def _length(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = max(0, int(seconds))
    said: list[str] = []
    for size, unit in _UNITS:
        if left >= size or (unit == "s" and not said):
            said.append(f"{left // size}{unit}")
            left %= size
    return " ".join(said[:2])


def _amount(count: int) -> str:
    """A number of bytes in the unit that leaves it at most four digits."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}TiB"
