"""What computes for a program of others: the options --mount and --engines of `run`, `agent` and `cuse`."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..engines import parse_engines
from ..errors import WrongUsage
from . import completing


@dataclass(frozen=True)
class Computing:
    """The options as given. mountpoint: None for engines in this process, "" for the first usable mount; engines: None
    for the command's own."""

    mountpoint: str | None
    engines: str | None
    default: Sequence[str]

    def chosen(self) -> tuple[Path | None, Sequence[str]]:
        """The mount or the engines that the options name, checked. Nothing of what computes is loaded for it.

        Errors: NotOffered, MountNotFound.
        """
        if self.mountpoint is not None:
            # Only now: without a mount a program starts sooner.
            from ..client.mounts import find_mount

            return find_mount(self.mountpoint or None), ()
        return None, self.default if self.engines is None else parse_engines(self.engines)


def computing_options(*default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command both options; it gets a Computing as its first argument. default: engines.

    Errors of the command: WrongUsage for both options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--mount",
            "mountpoint",
            is_flag=False,
            flag_value="",
            metavar="[DIR]",
            shell_complete=completing.mounts,
            help="Compute by the daemon of this mount, or of the first usable one: its policy and devices count.",
        )
        @click.option(
            "--engines",
            metavar="NAME[,…]",
            shell_complete=completing.engines,
            help=f"Engines in this process, in the order in which they are asked; default: {','.join(default)}.",
        )
        @functools.wraps(command)
        def checked(mountpoint: str | None, engines: str | None, **others: Any) -> None:
            if mountpoint is not None and engines is not None:
                raise WrongUsage("--mount and --engines: give only one, as a daemon has engines of its own")
            command(Computing(mountpoint, engines, default), **others)

        return checked

    return decorate
